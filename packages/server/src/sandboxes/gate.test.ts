import { describe, expect, test } from 'vitest'
import { createGate } from './gate.ts'

describe('gate', () => {
  test('lets in as many as it has places, the others in the order they came', async () => {
    const gate = createGate({ places: 2, mostWaiting: 100 })
    const order: number[] = []
    let inside = 0
    let most = 0
    const passes = Array.from({ length: 20 }, (_, index) =>
      gate.pass(async () => {
        inside += 1
        most = Math.max(most, inside)
        order.push(index)
        await new Promise((resolve) => setImmediate(resolve))
        inside -= 1
      }),
    )
    await Promise.all(passes)
    expect(most).toBe(2)
    expect(order).toEqual(Array.from({ length: 20 }, (_, index) => index))
    expect(gate.waiting).toBe(0)
  })

  test('gives the place back when the work fails', async () => {
    const gate = createGate({ places: 1, mostWaiting: 1 })
    await expect(gate.pass(() => Promise.reject(new Error('no')))).rejects.toThrow('no')
    await expect(gate.pass(async () => 7)).resolves.toBe(7)
  })

  test('refuses one more than may wait', async () => {
    const gate = createGate({ places: 1, mostWaiting: 1 })
    const { promise, resolve } = Promise.withResolvers<void>()
    const first = gate.pass(() => promise)
    const second = gate.pass(async () => undefined)
    await expect(gate.pass(async () => undefined)).rejects.toMatchObject({ code: 'capacity_exhausted' })
    resolve()
    await Promise.all([first, second])
  })
})
