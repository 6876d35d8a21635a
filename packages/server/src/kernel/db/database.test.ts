import { sql } from 'kysely'
import { describe, expect, test } from 'vitest'
import { limits } from '../limits.ts'
import { silentLogger } from '../log.ts'
import { compiledByShape, compiledOnce, rawQuery } from './compile.ts'
import type { BatchStep, Database, Migration } from './database.ts'
import { migrate } from './migrate.ts'
import { testDatabases } from './testing.ts'
import type { Move, MoveAnswer } from './testing.program.ts'

interface Tables {
  accounts: { id: string; balance: number; note: string | null; bytes: Uint8Array | null }
  entries: { id: string; account_id: string; amount: number }
}

const migrations: Migration[] = [
  {
    name: 'accounts-1',
    up: (kind) => [
      `create table accounts (
        id text primary key,
        balance bigint not null check (balance >= 0),
        note text unique,
        bytes ${kind === 'sqlite' ? 'blob' : 'bytea'}
      )`,
      'create table entries (id text primary key, account_id text not null references accounts (id), amount bigint not null)',
    ],
  },
]

testDatabases('database', (open, openServers) => {
  const start = async () => {
    const database = await open<Tables>(migrations)
    const insert = (id: string, balance: number, more: Partial<Tables['accounts']> = {}) =>
      database.sql
        .insertInto('accounts')
        .values({ id, balance, ...more })
        .compile()
    const add = (id: string, amount: number, least = 0): BatchStep => ({
      query: database.sql
        .updateTable('accounts')
        .set({ balance: sql<number>`balance + ${amount}` })
        .where('id', '=', id)
        .where('balance', '>=', least)
        .compile(),
      mustChange: 1,
    })
    const balances = async () => {
      const rows = await database.all(
        database.sql.selectFrom('accounts').select(['id', 'balance']).orderBy('id').compile(),
      )
      return Object.fromEntries(rows.map(({ id, balance }) => [id, balance]))
    }
    return { database, insert, add, balances }
  }

  test('a written row is read back', async () => {
    const { database, insert } = await start()
    const bytes = new Uint8Array([0, 1, 255])
    expect(await database.run(insert('a', 5, { note: 'naïve ✓', bytes }))).toEqual({ changed: 1 })
    const row = await database.first(database.sql.selectFrom('accounts').selectAll().compile())
    expect(row).toMatchObject({ id: 'a', balance: 5, note: 'naïve ✓' })
    expect(Buffer.from(row!.bytes!)).toEqual(Buffer.from(bytes))
    expect(await database.first(database.sql.selectFrom('entries').selectAll().compile())).toBeUndefined()
  })

  test('a query that is compiled once finds what each value names, wherever in it the value stands', async () => {
    const { database, insert } = await start()
    await database.batch([{ query: insert('a', 1, { note: 'b' }) }, { query: insert('b', 2) }])
    let built = 0
    const named = compiledOnce((name, least) => {
      built += 1
      const noted = database.sql.selectFrom('accounts').select(['id', 'balance']).where('note', '=', name)
      const own = database.sql.selectFrom('accounts').select(['id', 'balance']).where('id', '=', name)
      return own.where('balance', '>=', least).unionAll(noted).orderBy('id').limit(5)
    })
    const [a, b, none] = [named('a', 1), named('b', 1), named('a', 2)]
    expect(await database.all(b)).toEqual([
      { id: 'a', balance: 1 },
      { id: 'b', balance: 2 },
    ])
    expect(await database.all(a)).toEqual([{ id: 'a', balance: 1 }])
    expect(await database.all(none)).toEqual([])
    expect(await database.all(named("' or 1 = 1 --", 1))).toEqual([])
    await expect(async () => database.all(named('a'))).rejects.toThrow('is undefined')
    expect(built).toBe(1)
  })

  test('a query is compiled once for each shape, with the values of each time', async () => {
    const { database } = await start()
    const compiled = compiledByShape()
    let built = 0
    const put = (rows: readonly { id: string; balance: number }[]) => {
      const values = rows.flatMap((row) => [row.id, row.balance])
      return compiled(`rows ${rows.length}`, values, () => {
        built += 1
        return database.sql.insertInto('accounts').values(rows.map((row) => ({ ...row })))
      })
    }
    await database.batch([{ query: put([{ id: 'a', balance: 1 }]) }, { query: put([{ id: 'b', balance: 2 }]) }])
    const last = [
      { id: 'c', balance: 3 },
      { id: 'd', balance: 4 },
    ]
    await database.run(put(last))
    expect(built).toBe(2)
    const rows = await database.all(
      database.sql.selectFrom('accounts').select(['id', 'balance']).orderBy('id').compile(),
    )
    expect(rows.map(({ id, balance }) => [id, Number(balance)])).toEqual([
      ['a', 1],
      ['b', 2],
      ['c', 3],
      ['d', 4],
    ])
    expect(() => compiled('rows 1', ['a'], () => database.sql.selectFrom('accounts').selectAll())).toThrow('several')
    const swapped = () => database.sql.selectFrom('accounts').selectAll().where('id', '=', 'a').where('balance', '=', 1)
    expect(() => compiled('swapped', [1, 'a'], swapped)).toThrow('not in the order')
  })

  describe('looking up', () => {
    const balanceOf = (database: Database<Tables>, id: string) =>
      database.lookUp(database.sql.selectFrom('accounts').select('balance').where('id', '=', id).compile())

    test('what is written is seen at once by the next look, a thousand times', async () => {
      const { database, insert, add } = await start()
      expect(await balanceOf(database, 'a')).toEqual([])
      await database.run(insert('a', 0))
      for (let balance = 1; balance <= 1_000; balance++) {
        await database.batch([add('a', 1)])
        expect(await balanceOf(database, 'a')).toEqual([{ balance }])
      }
    })

    test('of what is not kept nothing is ever seen', async () => {
      const { database, insert, add } = await start()
      await database.run(insert('a', 0))
      const refused = Array.from({ length: 200 }, () => database.batch([add('a', 1), add('nobody', 1)]))
      const seen = new Set<unknown>()
      const over = new AbortController()
      void Promise.allSettled(refused).then(() => over.abort())
      while (!over.signal.aborted) {
        for (const { balance } of await balanceOf(database, 'a')) seen.add(balance)
        await new Promise((resolve) => setImmediate(resolve))
      }
      expect([...seen]).toEqual([0])
      expect((await Promise.all(refused)).every(({ applied }) => !applied)).toBe(true)
    })

    test('it gives values as they were written, and counts as an operation', async () => {
      const { database, insert } = await start()
      const bytes = new Uint8Array([0, 1, 255])
      await database.run(insert('a', Number.MAX_SAFE_INTEGER, { note: 'naïve ✓', bytes }))
      const before = database.counts.operations
      const [row] = await database.lookUp(database.sql.selectFrom('accounts').selectAll().compile())
      expect(row).toMatchObject({ id: 'a', balance: Number.MAX_SAFE_INTEGER, note: 'naïve ✓' })
      expect(Buffer.from(row!.bytes!)).toEqual(Buffer.from(bytes))
      expect(database.counts.operations).toBe(before + 1)
    })

    test('nothing is written by it', async () => {
      const { database, insert, balances } = await start()
      await expect(database.lookUp(insert('a', 1))).rejects.toThrow(/does not only read/)
      await expect(database.lookUp(rawQuery(`delete from accounts`))).rejects.toThrow(/does not only read/)
      expect(await balances()).toEqual({})
    })

    test('a column that a migration adds is there for a look that was made before', async () => {
      const { database, insert } = await start()
      await database.run(insert('a', 1))
      const all = rawQuery('select * from accounts')
      expect(await database.lookUp(all)).toHaveLength(1)
      const more: Migration = { name: 'accounts-2', up: () => [`alter table accounts add column extra bigint`] }
      await migrate(database.of(), { migrations: [...migrations, more], log: silentLogger })
      // PostgreSQL prepares nothing here, SQLite prepares anew by itself.
      expect(await database.lookUp(all)).toEqual([{ id: 'a', balance: 1, note: null, bytes: null, extra: null }])
    })

    test('a query that is wrong, and a number beyond 2^53, are refused as everywhere', async () => {
      const { database } = await start()
      await database.run(rawQuery(`insert into accounts (id, balance) values ('a', 9007199254740993)`))
      await expect(balanceOf(database, 'a')).rejects.toThrow()
      await expect(database.lookUp(rawQuery('select * from nowhere'))).rejects.toThrow(/nowhere/)
    })

    test('a closed database is not looked into', async () => {
      const { database, insert } = await start()
      await database.run(insert('a', 1))
      expect(await balanceOf(database, 'a')).toEqual([{ balance: 1 }])
      const closed = (database as Database).close()
      await expect(balanceOf(database, 'a')).rejects.toMatchObject({ code: 'shutting_down' })
      await closed
      await expect(balanceOf(database, 'a')).rejects.toMatchObject({ code: 'shutting_down' })
    })
  })

  test('returning gives the rows that were written', async () => {
    const { database, add } = await start()
    const query = database.sql
      .insertInto('accounts')
      .values({ id: 'a', balance: 1 })
      .returning(['id', 'balance'])
      .compile()
    expect(await database.all(query)).toEqual([{ id: 'a', balance: 1 }])
    expect((await database.batch([add('a', 1)])).applied).toBe(true)
  })

  test('a batch is applied whole', async () => {
    const { database, insert, add, balances } = await start()
    const result = await database.batch([
      { query: insert('a', 10) },
      { query: insert('b', 0) },
      add('a', -4, 4),
      add('b', 4),
    ])
    expect(result).toEqual({ applied: true, changed: [1, 1, 1, 1] })
    expect(await balances()).toEqual({ a: 6, b: 4 })
  })

  test('a step that changes another number of rows undoes its batch and is named', async () => {
    const { database, insert, add, balances } = await start()
    await database.run(insert('a', 10))
    const result = await database.batch([add('a', 5), add('nobody', 5), { query: insert('c', 1) }])
    expect(result).toEqual({ applied: false, failedStep: 1, changed: [1, 0] })
    expect(await balances()).toEqual({ a: 10 })
  })

  test.each([
    ['unique', (s: Awaited<ReturnType<typeof start>>) => s.insert('a', 1)],
    ['unique', (s: Awaited<ReturnType<typeof start>>) => s.insert('b', 1, { note: 'taken' })],
    ['check', (s: Awaited<ReturnType<typeof start>>) => s.insert('b', -1)],
    ['not_null', (s: Awaited<ReturnType<typeof start>>) => s.insert('b', null as never)],
    [
      'foreign_key',
      ({ database }: Awaited<ReturnType<typeof start>>) =>
        database.sql.insertInto('entries').values({ id: 'e', account_id: 'nobody', amount: 1 }).compile(),
    ],
  ])('a %s constraint refuses the whole batch with its kind', async (kind, query) => {
    const started = await start()
    const { database, insert, balances } = started
    await database.run(insert('a', 10, { note: 'taken' }))
    const batch = database.batch([{ query: insert('z', 1) }, { query: query(started) }])
    await expect(batch).rejects.toMatchObject({ code: 'database_constraint', context: { kind } })
    expect(await balances()).toEqual({ a: 10 })
  })

  test('64 concurrent batches share a few commits, and those that fail take no other along', async () => {
    const { database, insert, add, balances } = await start()
    await database.run(insert('a', 0))
    const commitsBefore = database.counts.commits
    const results = await Promise.allSettled(
      Array.from({ length: 64 }, (_, i) => {
        if (i % 8 === 3) return database.batch([add('a', 1_000), { query: insert('a', 1) }])
        if (i % 8 === 5) return database.batch([add('a', 1_000), add('nobody', 1)])
        return database.batch([add('a', 1), { query: insert(`row-${i}`, i) }])
      }),
    )
    const failed = results.filter(({ status }) => status === 'rejected')
    const refused = results.filter((result) => result.status === 'fulfilled' && !result.value.applied)
    expect([failed.length, refused.length]).toEqual([8, 8])
    // The first is committed alone while the others gather.
    expect(database.counts.commits - commitsBefore).toBeLessThanOrEqual(8)
    const rows = await balances()
    expect(rows['a']).toBe(48)
    expect(Object.keys(rows)).toHaveLength(49)
  })

  test('money moved by concurrent batches is neither made nor lost, and never overdrawn', async () => {
    const { database, insert, add, balances } = await start()
    await database.batch(['a', 'b', 'c'].map((id) => ({ query: insert(id, 100) })))
    const names = ['a', 'b', 'c']
    const moves = Array.from({ length: 300 }, (_, i) => {
      const amount = (i * 7) % 40
      return database.batch([add(names[i % 3]!, -amount, amount), add(names[(i + 1 + (i % 2)) % 3]!, amount)])
    })
    const applied = (await Promise.all(moves)).filter((result) => result.applied).length
    const left = Object.values(await balances())
    expect(left.reduce((sum, balance) => sum + balance, 0)).toBe(300)
    expect(Math.min(...left)).toBeGreaterThanOrEqual(0)
    expect(applied).toBeGreaterThan(0)
  })

  test('whole numbers up to 2^53 are kept exactly', async () => {
    const { database, insert, balances } = await start()
    await database.run(insert('a', Number.MAX_SAFE_INTEGER))
    expect(await balances()).toEqual({ a: Number.MAX_SAFE_INTEGER })
  })

  test.each([
    ['a whole number beyond 2^53', 2 ** 53],
    ['a bigint beyond 2^53', 2n ** 60n],
    ['NaN', Number.NaN],
    ['Infinity', Number.POSITIVE_INFINITY],
    ['a boolean', true],
    ['a date', new Date()],
    ['text with NUL', 'a\0b'],
  ])('%s is refused before it reaches the database', async (_what, value) => {
    const { database, insert, balances } = await start()
    await expect(database.run(insert('a', value as never))).rejects.toThrow(RangeError)
    await expect(database.batch([{ query: insert('b', 1) }, { query: insert('a', value as never) }])).rejects.toThrow(
      RangeError,
    )
    expect(await balances()).toEqual({})
  })

  test('a number beyond 2^53 in the database is refused, not rounded', async () => {
    const { database } = await start()
    await database.run(rawQuery(`insert into accounts (id, balance) values ('a', 9007199254740993)`))
    await expect(database.all(database.sql.selectFrom('accounts').selectAll().compile())).rejects.toThrow()
  })

  test('queries that wait beyond the bound are refused at once, the others are answered', async () => {
    const { database, insert, balances } = await start()
    await database.run(insert('a', 0))
    const query = database.sql
      .updateTable('accounts')
      .set({ balance: sql<number>`balance + 1` })
      .compile()
    const results = await Promise.allSettled(
      Array.from({ length: limits.databaseQueued + 10 }, () => database.run(query)),
    )
    const refused = results.filter((result) => result.status === 'rejected')
    expect(refused.map(({ reason }) => (reason as { code: string }).code)).toEqual(
      Array.from({ length: 10 }, () => 'database_busy'),
    )
    expect(await balances()).toEqual({ a: limits.databaseQueued })
    expect(database.counts.waiting).toBe(0)
  })

  test('a batch has a largest size', async () => {
    const { database, insert } = await start()
    const steps = Array.from({ length: limits.databaseBatchSteps + 1 }, (_, i) => ({ query: insert(`a${i}`, 1) }))
    await expect(database.batch(steps)).rejects.toThrow(/at most/)
  })

  test('a query that is wrong is a fault of the program, and harms no other', async () => {
    const { database, insert, balances } = await start()
    const [wrong, right] = await Promise.allSettled([
      database.run(rawQuery('insert into nowhere values (1)')),
      database.run(insert('a', 1)),
    ])
    expect(wrong.status).toBe('rejected')
    expect((wrong as PromiseRejectedResult).reason).not.toHaveProperty('code', 'database_constraint')
    expect(right.status).toBe('fulfilled')
    expect(await balances()).toEqual({ a: 1 })
  })

  test('building with `sql` never executes', async () => {
    const { database } = await start()
    await expect(database.sql.selectFrom('accounts').selectAll().execute()).rejects.toThrow(/Compile the query/)
  })

  test('more different statements than are kept prepared still work', async () => {
    const { database } = await start()
    for (let i = 0; i < limits.databaseStatements + 50; i++) {
      expect(await database.all(rawQuery(`select ${i} as value`))).toEqual([{ value: i }])
    }
  })

  describe('programs', () => {
    const moving = async () => {
      const started = await start()
      await started.database.batch(['a', 'b'].map((id) => ({ query: started.insert(id, 100) })))
      const move = started.database.program<Move, MoveAnswer>(new URL('./testing.program.ts', import.meta.url))
      return { ...started, move }
    }

    test('each operation is decided after those before it, and answered in their order', async () => {
      const { move, balances } = await moving()
      const answers = await Promise.all(
        Array.from({ length: 30 }, (_, i) =>
          move(i % 3 === 2 ? { from: 'b', to: 'a', amount: 1 } : { from: 'a', to: 'b', amount: 10 }),
        ),
      )
      // 20 times 10 from 100: the last ones find what the others have left and brought back.
      const moved = answers.filter(({ ok }) => ok).length
      expect(answers.slice(0, 3)).toMatchObject([{ ok: true, left: 90 }, { ok: true, left: 80 }, { ok: true }])
      expect(answers.at(-2)).toMatchObject({ ok: false })
      const { a, b } = await balances()
      expect(a! + b!).toBe(200)
      expect(a).toBe(100 - (moved - 10) * 10 + 10)
    })

    test('those that came together share a commit with each other and with other writes', async () => {
      const { database, move, insert, balances } = await moving()
      await move({ from: 'a', to: 'b', amount: 1 })
      const commitsBefore = database.counts.commits
      const work = Array.from({ length: 100 }, (_, i) =>
        i % 10 === 0 ? database.run(insert(`row-${i}`, i)) : move({ from: 'a', to: 'b', amount: 1 }),
      )
      const answers = await Promise.all(work)
      expect(database.counts.commits - commitsBefore).toBeLessThanOrEqual(8)
      const sizes = answers.flatMap((answer) => ('group' in answer ? [answer.group] : []))
      expect(Math.max(...sizes)).toBeGreaterThan(5)
      expect(await balances()).toMatchObject({ a: 9, b: 191, 'row-90': 90 })
    })

    test('one that is faulty fails alone, and nothing of it is kept', async () => {
      const { move, balances } = await moving()
      const results = await Promise.allSettled(
        Array.from({ length: 20 }, (_, i) =>
          move({ from: 'a', to: 'b', amount: 1, ...(i === 7 && { fault: 'after writing' as const }) }),
        ),
      )
      expect(results.flatMap(({ status }, index) => (status === 'rejected' ? [index] : []))).toEqual([7])
      expect(results[7]).toMatchObject({ reason: { message: expect.stringContaining('broken on purpose') } })
      expect(await balances()).toEqual({ a: 81, b: 119 })
    })

    test('a constraint refuses the operation with its kind, and no other', async () => {
      const { move, balances } = await moving()
      const results = await Promise.allSettled(
        Array.from({ length: 10 }, (_, i) =>
          move({ from: 'a', to: 'b', amount: 1, ...(i === 3 && { fault: 'overdraws' as const }) }),
        ),
      )
      expect(results[3]).toMatchObject({ reason: { code: 'database_constraint', context: { kind: 'check' } } })
      expect(results.filter(({ status }) => status === 'fulfilled')).toHaveLength(9)
      expect(await balances()).toEqual({ a: 91, b: 109 })
    })

    test.each([
      ['a parameter that no database keeps', 'writes NaN', /not a finite number/],
      ['another number of answers than operations', 'answers nothing', /answers/],
    ] as const)('%s is a fault', async (_what, fault, message) => {
      const { move, balances } = await moving()
      await expect(move({ from: 'a', to: 'b', amount: 1, fault })).rejects.toThrow(message)
      expect(await balances()).toEqual({ a: 100, b: 100 })
    })

    test('what is remembered is not looked up again, where nobody else writes', async () => {
      const { database, move } = await moving()
      expect(await move({ from: 'a', to: 'b', amount: 1 })).toMatchObject({ lookedUp: 2 })
      const again = database.kind === 'sqlite' ? 0 : 2
      expect(await move({ from: 'a', to: 'b', amount: 1 })).toMatchObject({ lookedUp: again })
    })

    test('what is remembered is what there is, whoever has written meanwhile', async () => {
      const [database, other] = await openServers(2, { migrations, log: silentLogger })
      const set = (balance: number) => rawQuery(`update accounts set balance = ${balance} where id = 'a' returning id`)
      await database!.run(rawQuery(`insert into accounts (id, balance) values ('a', 100), ('b', 100)`))
      const move = database!.program<Move, MoveAnswer>(new URL('./testing.program.ts', import.meta.url))
      const left = async () => (await move({ from: 'a', to: 'b', amount: 1 })).left
      expect(await left()).toBe(99)
      await database!.run(set(50))
      expect(await left()).toBe(49)
      await database!.all(set(40))
      expect(await left()).toBe(39)
      await database!.batch([{ query: set(30) }])
      expect(await left()).toBe(29)
      await other!.run(set(20))
      expect(await left()).toBe(19)
    })

    test('what was not kept is not remembered', async () => {
      const { database, move, balances } = await moving()
      const left = async () => (await move({ from: 'a', to: 'b', amount: 1 })).left
      for (const fault of ['after writing', 'overdraws', 'answers nothing'] as const) {
        await move({ from: 'a', to: 'b', amount: 1 })
        await expect(move({ from: 'a', to: 'b', amount: 10, fault })).rejects.toThrow()
        expect(await left()).toBe((await balances()).a)
      }
      await database.run(
        rawQuery(
          'create table later (account_id text not null references accounts (id) deferrable initially deferred)',
        ),
      )
      const moved = move({ from: 'a', to: 'b', amount: 10 })
      await Promise.resolve()
      const results = await Promise.allSettled([moved, database.run(rawQuery(`insert into later values ('nobody')`))])
      expect(results[1]).toMatchObject({ reason: { code: 'database_constraint' } })
      // There they share a commit, which is what fails.
      expect(results[0].status).toBe(database.kind === 'sqlite' ? 'rejected' : 'fulfilled')
      expect(await left()).toBe((await balances()).a)
    })

    test('a module that is not there is a fault, and the database goes on', async () => {
      const { database, balances } = await moving()
      const call = database.program<string, string>(new URL('./not-there.ts', import.meta.url))
      await expect(call('a')).rejects.toThrow(/not-there/)
      expect(await balances()).toEqual({ a: 100, b: 100 })
    })

    test('closing answers what was accepted first', async () => {
      const { database, move } = await moving()
      await move({ from: 'a', to: 'b', amount: 1 })
      const accepted = Array.from({ length: 50 }, () => move({ from: 'a', to: 'b', amount: 1 }))
      // On SQLite a call passes one turn of promises before it is accepted.
      await Promise.resolve()
      await (database as Database).close()
      expect(await Promise.all(accepted)).toHaveLength(50)
      await expect(move({ from: 'a', to: 'b', amount: 1 })).rejects.toMatchObject({ code: 'shutting_down' })
    })
  })

  describe('migrations', () => {
    const second: Migration = { name: 'accounts-2', up: () => ['alter table accounts add column extra text'] }

    test('each is applied once, in order', async () => {
      const { database } = await start()
      const log = silentLogger
      await migrate(database.of(), { migrations: [...migrations, second], log })
      await migrate(database.of(), { migrations: [...migrations, second], log })
      const rows = await database.all<{ name: string }>(rawQuery('select name from migrations order by name'))
      expect(rows).toEqual([{ name: 'accounts-1' }, { name: 'accounts-2' }])
      await database.run(rawQuery(`insert into accounts (id, balance, extra) values ('a', 1, 'x')`))
    })

    test('one that fails half-way leaves nothing of it', async () => {
      const { database } = await start()
      const broken: Migration = {
        name: 'accounts-2',
        up: () => ['create table half (id text)', 'create table half (id text)'],
      }
      await expect(migrate(database.of(), { migrations: [...migrations, broken], log: silentLogger })).rejects.toThrow()
      await expect(database.all(rawQuery('select * from half'))).rejects.toThrow()
      expect(await database.all(rawQuery('select name from migrations'))).toEqual([{ name: 'accounts-1' }])
    })

    test('a database of a newer version is refused', async () => {
      const { database } = await start()
      const older = migrate(database.of(), { migrations: [], log: silentLogger })
      await expect(older).rejects.toMatchObject({
        code: 'config_invalid',
        message: expect.stringContaining('accounts-1'),
      })
    })

    test('two of the same name are refused', async () => {
      const { database } = await start()
      await expect(migrate(database.of(), { migrations: [second, second], log: silentLogger })).rejects.toThrow(
        /Two migrations/,
      )
    })
  })

  test('closing finishes what was accepted and refuses the rest', async () => {
    const { database, insert } = await start()
    const accepted = Array.from({ length: 50 }, (_, i) => database.run(insert(`a${i}`, i)))
    const closed = (database as Database).close()
    await expect(database.run(insert('late', 1))).rejects.toThrow()
    await closed
    const results = await Promise.allSettled(accepted)
    expect(results.filter(({ status }) => status === 'fulfilled')).toHaveLength(50)
  })
})
