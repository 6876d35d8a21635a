import type { KnownCaller } from '../access/callers/door.ts'
import { placesOf } from '../approvals/door.ts'
import type { Clock } from '../kernel/clock.ts'
import { type FormattedEvents, formatEvent } from '../kernel/http/event-stream.ts'
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

/** Events that go out in one write. */
interface Piece {
  text: FormattedEvents
  /** The last of them is the task's end. */
  isEnd: boolean
}

/** A task as it is worked on: from the memory of this server while it has them, else from the database. A viewer that falls behind is not waited for: it reads on from where it was. */
export function createTaskFollowing({ store, hub, clock }: FollowingDeps) {
  const followers = createFollowers({ clock, pollMs: taskLimits.pollMs, what: 'tasks' })
  /** Of lists that several viewers read: formatted for the first of them, and written to all. */
  const shared = new WeakMap<readonly TaskEvent[], readonly Piece[]>()

  function piecesOf(page: readonly TaskEvent[]): readonly Piece[] {
    const known = shared.get(page)
    if (known) return known
    const pieces = Array.from(formatted(page))
    shared.set(page, pieces)
    return pieces
  }

  /** `end` is the last of one that goes on; of one that is over something may have been taken back since. */
  async function* untilEnd(live: LiveEvents<Piece>, isOver: boolean): AsyncGenerator<FormattedEvents, void, undefined> {
    for (;;) {
      const step = await live.events.next()
      if (step.done) return
      yield step.value.text
      if (step.value.isEnd && !isOver) return live.leave()
    }
  }

  /** `isOver`: nothing more comes than what is there. */
  async function follow(
    taskId: string,
    caller: KnownCaller,
    { from = 0, isOver }: { from?: number | undefined; isOver: boolean },
  ): Promise<LiveEvents<FormattedEvents>> {
    let leave = (): void => undefined
    const live = await followers.follow<Piece>({
      places: placesOf(caller, taskLimits.streams),
      listen: (onNews) => hub.listen(taskId, onNews),
      async begin() {
        let after = from
        return async () => {
          const limit = taskLimits.events
          const here = hub.after(taskId, after, limit)
          const page = here ?? (await store.events(taskId, { after, limit }))
          after = page.at(-1)?.seq ?? after
          if (isOver && page.length === 0) leave()
          return {
            events: here ? piecesOf(here) : formatted(page),
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

/** A few at a time, since a viewer that reads slowly holds what is not written yet. */
function* formatted(page: readonly TaskEvent[]): Generator<Piece, void, undefined> {
  let text = ''
  for (const [index, { seq, kind, data, at }] of page.entries()) {
    text += formatEvent({ event: kind, id: String(seq), data: { ...data, at: new Date(at).toISOString() } })
    const isEnd = kind === 'end'
    if (!isEnd && text.length < taskLimits.pieceChars && index < page.length - 1) continue
    yield { text: Buffer.from(text), isEnd }
    text = ''
  }
}
