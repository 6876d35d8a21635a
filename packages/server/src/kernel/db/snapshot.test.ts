import { expect, onTestFinished, test } from 'vitest'
import { silentLogger } from '../log.ts'
import { rawQuery } from './compile.ts'
import type { Migration } from './database.ts'
import { openDatabase } from './open.ts'
import { openSnapshot } from './snapshot.ts'
import { testDatabases } from './testing.ts'

const migrations: Migration[] = [
  { name: 'a-1', up: () => ['create table a (id bigint primary key)', 'create table b (id bigint primary key)'] },
]

testDatabases('snapshot', (...[, , newPlace]) => {
  test('what is written after it was opened is not in it, and the writer does not wait', async () => {
    const place = await newPlace()
    const database = await openDatabase({ ...place, migrations, log: silentLogger })
    onTestFinished(() => database.close())
    const insert = (table: string, id: number) => ({ query: rawQuery(`insert into ${table} values (${id})`) })
    await database.batch(Array.from({ length: 900 }, (__, id) => insert('a', id)))
    await database.batch([insert('b', 0)])

    const snapshot = await openSnapshot({ ...place, tables: ['a', 'b', 'never'] })
    const read: Record<string, unknown[]> = {}
    let parts = 0
    for await (const { table, columns, rows } of snapshot.read()) {
      parts += 1
      expect(columns).toEqual(['id'])
      read[table] = [...(read[table] ?? []), ...rows.flat()]
      await database.batch([insert('a', 1_000 + parts), insert('b', parts)])
    }
    await snapshot.close()
    expect(parts).toBeGreaterThan(4)
    expect(read['a']).toHaveLength(900)
    expect(read['b']).toEqual([0])
    expect(Object.keys(read)).toEqual(['a', 'b'])
  })
})
