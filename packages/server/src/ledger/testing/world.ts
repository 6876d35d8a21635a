import { expect } from 'vitest'
import type { Database } from '../../kernel/db/database.ts'
import { reserveId, sideId } from '../book.ts'
import type { Answer, Operation } from '../operations.ts'
import { ledgerProgramUrl } from '../program-url.ts'
import { booksOf, expectConserved, expectSaid, expectSame, readTables, type Books, type Tables } from './books.ts'
import { createModel, type Model } from './model.ts'

/** The ledger on a database and the model of it, which are asked the same. */
export interface World {
  readonly model: Model
  readonly accountIds: readonly [string, string]
  newName(prefix: string): string
  /** Says what the model answers; the ledger is asked with the next `send`. */
  ask(operation: Operation): Answer
  /** What the ledger does of its own accord with the next `send`. */
  expectToHappen(operation: Operation): void
  /**
   * Sends what was asked for, all at once. The answers and all tables must be as if it had come one after the other in this order; they must follow from what the tables said before;
   * and what is refused must have written nothing.
   */
  send(): Promise<void>
  /** The same, one after the other, looking at the tables after each. */
  inTurn(operations: readonly Operation[]): Promise<void>
}

let worlds = 0

export type Apply = (operation: Operation) => Promise<Answer>

/** Two accounts of a world's own, so that many worlds share a database. */
export function createWorld(
  database: Database,
  apply: Apply = database.program<Operation, Answer>(ledgerProgramUrl),
): World {
  worlds += 1
  const ordinal = worlds
  const model = createModel((accountId, kind) => (kind === 'reserve' ? reserveId(accountId) : sideId(accountId, kind)))
  const accountIds = [`acc_a${ordinal}`, `acc_b${ordinal}`] as const
  const asked: { operation: Operation; expected: Answer; happens: boolean }[] = []
  let sent = 0
  let names = 0
  let tables: Tables | undefined

  async function compare(from: number): Promise<void> {
    const group = asked.slice(from)
    const sending = group.filter(({ happens }) => !happens)
    const answers = await Promise.all(sending.map(({ operation }) => apply(operation)))
    expect(answers.map(plain)).toEqual(sending.map(({ expected }) => plain(expected)))
    const old = tables
    tables = await readTables(database, accountIds)
    const before: Books = old ? booksOf(old) : {}
    const after = booksOf(tables)
    expectSame(model, after)
    expectConserved(before, after)
    if (group.every(({ expected: answer }) => !answer.ok || answer.repeated)) expect(tables).toEqual(old ?? tables)
    if (group.length === 1 && answers[0]) expectSaid(group[0]!.operation, answers[0], before, after)
  }

  const world: World = {
    model,
    accountIds,
    newName(prefix) {
      names += 1
      return `${prefix}_${ordinal}x${names}`
    },
    ask(operation) {
      const expected = model.apply(operation)
      asked.push({ operation, expected, happens: false })
      return expected
    },
    expectToHappen(operation) {
      asked.push({ operation, expected: model.apply(operation), happens: true })
    },
    async send() {
      const from = sent
      sent = asked.length
      if (from === sent) return
      try {
        await compare(from)
      } catch (cause) {
        const lines = asked.map(({ operation, happens }, at) => {
          const mark = happens ? '.' : at < from ? ' ' : '>'
          return `${mark} ${shown(operation)}`
        })
        const said = cause instanceof Error ? cause.message : String(cause)
        throw new Error(
          `${said}\nAfter this, where > was sent at once and . has to happen by itself:\n${lines.join('\n')}`,
          { cause },
        )
      }
    },
    async inTurn(operations) {
      for (const operation of operations) {
        world.ask(operation)
        await world.send()
      }
    },
  }
  return world
}

/** Nothing is unpaid where nothing is said of it. Which purses were filled is asked of the books instead. */
function plain(answer: Answer) {
  if (!answer.ok) return answer
  const { filled: _, unpaid = 0, ...rest } = answer
  return { ...rest, unpaid }
}

const shown = (operation: Operation) =>
  JSON.stringify(operation, (_key, value: unknown) => (typeof value === 'bigint' ? `${value}n` : value))
