import { DeltaError } from '../kernel/errors.ts'

export interface Gate {
  /** Runs `work` when one of the places is free; first come, first served. */
  pass<T>(work: () => Promise<T>): Promise<T>
  readonly waiting: number
}

/** Bounds how many boxes are made at once: more of them at the same time only make each slower, and a burst must not fail. */
export function createGate({ places, mostWaiting }: { places: number; mostWaiting: number }): Gate {
  let free = places
  const queue: (() => void)[] = []

  const enter = (): Promise<void> | undefined => {
    if (free > 0) {
      free -= 1
      return undefined
    }
    if (queue.length >= mostWaiting) {
      throw new DeltaError('capacity_exhausted', `${mostWaiting} sandboxes are waiting to be made already`)
    }
    return new Promise((resolve) => queue.push(resolve))
  }
  const leave = (): void => {
    const next = queue.shift()
    // The place goes from hand to hand, so that nobody who comes now overtakes who has waited.
    if (next) next()
    else free += 1
  }

  return {
    async pass(work) {
      await enter()
      try {
        return await work()
      } finally {
        leave()
      }
    },
    get waiting() {
      return queue.length
    },
  }
}
