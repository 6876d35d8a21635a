import type { Clock } from '../kernel/clock.ts'
import { createFollowers, type LiveEvents } from '../kernel/http/followers.ts'
import type { Sight } from './allocation.ts'
import { readingLimits } from './reading-limits.ts'
import type { LedgerReading, TransferRow } from './reading.ts'

export interface FollowingDeps {
  reading: Pick<LedgerReading, 'lastSeq' | 'after'>
  /** Returns how to stop listening. */
  onChanged(listener: (accountId: string) => void): () => void
  clock: Clock
  view(row: TransferRow): unknown
}

/** The journal as it grows. Positions are given in the order in which entries become visible, so whoever has seen one has missed none before it. */
export function createFollowing({ reading, onChanged, clock, view }: FollowingDeps) {
  const followers = createFollowers({ clock, pollMs: readingLimits.pollMs, what: 'the ledger' })

  /** Without `from` it begins with the position of now, then what is new. */
  function follow(sight: Sight, actorId: string, from?: number): Promise<LiveEvents> {
    const { accountId } = sight
    const { perAccount, perActor } = readingLimits.streams
    return followers.follow({
      places: [
        { name: accountId, who: 'the account', limit: perAccount },
        { name: `${accountId} ${actorId}`, who: actorId, limit: perActor },
      ],
      listen: (onNews) => onChanged((changed) => changed === accountId && onNews()),
      async begin() {
        // After a backup was restored the journal may be shorter than what somebody has seen of it.
        const last = await reading.lastSeq(accountId)
        const start = Math.min(from ?? last, last)
        let after: number | undefined
        return async () => {
          if (after === undefined) {
            after = start
            return { events: [{ event: 'position', id: String(start), data: { seq: start } }], more: true }
          }
          const { rows, next } = await reading.after(sight, after, readingLimits.entries)
          const more = next !== after
          after = next
          return { events: rows.map((row) => ({ event: 'transfer', id: String(row.seq), data: view(row) })), more }
        }
      },
    })
  }

  return { follow, stop: followers.stop }
}
