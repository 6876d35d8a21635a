import type { IncomingMessage } from 'node:http'
import type { Readable } from 'node:stream'
import { DeltaError } from '../kernel/errors.ts'

/** How long a guest may take to answer. Removing or listing a large tree takes it seconds; one that is paused meanwhile never answers. */
export const GUEST_ANSWER_MS = 120_000

/** What `act` asks of a guest, given up when it takes longer than `limitMs`: a guest that is paused, or hostile, never answers. */
export async function inTime<T>(limitMs: number, act: (signal: AbortSignal) => Promise<T>): Promise<T> {
  const patience = new AbortController()
  const timer = setTimeout(() => patience.abort(), limitMs)
  try {
    return await act(patience.signal)
  } catch (error) {
    throw patience.signal.aborted ? noAnswer() : error
  } finally {
    clearTimeout(timer)
  }
}

/**
 * The same for something that may take any time as long as `body` moves. While nobody reads on, a client that went away is not noticed either, so
 * without a bound such a request would stay for ever.
 */
export async function whileMoving<T>(
  body: Readable,
  stallMs: number,
  act: (signal: AbortSignal) => Promise<T>,
): Promise<T> {
  const patience = new AbortController()
  let seenBytes = -1
  const timer = setInterval(() => {
    const bytes = (body as Partial<IncomingMessage>).socket?.bytesRead ?? 0
    if (bytes === seenBytes) patience.abort()
    seenBytes = bytes
  }, stallMs / 2)
  try {
    return await act(patience.signal)
  } catch (error) {
    throw patience.signal.aborted ? noAnswer() : error
  } finally {
    clearInterval(timer)
  }
}

/**
 * The same sequence, which fails when one of its parts lets wait for longer than `limitMs`. How long the reader takes does not count. One timer
 * for all parts: a download has hundreds of thousands.
 */
export function moving<T>(body: AsyncIterableIterator<T>, limitMs: number): AsyncIterableIterator<T> {
  let parts = 0
  let seenParts = -1
  let giveUp: ((reason: unknown) => void) | undefined
  const timer = setInterval(() => {
    if (giveUp && parts === seenParts) {
      giveUp(noAnswer())
      end()
      void body.return?.()
    }
    seenParts = giveUp ? parts : -1
  }, limitMs / 2)
  timer.unref()
  const end = (): void => clearInterval(timer)

  const all: AsyncIterableIterator<T> = {
    next: () =>
      new Promise((resolve, reject) => {
        giveUp = reject
        body.next().then(
          (step) => {
            giveUp = undefined
            parts += 1
            if (step.done) end()
            resolve(step)
          },
          (error: unknown) => {
            giveUp = undefined
            end()
            reject(error)
          },
        )
      }),
    return(value) {
      end()
      return body.return?.(value) ?? Promise.resolve({ done: true, value })
    },
    [Symbol.asyncIterator]: () => all,
  }
  return all
}

function noAnswer(): DeltaError {
  return new DeltaError('guest_timed_out', 'The sandbox did not answer in time; it may be paused or overloaded')
}
