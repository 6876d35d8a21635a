import type { Clock } from '../kernel/clock.ts'
import type { Events } from '../kernel/events.ts'
import { createFollowers, type LiveEvents } from '../kernel/http/followers.ts'
import type { ApprovalEvents } from './events.ts'
import { approvalLimits } from './limits.ts'
import type { ApprovalRecord } from './record.ts'
import { type Looker, maySee, placesOf } from './rules.ts'
import type { ApprovalView } from './schema.ts'
import type { ApprovalStore } from './store.ts'

interface FollowingDeps {
  store: ApprovalStore
  events: Pick<Events<ApprovalEvents>, 'on'>
  clock: Clock
  view(record: ApprovalRecord): ApprovalView
}

/** Approvals as they stand after each change. Whoever was away is told of the last change of each, by the number they saw last. */
export function createFollowing({ store, events, clock, view }: FollowingDeps) {
  const followers = createFollowers({ clock, pollMs: approvalLimits.pollMs, what: 'approvals' })

  /** Without `from` it begins with what is not over. */
  function follow(looker: Looker, from?: number): Promise<LiveEvents> {
    const { accountId } = looker.principal
    return followers.follow({
      places: placesOf(looker, approvalLimits.streams),
      listen: (onNews) => events.on('approval.changed', (change) => change.accountId === accountId && onNews()),
      async begin() {
        const openUntil = from === undefined ? await store.lastChange(accountId) : 0
        let after = from ?? 0
        return async () => {
          const page = await store.changedAfter(accountId, { after, openUntil, limit: approvalLimits.changes })
          after = page.at(-1)?.changed ?? after
          const seen = page.filter((record) => maySee(looker, record))
          return {
            events: seen.map((record) => ({ event: 'approval', id: String(record.changed), data: view(record) })),
            more: page.length === approvalLimits.changes,
          }
        }
      },
    })
  }

  return { follow, stop: followers.stop }
}
