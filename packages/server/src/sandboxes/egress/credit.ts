import type { Clock } from '../../kernel/clock.ts'
import { DeltaError } from '../../kernel/errors.ts'
import { newId } from '../../kernel/ids.ts'
import type { Logger } from '../../kernel/log.ts'
import type { MeterCounts, MeterLedger } from '../metering/ledger.ts'

export interface CreditDeps {
  ledger: MeterLedger
  clock: Clock
  log: Logger
}

/** Who pays for bytes: all connections of a payer share its credit. */
export interface Payer {
  accountId: string
  /** The agent; without one the account's reserve. */
  payer?: string | undefined
}

/** One connection's way to its payer's credit. */
export interface ConnectionCredit {
  /** Undefined: there is credit already. Rejects where nobody pays. */
  readonly opened: Promise<void> | undefined
  /** Before so many bytes pass. Undefined: they are paid for. Otherwise it resolves when they are, and rejects when nobody will. */
  take(bytes: number): Promise<void> | undefined
  /** The connection is over. */
  leave(): void
}

export interface Credits {
  join(payer: Payer): ConnectionCredit
  counts(): Readonly<MeterCounts>
  /** What is held is paid as far as it was used, the rest given back. */
  stop(): Promise<void>
}

const mebibyte = 1024 * 1024
export const creditLimits = {
  /** Held at a time. */
  bytes: 16 * mebibyte,
  /** Where tokens are short, less is held, but never less than what may have to pass at once. */
  leastBytes: mebibyte / 2,
  /** Connections come and go: credit is kept for so long after the last. */
  lingerMs: 10_000,
  /** What was used is paid at the latest after this. */
  longestMs: 60_000,
  /** After a refusal the ledger is not asked again for so long. */
  refusedMs: 1_000,
  /** A payment that could not be written is tried again: so often, after so long. */
  tries: 60,
  retryMs: 5_000,
} as const

const meter = 'egress_bytes'

interface Credit {
  holdId: string
  held: number
  bytes: number
  used: number
  sinceMs: number
  /** The ledger knows of what was used of it. */
  isNoted: boolean
}

interface Pool {
  key: string
  owner: Payer
  connections: number
  current: Credit | undefined
  next: Credit | undefined
  asking: Promise<void> | undefined
  refused: { error: unknown; atMs: number } | undefined
  waiting: { bytes: number; resolve: () => void; reject: (error: unknown) => void }[]
}

/**
 * Bytes to and from the outside run on credit that was held before: the next is asked for when half of one is used, so that a quick connection never
 * waits, and no byte passes that is not held for.
 */
export function createCredits({ ledger, clock, log }: CreditDeps): Credits {
  const pools = new Map<string, Pool>()
  const work = new Set<Promise<void>>()
  const counts: MeterCounts = { held: 0, committed: 0, absorbed: 0 }
  const stopped = new AbortController()
  const full = ledger.price(meter, creditLimits.bytes)
  const least = ledger.price(meter, creditLimits.leastBytes)

  function inBackground(task: Promise<void>): void {
    const done = task
      .catch((error: unknown) => log.error('egress_credit_failed', { error }))
      .finally(() => work.delete(done))
    work.add(done)
  }

  function poolOf(owner: Payer): Pool {
    const key = `${owner.accountId} ${owner.payer ?? ''}`
    const known = pools.get(key)
    if (known) return known
    const none = { current: undefined, next: undefined, asking: undefined, refused: undefined }
    const pool: Pool = { key, owner, connections: 0, waiting: [], ...none }
    pools.set(key, pool)
    if (pools.size === 1) inBackground(sweep())
    return pool
  }

  /** Asks for the next credit, once for all who want it. */
  function ask(pool: Pool): Promise<void> {
    pool.asking ??= hold(pool).then(() => {
      pool.asking = undefined
      serve(pool)
    })
    return pool.asking
  }

  async function hold(pool: Pool): Promise<void> {
    const { accountId, payer } = pool.owner
    const holdId = newId('hld')
    try {
      await ledger.ensure(accountId)
      const purpose = { kind: 'egress', agentId: payer }
      const { amount } = await ledger.hold({ holdId, accountId, payer, amount: full, atLeast: least, purpose })
      const bytes = amount >= full ? creditLimits.bytes : Math.floor((creditLimits.bytes * amount) / full)
      const credit = { holdId, held: amount, bytes, used: 0, sinceMs: clock.monotonic(), isNoted: false }
      counts.held += amount
      pool.refused = undefined
      if (pool.current) pool.next = credit
      else pool.current = credit
    } catch (error) {
      pool.refused = { error, atMs: clock.monotonic() }
    }
  }

  /** Those who wait, in the order they came, as far as the credit goes; where nobody pays, they are told so. */
  function serve(pool: Pool): void {
    for (let first = pool.waiting[0]; first; first = pool.waiting[0]) {
      if (!spend(pool, first.bytes)) break
      pool.waiting.shift()
      first.resolve()
    }
    if (pool.waiting.length === 0) return
    const { refused } = pool
    if (!refused) return void ask(pool)
    for (const { reject } of pool.waiting.splice(0)) reject(refused.error)
  }

  function spend(pool: Pool, bytes: number): boolean {
    const { current, next } = pool
    if (!current) return false
    const left = current.bytes - current.used
    if (bytes > left + (next ? next.bytes : 0)) return false
    current.used += Math.min(bytes, left)
    if (bytes >= left) {
      inBackground(pay(pool.owner, current))
      if (next) next.used = bytes - left
      pool.current = next
      pool.next = undefined
    }
    provide(pool)
    return true
  }

  /** Where half is used, the next is held; and should this process die, that half is what the payer pays. */
  function provide(pool: Pool): void {
    const { current, owner } = pool
    if (!current) return
    if (current.used * 2 < current.bytes) return
    if (!current.isNoted) {
      current.isNoted = true
      const noted = ledger.sent(current.holdId, owner.accountId, ledger.price(meter, current.used))
      noted.catch((error: unknown) => log.warn('egress_credit_not_noted', { holdId: current.holdId, error }))
    }
    if (!pool.next && mayAsk(pool)) void ask(pool)
  }

  function mayAsk({ refused }: Pool): boolean {
    return !refused || clock.monotonic() - refused.atMs >= creditLimits.refusedMs
  }

  async function open(pool: Pool): Promise<void> {
    if (pool.asking || mayAsk(pool)) await ask(pool)
    if (!pool.current && pool.refused) throw pool.refused.error
  }

  function take(pool: Pool, bytes: number): Promise<void> | undefined {
    if (pool.waiting.length === 0 && spend(pool, bytes)) return undefined
    if (!pool.asking && !mayAsk(pool)) return Promise.reject(pool.refused!.error as Error)
    const { promise, resolve, reject } = Promise.withResolvers<void>()
    pool.waiting.push({ bytes, resolve, reject })
    void ask(pool)
    return promise
  }

  async function pay({ accountId }: Payer, { holdId, held, used, isNoted }: Credit): Promise<void> {
    for (let tries = 1; ; tries += 1) {
      try {
        if (used === 0 && !isNoted) await ledger.release(holdId, accountId)
        else {
          const line = { meter, quantity: used, cost: ledger.price(meter, used) }
          const { amount, unpaid = 0 } = await ledger.commit(holdId, accountId, [line], { excess: 'absorb' })
          counts.committed += amount
          counts.absorbed += unpaid
        }
        break
      } catch (error) {
        const isPassing = !(error instanceof DeltaError) || error.status >= 500
        if (!isPassing || tries === creditLimits.tries || stopped.signal.aborted) {
          log.error('egress_not_paid', { holdId, accountId, bytes: used, error })
          break
        }
        await clock.sleep(creditLimits.retryMs, stopped.signal).catch(() => undefined)
      }
    }
    counts.held -= held
  }

  /** Pays what has been used for long, and gives back what nobody uses any more. */
  async function sweep(): Promise<void> {
    while (pools.size > 0 && !stopped.signal.aborted) {
      await clock.sleep(creditLimits.lingerMs, stopped.signal).catch(() => undefined)
      for (const pool of Array.from(pools.values())) {
        if (pool.connections === 0 && !pool.asking && pool.waiting.length === 0) close(pool)
        else rotate(pool)
      }
    }
  }

  function rotate(pool: Pool): void {
    const { current, next, owner } = pool
    if (!current || current.used === 0 || clock.monotonic() - current.sinceMs < creditLimits.longestMs) return
    if (!next) return mayAsk(pool) ? void ask(pool) : undefined
    pool.current = next
    pool.next = undefined
    inBackground(pay(owner, current))
  }

  function close(pool: Pool): void {
    pools.delete(pool.key)
    for (const credit of [pool.current, pool.next]) if (credit) inBackground(pay(pool.owner, credit))
    pool.current = undefined
    pool.next = undefined
  }

  return {
    join(owner) {
      // What has no price is held for by nobody.
      if (full === 0) return { opened: undefined, take: () => undefined, leave: () => undefined }
      const pool = poolOf(owner)
      pool.connections += 1
      let isOver = false
      return {
        opened: pool.current ? undefined : open(pool),
        take: (bytes) => take(pool, bytes),
        leave() {
          if (!isOver) pool.connections -= 1
          isOver = true
        },
      }
    },
    counts: () => counts,
    async stop() {
      stopped.abort()
      await Promise.all(Array.from(pools.values(), ({ asking }) => asking))
      for (const pool of pools.values()) close(pool)
      while (work.size > 0) await Promise.all(work)
    },
  }
}
