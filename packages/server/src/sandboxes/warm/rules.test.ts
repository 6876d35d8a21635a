import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { keyOf, oldestMs, planPool, type PoolView, recentMs, renewMs, sharesOf, type WarmKind } from './rules.ts'

const main: WarmKind = { runtime: 'crun', template: 'host' }
const debian: WarmKind = { runtime: 'crun', template: 'debian' }
const gvisor: WarmKind = { runtime: 'runsc', template: 'host' }
const kinds = [main, debian, gvisor, { runtime: 'runc', template: 'host' }]
const nowMs = 10 * oldestMs

function view(changes: Partial<PoolView> = {}): PoolView {
  return { size: 8, room: 1_000, main, asked: [], ready: [], making: [], nowMs, ...changes }
}

function boxes(count: number, kind = main, ageMs = 0) {
  return Array.from({ length: count }, (_, index) => ({
    id: `${keyOf(kind)}-${ageMs}-${index}`,
    kind,
    madeAtMs: nowMs - ageMs,
  }))
}

const shares = (changes: Partial<PoolView>) =>
  Object.fromEntries(Array.from(sharesOf(view(changes)), ([key, share]) => [key, share.boxes]))

describe('shares', () => {
  test('all are of the main kind while nothing else was asked for', () => {
    expect(shares({})).toEqual({ 'crun/host': 8 })
    expect(shares({ asked: [{ kind: main, atMs: nowMs }] })).toEqual({ 'crun/host': 8 })
  })

  test('another kind that was asked for gets a quarter, two of them half, and no third one any', () => {
    const asked = [debian, gvisor, kinds[3]!].map((kind, index) => ({ kind, atMs: nowMs - index }))
    expect(shares({ asked: asked.slice(0, 1) })).toEqual({ 'crun/host': 6, 'crun/debian': 2 })
    expect(shares({ asked })).toEqual({ 'crun/host': 4, 'crun/debian': 2, 'runsc/host': 2 })
    expect(shares({ asked, size: 2 })).toEqual({ 'crun/host': 1, 'crun/debian': 1 })
    expect(shares({ asked, size: 1 })).toEqual({ 'crun/host': 1 })
  })

  test('what was asked for long ago gets none', () => {
    expect(shares({ asked: [{ kind: debian, atMs: nowMs - recentMs }] })).toEqual({ 'crun/host': 8 })
    expect(shares({ asked: [{ kind: debian, atMs: nowMs - recentMs + 1 }] })).toEqual({
      'crun/host': 6,
      'crun/debian': 2,
    })
  })

  test("callers' sandboxes come first where room is short", () => {
    expect(shares({ room: 3 })).toEqual({ 'crun/host': 3 })
    expect(shares({ room: 0 })).toEqual({})
    expect(shares({ room: -1 })).toEqual({})
  })
})

describe('the plan', () => {
  test('makes what is missing, and counts what is being made', () => {
    expect(planPool(view({ ready: boxes(5), making: [main, main] })).make).toEqual([main])
    expect(planPool(view({ ready: boxes(8) }))).toMatchObject({ make: [], drop: [] })
  })

  test('gives up what is too much, the oldest first', () => {
    const ready = [...boxes(1, main, 5_000), ...boxes(7), ...boxes(1, debian)]
    expect(planPool(view({ ready, room: 7 })).drop.toSorted()).toEqual(['crun/debian-0-0', 'crun/host-5000-0'])
  })

  test('exchanges ageing boxes one at a time, and too old ones at once', () => {
    const ageing = [...boxes(4, main, renewMs), ...boxes(4)]
    const first = planPool(view({ ready: ageing }))
    expect(first).toMatchObject({ drop: [ageing[0]!.id], make: [main] })
    const onTheWay = planPool(view({ ready: ageing.slice(1), making: [main] }))
    expect(onTheWay).toMatchObject({ drop: [], make: [] })
    expect(planPool(view({ ready: [...boxes(3, main, oldestMs), ...boxes(5)] })).drop).toHaveLength(3)
  })

  test('tells when to look again: when the oldest ages, or a kind is no longer recent', () => {
    expect(planPool(view({ ready: boxes(8, main, 1_000) })).nextLookMs).toBe(nowMs + renewMs - 1_000)
    const asked = [{ kind: debian, atMs: nowMs - 1_000 }]
    const ready = [...boxes(6), ...boxes(2, debian)]
    expect(planPool(view({ ready, asked })).nextLookMs).toBe(nowMs + recentMs - 1_000)
    expect(planPool(view({ size: 0 })).nextLookMs).toBeUndefined()
    expect(planPool(view({ room: 7, ready: boxes(7) })).nextLookMs).toBe(nowMs + 10_000)
  })

  test('leads to rest within the size and the room, whatever was there', () => {
    const kind = fc.constantFrom(...kinds)
    const content = fc.record({ kind, ageMs: fc.nat(2 * oldestMs) })
    const ask = fc.record({ kind, ageMs: fc.nat(2 * recentMs) })
    fc.assert(
      fc.property(
        fc.nat(20),
        fc.integer({ min: -5, max: 30 }),
        fc.array(content, { maxLength: 30 }),
        fc.uniqueArray(ask, { selector: (each) => keyOf(each.kind) }),
        (size, room, contents, asks) => {
          const asked = asks.map((each) => ({ kind: each.kind, atMs: nowMs - each.ageMs }))
          let ready = contents.map((each, id) => ({ id: `${id}`, kind: each.kind, madeAtMs: nowMs - each.ageMs }))
          for (let round = 0; ; round += 1) {
            const { make, drop } = planPool(view({ size, room, asked, ready }))
            if (make.length + drop.length === 0) break
            expect(round).toBeLessThan(60)
            ready = ready.filter(({ id }) => !drop.includes(id))
            make.forEach((each, index) => ready.push({ id: `${round}-${index}`, kind: each, madeAtMs: nowMs }))
            expect(ready.length).toBeLessThanOrEqual(Math.max(0, Math.min(size, room)))
          }
          expect(ready).toHaveLength(Math.max(0, Math.min(size, room)))
          expect(ready.every(({ madeAtMs }) => nowMs - madeAtMs < renewMs)).toBe(true)
        },
      ),
    )
  })
})
