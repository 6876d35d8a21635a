import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { systemClock } from '../kernel/clock.ts'
import { type BuildLog, createBuildLogs } from './build-log.ts'

const mib = 1024 * 1024
let folder: string

beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'delta-build-logs-'))
})

afterEach(() => rmSync(folder, { recursive: true, force: true }))

const text = async (logs: ReturnType<typeof createBuildLogs>, id: string) => {
  const lines: string[] = []
  for await (const line of logs.follow(id, 0, AbortSignal.timeout(10_000))) lines.push(line.text)
  return lines
}

test('the oldest logs of an account make room for a new one, never one that is being written', async () => {
  const logs = createBuildLogs({ folder, clock: systemClock })
  let open: BuildLog | undefined
  for (const id of ['tpl_a', 'tpl_b', 'tpl_c']) {
    const log = logs.open(id)
    log.add('stdout', id.repeat(mib / 5))
    if (id === 'tpl_a') open = log
    else log.close()
  }
  logs.makeRoom(['tpl_c', 'tpl_b', 'tpl_a'], 9.5 * mib)
  expect((await text(logs, 'tpl_c')).join('')).toBe('tpl_c'.repeat(mib / 5))
  expect(await text(logs, 'tpl_b')).toEqual([])
  open!.close()
  expect(await text(logs, 'tpl_a')).not.toEqual([])
})

test('a build that says more than a log holds goes on in silence, and the log says so', async () => {
  const logs = createBuildLogs({ folder, clock: systemClock })
  const log = logs.open('tpl_a')
  for (let at = 0; at < 10; at += 1) log.add('stdout', 'x'.repeat(mib))
  log.close()
  const lines = await text(logs, 'tpl_a')
  expect(lines.at(-1)).toBe('The rest of the output is left out')
  expect(lines.join('').length).toBeLessThan(9 * mib)
})
