import { array, assert, constant, integer, oneof, property, tuple } from 'fast-check'
import { expect, test } from 'vitest'
import { createHeldBytes, heldLimits } from './held-bytes.ts'

const small = { accounts: 10, bytes: 1_000, guaranteedBytes: 500 }

test('all sandboxes together never take more than there is, whoever takes, grows and gives in whatever order', () => {
  const act = tuple(
    integer({ min: 0, max: 9 }),
    oneof(constant('take'), constant('grow'), constant('give')),
    integer({ min: 1, max: 400 }),
  )
  assert(
    property(array(act, { maxLength: 200 }), (acts) => {
      const held = createHeldBytes(small)
      const accounts = Array.from({ length: 10 }, () => held.account())
      for (const [index, what, bytes] of acts) {
        const account = accounts[index]!
        if (what === 'give') account.give(Math.min(bytes, account.bytes))
        else account[what](bytes)
        expect(held.bytes).toBeLessThanOrEqual(small.bytes)
        expect(held.bytes).toBe(accounts.reduce((sum, one) => sum + one.bytes, 0))
        // Its own part is there for each, whatever the others have.
        for (const one of accounts) {
          const own = Math.max(0, 50 - one.bytes)
          expect(own === 0 || one.take(own)).toBe(true)
          if (own > 0) one.give(own)
        }
      }
    }),
    { seed: 3, numRuns: 200 },
  )
})

test('one sandbox leaves half of what is shared, and the next ones find half of what is left', () => {
  const held = createHeldBytes(small)
  const takeAll = (): number => {
    const account = held.account()
    while (account.take(1));
    return account.bytes
  }
  expect([takeAll(), takeAll(), takeAll()]).toEqual([300, 175, 112])
  for (let index = 3; index < 10; index++) expect(takeAll()).toBeGreaterThanOrEqual(50)
  expect(held.bytes).toBeLessThanOrEqual(small.bytes)
})

test('what grows leaves room for what must be taken', () => {
  const account = createHeldBytes(small).account()
  while (account.grow(1));
  expect([account.bytes, account.tight]).toEqual([175, false])
  expect(account.take(100)).toBe(true)
  expect(account.tight).toBe(true)
})

test('sources pause when too much is kept, and go on when there is room again', () => {
  const held = createHeldBytes(small)
  const account = held.account()
  const heard: string[] = []
  const source = (name: string) => ({
    pause: () => heard.push(`${name} pauses`),
    resume: () => heard.push(`${name} goes on`),
  })
  const leave = account.addSource(source('first'))
  account.keep(300)
  expect(heard).toEqual([])
  account.keep(1)
  account.addSource(source('second'))
  expect(heard).toEqual(['first pauses', 'second pauses'])
  leave()
  account.giveKept(1)
  expect(heard).toEqual(['first pauses', 'second pauses', 'second goes on'])
  expect(held.bytes).toBe(300)
})

test('sources of a sandbox that keeps nothing go on, though the others have taken everything', () => {
  const held = createHeldBytes(small)
  const account = held.account()
  const heard: string[] = []
  account.take(200)
  const others = Array.from({ length: 9 }, () => held.account())
  for (const other of others) while (other.take(1));
  account.addSource({ pause: () => heard.push('pauses'), resume: () => heard.push('goes on') })
  account.keep(64)
  account.giveKept(64)
  expect(heard).toEqual(['pauses', 'goes on'])
})

test('all that is held stays well below what the server may grow by', () => {
  expect(heldLimits.bytes).toBeLessThanOrEqual(96 * 1024 * 1024)
  expect(heldLimits.guaranteedBytes).toBeLessThan(heldLimits.bytes)
})
