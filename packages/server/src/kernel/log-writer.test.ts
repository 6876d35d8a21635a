import { execFileSync } from 'node:child_process'
import { closeSync, constants, mkdtempSync, openSync, readFileSync, readSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { systemClock } from './clock.ts'
import { limits } from './limits.ts'
import { createLogWriter } from './log-writer.ts'

let folder = ''
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'delta-log-'))
})
afterEach(() => rmSync(folder, { recursive: true }))

test('lines arrive whole and in order without being asked for', async () => {
  const file = join(folder, 'log')
  const descriptor = openSync(file, 'w')
  const writer = createLogWriter({ descriptor })
  for (let i = 0; i < 100; i++) writer.write(`line ${i}\n`)
  while (readFileSync(file, 'utf8').split('\n').length < 101) await systemClock.sleep(5)
  expect(readFileSync(file, 'utf8')).toBe(Array.from({ length: 100 }, (_, i) => `line ${i}\n`).join(''))
  closeSync(descriptor)
})

test('flush writes at once what waits', () => {
  const file = join(folder, 'log')
  const descriptor = openSync(file, 'w')
  const writer = createLogWriter({ descriptor })
  writer.write('last words\n')
  writer.flush()
  expect(readFileSync(file, 'utf8')).toBe('last words\n')
  closeSync(descriptor)
})

test('a reader that stops reading loses lines, counted, and holds up nobody', async () => {
  const pipe = join(folder, 'pipe')
  execFileSync('mkfifo', [pipe])
  const reading = openSync(pipe, constants.O_RDONLY | constants.O_NONBLOCK)
  const descriptor = openSync(pipe, constants.O_WRONLY | constants.O_NONBLOCK)
  const writer = createLogWriter({ descriptor })
  const line = `${'x'.repeat(1_023)}\n`
  const written = (limits.logWaitingBytes / line.length) * 3
  for (let i = 0; i < written; i++) writer.write(line)
  let text = ''
  while (!text.includes('log_lines_dropped')) {
    text += readSome(reading)
    await systemClock.sleep(1)
  }
  const whole = text.split('\n').filter((found) => found === line.trimEnd()).length
  const { dropped } = JSON.parse(text.slice(text.indexOf('{')).split('\n')[0]!) as { dropped: number }
  expect(dropped).toBeGreaterThan(0)
  expect(whole + dropped).toBe(written)
  closeSync(reading)
  writer.write('nobody listens\n')
  writer.flush()
  closeSync(descriptor)
})

function readSome(descriptor: number): string {
  const buffer = Buffer.alloc(1 << 16)
  try {
    return buffer.toString('utf8', 0, readSync(descriptor, buffer))
  } catch {
    return ''
  }
}
