import { createBook, keyId } from './book.ts'
import type { Account, Book } from './book.ts'
import { decide, rowsOf } from './engine.ts'
import type { Answer, Operation } from './operations.ts'

/** A ledger in memory, of one operation after the other: the engine alone, without what loads and writes. */
export function memoryLedger() {
  const book = createBook()
  return {
    book,
    decide(operation: Operation): Answer {
      const { accountId } = operation
      if ('holdId' in operation && !book.knowsHold(operation.holdId)) book.putHold(operation.holdId, undefined)
      if ('key' in operation) {
        const id = keyId({ accountId, key: operation.key })
        if (!book.knowsKey(id)) book.putKey(id, undefined)
      }
      learn(book, operation)
      return decide(book, operation)
    },
    account: (id: string): Account | undefined => book.peek(id),
    sum: (accountId: string) =>
      [...book.all()].reduce((sum, row) => sum + (row?.accountId === accountId ? row.granted + row.bought : 0), 0),
  }
}

/** All there is is in the book: what is not is nowhere. */
function learn(book: Book, operation: Operation): void {
  const wanted = rowsOf(book, operation)
  if (wanted === 'whole') return
  for (const id of wanted) if (!book.knows(id)) book.putAccount(id, undefined)
}

/** A small generator of our own, so that a failing run can be repeated from its seed. */
export function seeded(seed: number) {
  let state = seed
  const next = () => {
    state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0
    return state / 2 ** 32
  }
  return {
    below: (most: number) => Math.floor(next() * most),
    of: <Item>(items: readonly Item[]): Item => items[Math.floor(next() * items.length)]!,
  }
}

/** Any operation, most of them good ones, on few ids, so that they meet each other. */
export function randomOperation({ below, of }: ReturnType<typeof seeded>, number: number): Operation {
  const accountId = of(['acc_a', 'acc_a', 'acc_b'])
  const at = Date.UTC(2026, 10, 1) + number
  const agents = ['agt_1', 'agt_2', 'agt_3', 'agt_4', 'tsk_1']
  const purse = () => of([...agents, `${accountId}:reserve`])
  const holdId = `hld_${below(12)}`
  const amount = 1 + below(60)
  const key = `key_${below(400)}`
  const lines = [{ meter: of(['in', 'out']), quantity: below(9), cost: below(50) }]
  const base = { accountId, at }
  const purpose = { kind: 'model', agentId: of(agents) }
  const make: (() => Operation)[] = [
    () => ({
      ...base,
      type: 'open_purse',
      purseId: of(agents),
      kind: 'agent',
      parentId: purse(),
      monthly: below(3) * 20,
    }),
    () => ({ ...base, type: 'change_purse', purseId: of(agents), monthly: below(50) }),
    () => ({ ...base, type: 'grant', sort: of(['granted', 'bought']), amount, reason: 'r', key }),
    () => ({ ...base, type: 'archive', purseId: of(agents) }),
    () => ({ ...base, type: 'refund', holdId, amount, reason: 'r', key }),
    () => ({ ...base, type: 'charge', payer: purse(), lines, rates: 'v', purpose, key }),
    () => ({ ...base, type: 'pay_owed', key }),
    () => ({ ...base, type: 'settle', holdId }),
    () => ({ ...base, type: 'release', holdId }),
    () => ({ ...base, type: 'sent', holdId, ...(below(2) > 0 && { observed: below(40) }) }),
    () => ({ ...base, type: 'transfer', from: purse(), to: purse(), amount, reason: 'r', key }),
    () => ({ ...base, type: 'transfer', from: `${accountId}:reserve`, to: of(agents), amount, reason: 'r', key }),
    () => ({ ...base, type: 'commit', holdId, lines, rates: 'v', excess: of(['refuse', 'absorb']) }),
    () => ({ ...base, type: 'commit', holdId, lines, rates: 'v', estimated: true }),
    () => ({
      ...base,
      type: 'hold',
      holdId,
      payer: purse(),
      amount,
      atLeast: 1 + below(amount),
      purpose,
      owner: 'srv_a',
    }),
    () => ({ ...base, type: 'hold', holdId: `hld_${number}`, payer: purse(), amount, purpose, owner: 'srv_a' }),
  ]
  if (below(40) === 0)
    return { ...base, type: 'roll_over', period: `2026-${10 + below(3)}`, grantTokens: below(4) * 100 }
  return of(make)()
}
