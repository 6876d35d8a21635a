import type { KnownCaller } from '../access/callers/door.ts'
import { placesOf } from '../approvals/door.ts'
import type { Clock } from '../kernel/clock.ts'
import type { ServerSentEvent } from '../kernel/http/event-stream.ts'
import { createFollowers, type LiveEvents } from '../kernel/http/followers.ts'
import type { Hub } from './hub.ts'
import { taskLimits } from './limits.ts'
import type { TaskEvent } from './record.ts'
import type { TaskStore } from './store.ts'

export interface FollowingDeps {
  store: Pick<TaskStore, 'events'>
  hub: Pick<Hub, 'after' | 'listen'>
  clock: Clock
}

/** A task as it is worked on: from the memory of this server while it has them, else from the database. A viewer that falls behind is not waited for: it reads on from where it was. */
export function createTaskFollowing({ store, hub, clock }: FollowingDeps) {
  const followers = createFollowers({ clock, pollMs: taskLimits.pollMs, what: 'tasks' })

  /** `end` is the last of one that goes on; of one that is over something may have been taken back since. */
  async function* untilEnd(events: LiveEvents, isOver: boolean): AsyncGenerator<ServerSentEvent, void, undefined> {
    for (;;) {
      const step = await events.events.next()
      if (step.done) return
      yield step.value
      if (step.value.event === 'end' && !isOver) return events.leave()
    }
  }

  /** `isOver`: nothing more comes than what is there. */
  async function follow(
    taskId: string,
    caller: KnownCaller,
    { from = 0, isOver }: { from?: number | undefined; isOver: boolean },
  ): Promise<LiveEvents> {
    let leave = (): void => undefined
    const live = await followers.follow({
      places: placesOf(caller, taskLimits.streams),
      listen: (onNews) => hub.listen(taskId, onNews),
      async begin() {
        let after = from
        return async () => {
          const limit = taskLimits.events
          const page: readonly TaskEvent[] =
            hub.after(taskId, after, limit) ?? (await store.events(taskId, { after, limit }))
          after = page.at(-1)?.seq ?? after
          if (isOver && page.length === 0) leave()
          return {
            events: page.map(({ seq, kind, data, at }) => ({
              event: kind,
              id: String(seq),
              data: { ...data, at: new Date(at).toISOString() },
            })),
            more: page.length === limit || (isOver && page.length > 0),
          }
        }
      },
    })
    leave = live.leave
    return { events: untilEnd(live, isOver), leave }
  }

  return { follow, stop: followers.stop }
}
