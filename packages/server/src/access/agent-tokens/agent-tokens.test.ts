import { createHmac, generateKeyPairSync, sign } from 'node:crypto'
import { describe, expect, test } from 'vitest'
import { manualClock } from '../../kernel/clock.ts'
import { DeltaError } from '../../kernel/errors.ts'
import { createApi } from '../../kernel/http/api.ts'
import { createCallerDoor } from '../authenticate.ts'
import type { KnownAgent } from '../agents.ts'
import type { KnownCaller } from '../door.ts'
import { decide } from '../policy.ts'
import type { AgentKind, KeyPrincipal } from '../principal.ts'
import { right, rightNames } from '../rights.ts'
import { testCaller, testKeyPrincipal } from '../testing.ts'
import { agentTokensFeature } from './routes.ts'
import { createAgentTokenSchema } from './schema.ts'
import { createAgentTokens } from './service.ts'

const minute = 60_000
const keyPair = generateKeyPairSync('ed25519')

function start(changes: Partial<KeyPrincipal> = {}, signing = keyPair) {
  const clock = manualClock(1_789_000_000_000)
  const news = new Map<string, number>()
  const listeners: ((id: string) => void)[] = []
  let count = 0
  const revocations = {
    get count() {
      return count
    },
    isRevoked: (ids: readonly string[], since: number) => ids.some((id) => (news.get(id) ?? -1) > since),
    onRevoked: (listener: (id: string) => void) => void listeners.push(listener),
    async revoke(ids: readonly string[]) {
      count += 1
      for (const id of ids) {
        news.set(id, count)
        for (const listener of listeners) listener(id)
      }
    },
  }
  const roots = new Map<string, KnownCaller | null | Promise<KnownCaller | null>>()
  const root = testCaller(testKeyPrincipal({ accountId: 'acc_a', keyId: 'key_root', ...changes }))
  roots.set('key_root', root)
  const agents = new Map<string, KnownAgent>()
  const tokens = createAgentTokens({
    signing,
    findRoot: (id) => roots.get(id) ?? null,
    findAgent: (id, accountId) => (accountId === 'acc_a' ? agents.get(id) : undefined),
    revocations,
    clock,
  })
  const door = createCallerDoor({ readers: [tokens.reader], revocations, clock })
  const as = async (token: string) => door.authenticate({ authorization: `Bearer ${token}` })
  /** An agent with all rights there are, below whoever is named. */
  const add = (id: string, kind: AgentKind, above?: string) => {
    const line = [...(above === undefined ? [] : agents.get(above)!.line), id]
    agents.set(id, { id, kind, state: 'active', mayAct: true, isAtRest: false, line, rights: everything })
  }
  const make = (fields: { agentId?: string; agentKind?: AgentKind; [field: string]: unknown } = {}, caller = root) => {
    const { agentId = 'agt_a', agentKind = 'main' } = fields
    const above = caller.principal.kind === 'agent' ? caller.principal.agentId : undefined
    if (!agents.has(agentId)) add(agentId, agentKind, above)
    return tokens.create(
      createAgentTokenSchema.parse({ agentId, rights: ['read:files', 'delegate'], ...fields }),
      caller,
    )
  }
  const refusal = async (fields: Parameters<typeof make>[0], caller = root) => {
    try {
      return `made: ${JSON.stringify((await make(fields, caller)).rights)}`
    } catch (error) {
      return (error as DeltaError).code
    }
  }
  return { clock, revocations, roots, root, tokens, agents, add, door, as, make, refusal }
}

const everything = rightNames.map((name) => right(name))
const partsOf = (token: string) => token.slice('dag_'.length).split('.') as [string, string, string]
const encoded = (value: unknown) => Buffer.from(JSON.stringify(value)).toString('base64url')
const claimsOf = (token: string) =>
  JSON.parse(Buffer.from(partsOf(token)[1], 'base64url').toString()) as Record<string, unknown>

describe('a token', () => {
  test('is its agent, with the part it was given', async () => {
    const { make, as } = start()
    const made = await make({ sandboxes: ['sbx_a'] })
    const caller = (await as(made.token))!
    expect(caller).toMatchObject({ accountId: 'acc_a', actorId: 'agt_a' })
    expect(caller.principal).toMatchObject({
      kind: 'agent',
      agentKind: 'main',
      jti: made.id,
      rights: ['read:files', 'delegate'],
      sandboxes: ['sbx_a'],
    })
  })

  test('is as long as a request can carry, or is not made', async () => {
    const { make, refusal, as } = start()
    const ids = (prefix: string, count: number) =>
      Array.from({ length: count }, (_, at) => `${prefix}_${String(at).padStart(20, 'a')}`)
    const outcomes = new Set<string>()
    for (let count = 10; count <= 100; count += 10) {
      const fields = { agents: ids('agt', count), sandboxes: ids('sbx', count) }
      const outcome = await refusal(fields)
      outcomes.add(outcome)
      if (outcome !== 'invalid_request') expect(await as((await make(fields)).token)).not.toBeNull()
    }
    expect([...outcomes]).toEqual([expect.stringMatching(/^made/), 'invalid_request'])
  })

  test('is over at its end, and lives 15 minutes at most', async () => {
    const { make, as, clock, door } = start()
    const made = await make()
    const ended: string[] = []
    door.hold((await as(made.token))!, (reason) => ended.push(reason))
    await clock.advance(15 * minute - 1_000)
    expect(await as(made.token)).not.toBeNull()
    await clock.advance(2_000)
    expect(await as(made.token)).toBeNull()
    expect(ended).toEqual(['expired'])
    expect(
      createAgentTokenSchema.safeParse({ agentId: 'agt_a', agentKind: 'bot', rights: [], ttlMs: 15 * minute + 1 })
        .success,
    ).toBe(false)
  })

  test.each([
    { parent: 'key_x' },
    { account: 'acc_b' },
    { accountId: 'acc_b' },
    { role: 'owner' },
    { jti: 'tok_a' },
    { exp: 9 },
  ])('nobody names %j in what they ask for', (more) => {
    expect(createAgentTokenSchema.safeParse({ agentId: 'agt_a', agentKind: 'bot', rights: [], ...more }).success).toBe(
      false,
    )
  })
})

describe('forged', () => {
  const resigned = (token: string, header: object, claims: object, key = keyPair.privateKey) => {
    const text = `${encoded(header)}.${encoded(claims)}`
    return `dag_${text}.${sign(null, Buffer.from(text), key).toString('base64url')}`
  }
  const good = { alg: 'EdDSA', typ: 'delta-agent+jwt' }

  test('the forger’s own tool makes a good one, so that its refusals mean something', async () => {
    const { make, as } = start()
    const { token } = await make()
    expect(await as(resigned(token, good, claimsOf(token)))).not.toBeNull()
  })

  test.each<[string, (token: string) => string]>([
    ['without a signature', (token) => `dag_${partsOf(token)[0]}.${partsOf(token)[1]}.`],
    ['with alg none', (token) => `dag_${encoded({ alg: 'none', typ: good.typ })}.${partsOf(token)[1]}.`],
    ['with alg none, signed all the same', (token) => resigned(token, { ...good, alg: 'none' }, claimsOf(token))],
    [
      'with HS256 and the public key as its secret',
      (token) => {
        const text = `${encoded({ alg: 'HS256', typ: good.typ })}.${partsOf(token)[1]}`
        const secret = keyPair.publicKey.export({ type: 'spki', format: 'pem' })
        return `dag_${text}.${createHmac('sha256', secret).update(text).digest('base64url')}`
      },
    ],
    ['by another key', (token) => resigned(token, good, claimsOf(token), generateKeyPairSync('ed25519').privateKey)],
    [
      'by a key that it brings itself',
      (token) => {
        const own = generateKeyPairSync('ed25519')
        return resigned(
          token,
          { ...good, jwk: own.publicKey.export({ format: 'jwk' }) },
          claimsOf(token),
          own.privateKey,
        )
      },
    ],
    ['with a kid', (token) => resigned(token, { ...good, kid: '../../dev/null' }, claimsOf(token))],
    [
      'for another use of the same key',
      (token) => resigned(token, good, { ...claimsOf(token), aud: 'delta/sessions' }),
    ],
    ['of another issuer', (token) => resigned(token, good, { ...claimsOf(token), iss: 'other' })],
    [
      'with changed claims',
      (token) =>
        `dag_${partsOf(token)[0]}.${encoded({ ...claimsOf(token), rights: ['write:files'] })}.${partsOf(token)[2]}`,
    ],
    ['with one claim more', (token) => resigned(token, good, { ...claimsOf(token), admin: true })],
    [
      'for longer than any',
      (token) => resigned(token, good, { ...claimsOf(token), exp: (claimsOf(token)['exp'] as number) + 1 }),
    ],
    [
      'from the future',
      (token) =>
        resigned(token, good, {
          ...claimsOf(token),
          iat: (claimsOf(token)['iat'] as number) + 120,
          exp: (claimsOf(token)['exp'] as number) + 120,
        }),
    ],
    ['for another account', (token) => resigned(token, good, { ...claimsOf(token), account: 'acc_b' })],
    ['of another parent', (token) => resigned(token, good, { ...claimsOf(token), parents: ['key_other'] })],
    ['with a trailing dot', (token) => `${token}.`],
    ['with another spelling of its last letter', (token) => token.slice(0, -1) + (token.endsWith('A') ? 'B' : 'A')],
    ['without its prefix', (token) => token.slice(4)],
    ['with a claim of an earlier version', (token) => resigned(token, good, { ...claimsOf(token), kind: 'main' })],
    ['much too long', (token) => `${token}${'A'.repeat(100_000)}`],
  ])('%s: nobody', async (_how, forge) => {
    const { make, as } = start()
    expect(await as(forge((await make()).token))).toBeNull()
  })

  /** A good one with another signature. */
  const unsigned = (token: string) => resigned(token, good, claimsOf(token), generateKeyPairSync('ed25519').privateKey)

  test('one is refused whatever becomes of the look at its root, and no later', async () => {
    const { make, as, roots } = start()
    const { token } = await make()
    roots.set('key_root', Promise.reject(new Error('The database is away')))
    expect(await as(unsigned(token))).toBeNull()
    await expect(as(token)).rejects.toThrow('The database is away')
    roots.set('key_root', new Promise(() => {}))
    expect(await as(unsigned(token))).toBeNull()
  })

  test('one is not remembered, nor does it make the good one forgotten', async () => {
    const { make, as, roots } = start()
    const { token } = await make()
    expect(await as(unsigned(token))).toBeNull()
    expect(await as(unsigned(token))).toBeNull()
    const caller = await as(token)
    expect(await as(unsigned(token))).toBeNull()
    roots.set('key_root', new Promise(() => {}))
    expect(await as(token)).toBe(caller)
  })

  test('every claim is required', async () => {
    const { make, as } = start()
    const { token } = await make()
    const names = Object.keys(claimsOf(token))
    expect(names.toSorted()).toEqual([
      'account',
      'agents',
      'aud',
      'exp',
      'iat',
      'iss',
      'jti',
      'parents',
      'rights',
      'sandboxes',
      'sub',
    ])
    for (const name of names) {
      const { [name]: _, ...rest } = claimsOf(token)
      expect([name, await as(resigned(token, good, rest))]).toEqual([name, null])
    }
  })
})

test('whoever makes one is written down with whom it is for', async () => {
  const { add, tokens, root } = start()
  add('agt_b', 'bot')
  const api = createApi()
  const seen: object[] = []
  api.use('*', async (c, next) => {
    c.set('requestId', 'req_test')
    c.set('caller', root)
    await next()
    seen.push({ made: c.get('made'), told: c.get('told') })
  })
  agentTokensFeature({ agentTokens: tokens }).routes?.(api)
  const answer = await api.request('/v1/agent-tokens', {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ agentId: 'agt_b', agentKind: 'bot', rights: [] }),
  })
  expect(answer.status).toBe(201)
  expect(seen).toEqual([{ made: expect.stringMatching(/^tok_/), told: { agentId: 'agt_b', agentKind: 'bot' } }])
})

describe('the signature', () => {
  const unfit = { privateKey: keyPair.privateKey, publicKey: generateKeyPairSync('ed25519').publicKey }

  // A server whose two keys do not fit checks none of its own by the public one, or it would know nobody.
  test('of a token made here is not checked', async () => {
    const { make, as, clock } = start({}, unfit)
    const { token } = await make()
    expect(await as(token)).not.toBeNull()
    await clock.advance(minute)
    expect(await as(token)).not.toBeNull()
  })

  test('of a token of another server is', async () => {
    const [here, there] = [start({}, unfit), start()]
    const { token } = await there.make()
    await here.make()
    expect(await here.as(token)).toBeNull()
  })

  test('that was checked is not checked again, and all above the token is', async () => {
    const signing = { ...keyPair }
    const [here, there] = [start({}, signing), start()]
    const { token } = await there.make()
    here.add('agt_a', 'main')
    expect(await here.as(token)).not.toBeNull()
    // Checked once more it would not fit.
    signing.publicKey = unfit.publicKey
    await here.clock.advance(minute)
    expect(await here.as(token)).not.toBeNull()
    await here.clock.advance(minute)
    here.agents.get('agt_a')!.mayAct = false
    expect(await here.as(token)).toBeNull()
  })
})

describe('narrowing', () => {
  test('nothing wider than its maker, in no respect', async () => {
    const { refusal } = start({
      rights: ['read:*', 'egress:*.example.com', 'delegate', 'write:keys', 'approve:*'].map(right),
      sandboxes: ['sbx_a'],
    })
    const own = { sandboxes: ['sbx_a'] }
    for (const rights of [
      ['write:files'],
      ['egress'],
      ['egress:example.org'],
      ['approve:*'],
      ['write:keys'],
      ['read:keys'],
      ['read:audit'],
      ['allocate:1'],
    ]) {
      expect([rights, await refusal({ rights, ...own })]).toEqual([rights, 'forbidden'])
    }
    expect(await refusal({ rights: ['read:files'] })).toBe('forbidden')
    expect(await refusal({ rights: ['read:files'], sandboxes: ['sbx_b'] })).toBe('forbidden')
    expect(await refusal({ rights: ['read:files', 'egress:a.example.com'], ...own })).toMatch(/^made/)
  })

  test('of read:* it gets what may be had', async () => {
    const { make } = start({ role: 'viewer', rights: ['read:*', 'delegate'].map(right) })
    const { rights } = await make({ rights: ['read:*'] })
    expect(rights).toContain('read:sandboxes')
    for (const name of ['read:*', 'read:files', 'read:keys', 'read:audit', 'read:operations'])
      expect(rights).not.toContain(name)
  })

  test('a bot does not raise itself, and agents are four deep at most', async () => {
    const { make, refusal, as } = start()
    let caller = (await as((await make({ rights: ['read:files', 'delegate'] })).token))!
    expect(await refusal({ agentId: 'agt_b', agentKind: 'bot', rights: ['write:files'] }, caller)).toBe('forbidden')
    for (let depth = 2; depth <= 4; depth++)
      caller = (await as((await make({ agentId: `agt_${depth}` }, caller)).token))!
    expect(await refusal({ agentId: 'agt_5' }, caller)).toBe('forbidden')
  })

  test('an agent speaks for itself and those below it, and knows of no others', async () => {
    const { add, make, refusal, as } = start()
    add('agt_main', 'main')
    for (const name of ['agt_bot', 'agt_sibling']) add(name, 'bot', 'agt_main')
    add('agt_own', 'bot', 'agt_bot')
    const bot = (await as((await make({ agentId: 'agt_bot' })).token))!
    for (const agentId of ['agt_main', 'agt_sibling']) {
      expect([agentId, await refusal({ agentId }, bot)]).toEqual([agentId, 'agent_not_found'])
    }
    for (const agentId of ['agt_bot', 'agt_own']) {
      expect([agentId, await refusal({ agentId }, bot)]).toEqual([agentId, expect.stringMatching(/^made/)])
    }
  })

  test('of an agent that is not there, of another kind, or at rest there is none', async () => {
    const { add, agents, tokens, root, refusal, make, as } = start()
    const ask = (agentId: string, caller = root) =>
      tokens.create(createAgentTokenSchema.parse({ agentId, rights: [] }), caller).then(
        () => 'made',
        (error: DeltaError) => error.code,
      )
    add('agt_a', 'bot')
    expect(await ask('agt_none')).toBe('agent_not_found')
    expect(await ask('agt_a', testCaller(testKeyPrincipal({ accountId: 'acc_b' })))).toBe('agent_not_found')
    expect(await refusal({ agentKind: 'main' })).toBe('invalid_request')
    const made = await make({ agentKind: 'bot' })
    for (const [state, code] of [
      ['paused', 'agent_paused'],
      ['archived', 'agent_archived'],
    ] as const) {
      agents.set('agt_a', { ...agents.get('agt_a')!, state, mayAct: false })
      expect([state, await ask('agt_a')]).toEqual([state, code])
    }
    expect(await as(made.token)).toBeNull()
  })

  test('what the agent or one above it loses, its tokens lose', async () => {
    const { add, agents, make, as, revocations } = start()
    add('agt_main', 'main')
    add('agt_bot', 'bot', 'agt_main')
    const { token } = await make({ agentId: 'agt_bot', agentKind: 'bot', rights: ['read:files', 'request'] })
    const may = async () => decide((await as(token))!.principal, { right: 'read:files' }).allowed
    expect(await may()).toBe(true)
    agents.set('agt_bot', { ...agents.get('agt_bot')!, rights: [right('request')] })
    await revocations.revoke(['agt_main'])
    expect(await may()).toBe(false)
    expect((await as(token))!.above).toEqual(['agt_main'])
  })

  test('one that is out of tokens looks and asks, and has the rest again with its tokens', async () => {
    const { add, agents, make, as, revocations } = start()
    add('agt_a', 'main')
    const rights = ['read:files', 'write:exec', 'allocate:5', 'request']
    const { token } = await make({ rights })
    const now = async () => {
      const { principal } = (await as(token))!
      return principal.kind === 'agent' && principal.rights
    }
    expect(await now()).toEqual(rights)
    for (const isAtRest of [true, false]) {
      agents.set('agt_a', { ...agents.get('agt_a')!, isAtRest })
      await revocations.revoke(['agt_a'])
      expect(await now()).toEqual(isAtRest ? ['read:files', 'request'] : rights)
    }
  })

  test('a messenger has neither sandbox nor workspace', async () => {
    const { refusal } = start()
    for (const one of [
      'write:exec',
      'read:files',
      'write:sandboxes',
      'read:workspaces',
      'delegate',
      'egress',
      'allocate:5',
    ]) {
      expect([one, await refusal({ agentKind: 'messenger', rights: [one] })]).toEqual([one, 'forbidden'])
    }
    expect(await refusal({ agentKind: 'messenger', rights: ['send:email'] })).toMatch(/^made/)
  })

  test('an agent’s token ends no later than what it was made with', async () => {
    const { make, as, clock } = start()
    const parent = await make({ ttlMs: 5 * minute })
    const child = await make({ agentId: 'agt_b', agentKind: 'bot', ttlMs: 15 * minute }, (await as(parent.token))!)
    expect(Date.parse(child.expiresAt)).toBeLessThanOrEqual(Date.parse(parent.expiresAt))
    await clock.advance(5 * minute + 1_000)
    expect(await as(child.token)).toBeNull()
  })

  test('a limit to some agents is one to whom tokens are for', async () => {
    const { refusal } = start({ agents: ['agt_b'] })
    expect(await refusal({ agents: ['agt_b'] })).toBe('forbidden')
    expect(await refusal({ agentId: 'agt_b', agents: ['agt_b'] })).toMatch(/^made/)
  })

  test('what the root loses, all that descend from it lose', async () => {
    const { make, as, roots, root, revocations } = start()
    const child = await make({ agentId: 'agt_b', agentKind: 'bot' }, (await as((await make()).token))!)
    const may = async () => decide((await as(child.token))!.principal, { right: 'read:files' }).allowed
    expect(await may()).toBe(true)
    roots.set('key_root', {
      ...root,
      principal: testKeyPrincipal({ accountId: 'acc_a', keyId: 'key_root', role: 'viewer' }),
    })
    await revocations.revoke(['key_root'])
    expect(await may()).toBe(false)
    roots.set('key_root', null)
    await revocations.revoke(['key_root'])
    expect(await as(child.token)).toBeNull()
  })
})

describe('revoking', () => {
  test.each(['token', 'root'])('the %s is heard while the root is looked up', async (what) => {
    const { make, as, roots, root, revocations } = start()
    const made = await make()
    let answer: (root: KnownCaller) => void = () => {}
    roots.set('key_root', new Promise((resolve) => (answer = resolve)))
    const reading = as(made.token)
    await Promise.resolve()
    await revocations.revoke([what === 'token' ? made.id : 'key_root'])
    answer(root)
    expect(await reading).toBeNull()
  })

  test('ends the token, those made with it and what they opened; also where nobody remembers it any more', async () => {
    const { make, as, door, tokens, root } = start()
    const parent = await make()
    const child = await make({ agentId: 'agt_b', agentKind: 'bot' }, (await as(parent.token))!)
    const ended: string[] = []
    door.hold((await as(child.token))!, (reason) => ended.push(reason))
    await tokens.revoke(parent.token, root)
    expect(ended).toEqual(['revoked'])
    expect([await as(parent.token), await as(child.token)]).toEqual([null, null])
  })

  test('another account ends nobody’s token, and is told nothing', async () => {
    const { make, as, tokens } = start()
    const { token } = await make()
    const stranger = testCaller(testKeyPrincipal({ accountId: 'acc_b' }))
    await tokens.revoke(token, stranger)
    await tokens.revoke('no token at all', stranger)
    expect(await as(token)).not.toBeNull()
  })
})
