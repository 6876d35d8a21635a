import { describe, expect, test } from 'vitest'
import { testDatabases } from '../../kernel/db/testing.ts'
import { DeltaError } from '../../kernel/errors.ts'
import { systemClock } from '../../kernel/clock.ts'
import { testHashBody } from '../../kernel/http/testing-body-hash.ts'
import { silentLogger } from '../../kernel/log.ts'
import { volumeMigrations } from './migrations.ts'
import { createVolumeSchema, isMountPath, mountsSchema } from './schema.ts'
import { createVolumes } from './service.ts'

const anna = { accountId: 'acc_anna' }
const bert = { accountId: 'acc_bert' }
const wish = (name: string) => createVolumeSchema.parse({ name })
const mount = (volume: string, path: string, readOnly = false) => ({ volume, path, readOnly })

testDatabases('volumes', (open) => {
  async function start() {
    const database = await open(volumeMigrations)
    const folders = new Set<string>()
    /** What the next call of the driver does instead. */
    let failure: Error | undefined
    const failNext = (error: Error) => {
      failure = error
    }
    const act = (work: () => void) => {
      const error = failure
      failure = undefined
      if (error) throw error
      work()
    }
    const driver = {
      makeVolume: async ({ volumeId }: { volumeId: string }) => act(() => void folders.add(volumeId)),
      dropVolume: async (volumeId: string) => act(() => void folders.delete(volumeId)),
    }
    const again = () =>
      createVolumes({ hashBody: testHashBody, database, driver, clock: systemClock, log: silentLogger })
    return { volumes: again(), again, folders, failNext }
  }

  test('one is made, found by id and by name, listed and removed with its folder', async () => {
    const { volumes, folders } = await start()
    const made = await volumes.create(wish('data'), anna)
    expect(made).toMatchObject({ name: 'data', diskMb: 4_096, sandboxIds: [] })
    expect([...folders]).toEqual([made.id])
    expect(await volumes.get('data', anna)).toEqual(made)
    expect(await volumes.get(made.id, anna)).toEqual(made)
    expect(await volumes.list(anna)).toEqual([made])
    await volumes.remove('data', anna)
    expect([...folders]).toEqual([])
    await expect(volumes.get(made.id, anna)).rejects.toMatchObject({ code: 'volume_not_found' })
  })

  test('a name is taken once in an account, and of two creates at once one is refused', async () => {
    const { volumes } = await start()
    const tries = await Promise.allSettled([volumes.create(wish('data'), anna), volumes.create(wish('data'), anna)])
    expect(tries.map(({ status }) => status).toSorted()).toEqual(['fulfilled', 'rejected'])
    const refused = tries.find((one) => one.status === 'rejected')
    expect(refused?.reason).toMatchObject({ code: 'volume_exists' })
    await volumes.create(wish('data'), bert)
  })

  test('the same idempotency key gives the same volume, with another body a refusal', async () => {
    const { volumes } = await start()
    const first = await volumes.create(wish('data'), anna, { idempotencyKey: 'k' })
    expect(await volumes.create(wish('data'), anna, { idempotencyKey: 'k' })).toEqual(first)
    await expect(volumes.create(wish('other'), anna, { idempotencyKey: 'k' })).rejects.toMatchObject({
      code: 'idempotency_conflict',
    })
  })

  test('another account sees nothing of it', async () => {
    const { volumes } = await start()
    const made = await volumes.create(wish('data'), anna)
    for (const name of ['data', made.id]) {
      await expect(volumes.get(name, bert)).rejects.toMatchObject({ code: 'volume_not_found' })
      await expect(volumes.remove(name, bert)).rejects.toMatchObject({ code: 'volume_not_found' })
      await expect(volumes.use('sbx_b', [mount(name, '/data')], bert)).rejects.toMatchObject({
        code: 'volume_not_found',
      })
    }
    expect(await volumes.list(bert)).toEqual([])
  })

  test('what a sandbox uses cannot be removed, and who uses it is named', async () => {
    const { volumes, folders } = await start()
    const made = await volumes.create(wish('data'), anna)
    const given = await volumes.use('sbx_a', [mount('data', '/data'), mount('data', '/again', true)], anna)
    expect(given).toEqual([
      { volumeId: made.id, path: '/data', readOnly: false },
      { volumeId: made.id, path: '/again', readOnly: true },
    ])
    const refusal = await volumes.remove('data', anna).catch((error: unknown) => error)
    expect(refusal).toBeInstanceOf(DeltaError)
    expect(refusal).toMatchObject({ code: 'volume_in_use', context: { sandboxIds: ['sbx_a'] } })
    expect(folders.size).toBe(1)
    await volumes.release('sbx_a')
    await volumes.remove('data', anna)
    expect(folders.size).toBe(0)
  })

  test('of several volumes a sandbox gets all or none', async () => {
    const { volumes } = await start()
    await volumes.create(wish('data'), anna)
    await expect(
      volumes.use('sbx_a', [mount('data', '/data'), mount('missing', '/missing')], anna),
    ).rejects.toMatchObject({ code: 'volume_not_found' })
    await volumes.remove('data', anna)
  })

  test('a removal and a use at once never leave a sandbox with a volume that is gone', async () => {
    const { volumes, folders } = await start()
    for (let round = 0; round < 20; round += 1) {
      await volumes.create(wish('data'), anna)
      const [removed, used] = await Promise.allSettled([
        volumes.remove('data', anna),
        volumes.use('sbx_a', [mount('data', '/data')], anna),
      ])
      expect(removed.status === 'fulfilled' && used.status === 'fulfilled').toBe(false)
      expect(folders.size).toBe(used.status === 'fulfilled' ? 1 : 0)
      await volumes.release('sbx_a')
      await volumes.remove('data', anna).catch(() => undefined)
    }
  })

  test('a failure to make it leaves neither row nor folder, and its name is free again', async () => {
    const { volumes, failNext, folders } = await start()
    failNext(new DeltaError('disk_full', 'No room'))
    await expect(volumes.create(wish('data'), anna)).rejects.toMatchObject({ code: 'disk_full' })
    expect(folders.size).toBe(0)
    await volumes.create(wish('data'), anna)
  })

  test('what a crash cut short is ended at the next start', async () => {
    const { volumes, again, failNext, folders } = await start()
    const made = await volumes.create(wish('data'), anna)
    failNext(new DeltaError('driver_unavailable', 'gone'))
    await expect(volumes.remove('data', anna)).rejects.toMatchObject({ code: 'driver_unavailable' })
    expect([...folders]).toEqual([made.id])
    await again().start(async () => true)
    expect(folders.size).toBe(0)
    expect(await volumes.list(anna)).toEqual([])
  })

  test('sandboxes that are over no longer hold a volume after a start', async () => {
    const { volumes } = await start()
    await volumes.create(wish('data'), anna)
    await volumes.use('sbx_dead', [mount('data', '/data')], anna)
    await volumes.use('sbx_alive', [mount('data', '/data')], anna)
    await volumes.start(async (id) => id === 'sbx_alive')
    expect((await volumes.get('data', anna)).sandboxIds).toEqual(['sbx_alive'])
  })
})

describe('where a volume may be seen', () => {
  test.each(['/data', '/workspace/shared', '/home/user/.cache', '/process', '/a b', '/…'])('%s', (path) => {
    expect(isMountPath(path)).toBe(true)
  })

  test.each([
    '',
    '/',
    'data',
    '/../etc',
    '/a/../b',
    '/a//b',
    '/a/',
    '/.',
    '/proc',
    '/proc/1',
    '/sys',
    '/dev/shm',
    '/.delta/x',
    '/a\0',
  ])('not %j', (path) => {
    expect(isMountPath(path)).toBe(false)
  })

  test('no path lies in another, and no more than 16', () => {
    const at = (...paths: string[]) => mountsSchema.safeParse(paths.map((path) => ({ volume: 'v', path }))).success
    expect(at('/a', '/ab', '/b/a')).toBe(true)
    expect(at('/a', '/a')).toBe(false)
    expect(at('/a/b', '/a')).toBe(false)
    expect(at(...Array.from({ length: 17 }, (_, index) => `/v${index}`))).toBe(false)
  })
})
