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
}

const write = (rows: ProgramQuery['rows']): ProgramQuery => ({
  sqlite: 'update accounts set balance = ?2 where id = ?1',
  postgres:
    'update accounts a set balance = v.balance from unnest($1::text[], $2::bigint[]) as v (id, balance) where a.id = v.id',
  rows,
})

export const program: Program<Move, MoveAnswer> = function* (group) {
  const ids = [...new Set(group.flatMap(({ from, to }) => [from, to]))].toSorted()
  const [rows] = yield [
    {
      sqlite: 'select id, balance from accounts where id = ?',
      postgres: 'select id, balance from accounts where id = any($1) order by id for update',
      rows: ids.map((id) => [id]),
    },
  ]
  const balances = new Map(rows!.map(({ id, balance }) => [String(id), Number(balance)]))
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
    answers.push({ ok, left: balances.get(from) ?? 0, group: group.length })
  }
  yield [write([...balances])]
  if (group.some(({ fault }) => fault === 'after writing')) throw new Error('broken on purpose')
  return group.some(({ fault }) => fault === 'answers nothing') ? [] : answers
}
