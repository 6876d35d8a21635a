import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { covers, right, type Right } from '../access/callers/door.ts'
import { testKeyPrincipal } from '../access/testing.ts'
import {
  effective,
  grantedRights,
  mayAllocate,
  mayAuthenticate,
  mayChange,
  mayKnow,
  mayMoveBelow,
  mayPlace,
  mayReachWith,
  mayStandBelow,
  mayWork,
  type Standing,
  type Verdict,
} from './rules.ts'
import { agentStates, createAgentSchema } from './schema.ts'

const rightsOf = (...texts: string[]) => texts.map(right)
const at = (line: string[], more: Partial<Standing> = {}): Standing => ({
  id: line.at(-1)!,
  kind: line.length === 1 ? 'main' : 'bot',
  state: 'active',
  line,
  ...more,
})
const asAgent = (agentId: string, rights: readonly Right[] = []) =>
  ({ kind: 'agent', accountId: 'acc_a', agentId, agentKind: 'bot', jti: 'tok_a', rights }) as const
const said = (verdict: Verdict) => (verdict.ok ? 'fine' : verdict.code)
const key = testKeyPrincipal()

describe('who stands where', () => {
  test('a main agent at the top or below a main agent, nobody below a messenger', () => {
    expect(said(mayStandBelow('main', undefined))).toBe('fine')
    expect(said(mayStandBelow('main', at(['agt_a'])))).toBe('fine')
    expect(said(mayStandBelow('main', at(['agt_a', 'agt_b'])))).toBe('invalid_request')
    expect(said(mayStandBelow('bot', at(['agt_a', 'agt_b'])))).toBe('fine')
    expect(said(mayStandBelow('bot', at(['agt_a', 'agt_b'], { kind: 'messenger' })))).toBe('invalid_request')
  })

  test('four deep and no deeper, and not below what is archived', () => {
    expect(said(mayStandBelow('bot', at(['agt_a', 'agt_b', 'agt_c'])))).toBe('fine')
    expect(said(mayStandBelow('bot', at(['agt_a', 'agt_b', 'agt_c', 'agt_d'])))).toBe('agent_too_deep')
    for (const state of ['archiving', 'archived'] as const) {
      expect(said(mayStandBelow('bot', at(['agt_a'], { state })))).toBe('agent_archived')
    }
  })

  test('no circle, and no other place than its own', () => {
    const agent = at(['agt_a', 'agt_b'])
    expect(said(mayMoveBelow(agent, 'agt_b', ['agt_a', 'agt_b']))).toBe('agent_cycle')
    expect(said(mayMoveBelow(agent, 'agt_c', ['agt_a', 'agt_b', 'agt_c']))).toBe('agent_cycle')
    expect(said(mayMoveBelow(agent, 'agt_x', ['agt_x']))).toBe('agent_parent_fixed')
    expect(said(mayMoveBelow(agent, 'agt_a', ['agt_a']))).toBe('fine')
  })

  test.each<[string, object, boolean]>([
    ['a main agent', { name: 'x' }, true],
    ['a bot with its parent and task', { name: 'x', kind: 'bot', parentAgent: 'agt_a', task: 'y' }, true],
    ['below a parent a bot without saying so', { name: 'x', parent: 'agt_a', task: 'y', channel: 'email' }, true],
    ['a bot without a parent', { name: 'x', kind: 'bot', task: 'y' }, false],
    ['a bot without a task', { name: 'x', parentAgent: 'agt_a' }, false],
    ['two parents', { name: 'x', parentAgent: 'agt_a', parent: 'agt_a', task: 'y' }, false],
    ['a main agent with a channel', { name: 'x', channel: 'email' }, false],
    ['a messenger', { name: 'x', kind: 'messenger', parentAgent: 'agt_a', channel: 'sms' }, true],
    ['a messenger without a channel', { name: 'x', kind: 'messenger', parentAgent: 'agt_a' }, false],
    ['a messenger to programs', { name: 'x', kind: 'messenger', parentAgent: 'agt_a', channel: 'api' }, false],
    [
      'a messenger with a computer',
      { name: 'x', kind: 'messenger', parentAgent: 'agt_a', channel: 'sms', memoryMb: 512 },
      false,
    ],
    ['its own id', { name: 'x', id: 'agt_a' }, false],
    ['a name of nothing', { name: '  ' }, false],
    ['a name that writes backwards', { name: 'a\u202eb' }, false],
  ])('%s', (_, wish, fits) => {
    expect(createAgentSchema.safeParse(wish).success).toBe(fits)
  })
})

describe('who may', () => {
  const [main, bot, own] = [at(['agt_main']), at(['agt_main', 'agt_bot']), at(['agt_main', 'agt_bot', 'agt_own'])]
  const sibling = at(['agt_main', 'agt_sibling'])

  test('an agent knows of itself and those below it, and changes only these', () => {
    const principal = asAgent('agt_bot')
    expect([main, bot, own, sibling].map((agent) => mayKnow(principal, agent))).toEqual([false, true, true, false])
    expect([main, bot, own, sibling].map((agent) => said(mayChange(principal, agent)))).toEqual([
      'forbidden',
      'forbidden',
      'fine',
      'forbidden',
    ])
    expect([main, bot, own, sibling, undefined].map((agent) => said(mayPlace(principal, agent)))).toEqual([
      'forbidden',
      'fine',
      'fine',
      'forbidden',
      'forbidden',
    ])
    expect([main, bot, own].every((agent) => mayKnow(key, agent) && mayChange(key, agent).ok)).toBe(true)
  })

  test('from the reserve no agent gives, whatever its rights; from an agent who has the right to so many', () => {
    const agent = asAgent('agt_main', rightsOf('allocate'))
    expect(said(mayAllocate(agent, 1, 'reserve'))).toBe('forbidden')
    expect(said(mayAllocate(agent, 1, 'agent'))).toBe('fine')
    expect(said(mayAllocate(asAgent('agt_main', rightsOf('allocate:5')), 5, 'agent'))).toBe('fine')
    expect(said(mayAllocate(asAgent('agt_main', rightsOf('allocate:5')), 6, 'agent'))).toBe('forbidden')
    expect(said(mayAllocate(key, 6, 'reserve'))).toBe('fine')
    for (const rights of [['write:agents'], ['allocate'], ['write:billing'], ['allocate:5', 'write:billing']]) {
      expect(said(mayAllocate(testKeyPrincipal({ rights: rightsOf(...rights) }), 6, 'reserve'))).toBe('forbidden')
    }
    expect(said(mayAllocate(testKeyPrincipal({ rights: rightsOf('allocate') }), 6, 'agent'))).toBe('fine')
    const person = {
      kind: 'user',
      accountId: 'acc_a',
      userId: 'usr_a',
      sessionId: 'ses_a',
      secondFactor: false,
    } as const
    expect(said(mayAllocate({ ...person, role: 'member' }, 6, 'reserve'))).toBe('fine')
    expect(said(mayAllocate({ ...person, role: 'viewer' }, 6, 'reserve'))).toBe('forbidden')
    expect(said(mayAllocate(testKeyPrincipal({ role: 'viewer' }), 6, 'reserve'))).toBe('forbidden')
    expect(said(mayAllocate(agent, 0, 'reserve'))).toBe('fine')
  })

  test('work takes an agent that is active, a computer one that has one', () => {
    const of = (state: Standing['state'], kind: Standing['kind'] = 'bot') =>
      said(mayWork({ id: 'agt_a', kind, state }, { computer: true }))
    expect(agentStates.map((state) => [state, of(state)])).toEqual([
      ['creating', 'fine'],
      ['undoing', 'fine'],
      ['active', 'fine'],
      ['paused', 'agent_paused'],
      ['suspended', 'agent_suspended'],
      ['archiving', 'agent_archived'],
      ['archived', 'agent_archived'],
    ])
    expect(of('active', 'messenger')).toBe('agent_has_no_sandbox')
    expect(agentStates.filter(mayAuthenticate)).toEqual(['active', 'suspended'])
  })
})

describe('rights', () => {
  const pool = [
    'read:*',
    'write:*',
    'read:files',
    'write:files',
    'egress',
    'egress:*.example.com',
    'egress:a.example.com',
    'allocate:5',
    'allocate:500',
    'send:email',
    'send:email:welcome',
  ]
  const someRights = fc.subarray(pool).map((texts) => rightsOf(...texts))

  test('no line of agents has what one of it has not', () => {
    fc.assert(
      fc.property(fc.array(someRights, { minLength: 1, maxLength: 4 }), (line) => {
        const left = effective(line)
        for (const own of line) expect(left.every((one) => own.some((had) => covers(had, one)))).toBe(true)
      }),
    )
  })

  test('what an agent is given its maker has, and its parent', () => {
    fc.assert(
      fc.property(someRights, someRights, fc.option(someRights, { nil: undefined }), (own, parent, wished) => {
        const principal = asAgent('agt_main', own)
        const given = grantedRights(wished, { kind: 'bot', channel: 'email', principal, parent })
        if (!given.ok) return
        for (const one of given.rights) {
          expect(own.some((had) => covers(had, one)) && parent.some((had) => covers(had, one))).toBe(true)
        }
      }),
    )
  })

  test('without a wish each kind gets what it usually needs, as far as that goes', () => {
    const parent = rightsOf('read:files', 'write:exec', 'send:email:welcome', 'write:agents', 'delegate')
    const of = (kind: Standing['kind'], channel: 'email' | null) => {
      const given = grantedRights(undefined, { kind, channel, principal: key, parent })
      return given.ok ? given.rights.toSorted() : given
    }
    expect(of('main', null)).toEqual([...parent].toSorted())
    expect(of('bot', 'email')).toEqual(['read:files', 'send:email:welcome', 'write:exec'])
    expect(of('messenger', 'email')).toEqual(['send:email:welcome'])
  })

  test('a wish that goes beyond is refused by name', () => {
    const asked = { kind: 'bot', channel: 'api', principal: key, parent: rightsOf('read:files') } as const
    expect(grantedRights(rightsOf('read:files', 'write:files'), asked)).toEqual({ ok: false, right: 'write:files' })
    expect(grantedRights(rightsOf('write:keys'), { ...asked, parent: undefined })).toEqual({
      ok: false,
      right: 'write:keys',
    })
    expect(grantedRights(rightsOf('write:exec'), { ...asked, kind: 'messenger', parent: undefined })).toMatchObject({
      ok: false,
    })
  })

  test('its computer reaches what its rights say', () => {
    expect(mayReachWith(rightsOf('egress:*.example.com'), 'a.example.com')).toBe(true)
    expect(mayReachWith(rightsOf('egress:*.example.com'), 'example.org')).toBe(false)
    expect(mayReachWith(rightsOf('egress:*.example.com'), '*')).toBe(false)
    expect(mayReachWith(rightsOf('egress'), '[2001:db8::1]')).toBe(true)
    expect(mayReachWith(rightsOf('egress:*.example.com'), '[2001:db8::1]')).toBe(false)
  })
})
