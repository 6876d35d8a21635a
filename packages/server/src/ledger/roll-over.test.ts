import { expect, test } from 'vitest'
import type { Database } from '../kernel/db/database.ts'
import { testDatabases } from '../kernel/db/testing.ts'
import { reserveId } from './book.ts'
import { ledgerMigrations } from './migrations.ts'
import type { Operation } from './operations.ts'
import { beginningOf, courses, interleavingsOf, rollOver, type Cast } from './testing/courses.ts'
import { createWorld, type World } from './testing/world.ts'

/** A second roll-over of every kind. */
const long = process.env['DELTA_TEST_ALL'] === '1'
/** Of two courses and a roll-over: some 21,000 orders, which take a quarter of an hour; two more steps would be three times as many. */
const longestSteps = 8
const soak = process.env['DELTA_TEST_SOAK'] === '1'
const timeout = soak ? 3_600_000 : long ? 300_000 : 120_000

testDatabases('the roll-over of the ledger', (open) => {
  for (const [name, course] of Object.entries(courses)) {
    test(`${name}, with a roll-over before, between and after its steps`, { timeout }, async () => {
      const database = await open(ledgerMigrations)
      const tried = await inEveryWay((cast) => [course(cast), [rollOver(cast, 1)]], database, inTurn)
      expect(tried).toBeGreaterThan(2)
    })
  }

  // The second is of the same month; in the long form also of a later one, and, when clocks step back, of an earlier one.
  const months = long ? ([1, 2, 0] as const) : ([1] as const)
  for (const second of months) {
    test(
      `two roll-overs anywhere in a course that is sent at once, the second to month ${second}`,
      { timeout },
      async () => {
        const database = await open(ledgerMigrations)
        for (const course of Object.values(courses)) {
          const partsOf = (cast: Cast) => [course(cast), [rollOver(cast, 1), rollOver(cast, second)]]
          await inEveryWay(partsOf, database, atOnce)
        }
      },
    )
  }

  if (!soak) return
  for (const [index, [name, one]] of Object.entries(courses).entries()) {
    test(`${name}, beside each other course and a roll-over, in every order`, { timeout }, async () => {
      const database = await open(ledgerMigrations)
      for (const other of Object.values(courses).slice(index)) {
        const beside = (cast: Cast) => other({ ...cast, own: (word) => cast.own(`${word}2`) })
        const partsOf = (cast: Cast) => [one(cast), beside(cast), [rollOver(cast, 1)]]
        const steps = partsOf(castOf(createWorld(database))).flat().length
        if (steps <= longestSteps) await inEveryWay(partsOf, database, atOnce)
      }
    })
  }
})

/** Every order of the parts' steps in which each part keeps its own, each on an account of its own. Answers how many there were. */
async function inEveryWay(
  partsOf: (cast: Cast) => Operation[][],
  database: Database,
  play: (world: World, operations: readonly Operation[]) => Promise<void>,
): Promise<number> {
  const lengths = partsOf(castOf(createWorld(database))).map((part) => part.length)
  const orders = ordersOf(lengths)
  for (const order of orders) {
    const world = createWorld(database)
    const cast = castOf(world)
    const steps = partsOf(cast).flat()
    await atOnce(world, beginningOf(cast))
    await play(
      world,
      order.map((index) => steps[index]!),
    )
  }
  return orders.length
}

/** By their places in all parts put one after the other. */
function ordersOf(lengths: readonly number[]): number[][] {
  let first = 0
  return lengths.reduce<number[][]>(
    (orders, length) => {
      const part = Array.from({ length }, (_, index) => first + index)
      first += length
      return orders.flatMap((order) => interleavingsOf(order, part))
    },
    [[]],
  )
}

const inTurn = (world: World, operations: readonly Operation[]) => world.inTurn(operations)

async function atOnce(world: World, operations: readonly Operation[]): Promise<void> {
  for (const operation of operations) world.ask(operation)
  await world.send()
}

function castOf({ accountIds: [accountId], newName }: World): Cast {
  const prefix = newName('own')
  const [agent, other, task] = [newName('agt'), newName('agt'), newName('tsk')]
  return { accountId, reserve: reserveId(accountId), agent, other, task, own: (word) => `${word}_${prefix}` }
}
