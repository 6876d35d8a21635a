import { DeltaError } from './errors.ts'

export interface Turns {
  /** Runs `work` after all that was asked for this key before. */
  take<T>(key: string, work: () => Promise<T>): Promise<T>
  /** The same for what must not be refused because many wait. */
  takeAlways<T>(key: string, work: () => Promise<T>): Promise<T>
  /** Resolves when everything asked for so far is over. */
  settled(): Promise<void>
}

/** Operations that wait for their turn with one key; one more is refused. */
const mostWaiting = 256

/** One operation at a time for each key: what one has read stays so until it has written. `what` names in a refusal what the keys stand for. */
export function createTurns(what: string): Turns {
  const tails = new Map<string, { done: Promise<void>; waiting: number }>()

  const takeAlways = <T>(key: string, work: () => Promise<T>): Promise<T> => {
    const before = tails.get(key)
    const result = (before?.done ?? Promise.resolve()).then(work)
    const own = { done: Promise.resolve(), waiting: (before?.waiting ?? 0) + 1 }
    const leave = (): void => {
      const last = tails.get(key)
      if (last === own) tails.delete(key)
      else if (last) last.waiting -= 1
    }
    own.done = result.then(leave, leave)
    tails.set(key, own)
    return result
  }

  return {
    take(key, work) {
      if ((tails.get(key)?.waiting ?? 0) < mostWaiting) return takeAlways(key, work)
      return Promise.reject(
        new DeltaError('too_many_requests', `${mostWaiting} operations wait for ${what} ${key} already`),
      )
    },
    takeAlways,
    async settled() {
      await Promise.all(Array.from(tails.values(), ({ done }) => done))
    },
  }
}
