import type { Clock } from '../kernel/clock.ts'
import type { Database } from '../kernel/db/database.ts'
import { DeltaError } from '../kernel/errors.ts'
import type { Logger } from '../kernel/log.ts'
import { createLoop } from './loop.ts'
import { dayOf, type StoredLayer, type StoredSnapshot, storedBytes, untilNextDayMs } from './storage-rules.ts'

/** What is needed of the ledger. Amounts are micro-tokens. */
export interface StorageLedger {
  charge(wish: {
    accountId: string
    payer: string
    lines: { meter: string; quantity: number; cost: number }[]
    purpose: { kind: string }
    key: string
  }): Promise<{ amount: number; unpaid?: number; repeated?: true }>
  price(meter: string, quantity: number): number
  reserveOf(accountId: string): string
  balanceOf(accountId: string, purseId: string): Promise<{ owed: number }>
}

export interface StorageChargesDeps {
  database: Database
  ledger: StorageLedger
  clock: Clock
  log: Logger
  /** Layers lie in a bucket, which has a price of its own. */
  isBucket: boolean
  /** What lies in storage beside layers. @default nothing */
  others?: { accounts(): Promise<string[]>; bytesOf(accountId: string): Promise<number> } | undefined
}

interface Tables {
  snapshots: {
    id: string
    account_id: string
    parent_id: string | null
    is_local: number
    bytes: number | null
    layer_digest: string | null
  }
  layers: { digest: string; size: number; tar_size: number; state: string }
  volumes: { account_id: string; disk_mb: number }
}

/** A day's charge that failed is tried again after this. */
const retryMs = 300_000
const megabyte = 1e6

export type StorageCharges = ReturnType<typeof createStorageCharges>

/**
 * Charges accounts for what they keep, once for each day of UTC in which the server runs: the key of the charge is the day, so that it happens once whatever
 * crashes. What the reserve can not pay is owed; as long as it is, nothing new is started or made, and nothing is removed.
 */
export function createStorageCharges({ database, ledger, clock, log, isBucket, others }: StorageChargesDeps) {
  const db = database.of<Tables>()
  const sql = db.sql
  const counts = { committed: 0, owed: 0 }
  const daily = createLoop({ name: 'storage_charges', clock, log, work: chargeAll })

  async function accounts(): Promise<string[]> {
    const [snapshots, volumes, more = []] = await Promise.all([
      db.all(sql.selectFrom('snapshots').select('account_id').distinct().compile()),
      db.all(sql.selectFrom('volumes').select('account_id').distinct().compile()),
      others?.accounts(),
    ])
    return Array.from(new Set([...[...snapshots, ...volumes].map((row) => row.account_id), ...more])).toSorted()
  }

  async function bytesOf(accountId: string) {
    const ofSnapshots = sql
      .selectFrom('snapshots')
      .select(['id', 'parent_id', 'is_local', 'bytes', 'layer_digest'])
      .where('account_id', '=', accountId)
    const ofLayers = sql
      .selectFrom('layers')
      .select(['digest', 'size', 'tar_size', 'state'])
      .where('digest', 'in', (from) =>
        from
          .selectFrom('snapshots')
          .select('layer_digest')
          .where('account_id', '=', accountId)
          .where('layer_digest', 'is not', null)
          .$castTo<{ layer_digest: string }>(),
      )
    const ofVolumes = sql.selectFrom('volumes').select('disk_mb').where('account_id', '=', accountId)
    const [snapshots, layers, volumes] = await Promise.all([
      db.all(ofSnapshots.compile()),
      db.all(ofLayers.compile()),
      db.all(ofVolumes.compile()),
    ])
    return storedBytes(
      snapshots.map((row): StoredSnapshot => ({
        id: row.id,
        parentId: row.parent_id,
        isLocal: row.is_local === 1,
        bytes: row.bytes,
        layerDigest: row.layer_digest,
      })),
      layers.map((row): StoredLayer => ({
        digest: row.digest,
        size: row.size,
        tarSize: row.tar_size,
        isStored: row.state === 'stored',
      })),
      volumes.reduce((sum, { disk_mb }) => sum + disk_mb, 0),
    )
  }

  async function charge(accountId: string, day: string): Promise<void> {
    const [{ poolBytes, layerBytes }, otherBytes = 0] = await Promise.all([
      bytesOf(accountId),
      others?.bytesOf(accountId),
    ])
    const layerMeter = isBucket ? 'storage_s3_mb_days' : 'storage_mb_days'
    const lines = [
      { meter: 'storage_mb_days', quantity: poolBytes / megabyte },
      { meter: layerMeter, quantity: (layerBytes + otherBytes) / megabyte },
    ]
      .filter(({ quantity }) => quantity > 0)
      .map((line) => ({ ...line, cost: ledger.price(line.meter, line.quantity) }))
    if (lines.length === 0) return
    const payer = ledger.reserveOf(accountId)
    try {
      const done = await ledger.charge({ accountId, payer, lines, purpose: { kind: 'storage' }, key: `storage ${day}` })
      if (done.repeated) return
      counts.committed += done.amount
      counts.owed += done.unpaid ?? 0
      if (done.unpaid) log.warn('storage_owed', { accountId, day, microTokens: done.unpaid })
    } catch (error) {
      // The day was charged already, with as many bytes as there were then.
      if (error instanceof DeltaError && error.code === 'key_conflict') return
      throw error
    }
  }

  async function chargeAll(signal: AbortSignal): Promise<number> {
    const day = dayOf(clock.now())
    let failures = 0
    for (const accountId of await accounts()) {
      signal.throwIfAborted()
      await charge(accountId, day).catch((error: unknown) => {
        failures += 1
        log.error('storage_not_charged', { accountId, day, error })
      })
    }
    return failures > 0 ? retryMs : untilNextDayMs(clock.now())
  }

  return {
    start: daily.start,
    stop: daily.stop,
    counts: (): Readonly<typeof counts> => counts,
    /** Before anything is made that takes room: throws `account_owes` where what there is has not been paid. */
    async refuseOwing(accountId: string): Promise<void> {
      const { owed } = await ledger.balanceOf(accountId, ledger.reserveOf(accountId))
      if (owed <= 0) return
      throw new DeltaError(
        'account_owes',
        'The account owes tokens for what it keeps: until they are paid its workspaces are read-only',
        {
          context: { accountId },
        },
      )
    },
  }
}
