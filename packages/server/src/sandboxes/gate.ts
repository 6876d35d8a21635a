import { DeltaError } from '../kernel/errors.ts'

export interface Gate {
  /** Runs `work` when one of the places is free; first come, first served. */
  pass<T>(work: () => Promise<T>): Promise<T>
  /** The same for what can wait: it goes in only while nobody waits to `pass`, and never takes the last places. Its caller bounds how many come. */
  passPatiently<T>(work: () => Promise<T>): Promise<T>
  /** Who waits to `pass`. */
  readonly waiting: number
}

interface GateOptions {
  places: number
  mostWaiting: number
  /** Places that patient work may take at once. @default all */
  patientPlaces?: number
}

/** Bounds how many boxes are made at once: more of them at the same time only make each slower, and a burst must not fail. */
export function createGate({ places, mostWaiting, patientPlaces = places }: GateOptions): Gate {
  let free = places
  let freePatient = patientPlaces
  const queue: (() => void)[] = []
  const patient: (() => void)[] = []

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
  const letPatientIn = (): void => {
    while (free > 0 && freePatient > 0 && patient.length > 0) {
      free -= 1
      freePatient -= 1
      patient.shift()!()
    }
  }
  const leave = (): void => {
    const next = queue.shift()
    // The place goes from hand to hand, so that nobody who comes now overtakes who has waited.
    if (next) return next()
    free += 1
    letPatientIn()
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
    async passPatiently(work) {
      await new Promise<void>((resolve) => {
        patient.push(resolve)
        letPatientIn()
      })
      try {
        return await work()
      } finally {
        freePatient += 1
        leave()
      }
    },
    get waiting() {
      return queue.length
    },
  }
}
