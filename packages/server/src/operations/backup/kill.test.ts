import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { cpSync, existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { rawQuery } from '../../kernel/db/compile.ts'
import { placesIn } from './staging.ts'
import { bytesOf, openTestPlatform } from './testing.ts'

const program = join(import.meta.dirname, 'restore.program.ts')
const users = 3_000
/** After each word of the program, so many milliseconds. */
const points = ['open', 'staged', 'committed'].flatMap((word) => [0, 3, 15].map((laterMs) => ({ word, laterMs })))
let folder: string
let backup: string
let before: string

beforeAll(async () => {
  folder = mkdtempSync(join(tmpdir(), 'delta-restore-'))
  backup = join(folder, 'backup')
  before = join(folder, 'before')
  const source = await openTestPlatform()
  for (let at = 0; at < users; at += 500) {
    await source.database.batch(Array.from({ length: 500 }, (_, index) => ({ query: user(`usr_old${at + index}`) })))
  }
  writeFileSync(backup, await bytesOf((await source.backups.backup({ secrets: false })).body))
  await source.end()
  const target = await openTestPlatform({ folder: before })
  await target.database.run(user('usr_here'))
  await target.end()
})
afterAll(() => rmSync(folder, { recursive: true }))

const user = (id: string) =>
  rawQuery(`insert into users (id, email, name, created_at) values ('${id}', '${id}', 'n', 1)`)

test.each(points)(
  'a restore killed $laterMs ms after it is $word leaves all of the old or all of the new',
  async ({ word, laterMs }) => {
    const place = join(folder, `${word}-${laterMs}`)
    cpSync(before, place, { recursive: true })
    const child = spawn(process.execPath, [program, place, backup], { stdio: ['ignore', 'pipe', 'inherit'] })
    const exited = once(child, 'exit')
    let said = ''
    for await (const chunk of child.stdout) {
      said += String(chunk)
      if (!said.includes(word)) continue
      await sleep(laterMs)
      child.kill('SIGKILL')
      break
    }
    await exited

    const found = await openTestPlatform({ folder: place })
    const rows = await found.database.all<{ id: string }>(rawQuery('select id from users'))
    const restores = await found.backups.list()
    await found.end()
    if (restores.length === 0) expect(rows).toEqual([{ id: 'usr_here' }])
    else {
      expect(restores).toMatchObject([{ state: 'done' }])
      expect(rows).toHaveLength(users)
      expect(rows.every(({ id }) => id.startsWith('usr_old'))).toBe(true)
    }
    // What was committed has happened.
    if (word === 'committed') expect(restores).toHaveLength(1)
    if (word === 'open') expect(said.includes('committed') || restores.length === 0).toBe(true)
    expect(existsSync(placesIn(place).folder)).toBe(false)
  },
)
