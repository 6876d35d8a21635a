import { afterEach, expect, test } from 'vitest'
import { createModelDriver } from '../drivers/testing/model.ts'
import { manualClock } from '../kernel/clock.ts'
import { testDatabases } from '../kernel/db/testing.ts'
import { testHashBody } from '../kernel/http/testing-body-hash.ts'
import { silentLogger } from '../kernel/log.ts'
import { volumeMigrations } from '../workspaces/volumes/migrations.ts'
import { createVolumes } from '../workspaces/volumes/service.ts'
import { sandboxMigrations } from './migrations.ts'
import { createSandboxSchema } from './schema.ts'
import { createSandboxes, type Sandboxes } from './service.ts'
import { silentGuest, testSeal } from './testing.ts'

const caller = { accountId: 'acc_a' }
const running: Sandboxes[] = []

testDatabases('sandboxes with volumes', (open) => {
  afterEach(async () => {
    for (const sandboxes of running.splice(0)) await sandboxes.stop('leave')
  })

  async function start({ without = false } = {}) {
    const database = await open([...volumeMigrations, ...sandboxMigrations])
    const parts = {
      database,
      driver: createModelDriver(),
      hashBody: testHashBody,
      clock: manualClock(1_789_000_000_000),
      log: silentLogger,
    }
    const volumes = createVolumes(parts)
    const sandboxes = createSandboxes({
      seal: testSeal,
      ...parts,
      connectGuest: silentGuest,
      ...(!without && { volumes }),
    })
    await sandboxes.start()
    running.push(sandboxes)
    await volumes.create({ name: 'data', diskMb: 64 }, caller)
    const wish = createSandboxSchema.parse({ volumes: [{ volume: 'data', path: '/data' }] })
    return { sandboxes, volumes, driver: parts.driver, wish }
  }

  test('every box of the sandbox has them, and they are free again when it is over', async () => {
    const { sandboxes, volumes, driver, wish } = await start()
    const { id, volumes: shown } = await sandboxes.create(wish, caller)
    const { id: volumeId } = await volumes.get('data', caller)
    expect(shown).toEqual([{ volumeId, path: '/data', readOnly: false }])
    await expect(driver.dropVolume(volumeId)).rejects.toMatchObject({ code: 'disk_in_use' })
    await sandboxes.stopSandbox(id, caller)
    await expect(volumes.remove('data', caller)).rejects.toMatchObject({
      code: 'volume_in_use',
      context: { sandboxIds: [id] },
    })
    await sandboxes.startSandbox(id, caller)
    await expect(driver.dropVolume(volumeId)).rejects.toMatchObject({ code: 'disk_in_use' })
    await sandboxes.kill(id, caller)
    await expect.poll(async () => (await volumes.get('data', caller)).sandboxIds).toEqual([])
    await volumes.remove('data', caller)
  })

  test('one that is missing is named, and nothing is made', async () => {
    const { sandboxes, driver } = await start()
    const wish = createSandboxSchema.parse({ volumes: [{ volume: 'other', path: '/data' }] })
    await expect(sandboxes.create(wish, caller)).rejects.toMatchObject({
      code: 'volume_not_found',
      message: 'There is no volume other',
    })
    expect(driver.boxes.size).toBe(0)
  })

  test('a sandbox that cannot be made holds none', async () => {
    const { sandboxes, volumes, wish } = await start()
    await expect(sandboxes.create({ ...wish, template: 'nothere' }, caller)).rejects.toMatchObject({
      code: 'template_not_found',
    })
    await expect.poll(async () => (await volumes.get('data', caller)).sandboxIds).toEqual([])
  })

  test('of a repeated request nothing is held twice', async () => {
    const { sandboxes, volumes, wish } = await start()
    const made = await Promise.all(
      [1, 2, 3].map(() =>
        sandboxes.create(wish, caller, { idempotencyKey: 'k' }).catch((error: { code: string }) => error.code),
      ),
    )
    const ids = new Set(made.map((one) => (typeof one === 'string' ? one : one.id)))
    ids.delete('idempotency_in_progress')
    expect(ids.size).toBe(1)
    expect((await volumes.get('data', caller)).sandboxIds).toEqual([...ids])
  })

  test('they are refused where the installation has none', async () => {
    const { sandboxes, wish } = await start({ without: true })
    await expect(sandboxes.create(wish, caller)).rejects.toMatchObject({ code: 'not_supported' })
  })
})
