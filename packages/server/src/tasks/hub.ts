import type { TaskEvent } from './record.ts'

/** Events of one task that are kept in memory while it is watched; older ones are read from the database. */
const keptEvents = 512
/** Viewers hear of news no more often than this: of many viewers of a busy task each is written to ten times a second at most. */
const pauseMs = 100
/** Of many viewers so many are written to at a time: what else the server does comes in between. */
const toldAtOnce = 16

interface Kept {
  events: TaskEvent[]
  /** What was asked for of these: viewers that are equally far get the same list. */
  pages: Map<string, readonly TaskEvent[]>
  listeners: Set<() => void>
  timer: NodeJS.Timeout | undefined
}

export type Hub = ReturnType<typeof createHub>

/** The latest events of tasks that are watched on this server. Only a copy: what counts is in the database. Of what nobody watches nothing is kept. */
export function createHub() {
  const tasks = new Map<string, Kept>()

  function tell(kept: Kept): void {
    kept.timer ??= setTimeout(() => {
      kept.timer = undefined
      tellSome(kept, Array.from(kept.listeners))
    }, pauseMs)
  }

  function tellSome(kept: Kept, listeners: readonly (() => void)[]): void {
    for (const listener of listeners.slice(0, toldAtOnce)) if (kept.listeners.has(listener)) listener()
    const later = listeners.slice(toldAtOnce)
    if (later.length > 0) setImmediate(tellSome, kept, later)
  }

  return {
    /** After they are on disk. */
    told(taskId: string, events: readonly TaskEvent[]): void {
      const kept = tasks.get(taskId)
      const first = events[0]
      if (!kept || !first) return
      // Something was told elsewhere in between: what is here is no longer all.
      if (kept.events.at(-1)?.seq !== first.seq - 1) kept.events = []
      kept.events.push(...events)
      if (kept.events.length > keptEvents) kept.events.splice(0, kept.events.length - keptEvents)
      kept.pages.clear()
      tell(kept)
    },

    /** Those after `seq`, where all of them are here; the same list for whoever asks for the same. */
    after(taskId: string, seq: number, limit: number): readonly TaskEvent[] | undefined {
      const { events = [], pages } = tasks.get(taskId) ?? {}
      const first = events[0]
      if (!pages || !first || first.seq > seq + 1) return undefined
      // Nothing is kept for numbers that are yet to come, of which anybody may name any.
      if (seq >= events.at(-1)!.seq) return []
      const name = `${seq} ${limit}`
      const from = seq + 1 - first.seq
      const page = pages.get(name) ?? events.slice(from, from + limit)
      pages.set(name, page)
      return page
    },

    listen(taskId: string, listener: () => void): () => void {
      const kept = tasks.get(taskId) ?? { events: [], pages: new Map(), listeners: new Set(), timer: undefined }
      tasks.set(taskId, kept)
      kept.listeners.add(listener)
      return () => {
        kept.listeners.delete(listener)
        if (kept.listeners.size > 0) return
        clearTimeout(kept.timer)
        if (tasks.get(taskId) === kept) tasks.delete(taskId)
      }
    },

    /** This server works on it no more, and hears nothing of what others do: what is asked for from now on is read from the database. */
    left(taskId: string): void {
      const kept = tasks.get(taskId)
      if (!kept) return
      kept.events = []
      kept.pages.clear()
      tell(kept)
    },

    stop(): void {
      for (const { timer } of tasks.values()) clearTimeout(timer)
      tasks.clear()
    },
  }
}
