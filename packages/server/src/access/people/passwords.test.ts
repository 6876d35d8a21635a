import { expect, test } from 'vitest'
import { createPasswords } from './passwords.ts'
import { createTurns } from './turns.ts'

const passwords = createPasswords({ turns: createTurns({ atOnce: 2, waiting: 10 }) })
const lane = { group: 'here', name: 'ada' }

test('a password is kept as Argon2id with the parameters OWASP asks for, and a salt of its own', async () => {
  const [first, second] = [await passwords.hash('correct horse', lane), await passwords.hash('correct horse', lane)]
  expect(first).toMatch(/^\$argon2id\$v=19\$m=19456,t=2,p=1\$[A-Za-z0-9+/]{22}\$[A-Za-z0-9+/]{43}$/)
  expect(first).not.toBe(second)
  expect(await passwords.verify('correct horse', first, { lane })).toBe(true)
  expect(await passwords.verify('correct horsf', first, { lane })).toBe(false)
})

test('it is the same however it was typed', async () => {
  expect(await passwords.verify('cafe\u0301 １２３', await passwords.hash('caf\u00e9 123', lane), { lane })).toBe(true)
})

test('whoever has no hash, or one of another kind, has no right password; the work is the same', async () => {
  let derived = 0
  const counting = createPasswords({
    turns: createTurns({ atOnce: 2, waiting: 10 }),
    derive: async () => {
      derived += 1
      return Buffer.alloc(32)
    },
  })
  for (const stored of [null, '', '$argon2id$v=19$m=19456,t=2,p=1$AAAA$AAAA'.replace('19456', '8'), 'plain']) {
    expect(await counting.verify('any', stored, { lane })).toBe(false)
  }
  expect(derived).toBe(4)
})
