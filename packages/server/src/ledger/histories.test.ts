import fc from 'fast-check'
import { test } from 'vitest'
import { systemClock } from '../kernel/clock.ts'
import { rawQuery } from '../kernel/db/compile.ts'
import type { Database } from '../kernel/db/database.ts'
import { testDatabases } from '../kernel/db/testing.ts'
import { DeltaError } from '../kernel/errors.ts'
import { silentLogger } from '../kernel/log.ts'
import { microPerToken } from './amounts.ts'
import { reserveId } from './book.ts'
import { ledgerMigrations } from './migrations.ts'
import { refusalReasons, type Answer, type Done, type Operation } from './operations.ts'
import { firstCard } from './rate-card.ts'
import { createLedger, type Ledger } from './service.ts'
import { anyStep, clockAfter, operationOf, periodOf, type Setting, type Step } from './testing/histories.ts'
import { createWorld, type World } from './testing/world.ts'

/** Minutes. Whoever looks for the cause of a failure gives the seed and path that it names to `fc.assert`. */
const long = process.env['DELTA_TEST_ALL'] === '1'
/** Of the runs of the short form. */
const times = process.env['DELTA_TEST_SOAK'] === '1' ? 50 : long ? 2 : 1
const timeout = times * 120_000
/** Micro-tokens. */
const monthlyGrant = 70
const firstMoment = Date.UTC(2026, 10, 23, 12)

testDatabases('histories of the ledger', (open) => {
  test('every answer and every row is what the rules say, and follows from those before', { timeout }, async () => {
    const database = await open(ledgerMigrations)
    const history = fc.array(anyStep, { minLength: 1, maxLength: 40, size: 'max' })
    const inTurn = (steps: Step[]) =>
      play(
        database,
        steps.map((step) => [step]),
      )
    await fc.assert(fc.asyncProperty(history, inTurn), { numRuns: 40 * times })
  })

  test('operations that are sent at once are as if they had come one after the other', { timeout }, async () => {
    const database = await open(ledgerMigrations)
    const group = fc.array(anyStep, { minLength: 1, maxLength: 30, size: 'max' })
    const history = fc.array(group, { minLength: 1, maxLength: 6, size: 'max' })
    const atOnce = (groups: Step[][]) => play(database, groups)
    await fc.assert(fc.asyncProperty(history, atOnce), { numRuns: 50 * times })
  })

  test(
    'by the service, months begin by themselves and the next life settles what a dead one held',
    { timeout },
    async () => {
      const database = await open(ledgerMigrations)
      const history = fc.array(anyStep, { minLength: 1, maxLength: 40, size: 'max' })
      await fc.assert(
        fc.asyncProperty(history, (steps) => live(database, steps)),
        { numRuns: 20 * times },
      )
    },
  )
})

function settingOf({ model, accountIds, newName }: World): Setting {
  const names = { reserveIdOf: reserveId, owner: newName('srv'), newName, accountIds }
  return { ...names, model, now: firstMoment, past: [] }
}

/** Plays groups of steps: those of a group are sent at once, each meant as it is once those before it have been done. */
async function play(database: Database, groups: readonly (readonly Step[])[]): Promise<void> {
  const world = createWorld(database)
  const setting = settingOf(world)
  await world.inTurn(world.accountIds.flatMap((accountId) => beginningOf(accountId, setting)))
  for (const group of groups) {
    for (const step of group) {
      const operation = operationOf(step, setting)
      if (operation && world.ask(operation).ok) setting.past.push(operation)
      if (step.kind === 'clock') setting.now = clockAfter(setting.now, step)
      if (step.kind === 'crash') for (const settled of crash(setting)) world.ask(settled)
    }
    await world.send()
  }
}

/** Plays steps through a service that dies and is begun anew. What it does by itself is told to the model. */
async function live(database: Database, steps: readonly Step[]): Promise<void> {
  let ledger: Ledger | undefined
  const world = createWorld(database, (operation) => answerOf(ledger!.apply(operation)))
  const setting = settingOf(world)
  const begin = () =>
    createLedger({
      database,
      clock: { ...systemClock, now: () => setting.now },
      log: silentLogger,
      rates: firstCard,
      grant: monthlyGrant,
      planAtStart: () => 'free',
      incarnation: setting.owner,
    })
  const rollOver = (accountId: string) => {
    const [at, period] = [setting.now, periodOf(setting.now)]
    if (period <= (world.model.state().accounts.get(accountId)?.period ?? period)) return
    world.expectToHappen({ type: 'roll_over', accountId, at, period, grantTokens: monthlyGrant })
  }
  ledger = begin()
  try {
    await world.inTurn(world.accountIds.flatMap((accountId) => beginningOf(accountId, setting)))
    for (const step of steps) {
      if (step.kind === 'clock') setting.now = clockAfter(setting.now, step)
      if (step.kind === 'crash') {
        for (const settled of crash(setting)) world.expectToHappen(settled)
        for (const accountId of world.accountIds) rollOver(accountId)
        await ledger.stop()
        ledger = begin()
        // Of those before nobody has heard for long.
        await database.run(rawQuery('delete from ledger_owners'))
        await ledger.start()
        // Months begin behind the start; whoever needs one waits for it.
        for (const accountId of world.accountIds) await ledger.ensure(accountId)
      }
      const operation = operationOf(step, setting)
      if (operation && operation.type !== 'open_account' && operation.type !== 'roll_over')
        rollOver(operation.accountId)
      if (operation && world.ask(operation).ok) setting.past.push(operation)
      await world.send()
    }
  } finally {
    await ledger.stop()
  }
}

/** What the service throws, in the words of the engine. */
async function answerOf(done: Promise<Done>): Promise<Answer> {
  try {
    return await done
  } catch (error) {
    const reason = refusalReasons.find((one) => error instanceof DeltaError && error.code === one)
    if (!reason || !(error instanceof DeltaError)) throw error
    const available = error.context?.['available']
    return {
      ok: false,
      reason,
      ...(typeof available === 'number' && { available: Math.round(available * microPerToken) }),
    }
  }
}

function beginningOf(accountId: string, { now: at, newName }: Setting): Operation[] {
  const base = { accountId, at }
  const purseId = newName('agt')
  const moved = { from: reserveId(accountId), to: purseId, amount: 90, reason: 'budget' }
  return [
    { ...base, type: 'open_account', grantTokens: 100, period: periodOf(at), plan: 'free' },
    { ...base, type: 'grant', sort: 'bought', amount: 60, reason: 'bought', key: newName('key') },
    { ...base, type: 'open_purse', purseId, kind: 'agent', parentId: reserveId(accountId), monthly: 30 },
    { ...base, type: 'transfer', ...moved, key: newName('key') },
  ]
}

/** The server dies, and the next one settles what the dead one held. */
function crash(setting: Setting): Operation[] {
  const { model, owner, now: at } = setting
  setting.owner = setting.newName('srv')
  const left = [...model.state().holds].filter(([, { asked, state }]) => asked.owner === owner && state === 'open')
  return left.map(([holdId, { asked }]) => ({ type: 'settle', accountId: asked.accountId, holdId, at }))
}
