import { expect, test } from 'vitest'
import { createProgramMemory } from './program-memory.ts'

test('the values that were used last are kept, and at most twice as many', () => {
  const memory = createProgramMemory(10)
  const value = { of: 'hot' }
  for (let number = 0; number < 1_000; number++) {
    memory.set(`cold-${number}`, { number })
    if (number === 0) memory.set('hot', value)
    expect(memory.get('hot')).toBe(value)
    for (let back = 0; back < Math.min(number, 4); back++)
      expect(memory.get(`cold-${number - back}`), `${number - back} of ${number}`).toEqual({ number: number - back })
  }
  const kept = Array.from({ length: 1_000 }, (_, number) => `cold-${number}`).filter((id) => memory.get(id))
  expect(kept.length).toBeLessThanOrEqual(20)
})

test('of one id there is the last value only, and nothing of any after all was forgotten', () => {
  const memory = createProgramMemory(3)
  for (let number = 0; number < 20; number++) {
    memory.set('a', { number })
    memory.set(`b-${number}`, { number })
    expect(memory.get('a')).toEqual({ number })
  }
  memory.forget()
  expect(memory.get('a')).toBeUndefined()
  expect(memory.get('b-19')).toBeUndefined()
})
