import type { Clock } from '../../kernel/clock.ts'

/** After `free` failures in a row each next try has to wait, twice as long each time. */
export interface AttemptRule {
  free: number
  firstMs: number
  longestMs: number
  /** Without a failure for so long, all is forgotten. */
  forgetMs: number
}

export interface AttemptState {
  failures: number
  /** 0: a try is allowed now. */
  waitMs: number
}

/** Counts what went wrong, by name. Several servers may count together behind the same interface. */
export interface Attempts {
  look(name: string, rule: AttemptRule): AttemptState | Promise<AttemptState>
  failed(name: string, rule: AttemptRule): void | Promise<void>
  forget(name: string): void | Promise<void>
}

interface Count {
  failures: number
  /** On the monotonic clock: one that is set back must not lengthen anybody's wait. */
  lastMs: number
}

/** In this process's memory; of more than `kept` names the longest unused is forgotten. */
export function createAttempts({ clock, kept }: { clock: Pick<Clock, 'monotonic'>; kept: number }): Attempts {
  const counts = new Map<string, Count>()
  const find = (name: string, { forgetMs }: AttemptRule): Count | undefined => {
    const count = counts.get(name)
    if (!count || clock.monotonic() - count.lastMs < forgetMs) return count
    counts.delete(name)
    return undefined
  }
  return {
    look(name, rule) {
      const count = find(name, rule)
      if (!count) return { failures: 0, waitMs: 0 }
      const { failures, lastMs } = count
      return { failures, waitMs: Math.max(0, lastMs + pauseMs(failures, rule) - clock.monotonic()) }
    },
    failed(name, rule) {
      const failures = (find(name, rule)?.failures ?? 0) + 1
      counts.delete(name)
      counts.set(name, { failures, lastMs: clock.monotonic() })
      if (counts.size > kept) counts.delete(counts.keys().next().value!)
    },
    forget(name) {
      counts.delete(name)
    },
  }
}

export function pauseMs(failures: number, { free, firstMs, longestMs }: AttemptRule): number {
  if (failures < free) return 0
  return Math.min(longestMs, firstMs * 2 ** Math.min(30, failures - free))
}

/** One name for all that one household or machine can use: of IPv6 the first 64 bits. */
export function addressName(address: string | undefined): string {
  if (address === undefined) return 'unknown'
  const mapped = /^::ffff:([0-9.]+)$/i.exec(address)?.[1]
  if (mapped !== undefined || !address.includes(':')) return mapped ?? address
  const [front = '', back] = address.split('%')[0]!.split('::')
  const left = front === '' ? [] : front.split(':')
  const right = back === undefined || back === '' ? [] : back.split(':')
  const zeros = back === undefined ? [] : Array<string>(Math.max(0, 8 - left.length - right.length)).fill('0')
  return [...left, ...zeros, ...right]
    .slice(0, 4)
    .map((part) => Number.parseInt(part, 16).toString(16))
    .join(':')
}
