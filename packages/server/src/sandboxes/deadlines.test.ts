import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { manualClock, systemClock } from '../kernel/clock.ts'
import { createDeadlines } from './deadlines.ts'

function start() {
  const clock = manualClock(1_000_000)
  const due: { id: string; atMs: number }[] = []
  const deadlines = createDeadlines({ clock, onDue: (id) => due.push({ id, atMs: clock.monotonic() }) })
  return { clock, due, deadlines }
}

describe('deadlines', () => {
  test('fire in their order, each once, whatever the order they were set in', async () => {
    const { clock, due, deadlines } = start()
    deadlines.set('c', 30)
    deadlines.set('a', 10)
    deadlines.set('b', 20)
    await clock.advance(100)
    expect(due).toEqual([
      { id: 'a', atMs: 10 },
      { id: 'b', atMs: 20 },
      { id: 'c', atMs: 30 },
    ])
    expect(deadlines.size).toBe(0)
  })

  test('any number of them sleeps once', () => {
    const { clock, deadlines } = start()
    for (let index = 0; index < 500; index += 1) deadlines.set(`s${index}`, 1_000 + ((index * 7_919) % 500))
    // A sleep that was replaced by a nearer one has been aborted.
    expect(clock.sleepers).toBe(1)
  })

  test('setting again replaces, clearing forgets', async () => {
    const { clock, due, deadlines } = start()
    deadlines.set('a', 10)
    deadlines.set('b', 10)
    deadlines.set('a', 50)
    deadlines.clear('b')
    await clock.advance(40)
    expect(due).toEqual([])
    expect(deadlines.left('a')).toBe(10)
    expect(deadlines.left('b')).toBeUndefined()
    await clock.advance(10)
    expect(due.map(({ id }) => id)).toEqual(['a'])
  })

  test('a wall clock that jumps ends nothing early and delays nothing', async () => {
    const { clock, due, deadlines } = start()
    deadlines.set('a', 100)
    clock.jump(1_000_000)
    await clock.advance(99)
    expect(due).toEqual([])
    clock.jump(-5_000_000)
    await clock.advance(1)
    expect(due.map(({ id }) => id)).toEqual(['a'])
  })

  test('what is due already fires soon, but never inside of set', async () => {
    const due: string[] = []
    const deadlines = createDeadlines({ clock: systemClock, onDue: (id) => due.push(id) })
    deadlines.set('late', -5_000)
    expect(due).toEqual([])
    await expect.poll(() => due).toEqual(['late'])
    deadlines.close()
  })

  test('a listener may set the same id again', async () => {
    const clock = manualClock(0)
    let count = 0
    const deadlines = createDeadlines({
      clock,
      onDue: (id) => {
        count += 1
        if (count < 3) deadlines.set(id, 10)
      },
    })
    deadlines.set('a', 10)
    await clock.advance(100)
    expect(count).toBe(3)
  })

  test('after close nothing fires and nothing sleeps', async () => {
    const { clock, due, deadlines } = start()
    deadlines.set('a', 10)
    deadlines.close()
    await clock.advance(100)
    expect(due).toEqual([])
    expect(clock.sleepers).toBe(0)
  })

  test('agree with a plain list under any sequence of sets, clears and waits', async () => {
    const step = fc.oneof(
      fc.record({ kind: fc.constant('set'), id: fc.nat(12), ms: fc.nat(60) }),
      fc.record({ kind: fc.constant('clear'), id: fc.nat(12), ms: fc.nat(60) }),
      fc.record({ kind: fc.constant('wait'), id: fc.nat(12), ms: fc.nat(40) }),
    )
    await fc.assert(
      fc.asyncProperty(fc.array(step, { maxLength: 150 }), async (all) => {
        const { clock, due, deadlines } = start()
        const model = new Map<string, number>()
        const expected: string[] = []
        for (const { kind, id, ms } of all) {
          if (kind === 'set') {
            model.set(`${id}`, clock.monotonic() + ms)
            deadlines.set(`${id}`, ms)
          } else if (kind === 'clear') {
            model.delete(`${id}`)
            deadlines.clear(`${id}`)
          } else {
            // A deadline of 0 ms fires without time passing.
            await new Promise((resolve) => setImmediate(resolve))
            await clock.advance(ms)
            await new Promise((resolve) => setImmediate(resolve))
            const past = [...model].filter(([, atMs]) => atMs <= clock.monotonic())
            for (const [each] of past) model.delete(each)
            expected.push(...past.map(([each]) => each))
          }
        }
        await new Promise((resolve) => setImmediate(resolve))
        // Those of 0 ms that came after the last wait.
        const late = [...model].filter(([, atMs]) => atMs <= clock.monotonic()).map(([each]) => each)
        expect(due.map(({ id }) => id).toSorted()).toEqual([...expected, ...late].toSorted())
      }),
      { numRuns: 60 },
    )
  })
})
