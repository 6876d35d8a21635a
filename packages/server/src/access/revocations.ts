import { randomUUID } from 'node:crypto'
import type { Clock } from '../kernel/clock.ts'
import type { BatchStep, Database } from '../kernel/db/database.ts'
import type { Logger } from '../kernel/log.ts'
import { createRevocationStore } from './revocation-store.ts'

export interface Revocations {
  /** How often something was heard so far: what is looked up from now on knows of all of it. */
  readonly count: number
  /** Writes them down, and ends what they let in: here at once, on other servers within a second. An id may be `endingAt` a time. */
  revoke(ids: readonly string[]): Promise<void>
  /** The same in two halves: to be written together with the change it is about, and then to be heard. */
  steps(ids: readonly string[]): BatchStep[]
  heard(ids: readonly string[]): void
  /** Whether one of these was revoked after the count was `since`. 0: within the hour, also before a restart. */
  isRevoked(ids: readonly string[], since: number): boolean
  /** Hears of each, also of those that other servers wrote. */
  onRevoked(listener: (id: string) => void): void
  stop(): void
}

const endingMark = '@'

/** As an id of news: what hangs on it ends at that time, Unix milliseconds. */
export function endingAt(id: string, at: number): string {
  return `${id}${endingMark}${at}`
}

/** `at` is undefined where it ends at once. */
export function readEnding(news: string): { id: string; at: number | undefined } {
  const mark = news.lastIndexOf(endingMark)
  return mark < 0 ? { id: news, at: undefined } : { id: news.slice(0, mark), at: Number(news.slice(mark + 1)) }
}

/** Other servers on the same database are listened to so often; with the time that takes it stays below a second. */
const pollMs = 400
/** Numbers are given before their transactions end: a lower one may appear after a higher one, but not by more than this. */
const lookBack = 500
/** No token without a row of its own lives longer. What was revoked before is known by its row. */
const keptMs = 3_600_000
const purgeEveryMs = 600_000

/**
 * What was revoked of late: keys, sessions, tokens of agents, people’s roles. These are news; the truth is in each thing’s own row, where it has one. They
 * are kept in the database so that several servers hear of each other.
 */
export async function openRevocations({
  database,
  clock,
  log,
}: {
  database: Database
  clock: Clock
  log: Logger
}): Promise<Revocations> {
  const store = createRevocationStore(database, randomUUID())
  const listeners: ((id: string) => void)[] = []
  /** In the order in which they were heard. */
  const revoked = new Map<string, { count: number; atMs: number }>()
  const seen = new Set<number>()
  const stopped = new AbortController()
  let count = 0
  let newest = 0

  const heard = (ids: readonly string[]): void => {
    if (ids.length === 0) return
    count += 1
    for (const id of ids) {
      revoked.delete(id)
      revoked.set(id, { count, atMs: clock.monotonic() })
    }
    for (const id of ids) for (const listener of listeners) listener(id)
  }

  const listen = async (): Promise<void> => {
    const fresh = (await store.after(newest - lookBack)).filter(({ number }) => !seen.has(number))
    for (const { number } of fresh) {
      seen.add(number)
      newest = Math.max(newest, number)
    }
    for (const number of seen) if (number < newest - 2 * lookBack) seen.delete(number)
    heard(fresh.map(({ id }) => id))
  }

  const purge = async (): Promise<void> => {
    for (const [id, { atMs }] of revoked) {
      if (atMs > clock.monotonic() - keptMs) break
      revoked.delete(id)
    }
    await store.purge(clock.now() - keptMs)
  }

  const repeat = async (everyMs: number, work: () => Promise<void>, event: string): Promise<void> => {
    while (!stopped.signal.aborted) {
      await clock.sleep(everyMs, stopped.signal).catch(() => undefined)
      // A database that is away is asked again the next time.
      if (!stopped.signal.aborted) await work().catch((error: unknown) => log.warn(event, { error }))
    }
  }

  await store.purge(clock.now() - keptMs)
  newest = await store.newest()
  heard(await store.all())
  void repeat(purgeEveryMs, purge, 'revocations_not_purged')
  // One process alone writes to a SQLite file.
  if (database.kind === 'postgres') void repeat(pollMs, listen, 'revocations_not_heard')

  return {
    get count() {
      return count
    },
    async revoke(ids) {
      if (ids.length === 0) return
      await database.batch(store.steps(ids, clock.now()))
      heard(ids)
    },
    steps: (ids) => store.steps(ids, clock.now()),
    heard,
    isRevoked: (ids, since) => ids.some((id) => (revoked.get(id)?.count ?? -1) > since),
    onRevoked: (listener) => void listeners.push(listener),
    stop: () => stopped.abort(),
  }
}
