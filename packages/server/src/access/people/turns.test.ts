import { expect, test } from 'vitest'
import { createTurns } from './turns.ts'

/** Each piece of work goes on until its name is let go. */
function begin({ atOnce = 1, waiting = 8 } = {}) {
  const turns = createTurns({ atOnce, waiting })
  const order: string[] = []
  const ends: (() => void)[] = []
  const refused: string[] = []
  const add = (name: string, group = 'all') => {
    const work = async () => {
      order.push(name)
      await new Promise<void>((resolve) => ends.push(resolve))
    }
    return turns.run(work, { group, name }).catch(() => void refused.push(name))
  }
  const turn = async () => new Promise((resolve) => setImmediate(resolve))
  const endAll = async () => {
    for (await turn(); ends.length > 0; await turn()) ends.shift()!()
  }
  return { turns, add, order, refused, ends, turn, endAll }
}

test('turns go round between names: who sends many waits for themselves', async () => {
  const { add, order, endAll } = begin()
  for (const name of ['bob', 'bob', 'bob', 'ada', 'eve']) void add(name)
  await endAll()
  expect(order).toEqual(['bob', 'bob', 'ada', 'eve', 'bob'])
})

test('and between addresses, however many names one of them sends', async () => {
  const { add, order, endAll } = begin()
  for (const name of ['a', 'b', 'c', 'd']) void add(name, 'flood')
  void add('ada', 'home')
  await endAll()
  expect(order).toEqual(['a', 'b', 'ada', 'c', 'd'])
})

test('of one name one is at work, also from two addresses', async () => {
  const { add, order, turns, ends, turn } = begin({ atOnce: 2 })
  void add('ada', 'home')
  void add('ada', 'elsewhere')
  await turn()
  expect([turns.running, turns.waiting, order]).toEqual([1, 1, ['ada']])
  void add('bob')
  await turn()
  expect([turns.running, turns.waiting]).toEqual([2, 1])
  ends.shift()!()
  await turn()
  expect([turns.running, turns.waiting, order]).toEqual([2, 0, ['ada', 'bob', 'ada']])
})

test('where all places are taken the last of whoever has most gives theirs up', async () => {
  const { add, refused, order, endAll } = begin({ waiting: 3 })
  for (let at = 0; at < 5; at++) void add('bob')
  void add('ada')
  await endAll()
  expect(refused).toEqual(['bob', 'bob'])
  expect(order).toEqual(['bob', 'bob', 'ada', 'bob'])
})

test('an address with many names gives up for another address, not for one more name of its own', async () => {
  const { add, refused, endAll } = begin({ waiting: 3 })
  for (const name of ['a', 'b', 'c', 'd', 'e']) void add(name, 'flood')
  void add('ada', 'home')
  await endAll()
  expect(refused).toEqual(['e', 'd'])
})

test('work that throws gives its place up', async () => {
  const turns = createTurns({ atOnce: 1, waiting: 1 })
  const lane = { group: 'a', name: 'a' }
  await expect(turns.run(() => Promise.reject(new Error('broken')), lane)).rejects.toThrow('broken')
  expect(await turns.run(async () => 1, lane)).toBe(1)
  expect([turns.running, turns.waiting]).toEqual([0, 0])
})
