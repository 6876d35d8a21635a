import type { KnownCaller } from '../../access/callers/door.ts'
import { placesOf } from '../../approvals/door.ts'
import type { Clock } from '../../kernel/clock.ts'
import type { Events } from '../../kernel/events.ts'
import { createFollowers, type LiveEvents } from '../../kernel/http/followers.ts'
import type { TokenRequestEvents } from './events.ts'
import { requestLimits } from './limits.ts'
import type { TokenRequestRecord } from './record.ts'
import { maySee } from './rules.ts'
import type { TokenRequestView } from './schema.ts'
import type { TokenRequestStore } from './store.ts'

interface FollowingDeps {
  store: Pick<TokenRequestStore, 'changedAfter' | 'lastChange'>
  events: Pick<Events<TokenRequestEvents>, 'on'>
  clock: Clock
  view(record: TokenRequestRecord): TokenRequestView
}

/** Requests as they stand after each change. Whoever was away is told of the last change of each, by the number they saw last. */
export function createFollowing({ store, events, clock, view }: FollowingDeps) {
  const followers = createFollowers({ clock, pollMs: requestLimits.pollMs, what: 'token requests' })

  /** Without `from` it begins with what is not over. */
  function follow(caller: KnownCaller, from?: number): Promise<LiveEvents> {
    const { accountId } = caller.principal
    return followers.follow({
      places: placesOf(caller, requestLimits.streams),
      listen: (onNews) => events.on('token_request.changed', (change) => change.accountId === accountId && onNews()),
      async begin() {
        const openUntil = from === undefined ? await store.lastChange(accountId) : 0
        let after = from ?? 0
        return async () => {
          const page = await store.changedAfter(accountId, { after, openUntil, limit: requestLimits.changes })
          after = page.at(-1)?.changed ?? after
          const seen = page.filter((record) => maySee(caller.principal, record))
          return {
            events: seen.map((record) => ({ event: 'token_request', id: String(record.changed), data: view(record) })),
            more: page.length === requestLimits.changes,
          }
        }
      },
    })
  }

  return { follow, stop: followers.stop }
}
