import type { Clock } from '../../kernel/clock.ts'
import type { Logger } from '../../kernel/log.ts'
import type { EgressRecord, EgressStore } from './store.ts'

/** Rows wait this long for company: a commit costs the same for one as for hundreds. */
const delayMs = 200
const mostInBatch = 500
/** Rows that wait for a database which does not take them; beyond it they are lost and counted. */
const mostWaiting = 20_000
/** Pause after a write that failed. */
const retryMs = 1_000
/** A sandbox keeps about so many rows; it is looked at each time it has written a tenth of that. */
const keptPerSandbox = 10_000
/** How long a row is kept, and how often that is looked at. */
const keptMs = 7 * 24 * 3_600_000
const purgeEveryMs = 600_000

export interface RecorderDeps {
  store: EgressStore
  clock: Clock
  log: Logger
}

/** Writes what ended, some of it at a time, and forgets what is old. */
export interface Recorder {
  add(record: EgressRecord): void
  /** Rows that were lost because the database took none for long. */
  readonly lost: () => number
  /** Resolves when all that was added is written, or could not be. */
  flush(): Promise<void>
  close(): Promise<void>
}

export function createRecorder({ store, clock, log }: RecorderDeps): Recorder {
  let waiting: EgressRecord[] = []
  let lost = 0
  let writing: Promise<boolean> | undefined
  let scheduled: AbortController | undefined
  let closed = false
  const written = new Map<string, number>()

  const schedule = (afterMs: number): void => {
    if (scheduled || closed || waiting.length === 0) return
    const timer = new AbortController()
    scheduled = timer
    clock.sleep(afterMs, timer.signal).then(
      async () => {
        scheduled = undefined
        schedule((await write()) ? delayMs : retryMs)
      },
      () => undefined,
    )
  }

  /** One batch after another until nothing waits. False when the database did not take one. */
  const write = (): Promise<boolean> => {
    writing ??= writeAll().finally(() => (writing = undefined))
    return writing
  }

  const writeAll = async (): Promise<boolean> => {
    while (waiting.length > 0) {
      const batch = waiting.slice(0, mostInBatch)
      try {
        await store.insert(batch)
      } catch (error) {
        log.warn('egress_log_not_written', { rows: waiting.length, error })
        return false
      }
      waiting = waiting.slice(batch.length)
      await trim(batch)
    }
    return true
  }

  const trim = async (batch: readonly EgressRecord[]): Promise<void> => {
    for (const { sandboxId } of batch) written.set(sandboxId, (written.get(sandboxId) ?? 0) + 1)
    for (const [sandboxId, rows] of written) {
      if (rows < keptPerSandbox / 10) continue
      written.delete(sandboxId)
      await store
        .trim(sandboxId, keptPerSandbox)
        .catch((error: unknown) => log.warn('egress_log_not_trimmed', { error }))
    }
  }

  const purging = new AbortController()
  const keepTidy = async (): Promise<void> => {
    while (!purging.signal.aborted) {
      try {
        const counted = [...written.keys()]
        written.clear()
        for (const sandboxId of counted) await store.trim(sandboxId, keptPerSandbox)
        while ((await store.purge(clock.now() - keptMs)) > 0 && !purging.signal.aborted);
      } catch (error) {
        log.warn('egress_log_not_purged', { error })
      }
      await clock.sleep(purgeEveryMs, purging.signal).catch(() => undefined)
    }
  }
  const tidying = keepTidy()

  return {
    add(record) {
      if (closed || waiting.length >= mostWaiting) return void (lost += 1)
      waiting.push(record)
      schedule(delayMs)
    },
    lost: () => lost,
    async flush() {
      await write()
    },
    async close() {
      closed = true
      scheduled?.abort()
      purging.abort()
      await tidying
      if (!(await write())) await write()
      lost += waiting.length
    },
  }
}
