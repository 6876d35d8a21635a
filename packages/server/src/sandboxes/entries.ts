import type { GuestConnection } from '../guest/client.ts'
import { DeltaError } from '../kernel/errors.ts'
import type { OpenDoor } from './door.ts'
import { holdsBox, type SandboxState } from './states.ts'
import type { SandboxRecord } from './store.ts'

/** The open connection to a box's guest, shared by everything that speaks to it. */
export interface Link {
  boxId: string
  guest: GuestConnection
  /** Resolved already: what `open` hands out without allocating anything. */
  door: Promise<OpenDoor>
}

/**
 * What this process knows of a sandbox. `record` is the row as it was last written or read; only this process writes rows, and only in the
 * sandbox's turn, so between turns it is the truth.
 */
export interface Entry {
  record: SandboxRecord
  link: Link | undefined
  /** The opening under way, joined by all who come meanwhile. */
  opening: Promise<OpenDoor> | undefined
  /** Settles when the last turn taken so far is over; never rejects. */
  tail: Promise<void>
  turns: number
}

export interface Entries {
  get(sandboxId: string): Entry | undefined
  all(): Iterable<Entry>
  /** The entry of a row; the known one where there is one already, since it is at least as new. */
  admit(record: SandboxRecord): Entry
  put(entry: Entry, record: SandboxRecord): void
  forget(entry: Entry): void
  /** Runs `work` after all that was asked of this sandbox before. */
  inTurn<T>(entry: Entry, work: () => Promise<T>): Promise<T>
  /** The same for what must not be refused because many wait: deaths, timeouts, mending. */
  inTurnAlways<T>(entry: Entry, work: () => Promise<T>): Promise<T>
  /** Runs `work`, which makes a sandbox hold a box, if there may be one more. */
  withRoom<T>(work: () => Promise<T>): Promise<T>
  /** Sandboxes that may still come to hold a box. */
  room(): number
  counts(): Partial<Record<SandboxState, number>>
}

/** Operations that wait for their turn on one sandbox; one more is refused. */
const mostTurns = 256

/**
 * Sandboxes that have a box or are being worked on. The others (stopped, killed, failed) are forgotten when their last turn is over and read
 * from the database when somebody asks, so that memory grows with what runs and not with what ever existed.
 */
export function createEntries({ maxSandboxes }: { maxSandboxes: number }): Entries {
  const entries = new Map<string, Entry>()
  let holding = 0
  let reserved = 0

  const take = <T>(entry: Entry, work: () => Promise<T>): Promise<T> => {
    entry.turns += 1
    const result = entry.tail.then(work)
    const done = (): void => {
      entry.turns -= 1
      if (entry.turns === 0 && !holdsBox(entry.record.state)) forget(entry)
    }
    entry.tail = result.then(done, done)
    return result
  }

  const forget = (entry: Entry): void => {
    if (entries.get(entry.record.id) !== entry) return
    entries.delete(entry.record.id)
    if (holdsBox(entry.record.state)) holding -= 1
  }

  return {
    get: (sandboxId) => entries.get(sandboxId),
    all: () => entries.values(),
    admit(record) {
      const known = entries.get(record.id)
      if (known) return known
      const entry: Entry = { record, link: undefined, opening: undefined, tail: Promise.resolve(), turns: 0 }
      entries.set(record.id, entry)
      if (holdsBox(record.state)) holding += 1
      return entry
    },
    put(entry, record) {
      if (entries.get(record.id) === entry)
        holding += Number(holdsBox(record.state)) - Number(holdsBox(entry.record.state))
      entry.record = record
    },
    forget,
    inTurn(entry, work) {
      if (entry.turns < mostTurns) return take(entry, work)
      const message = `${mostTurns} operations wait for sandbox ${entry.record.id} already`
      return Promise.reject(new DeltaError('too_many_requests', message))
    },
    inTurnAlways: take,
    async withRoom(work) {
      if (holding + reserved >= maxSandboxes) {
        throw new DeltaError(
          'capacity_exhausted',
          `There are ${maxSandboxes} sandboxes already, as many as are allowed`,
          {
            context: { maxSandboxes },
          },
        )
      }
      reserved += 1
      try {
        return await work()
      } finally {
        reserved -= 1
      }
    },
    room: () => maxSandboxes - holding - reserved,
    counts() {
      const counts: Partial<Record<SandboxState, number>> = {}
      for (const { record } of entries.values()) counts[record.state] = (counts[record.state] ?? 0) + 1
      return counts
    },
  }
}
