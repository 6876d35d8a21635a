import fc from 'fast-check'
import { expect, test } from 'vitest'
import { manualClock } from '../kernel/clock.ts'
import { testDatabases } from '../kernel/db/testing.ts'
import { openAccessTokens } from './access-tokens.ts'
import { accessMigrations } from './migrations.ts'
import { type Claims, mayAccess, nextGeneration, readToken, signToken } from './rules.ts'
import { createAccessTokenSchema } from './schema.ts'

const secret = Buffer.alloc(32, 7)
const claims: Claims = {
  sandboxId: 'sbx_a',
  accountId: 'acc_a',
  scopes: ['port:3000', 'terminal'],
  generation: 5,
  expiresAt: 10_000,
}
const wish = { sandboxId: 'sbx_a', scope: 'port:3000', generation: 5, now: 9_999 } as const

test('a token opens what it says and nothing else', () => {
  expect(mayAccess(claims, wish)).toBe(true)
  expect(mayAccess(claims, { ...wish, scope: 'terminal' })).toBe(true)
  expect(mayAccess(claims, { ...wish, scope: 'port:3001' })).toBe(false)
  expect(mayAccess(claims, { ...wish, scope: 'port:*' })).toBe(false)
  expect(mayAccess(claims, { ...wish, sandboxId: 'sbx_b' })).toBe(false)
  expect(mayAccess(claims, { ...wish, now: 10_000 })).toBe(false)
  expect(mayAccess(claims, { ...wish, generation: 6 })).toBe(false)
})

test('every port is no terminal', () => {
  const ports: Claims = { ...claims, scopes: ['port:*'] }
  expect(mayAccess(ports, { ...wish, scope: 'port:65535' })).toBe(true)
  expect(mayAccess(ports, { ...wish, scope: 'terminal' })).toBe(false)
})

test('what was signed is read back; any other text is nothing', () => {
  const token = signToken(claims, secret)
  expect(readToken(token, secret)).toEqual(claims)
  expect(readToken(token, Buffer.alloc(32, 8))).toBeUndefined()
  for (const other of [
    '',
    'dat_',
    'dat_.',
    `${token}x`,
    token.slice(4),
    `${token}.${token}`,
    'dat_e30.'.padEnd(51, 'A'),
  ]) {
    expect(readToken(other, secret)).toBeUndefined()
  }
  expect(readToken(`dat_${'a'.repeat(3_000)}.${'a'.repeat(43)}`, secret)).toBeUndefined()
})

test('no change of a character goes unnoticed', () => {
  const token = signToken(claims, secret)
  fc.assert(
    fc.property(fc.nat(token.length - 1), fc.constantFrom(...'abzAZ09_-.'), (at, letter) => {
      const changed = token.slice(0, at) + letter + token.slice(at + 1)
      expect(readToken(changed, secret) === undefined).toBe(changed !== token)
    }),
  )
})

test('the last letter of a signature has one spelling', () => {
  const token = signToken(claims, secret)
  const letters = [...'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_']
  expect(letters.filter((letter) => readToken(token.slice(0, -1) + letter, secret))).toEqual([token.at(-1)])
})

test('a new generation is above the old one whatever the clock does', () => {
  expect(nextGeneration(0, 1_000)).toBe(1_000)
  expect(nextGeneration(1_000, 1_000)).toBe(1_001)
  expect(nextGeneration(1_000, 10)).toBe(1_001)
})

test.each(['port:0', 'port:65536', 'port:03000', 'port:', 'ports:3000', 'port:3000 ', 'TERMINAL', 'port:-1', ''])(
  'the scope %j is refused',
  (scope) => {
    expect(createAccessTokenSchema.safeParse({ scopes: [scope] }).success).toBe(false)
  },
)

test.each([{ scopes: [] }, { scopes: ['terminal'], ttlMs: 0 }, { scopes: ['terminal'], ttlMs: 604_800_001 }, {}])(
  '%j makes no token',
  (body) => {
    expect(createAccessTokenSchema.safeParse(body).success).toBe(false)
  },
)

testDatabases('access tokens', (open) => {
  const own = { sandboxId: 'sbx_a', accountId: 'acc_a', scopes: ['port:*'], ttlMs: 60_000 } as const
  const wanted = { sandboxId: 'sbx_a', scope: 'port:80' } as const

  async function start() {
    const clock = manualClock(1_000_000_000_000)
    const database = await open(accessMigrations)
    const reopen = () => openAccessTokens({ database, clock })
    return { clock, reopen, tokens: await reopen() }
  }

  test('a token tells whose sandbox it opens and until when, also after a restart', async () => {
    const { tokens, reopen } = await start()
    const { token, expiresAt } = tokens.create(own)
    expect(tokens.verify(token, wanted)).toEqual({ sandboxId: 'sbx_a', accountId: 'acc_a', expiresAt, generation: 0 })
    expect((await reopen()).verify(token, wanted)).not.toBeNull()
  })

  test('it is over at its end', async () => {
    const { tokens, clock } = await start()
    const { token } = tokens.create(own)
    await clock.advance(59_999)
    const access = tokens.verify(token, wanted)!
    expect(tokens.isOver(access)).toBe(false)
    await clock.advance(1)
    expect(tokens.isOver(access)).toBe(true)
    expect(tokens.verify(token, wanted)).toBeNull()
  })

  test('revoking ends those of that sandbox made so far, also after a restart', async () => {
    const { tokens, reopen } = await start()
    const { token } = tokens.create(own)
    const other = tokens.create({ ...own, sandboxId: 'sbx_b' }).token
    await tokens.revoke('sbx_a')
    expect(tokens.verify(token, wanted)).toBeNull()
    expect(tokens.verify(other, { ...wanted, sandboxId: 'sbx_b' })).not.toBeNull()
    const next = tokens.create(own).token
    expect(tokens.verify(next, wanted)).not.toBeNull()
    const again = await reopen()
    expect(again.verify(token, wanted)).toBeNull()
    expect(again.verify(next, wanted)).not.toBeNull()
  })

  test('a revocation may be forgotten when all it ended has expired, and those made since stay good', async () => {
    const { tokens, reopen, clock } = await start()
    const week = 7 * 24 * 3_600_000
    const { token } = tokens.create({ ...own, ttlMs: week })
    await tokens.revoke('sbx_a')
    await clock.advance(1_000)
    const next = tokens.create({ ...own, ttlMs: week }).token
    await clock.advance(week - 500)
    const again = await reopen()
    expect(again.verify(token, wanted)).toBeNull()
    expect(again.verify(next, wanted)).not.toBeNull()
  })

  test('what was revoked between its check and its use ends as soon as it is held', async () => {
    const { tokens } = await start()
    const access = tokens.verify(tokens.create(own).token, wanted)!
    expect(tokens.isOver(access)).toBe(false)
    await tokens.revoke('sbx_a')
    expect(tokens.isOver(access)).toBe(true)
    expect(await new Promise((resolve) => tokens.hold(access, resolve))).toBe('revoked')
  })

  test('what is held open ends within a second of the expiry, at once with a revocation, and when the sandbox is gone', async () => {
    const { tokens, clock } = await start()
    const ended: string[] = []
    const hold = (name: string, sandboxId: string, ttlMs: number) => {
      const { token } = tokens.create({ ...own, sandboxId, ttlMs })
      const access = tokens.verify(token, { ...wanted, sandboxId })!
      return tokens.hold(access, (reason) => ended.push(`${name} ${reason}`))
    }
    hold('long', 'sbx_a', 50_000)
    hold('short', 'sbx_a', 5_000)
    hold('revoked', 'sbx_b', 50_000)
    hold('killed', 'sbx_c', 50_000)
    const letGo = hold('let go', 'sbx_b', 5_000)
    letGo()
    await tokens.revoke('sbx_b')
    tokens.forget('sbx_c')
    expect(ended).toEqual(['revoked revoked', 'killed killed'])
    await clock.advance(4_900)
    expect(ended).toHaveLength(2)
    await clock.advance(1_100)
    expect(ended.slice(2)).toEqual(['short expired'])
    // A clock set back prolongs nothing that runs.
    clock.jump(-3_600_000)
    await clock.advance(45_000)
    expect(ended.slice(3)).toEqual(['long expired'])
    expect(clock.sleepers).toBe(0)
  })
})
