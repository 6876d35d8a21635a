import { DeltaError } from '../../kernel/errors.ts'

/** So many at once, so many waiting; of one name one at a time. */
export interface Turns {
  run<T>(work: () => Promise<T>, lane: Lane): Promise<T>
  readonly running: number
  readonly waiting: number
}

/** Whose work it is. Turns go round between groups, and within a group between its names: who sends much waits for themselves. */
export interface Lane {
  group: string
  name: string
}

interface Waiter {
  start(): void
  refuse(): void
}

export function createTurns({ atOnce, waiting }: { atOnce: number; waiting: number }): Turns {
  /** By group and name, both in the order of whose turn it is. None is empty. */
  const groups = new Map<string, Map<string, Waiter[]>>()
  const busy = new Set<string>()
  let running = 0
  let queued = 0

  function enqueue({ group, name }: Lane, waiter: Waiter): void {
    const names = groups.get(group) ?? new Map<string, Waiter[]>()
    const waiters = names.get(name) ?? []
    waiters.push(waiter)
    names.set(name, waiters)
    groups.set(group, names)
    queued += 1
  }

  /** The first whose name is not at work. Its name and its group go to the end. */
  function takeNext(): { name: string; waiter: Waiter } | undefined {
    for (const [group, names] of groups) {
      for (const [name, [waiter, ...rest]] of names) {
        if (busy.has(name) || !waiter) continue
        names.delete(name)
        if (rest.length > 0) names.set(name, rest)
        groups.delete(group)
        if (names.size > 0) groups.set(group, names)
        queued -= 1
        return { name, waiter }
      }
    }
    return undefined
  }

  function begin(name: string): void {
    running += 1
    busy.add(name)
  }

  function end(name: string): void {
    running -= 1
    busy.delete(name)
    while (running < atOnce) {
      const next = takeNext()
      if (!next) return
      // Whoever is next takes over the place: it is never free in between.
      begin(next.name)
      next.waiter.start()
    }
  }

  /** Where all places are taken, the last of whoever has the most gives theirs up for one who has fewer. */
  function makeRoom({ group, name }: Lane): boolean {
    const sizes = Array.from(groups, ([of, names]) => ({ of, size: sizeOf(names) }))
    const own = sizes.find(({ of }) => of === group)?.size ?? 0
    const biggest = sizes.toSorted((a, b) => b.size - a.size)[0]
    if (!biggest) return false
    const isOther = biggest.of !== group && biggest.size > own + 1
    const names = groups.get(isOther ? biggest.of : group)
    const byLength = Array.from(names ?? [])
      .toReversed()
      .toSorted(([, a], [, b]) => b.length - a.length)
    const [longest, waiters] = byLength[0] ?? []
    if (!names || longest === undefined || !waiters) return false
    if (!isOther && waiters.length <= (names.get(name)?.length ?? 0) + 1) return false
    waiters.pop()!.refuse()
    queued -= 1
    if (waiters.length === 0) names.delete(longest)
    if (names.size === 0) groups.delete(isOther ? biggest.of : group)
    return true
  }

  function wait(lane: Lane): Promise<void> {
    if (queued >= waiting && !makeRoom(lane)) throw tooMany(waiting)
    return new Promise((resolve, reject) => {
      enqueue(lane, { start: resolve, refuse: () => reject(tooMany(waiting)) })
    })
  }

  return {
    async run(work, lane) {
      if (running < atOnce && !busy.has(lane.name)) begin(lane.name)
      else await wait(lane)
      try {
        return await work()
      } finally {
        end(lane.name)
      }
    },
    get running() {
      return running
    },
    get waiting() {
      return queued
    },
  }
}

function sizeOf(names: Map<string, Waiter[]>): number {
  let size = 0
  for (const waiters of names.values()) size += waiters.length
  return size
}

function tooMany(limit: number): DeltaError {
  return new DeltaError('too_many_requests', 'Too many passwords wait to be checked', {
    context: { limit, retryAfterMs: 1_000 },
  })
}
