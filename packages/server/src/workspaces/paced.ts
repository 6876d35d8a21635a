import type { Clock } from '../kernel/clock.ts'
import { DeltaError } from '../kernel/errors.ts'

export interface Pace {
  /** A reader that takes less than this falls behind. */
  bytesPerSecond: number
  /** How far it may fall behind. */
  patienceMs: number
}

const enough = 'enough'

/**
 * The same bytes, for a reader that must not hold what they come from for ever: it has `patienceMs`, and more for each byte it took. Only the time
 * in which the reader is waited for counts. `done` is called once, when the source is closed: at its end, after an error, when the reader leaves
 * or was cut, also where it never came.
 */
export function paced(
  source: AsyncIterable<Uint8Array>,
  { bytesPerSecond, patienceMs }: Pace,
  { clock, done }: { clock: Clock; done: () => void },
): AsyncIterableIterator<Uint8Array> {
  const iterator = source[Symbol.asyncIterator]()
  let leftMs = patienceMs
  let waiting: { since: number; ended: AbortController } | undefined
  let end: Promise<void> | undefined
  let cut: DeltaError | undefined

  async function close(): Promise<void> {
    try {
      await iterator.return?.()
    } finally {
      done()
    }
  }

  function waitForReader(): void {
    const ended = new AbortController()
    waiting = { since: clock.monotonic(), ended }
    void clock.sleep(leftMs, ended.signal).then(
      () => {
        cut = new DeltaError('reader_too_slow', 'The reader was too slow: what it read from was closed')
        end ??= close().catch(() => undefined)
      },
      () => undefined,
    )
  }

  function readerCame(): void {
    if (!waiting) return
    waiting.ended.abort(enough)
    leftMs -= clock.monotonic() - waiting.since
    waiting = undefined
  }

  waitForReader()
  return {
    async next() {
      readerCame()
      if (cut) throw cut
      if (end) return { done: true, value: undefined }
      try {
        const step = await iterator.next()
        if (step.done !== true) {
          leftMs += (step.value.byteLength * 1_000) / bytesPerSecond
          waitForReader()
          return step
        }
      } catch (error) {
        end ??= close()
        await end.catch(() => undefined)
        throw error
      }
      end ??= close()
      await end
      return { done: true, value: undefined }
    },
    async return() {
      readerCame()
      end ??= close()
      await end
      return { done: true, value: undefined }
    },
    [Symbol.asyncIterator]() {
      return this
    },
  }
}
