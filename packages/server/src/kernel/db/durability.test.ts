import { execFileSync, spawn } from 'node:child_process'
import type { ChildProcess } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { DatabaseSync } from 'node:sqlite'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { systemClock } from '../clock.ts'
import { bundlePrograms } from '../testing-bundle.ts'

// Bundled, since it is started for each kill.
let bundle: string
let program: string
beforeAll(async () => {
  bundle = await bundlePrograms({
    program: join(import.meta.dirname, 'durability.program.ts'),
    'db-worker': join(import.meta.dirname, 'sqlite-worker.ts'),
  })
  program = join(bundle, 'program.mjs')
})
afterAll(() => rmSync(bundle, { recursive: true }))

let folder = ''
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'delta-durable-'))
})
afterEach(() => rmSync(folder, { recursive: true }))

interface Program {
  child: ChildProcess
  lines: string[]
  /** Resolves when the program has ended and all it said was heard. */
  ended: Promise<unknown>
  said(start: string): Promise<string>
}

function run(command: string, args: string[]): Program {
  const child = spawn(command, args, { stdio: ['pipe', 'pipe', 'inherit'] })
  const lines: string[] = []
  createInterface({ input: child.stdout! }).on('line', (line) => lines.push(line))
  const ended = once(child, 'close')
  const said = async (start: string) => {
    for (;;) {
      const found = lines.find((line) => line.startsWith(start))
      if (found) return found
      if (child.exitCode !== null) throw new Error(`The program ended with ${child.exitCode} without saying "${start}"`)
      await systemClock.sleep(5)
    }
  }
  return { child, lines, ended, said }
}

const acknowledged = ({ lines }: Program) => lines.filter((line) => /^\d+$/.test(line)).map(Number)

function stored(path: string): { rows: Set<number>; twins: Set<number> } {
  const database = new DatabaseSync(path)
  try {
    const ids = (table: string) =>
      new Set(
        database
          .prepare(`select id from ${table}`)
          .all()
          .map((row) => row['id'] as number),
      )
    expect(database.prepare('pragma integrity_check').get()).toEqual({ integrity_check: 'ok' })
    return { rows: ids('rows'), twins: ids('twins') }
  } finally {
    database.close()
  }
}

/** A small generator of our own, so that a failing run can be repeated from its seed. */
function random(seed: number): () => number {
  let state = seed
  return () => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0
    return state / 2 ** 32
  }
}

describe('what was acknowledged', () => {
  test('is there after kill -9 at 20 seeded moments, and no batch is there by half', async () => {
    const path = join(folder, 'delta.db')
    const next = random(42)
    const all = new Set<number>()
    for (let kill = 0; kill < 20; kill++) {
      const writer = run(process.execPath, [program, 'write', path, String(kill * 1_000_000)])
      await writer.said('open')
      await systemClock.sleep(next() * 120)
      writer.child.kill('SIGKILL')
      await writer.ended
      expect(writer.child.signalCode).toBe('SIGKILL')
      for (const id of acknowledged(writer)) all.add(id)
      const { rows, twins } = stored(path)
      expect([...all].filter((id) => !rows.has(id))).toEqual([])
      expect(twins).toEqual(rows)
    }
    expect(all.size).toBeGreaterThan(100)
  }, 120_000)

  test('is there when the disk is full: writes are refused, reads go on, and writes too once there is room', async () => {
    const path = join(folder, 'delta.db')
    const ballast = join(folder, 'ballast')
    const script = `mount -t tmpfs -o size=3m delta-full "$1" && head -c 1m /dev/zero > "$1/ballast" && shift && exec "$@"`
    // The mount lives in a namespace of its own and goes with the process, so what is left is asked from inside.
    const args = [process.execPath, program, 'fill', path, '0', ballast]
    const check = `"$@" && exec ${process.execPath} -e 'const { DatabaseSync } = require("node:sqlite");
      console.log("stored", new DatabaseSync(${JSON.stringify(path)}).prepare("select count(*) as n from rows").get().n)'`
    const filler = run('unshare', [
      '--mount',
      '--user',
      '--map-root-user',
      'sh',
      '-c',
      script,
      'sh',
      folder,
      'sh',
      '-c',
      check,
      'sh',
      ...args,
    ])
    expect(await filler.said('refused')).toBe('refused disk_full')
    const count = acknowledged(filler).length
    expect(count).toBeGreaterThan(10)
    expect(await filler.said('read')).toBe(`read ${count}`)
    expect(await filler.said('next')).toBe('next accepted')
    expect(await filler.said('stored')).toBe(`stored ${count + 1}`)
    await filler.ended
  })

  test('is there after an I/O error, and nothing more is written by that process, though the disk has recovered', async () => {
    const path = join(folder, 'delta.db')
    // Past this size write() fails with EFBIG, which SQLite reports as an I/O error.
    const script = 'ulimit -S -f 512 && exec "$@"'
    const writer = run('bash', ['-c', script, 'bash', process.execPath, program, 'starve', path, '0'])
    expect(await writer.said('refused')).toBe('refused database_failed')
    const ids = acknowledged(writer)
    expect(ids.length).toBeGreaterThan(5)
    expect(await writer.said('read')).toBe(`read ${ids.length}`)
    execFileSync('prlimit', ['--pid', String(writer.child.pid), '--fsize=unlimited'])
    writer.child.stdin!.end()
    expect(await writer.said('next')).toBe('next database_failed')
    await writer.ended
    expect([...stored(path).rows]).toEqual(ids)
  })
})
