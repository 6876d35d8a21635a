// Started by durability.test.ts as a process of its own, to be killed or starved. Tells on stdout, line by line, what was acknowledged.
import { rmSync, writeSync } from 'node:fs'
import { createLogger } from '../log.ts'
import { rawQuery } from './compile.ts'
import type { Database } from './database.ts'
import { openDatabase } from './open.ts'

const [mode, path, start, ballast] = process.argv.slice(2)
const sleeper = new Int32Array(new SharedArrayBuffer(4))

/** Waits where the test does not read fast enough, so that nothing but the test ends it. */
function say(line: string): void {
  const bytes = Buffer.from(`${line}\n`)
  for (let at = 0; at < bytes.length;) {
    try {
      at += writeSync(1, bytes, at)
    } catch (error) {
      if ((error as NodeJS.ErrnoException).code !== 'EAGAIN') throw error
      Atomics.wait(sleeper, 0, 0, 1)
    }
  }
}

const database = await openDatabase({
  path: path!,
  log: createLogger({ level: 'error', write: (line) => writeSync(2, line) }),
  migrations: [
    {
      name: 'rows-1',
      up: () => [
        'create table rows (id integer primary key, text text not null)',
        'create table twins (id integer primary key)',
      ],
    },
  ],
})
say('open')
if (mode === 'write') await writeForever(database)
else await writeUntilRefused(database)

function insert(id: number, bytes: number) {
  return database.batch([
    { query: rawQuery('insert into rows (id, text) values (?, ?)', [id, 'x'.repeat(bytes)]), mustChange: 1 },
    { query: rawQuery('insert into twins (id) values (?)', [id]), mustChange: 1 },
  ])
}

async function writeForever({ close }: Database): Promise<never> {
  let id = Number(start)
  const writer = async () => {
    for (;;) {
      const mine = id++
      await insert(mine, 100 + ((mine * 37) % 3_000))
      say(String(mine))
    }
  }
  await Promise.race(Array.from({ length: 8 }, writer))
  await close()
  throw new Error('not reached')
}

/** Says each acknowledged id, then the code of the first refusal, whether reading works, and what becomes of the next write. */
async function writeUntilRefused({ all, close }: Database): Promise<void> {
  let id = Number(start)
  const refusal = await firstRefusal(
    () => insert(id++, 20_000),
    (written) => say(String(written)),
  )
  say(`refused ${refusal}`)
  const [row] = await all<{ n: number }>(rawQuery('select count(*) as n from rows'))
  say(`read ${row!.n}`)
  if (ballast) rmSync(ballast)
  else await lifted()
  const next = await insert(id, 10).then(
    () => 'accepted',
    (error: { code: string }) => error.code,
  )
  say(`next ${next}`)
  await close()
}

async function firstRefusal(write: () => Promise<unknown>, written: (id: number) => void): Promise<string> {
  for (let id = Number(start); ; id++) {
    try {
      await write()
    } catch (error) {
      return (error as { code: string }).code
    }
    written(id)
  }
}

/** The test lifts the limit and then closes stdin. */
async function lifted(): Promise<void> {
  for await (const _ of process.stdin);
}
