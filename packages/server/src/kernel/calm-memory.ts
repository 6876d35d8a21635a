import { performance } from 'node:perf_hooks'
import { getHeapStatistics } from 'node:v8'

/** What only the start needed is given back once it is over. */
const firstMs = 1_000
const lookMs = 5_000
/** Less is not worth a look through everything. */
const worthBytes = 8 * 2 ** 20
/** Of the time between two looks. */
const calmShare = 0.05

export interface Thread {
  /** What its heap takes of the machine, with what nobody needs any more. */
  heapBytes: number
  /** The same when it was last looked through. */
  keptBytes: number
  /** Of the time since the last look, that it worked. */
  busyShare: number
}

/** A look through 40 MB takes a twentieth of a second, in which nobody is answered: only where that gains something, and where hardly anybody asks. */
export function shouldCollect({ heapBytes, keptBytes, busyShare }: Thread): boolean {
  return busyShare <= calmShare && heapBytes - keptBytes >= worthBytes
}

/**
 * V8 keeps what a thread's heap has grown to until there is work again, and with little room for young objects most that is dropped has grown old by then: a busy minute leaves 100 MB. A
 * thread that has become calm gives it back. Each thread sees to its own; without `--expose-gc` nothing is done.
 */
export function giveBackWhenCalm(): void {
  const { gc } = globalThis
  if (!gc) return
  let keptBytes = 0
  let seen = performance.eventLoopUtilization()
  const collect = async () => {
    await gc({ type: 'major', execution: 'async', flavor: 'last-resort' })
    keptBytes = getHeapStatistics().total_heap_size
  }
  const look = () => {
    const busyShare = performance.eventLoopUtilization(seen).utilization
    seen = performance.eventLoopUtilization()
    if (shouldCollect({ heapBytes: getHeapStatistics().total_heap_size, keptBytes, busyShare })) void collect()
  }
  setTimeout(() => void collect(), firstMs).unref()
  setInterval(look, lookMs).unref()
}
