import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import {
  costOf,
  coverMs,
  isKept,
  linesOf,
  looked,
  meterTimes,
  nextLookMs,
  supposed,
  type Window,
  worstCost,
} from './rules.ts'
import { testPrice } from './testing.ts'

const megabyte = 1024 * 1024
const limits = { cpuMilli: 1_000, memoryMb: 256 }
const worst = (ms: number, withCpu = true) => worstCost(limits, testPrice, { ms, withCpu })

function windowOf(fields: Partial<Window> = {}): Window {
  const none = { cpuMicros: 0, memoryBytes: 0 }
  const begun = { beganMs: 0, first: none, lookedMs: 0, last: none, memoryMbMs: 0 }
  return { holdId: 'hld_a', held: worst(60_000), withCpu: true, ...begun, ...fields }
}

describe('what a minute costs at the most', () => {
  test('is memory and processor for the minute, and memory for the final snapshot', () => {
    expect(worst(60_000)).toBe(60 * 40 + 60 * 40 + 30 * 40)
    expect(worst(60_000, false)).toBe(90 * 40)
  })

  test('is a micro-token where nothing has a price', () => {
    expect(worstCost(limits, () => 0, { ms: 60_000, withCpu: true })).toBe(1)
  })
})

describe('what was used', () => {
  test('is the mean of the memory at both ends, and what the processor counted', () => {
    const window = looked(windowOf(), { cpuMicros: 2_500_000, memoryBytes: 100 * megabyte }, 30_000, limits)
    expect(linesOf(window, testPrice)).toEqual([
      { meter: 'sandbox_memory_mb_seconds', quantity: 1_500, cost: 235 },
      { meter: 'sandbox_cpu_seconds', quantity: 2.5, cost: 100 },
    ])
  })

  test('counts no more memory than the sandbox may have, and no counter that went back', () => {
    const before = windowOf({
      last: { cpuMicros: 9e6, memoryBytes: 900 * megabyte },
      first: { cpuMicros: 9e6, memoryBytes: 0 },
    })
    const window = looked(before, { cpuMicros: 1e6, memoryBytes: 900 * megabyte }, 10_000, limits)
    expect(linesOf(window, testPrice)).toEqual([{ meter: 'sandbox_memory_mb_seconds', quantity: 2_560, cost: 400 }])
  })

  test('is the worst where nobody could look', () => {
    expect(costOf(supposed(windowOf(), 10_000, limits), testPrice)).toBe(10 * 80)
  })
})

describe('a hold', () => {
  test('that hardly anything was used of is kept, for five minutes at the most', () => {
    const idle = looked(windowOf(), { cpuMicros: 1_000, memoryBytes: megabyte }, 30_000, limits)
    expect(isKept(idle, limits, testPrice, true)).toBe(true)
    expect(isKept({ ...idle, lookedMs: meterTimes.longestMs }, limits, testPrice, true)).toBe(false)
    const busy = looked(windowOf(), { cpuMicros: 20_000_000, memoryBytes: megabyte }, 30_000, limits)
    expect(isKept(busy, limits, testPrice, true)).toBe(false)
  })

  test('without processor is not kept by one that runs, nor one with it by one that is paused', () => {
    expect(isKept(windowOf(), limits, testPrice, false)).toBe(false)
    expect(isKept(windowOf({ withCpu: false }), limits, testPrice, true)).toBe(false)
  })

  test('for a part of a minute is looked at when half of it may be used', () => {
    const short = windowOf({ held: worst(12_000) })
    expect(coverMs(short, limits, testPrice, true)).toBe(12_000)
    expect(nextLookMs(short, limits, testPrice, true)).toBe(6_000)
    expect(nextLookMs(windowOf(), limits, testPrice, true)).toBe(30_000)
  })
})

/** A sandbox of any size, looked at at any times within what its hold covers, using as much as it may or less. */
const histories = fc.record({
  limits: fc.record({
    cpuMilli: fc.integer({ min: 100, max: 16_000 }),
    memoryMb: fc.integer({ min: 64, max: 16_384 }),
  }),
  steps: fc.array(
    fc.record({
      part: fc.double({ min: 0.01, max: 1, noNaN: true }),
      cpu: fc.double({ min: 0, max: 1, noNaN: true }),
      memory: fc.double({ min: 0, max: 1, noNaN: true }),
    }),
    { minLength: 1, maxLength: 60 },
  ),
})

test('over any history no window costs more than was held for it, and all together cost what was measured, within the rounding of a line', () => {
  fc.assert(
    fc.property(histories, ({ limits: own, steps }) => {
      let nowMs = 0
      let window = windowOf({ held: worstCost(own, testPrice, { ms: meterTimes.aheadMs, withCpu: true }) })
      let paid = 0
      let windows = 0
      const measured = { cpuMicros: 0, memoryMbMs: 0 }
      const pay = () => {
        const cost = costOf(window, testPrice)
        expect(cost).toBeLessThanOrEqual(window.held)
        paid += cost
        windows += 1
      }
      for (const { part, cpu, memory } of steps) {
        // At the latest when it is due, with the tick that may come before.
        const dueMs = nextLookMs(window, own, testPrice, true) - nowMs
        const elapsedMs = Math.max(0, dueMs * part)
        nowMs += elapsedMs
        const cpuMicros = Math.floor(measured.cpuMicros + cpu * own.cpuMilli * elapsedMs)
        const memoryBytes = Math.floor(memory * own.memoryMb * megabyte)
        measured.memoryMbMs += ((window.last.memoryBytes + memoryBytes) / 2 / megabyte) * elapsedMs
        measured.cpuMicros = cpuMicros
        window = looked(window, { cpuMicros, memoryBytes }, nowMs, own)
        if (isKept(window, own, testPrice, true)) continue
        pay()
        window = { ...window, beganMs: nowMs, first: window.last, memoryMbMs: 0 }
      }
      pay()
      const exact = (measured.cpuMicros / 1e6) * 40 + (measured.memoryMbMs / 1e3) * 0.15625
      expect(paid).toBeGreaterThanOrEqual(exact - 1e-3)
      expect(paid).toBeLessThanOrEqual(exact + 2 * windows + 1e-3)
    }),
    { seed: 6, numRuns: 500 },
  )
})
