import type { Clock } from '../clock.ts'
import { DeltaError } from '../errors.ts'
import type { ServerSentEvent } from './event-stream.ts'

export interface LiveEvents<One = ServerSentEvent> {
  events: AsyncIterator<One>
  /** Ends them. To be called when nobody reads any more. */
  leave(): void
}

/** What a follower takes while it reads: so many of the same name at once. */
export interface Place {
  name: string
  /** As the refusal says it. */
  who: string
  limit: number
}

export interface FollowPage<One = ServerSentEvent> {
  events: Iterable<One>
  /** Whether there may be more already; else the next page is asked for when there is news. */
  more: boolean
}

export interface Following<One = ServerSentEvent> {
  places: readonly Place[]
  /** Calls back at news of what is followed; returns how to stop listening. */
  listen(onNews: () => void): () => void
  /** Looks where it begins, and gives the way to each next page. */
  begin(): Promise<() => Promise<FollowPage<One>>>
}

export type Followers = ReturnType<typeof createFollowers>

/**
 * Event streams of what numbered rows come to: read page by page from where a viewer was, then at each news, and after `pollMs` also without any, since another server may have
 * written. `what` names in a refusal what is followed.
 */
export function createFollowers({ clock, pollMs, what }: { clock: Clock; pollMs: number; what: string }) {
  const open = new Map<string, number>()
  const leaves = new Set<() => void>()

  function takePlaces(places: readonly Place[]): () => void {
    for (const { name, who, limit } of places) {
      if ((open.get(name) ?? 0) >= limit) {
        throw new DeltaError('too_many_requests', `There are ${limit} streams of ${what} for ${who}`, {
          context: { limit },
        })
      }
    }
    for (const { name } of places) open.set(name, (open.get(name) ?? 0) + 1)
    return () => {
      for (const { name } of places) {
        const others = open.get(name)! - 1
        if (others === 0) open.delete(name)
        else open.set(name, others)
      }
    }
  }

  async function follow<One>({ places, listen, begin }: Following<One>): Promise<LiveEvents<One>> {
    const leavePlaces = takePlaces(places)
    const reader = { left: false }
    let news = false
    let wake = () => {}
    const deafen = listen(() => {
      news = true
      wake()
    })
    const leave = () => {
      if (reader.left) return
      reader.left = true
      deafen()
      leaves.delete(leave)
      leavePlaces()
      wake()
    }
    leaves.add(leave)

    async function* pages(next: () => Promise<FollowPage<One>>): AsyncGenerator<One, void, undefined> {
      try {
        while (!reader.left) {
          news = false
          const { events, more } = await next()
          for (const event of events) {
            if (reader.left) return
            yield event
          }
          if (!more) await pause()
        }
      } finally {
        leave()
      }
    }

    async function pause(): Promise<void> {
      if (news || reader.left) return
      await new Promise<void>((resolve) => {
        const disarm = clock.after(pollMs, resolve)
        wake = () => {
          disarm()
          resolve()
        }
      })
    }

    try {
      return { events: pages(await begin()), leave }
    } catch (error) {
      leave()
      throw error
    }
  }

  return {
    follow,
    stop() {
      for (const leave of leaves) leave()
    },
  }
}
