import type { Clock } from '../kernel/clock.ts'

export interface Deadlines {
  /** Replaces the deadline of the same id. */
  set(id: string, inMs: number): void
  clear(id: string): void
  /** Milliseconds left; undefined where there is none. */
  left(id: string): number | undefined
  readonly size: number
  close(): void
}

interface Item {
  id: string
  atMs: number
}

/**
 * Any number of deadlines on one timer, the nearest one's. Counted by the monotonic clock, so that a wall clock that jumps ends
 * nothing early. A cleared or replaced item stays in the heap until it comes up, or until such items are the majority.
 */
export function createDeadlines(deps: { clock: Clock; onDue: (id: string) => void }): Deadlines {
  const { clock, onDue } = deps
  const current = new Map<string, Item>()
  let heap: Item[] = []
  let sleepingFor: Item | undefined
  let sleep = new AbortController()

  const isStale = (item: Item): boolean => current.get(item.id) !== item

  const wakeAtNearest = (): void => {
    while (heap[0] && isStale(heap[0])) popLeast(heap)
    const nearest = heap[0]
    if (nearest === sleepingFor) return
    sleep.abort()
    sleepingFor = nearest
    if (!nearest) return
    sleep = new AbortController()
    clock.sleep(nearest.atMs - clock.monotonic(), sleep.signal).then(fire, () => undefined)
  }

  const fire = (): void => {
    sleepingFor = undefined
    const nowMs = clock.monotonic()
    for (let item = heap[0]; item && item.atMs <= nowMs; item = heap[0]) {
      popLeast(heap)
      if (isStale(item)) continue
      current.delete(item.id)
      onDue(item.id)
    }
    wakeAtNearest()
  }

  return {
    set(id, inMs) {
      const item = { id, atMs: clock.monotonic() + Math.max(0, inMs) }
      current.set(id, item)
      if (heap.length > 64 && heap.length > current.size * 2) heap = heapOf([...current.values()])
      else push(heap, item)
      wakeAtNearest()
    },
    clear(id) {
      if (current.delete(id)) wakeAtNearest()
    },
    left(id) {
      const item = current.get(id)
      return item && item.atMs - clock.monotonic()
    },
    get size() {
      return current.size
    },
    close() {
      current.clear()
      heap = []
      wakeAtNearest()
    },
  }
}

function heapOf(items: Item[]): Item[] {
  // A sorted list is a heap.
  return items.toSorted((a, b) => a.atMs - b.atMs)
}

function push(heap: Item[], item: Item): void {
  let at = heap.length
  heap.push(item)
  while (at > 0) {
    const parent = (at - 1) >> 1
    if (heap[parent]!.atMs <= item.atMs) break
    heap[at] = heap[parent]!
    at = parent
  }
  heap[at] = item
}

function popLeast(heap: Item[]): void {
  const last = heap.pop()!
  if (heap.length === 0) return
  let at = 0
  for (;;) {
    let child = at * 2 + 1
    if (child >= heap.length) break
    if (child + 1 < heap.length && heap[child + 1]!.atMs < heap[child]!.atMs) child += 1
    if (heap[child]!.atMs >= last.atMs) break
    heap[at] = heap[child]!
    at = child
  }
  heap[at] = last
}
