import fc from 'fast-check'
import { expect, test } from 'vitest'
import { manualClock } from '../kernel/clock.ts'
import { testDatabases } from '../kernel/db/testing.ts'
import { silentLogger } from '../kernel/log.ts'
import { openAccessTokens } from './access-tokens.ts'
import { accessMigrations } from './migrations.ts'
import { type Claims, mayAccess, nextGeneration, readToken, signToken } from './rules.ts'
import { createAccessTokenSchema } from './schema.ts'
import { openRevocations } from './revocations.ts'
import { createAccessStore } from './store.ts'

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
    const listeners: ((id: string) => void)[] = []
    const revoked = new Set<string>()
    const callers = {
      isRevoked: (ids: readonly string[]) => ids.some((id) => revoked.has(id)),
      onRevoked: (listener: (id: string) => void) => void listeners.push(listener),
      steps: () => [],
    }
    const reopen = () => openAccessTokens({ database, clock, log: silentLogger, callers })
    const revokeCaller = (id: string) => {
      revoked.add(id)
      for (const listener of listeners) listener(id)
    }
    return { clock, database, reopen, revoked, revokeCaller, tokens: await reopen() }
  }

  test('a token tells whose sandbox it opens and until when, also after a restart', async () => {
    const { tokens, reopen } = await start()
    const { token, expiresAt } = tokens.create(own)
    expect(tokens.verify(token, wanted)).toEqual({ sandboxId: 'sbx_a', accountId: 'acc_a', expiresAt, generation: 0 })
    expect((await reopen()).verify(token, wanted)).not.toBeNull()
  })

  test('it ends with the key or session it was made by, and what was opened with it too', async () => {
    const { tokens, revokeCaller } = await start()
    const made = tokens.create(own)
    await tokens.noteMakers(['key_a', 'usr_a'], { sandboxId: 'sbx_a', expiresAt: made.expiresAt })
    const other = tokens.create({ ...own, sandboxId: 'sbx_b' })
    await tokens.noteMakers(['key_b'], { sandboxId: 'sbx_b', expiresAt: other.expiresAt })
    let ended: string | undefined
    tokens.hold(tokens.verify(made.token, wanted)!, (reason) => (ended = reason))
    revokeCaller('key_a')
    await expect.poll(() => ended).toBe('revoked')
    expect(tokens.verify(made.token, wanted)).toBeNull()
    expect(tokens.verify(other.token, { ...wanted, sandboxId: 'sbx_b' })).not.toBeNull()
    // Who is let in anew makes others.
    const next = tokens.create(own)
    await tokens.noteMakers(['usr_a'], { sandboxId: 'sbx_a', expiresAt: next.expiresAt })
    expect(tokens.verify(next.token, wanted)).not.toBeNull()
  })

  test('it ends also where the server ended before it heard that its maker did', async () => {
    const { tokens, reopen, revoked } = await start()
    const { token, expiresAt } = tokens.create(own)
    await tokens.noteMakers(['key_a'], { sandboxId: 'sbx_a', expiresAt })
    revoked.add('key_a')
    expect((await reopen()).verify(token, wanted)).toBeNull()
  })

  test('a longer token keeps its maker noted beside a shorter one', async () => {
    const { tokens, clock, reopen, revokeCaller } = await start()
    const long = tokens.create({ ...own, ttlMs: 4 * 3_600_000 })
    for (const { expiresAt } of [long, tokens.create(own)]) {
      await tokens.noteMakers(['key_a'], { sandboxId: 'sbx_a', expiresAt })
    }
    await clock.advance(2 * 3_600_000)
    const later = await reopen()
    revokeCaller('key_a')
    await expect.poll(() => later.verify(long.token, wanted)).toBeNull()
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

  test('revoking ends them on every server, and what is open there, within a second', async () => {
    const clock = manualClock(1_000_000_000_000)
    const database = await open(accessMigrations)
    const serve = async () => {
      // Where only one server may write it listens to no other: here two share a file.
      const shared = { ...database, kind: 'postgres' as const }
      const revocations = await openRevocations({ database: shared, clock, log: silentLogger })
      return {
        revocations,
        tokens: await openAccessTokens({ database, clock, log: silentLogger, callers: revocations }),
      }
    }
    const [here, there] = [await serve(), await serve()]
    const { token } = here.tokens.create(own)
    const ended: string[] = []
    there.tokens.hold(there.tokens.verify(token, wanted)!, (reason) => ended.push(reason))
    await here.tokens.revoke('sbx_a')
    await clock.advance(1_000)
    await expect.poll(() => ended).toEqual(['revoked'])
    expect(there.tokens.verify(token, wanted)).toBeNull()
    // What is made there from now on is good here too.
    expect(here.tokens.verify(there.tokens.create(own).token, wanted)).not.toBeNull()
    for (const { revocations, tokens } of [here, there]) {
      revocations.stop()
      tokens.stop()
    }
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

  test('revocations that nothing can remember are forgotten while the server runs, and no others', async () => {
    const { tokens, clock, database, reopen } = await start()
    const store = createAccessStore(database)
    await tokens.revoke('sbx_old')
    await clock.advance(6 * 24 * 3_600_000)
    const { token } = tokens.create({ ...own, ttlMs: 2 * 24 * 3_600_000 })
    await tokens.revoke('sbx_a')
    await clock.advance(24 * 3_600_000 + 2 * 3_600_000)
    const revoked = async () => {
      await clock.advance(3_600_000)
      return [...(await store.generations()).keys()]
    }
    await expect.poll(revoked).toEqual(['sbx_a'])
    expect(tokens.verify(token, wanted)).toBeNull()
    expect((await reopen()).verify(token, wanted)).toBeNull()
    tokens.stop()
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
    tokens.stop()
    expect(clock.sleepers).toBe(0)
  })
})
