import { expect, onTestFinished, test } from 'vitest'
import type { Database } from '../kernel/db/database.ts'
import { testDatabases } from '../kernel/db/testing.ts'
import { testHashBody } from '../kernel/http/testing-body-hash.ts'
import { newId } from '../kernel/ids.ts'
import { silentLogger } from '../kernel/log.ts'
import { ledgerMigrations } from '../ledger/migrations.ts'
import { firstCard } from '../ledger/rate-card.ts'
import { createLedger, type Ledger } from '../ledger/service.ts'
import { workspaceMigrations } from './migrations.ts'
import { createWorkspaces } from './service.ts'
import { createStorageCharges } from './storage-charges.ts'
import { caller, newWorld, type World, wish } from './testing.ts'
import { createVolumes } from './volumes/service.ts'
import { volumeMigrations } from './volumes/migrations.ts'

const { accountId } = caller
/** Of a volume of 1,000 MB for a day: 1,048.576 MB of 10⁶ bytes at 50 micro-tokens. */
const day = Math.ceil(1_048.576 * 50)

testDatabases('what an account keeps', (open) => {
  async function start(tokens: number) {
    const database: Database = await open([...volumeMigrations, ...workspaceMigrations, ...ledgerMigrations])
    const world = await newWorld(database)
    const { clock } = world
    const ledger = createLedger({
      database,
      clock,
      log: silentLogger,
      rates: firstCard,
      grant: tokens,
      planAtStart: () => 'enterprise',
      incarnation: newId('srv'),
    })
    await ledger.ensure(accountId)
    return { world, ledger, ...serve(world, ledger) }
  }

  function serve({ database, clock, driver, ...rest }: World, ledger: Ledger) {
    const charges = createStorageCharges({ database, ledger, clock, log: silentLogger, isBucket: false })
    onTestFinished(charges.stop)
    const mayKeepMore = charges.refuseOwing
    const volumes = createVolumes({ hashBody: testHashBody, database, driver, clock, log: silentLogger, mayKeepMore })
    const workspaces = createWorkspaces({
      hashBody: testHashBody,
      ...rest,
      database,
      clock,
      driver,
      log: silentLogger,
      mayKeepMore,
    })
    return { charges, volumes, workspaces }
  }

  const reserveOf = (ledger: Ledger) => ledger.balanceOf(accountId, ledger.reserveOf(accountId))
  const volume = (name: string) => ({ name, diskMb: 1_000 })
  const usedBy = (ledger: Ledger) => expect.poll(async () => (await reserveOf(ledger)).used)

  test('is charged once for each day, whatever becomes of the server', async () => {
    const { world, ledger, charges, volumes } = await start(1_000_000)
    await volumes.create(volume('one'), caller)
    charges.start()
    await usedBy(ledger).toBe(day)
    await charges.stop()
    // More than there was when the day was charged.
    await volumes.create(volume('two'), caller)
    const next = serve(world, ledger).charges
    next.start()
    await expect.poll(() => world.clock.sleepers).toBeGreaterThan(0)
    expect((await reserveOf(ledger)).used).toBe(day)
    await world.clock.advance(86_400_000)
    await usedBy(ledger).toBe(day + Math.ceil(2 * 1_048.576 * 50))
    await next.stop()
  })

  test('and can not be paid is owed: nothing new is made, what is there can be read and removed, and it goes on once it is paid', async () => {
    const { ledger, charges, volumes, workspaces } = await start(1_000)
    const before = await workspaces.create(wish({ name: 'before' }), caller)
    await workspaces.snapshot(before.id, { comment: '' }, caller)
    await volumes.create(volume('one'), caller)
    charges.start()
    await expect.poll(async () => (await reserveOf(ledger)).owed).toBe(day - 1_000)
    const refusal = { code: 'account_owes', status: 402 }
    await expect(workspaces.create(wish({ name: 'after' }), caller)).rejects.toMatchObject(refusal)
    await expect(workspaces.forkWorkspace(before.id, {}, caller)).rejects.toMatchObject(refusal)
    await expect(workspaces.snapshot(before.id, { comment: '' }, caller)).rejects.toMatchObject(refusal)
    await expect(volumes.create(volume('two'), caller)).rejects.toMatchObject(refusal)
    await expect(ledger.hold({ accountId, amount: 1, purpose: { kind: 'sandbox' } })).rejects.toMatchObject(refusal)
    expect((await workspaces.get(before.id, caller)).name).toBe('before')
    await volumes.remove('one', caller)

    await ledger.grant({ accountId, sort: 'bought', amount: 1_000_000, reason: 'paid', key: 'paid' })
    expect(await reserveOf(ledger)).toMatchObject({ owed: 0, bought: 1_000_000 - (day - 1_000) })
    await workspaces.create(wish({ name: 'after' }), caller)
    await charges.stop()
  })

  test('is nothing for one that keeps nothing', async () => {
    const { ledger, charges, world } = await start(1_000)
    charges.start()
    await expect.poll(() => world.clock.sleepers).toBeGreaterThan(0)
    expect((await reserveOf(ledger)).used).toBe(0)
  })
})
