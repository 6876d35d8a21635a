import type { Program, ProgramQuery } from './program.ts'

// For database.test.ts: moves balances between rows of `accounts`.

export interface Move {
  from: string
  to: string
  amount: number
  fault?: 'after writing' | 'overdraws' | 'writes NaN' | 'answers nothing'
}

export interface MoveAnswer {
  ok: boolean
  left: number
  /** How many were decided together. */
  group: number
  /** How many rows were looked up for them. */
  lookedUp: number
}

export const remembers = ['accounts']

const write = (rows: ProgramQuery['rows']): ProgramQuery => ({
  sqlite: 'update accounts set balance = ?2 where id = ?1',
  postgres:
    'update accounts a set balance = v.balance from unnest($1::text[], $2::bigint[]) as v (id, balance) where a.id = v.id',
  rows,
})

export const program: Program<Move, MoveAnswer> = function* (group, memory) {
  const ids = [...new Set(group.flatMap(({ from, to }) => [from, to]))].toSorted()
  const known = ids.flatMap((id) => {
    const row = memory?.get(id) as { balance: number } | undefined
    return row ? [[id, row.balance] as const] : []
  })
  const unknown = ids.filter((id) => !known.some(([one]) => one === id))
  const [rows] = yield [
    {
      sqlite: 'select id, balance from accounts where id = ?',
      postgres: 'select id, balance from accounts where id = any($1) order by id for update',
      rows: unknown.map((id) => [id]),
    },
  ]
  const balances = new Map([...known, ...rows!.map(({ id, balance }) => [String(id), Number(balance)] as const)])
  const answers: MoveAnswer[] = []
  for (const { from, to, amount, fault } of group) {
    const there = balances.get(from) ?? 0
    const taken = fault === 'overdraws' ? 1_000 : amount
    const ok = there >= taken || fault === 'overdraws'
    if (ok) {
      balances.set(from, there - taken)
      balances.set(to, (balances.get(to) ?? 0) + taken)
    }
    if (fault === 'writes NaN') balances.set(from, Number.NaN)
    answers.push({ ok, left: balances.get(from) ?? 0, group: group.length, lookedUp: unknown.length })
  }
  yield [write([...balances])]
  for (const [id, balance] of balances) memory?.set(id, { balance })
  if (group.some(({ fault }) => fault === 'after writing')) throw new Error('broken on purpose')
  return group.some(({ fault }) => fault === 'answers nothing') ? [] : answers
}
