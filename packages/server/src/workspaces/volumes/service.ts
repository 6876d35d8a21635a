import type { BoxVolume, Driver } from '../../drivers/driver.ts'
import type { Clock } from '../../kernel/clock.ts'
import { isClash } from '../../kernel/db/clash.ts'
import type { Database } from '../../kernel/db/database.ts'
import { DeltaError } from '../../kernel/errors.ts'
import type { HashBody } from '../../kernel/http/body-hash.ts'
import { newId } from '../../kernel/ids.ts'
import type { Logger } from '../../kernel/log.ts'
import { type CreateVolume, type Mount, type Volume, volumeLimits } from './schema.ts'
import { createVolumeStore, type VolumeRecord, type VolumeRequest } from './store.ts'

export interface VolumesDeps {
  database: Database
  driver: Pick<Driver, 'makeVolume' | 'dropVolume'>
  hashBody: HashBody
  clock: Clock
  log: Logger
  /** As of workspaces. @default it may */
  mayKeepMore?: ((accountId: string) => Promise<void>) | undefined
}

interface Owner {
  accountId: string
}

export type Volumes = ReturnType<typeof createVolumes>

/** Folders that several sandboxes of one account share. */
export function createVolumes({ database, driver, hashBody, clock, log, mayKeepMore }: VolumesDeps) {
  const store = createVolumeStore(database)

  async function create(
    wish: CreateVolume,
    { accountId }: Owner,
    { idempotencyKey }: { idempotencyKey?: string | undefined } = {},
  ): Promise<Volume> {
    const request = idempotencyKey === undefined ? undefined : { key: idempotencyKey, bodyHash: hashBody(wish) }
    const earlier = request && (await replay(accountId, request))
    if (earlier) return earlier
    await mayKeepMore?.(accountId)
    if ((await store.count(accountId)) >= volumeLimits.volumes) {
      throw new DeltaError('volume_limit_reached', `The account has ${volumeLimits.volumes} volumes`)
    }
    const record: VolumeRecord = {
      id: newId('vol'),
      accountId,
      name: wish.name,
      diskMb: wish.diskMb,
      state: 'making',
      createdAt: clock.now(),
    }
    try {
      await store.insert(record, request)
    } catch (error) {
      if (!isClash(error)) throw error
      const other = request && (await replay(accountId, request))
      if (other) return other
      throw new DeltaError('volume_exists', `There is a volume ${wish.name} already`)
    }
    try {
      await driver.makeVolume({ volumeId: record.id, diskMb: record.diskMb })
      await store.markReady(record.id)
    } catch (error) {
      await dismantle(record.id).catch((cause: unknown) =>
        log.error('volume_left', { volumeId: record.id, error: cause }),
      )
      throw error
    }
    return viewOf(record, [])
  }

  async function replay(accountId: string, { key, bodyHash }: VolumeRequest): Promise<Volume | undefined> {
    const earlier = await store.byRequest(accountId, key)
    if (!earlier) return undefined
    if (earlier.bodyHash !== bodyHash) {
      throw new DeltaError('idempotency_conflict', 'This Idempotency-Key was used with another body')
    }
    if (earlier.record.state !== 'ready') {
      throw new DeltaError('idempotency_in_progress', 'The first request with this key is still being worked on')
    }
    return view(earlier.record)
  }

  async function view(record: VolumeRecord): Promise<Volume> {
    const uses = await store.usesOf([record.id])
    return viewOf(record, uses.get(record.id) ?? [])
  }

  async function list({ accountId }: Owner): Promise<Volume[]> {
    const records = await store.list(accountId)
    const uses = await store.usesOf(records.map(({ id }) => id))
    return records.map((record) => viewOf(record, uses.get(record.id) ?? []))
  }

  async function get(idOrName: string, owner: Owner): Promise<Volume> {
    return view(await find(idOrName, owner))
  }

  async function find(idOrName: string, { accountId }: Owner): Promise<VolumeRecord> {
    const record = await store.find(accountId, idOrName)
    if (record?.state !== 'ready') throw notFound(idOrName)
    return record
  }

  async function remove(idOrName: string, owner: Owner): Promise<void> {
    const record = await find(idOrName, owner)
    if (!(await store.markDeleting(record.id))) throw inUse(await get(record.id, owner))
    await dismantle(record.id).catch(async (error: unknown) => {
      if (!(error instanceof DeltaError) || error.code !== 'disk_in_use') throw error
      // The box of a sandbox that is over has not quite ended.
      await store.markReady(record.id)
      throw inUse(viewOf(record, []))
    })
  }

  async function dismantle(volumeId: string): Promise<void> {
    await driver.dropVolume(volumeId)
    await store.remove(volumeId)
  }

  /** Before the sandbox's row is written: from now on nobody can delete them. */
  async function use(sandboxId: string, mounts: readonly Mount[], owner: Owner): Promise<BoxVolume[]> {
    if (mounts.length === 0) return []
    const found = await Promise.all(
      mounts.map(async ({ volume, path, readOnly }) => ({ volumeId: (await find(volume, owner)).id, path, readOnly })),
    )
    if (!(await store.use(sandboxId, [...new Set(found.map(({ volumeId }) => volumeId))]))) {
      throw notFound(mounts.map(({ volume }) => volume).join(', '))
    }
    return found
  }

  /** Ends what a crash cut short, and forgets sandboxes that are over. */
  async function start(isAlive: (sandboxId: string) => Promise<boolean>): Promise<void> {
    for (const { id } of await store.unfinished()) {
      await dismantle(id).catch((error: unknown) => log.error('volume_left', { volumeId: id, error }))
    }
    for (const sandboxId of await store.users()) {
      if (!(await isAlive(sandboxId))) await store.release(sandboxId)
    }
  }

  return { create, list, get, remove, use, release: store.release, start }
}

function viewOf(record: VolumeRecord, sandboxIds: string[]): Volume {
  const { id, name, diskMb, createdAt } = record
  return { id, name, diskMb, createdAt: new Date(createdAt).toISOString(), sandboxIds }
}

function inUse({ id, name, sandboxIds }: Volume): DeltaError {
  const users = sandboxIds.length === 0 ? 'a sandbox that is ending' : sandboxIds.slice(0, 3).join(', ')
  return new DeltaError('volume_in_use', `Volume ${name} is used by ${users}`, {
    context: { volumeId: id, sandboxIds: sandboxIds.slice(0, 100) },
  })
}

function notFound(idOrName: string): DeltaError {
  return new DeltaError('volume_not_found', `There is no volume ${idOrName}`)
}
