import type { BoxUse } from '../../drivers/driver.ts'

/** Times of metering. */
export const meterTimes = {
  /** A hold lasts for so long, whatever the sandbox does. */
  aheadMs: 60_000,
  /** Where tokens are short, less is held, but never for less than this. */
  leastMs: 10_000,
  /** It is looked at once in this time, or when half of what is held may be used, if that is sooner. */
  lookMs: 30_000,
  /** From the refusal to the end of its box, with the final snapshot: it stands still, so this costs its memory alone. Held from the start. */
  finalMs: 30_000,
  /** Sandboxes that are due within this time of each other are looked at together. */
  tickMs: 5_000,
  /** Where nothing more can be held, it runs on until what it has lasts for less than this: to the next look, and a little. */
  lastMs: 7_000,
  /** Usage is committed at the latest after this, also of a sandbox that does nothing. */
  longestMs: 300_000,
} as const

/** A sandbox that does next to nothing keeps its hold while it still lasts for this part of `aheadMs`. */
const keptPart = 0.9

export const meters = { cpu: 'sandbox_cpu_seconds', memory: 'sandbox_memory_mb_seconds' } as const

/** Micro-tokens for so much of a meter, rounded up. */
export type Price = (meter: string, quantity: number) => number

export interface MeteredLimits {
  cpuMilli: number
  memoryMb: number
}

export interface MeteredLine {
  meter: string
  quantity: number
  /** Micro-tokens. */
  cost: number
}

/** What is held for, and what was used of it. Times are monotonic milliseconds. */
export interface Window {
  holdId: string
  /** Micro-tokens. */
  held: number
  /** Its processor is held too: not while it is paused. */
  withCpu: boolean
  beganMs: number
  first: BoxUse
  lookedMs: number
  last: BoxUse
  /** Memory over time up to the last look. */
  memoryMbMs: number
  /** Some of it was supposed, not measured. */
  isEstimated?: true
}

const megabyte = 1024 * 1024

/** The most that a sandbox can use in a time, with its final snapshot. */
export function worstCost(
  { cpuMilli, memoryMb }: MeteredLimits,
  price: Price,
  { ms, withCpu }: { ms: number; withCpu: boolean },
): number {
  const memory = price(meters.memory, (memoryMb * (ms + meterTimes.finalMs)) / 1_000)
  const cpu = withCpu ? price(meters.cpu, ((cpuMilli / 1_000) * ms) / 1_000) : 0
  // A hold is of one micro-token at least, also where nothing has a price.
  return Math.max(1, memory + cpu)
}

/** The window after another look. Of memory between two looks the mean of both counts. */
export function looked(window: Window, use: BoxUse, nowMs: number, { memoryMb }: MeteredLimits): Window {
  const elapsedMs = Math.max(0, nowMs - window.lookedMs)
  const meanMb = (boundedMb(window.last, memoryMb) + boundedMb(use, memoryMb)) / 2
  return { ...window, lookedMs: nowMs, last: use, memoryMbMs: window.memoryMbMs + meanMb * elapsedMs }
}

/** The window of a sandbox that could not be looked at any more: as if it had used all it might since the last look. */
export function supposed(window: Window, nowMs: number, { cpuMilli, memoryMb }: MeteredLimits): Window {
  const elapsedMs = Math.max(0, nowMs - window.lookedMs)
  const cpuMicros = window.last.cpuMicros + (window.withCpu ? elapsedMs * cpuMilli : 0)
  const memoryMbMs = window.memoryMbMs + memoryMb * elapsedMs
  return { ...window, lookedMs: nowMs, last: { ...window.last, cpuMicros }, memoryMbMs, isEstimated: true }
}

/** The same of one that goes on, as far as what is held lasts: where it is read again, its processor is paid from there on. */
export function supposedWithin(window: Window, nowMs: number, limits: MeteredLimits, price: Price): Window {
  const untilMs = Math.min(nowMs, window.lookedMs + coverMs(window, limits, price, window.withCpu))
  return { ...supposed(window, untilMs, limits), lookedMs: nowMs }
}

function boundedMb({ memoryBytes }: BoxUse, memoryMb: number): number {
  return Math.min(memoryMb, Math.max(0, memoryBytes) / megabyte)
}

/** What was used up to the last look; nothing of what was not. */
export function linesOf({ first, last, memoryMbMs }: Window, price: Price): MeteredLine[] {
  const used = [
    { meter: meters.memory, quantity: memoryMbMs / 1_000 },
    // A counter that has gone back is another box's.
    { meter: meters.cpu, quantity: Math.max(0, last.cpuMicros - first.cpuMicros) / 1e6 },
  ]
  return used
    .filter(({ quantity }) => quantity > 0)
    .map(({ meter, quantity }) => ({ meter, quantity, cost: price(meter, quantity) }))
}

export function costOf(window: Window, price: Price): number {
  return linesOf(window, price).reduce((sum, { cost }) => sum + cost, 0)
}

/** For how long after the last look what is left lasts at the worst, the final snapshot apart. */
export function coverMs(window: Window, limits: MeteredLimits, price: Price, isRunning: boolean): number {
  const final = worstCost(limits, price, { ms: 0, withCpu: false })
  const left = window.held - costOf(window, price) - final
  const perMs = (worstCost(limits, price, { ms: meterTimes.aheadMs, withCpu: isRunning }) - final) / meterTimes.aheadMs
  if (left <= 0) return 0
  return perMs > 0 ? left / perMs : Infinity
}

/** Whether the hold is kept for now: hardly anything was used of it, and not for long. */
export function isKept(window: Window, limits: MeteredLimits, price: Price, isRunning: boolean): boolean {
  if (window.withCpu !== isRunning) return false
  if (window.lookedMs - window.beganMs >= meterTimes.longestMs) return false
  return coverMs(window, limits, price, isRunning) >= meterTimes.aheadMs * keptPart
}

/** When to look again. */
export function nextLookMs(window: Window, limits: MeteredLimits, price: Price, isRunning: boolean): number {
  return window.lookedMs + Math.min(meterTimes.lookMs, coverMs(window, limits, price, isRunning) / 2)
}

/** `2026-11`: plans count by months of UTC. */
export function periodOf(unixMs: number): string {
  return new Date(unixMs).toISOString().slice(0, 7)
}
