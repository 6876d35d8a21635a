import { afterEach, beforeEach, expect, test, vi } from 'vitest'
import { json, type Peer, sandboxInfo, startPeer } from '../../sdk/test/peer.ts'
import { run } from './testing.ts'

let peer: Peer | undefined
beforeEach(() => void vi.stubEnv('DELTA_API_KEY', 'delta_test'))
afterEach(async () => {
  vi.unstubAllEnvs()
  await peer?.close()
  peer = undefined
})

const sandboxId = `sbx_${'a'.repeat(20)}`
const approval = {
  id: 'apr_a',
  kind: 'egress',
  state: 'pending',
  description: 'Programs in the sandbox sbx_1 may connect to a.example at port 443.',
  action: { kind: 'egress', host: 'a.example' },
  actionHash: 'a'.repeat(64),
  reason: 'It is \u001b[2J\u202eneeded\u2028really',
  askedBy: 'agt_a',
  askedThrough: ['usr_a', 'agt_main'],
  sandboxId: 'sbx_1',
  askedAt: '2026-01-01T00:00:00.000Z',
  expiresAt: '2026-01-02T00:00:00.000Z',
  decidedBy: null,
  decidedAt: null,
  refusal: null,
  endedAt: null,
  failure: null,
}

const tokenRequest = {
  id: 'trq_a',
  agentId: 'agt_b',
  tokens: 50,
  reason: 'Forty \u001b[2Jmails',
  automatic: false,
  state: 'pending_main',
  askedBy: 'agt_b',
  mainAgent: 'agt_main',
  mainUntil: '2026-01-01T00:05:00.000Z',
  endorsedBy: null,
  from: null,
  approvalId: null,
  askedAt: '2026-01-01T00:00:00.000Z',
  expiresAt: '2026-01-02T00:00:00.000Z',
  decidedBy: null,
  decidedAt: null,
  refusal: null,
  endedAt: null,
  failure: null,
}

async function against(...answers: Parameters<typeof startPeer>) {
  peer = await startPeer(...answers)
  const { url, requests } = peer
  const delta = (...args: string[]) => run(['--url', url, ...args])
  const asked = () =>
    requests.map(({ method, target, body }) => [method, target, body === '' ? undefined : (JSON.parse(body) as object)])
  const typing = (keys: string, ...args: string[]) => run(['--url', url, ...args], { stdin: [keys], tty: true })
  return { delta, typing, asked }
}

test('ls shows what waits, or all there is', async () => {
  const page = json(200, { data: [approval], nextCursor: null })
  const requests = json(200, { data: [tokenRequest], nextCursor: null })
  const { delta, asked } = await against(page, requests, page)
  const { stdout } = await delta('approve', 'ls')
  expect(stdout).toContain('apr_a')
  expect(stdout).toContain('trq_a')
  expect(stdout).toContain('The agent agt_b gets 50 tokens of the account’s reserve')
  expect(stdout).toContain(approval.description)
  await delta('approve', 'list', '--all', '--kind', 'egress')
  expect(asked().map(([, target]) => target)).toEqual([
    '/v1/approvals?state=pending',
    '/v1/token-requests?state=pending_main',
    '/v1/approvals?kind=egress',
  ])
})

test('alone it lists what waits, and says how to decide', async () => {
  const page = json(200, { data: [approval], nextCursor: null })
  const { delta, asked } = await against(page, json(200, { data: [tokenRequest], nextCursor: null }))
  const { stdout, exitCode } = await delta('approve')
  expect(exitCode).toBe(0)
  for (const part of ['apr_a', 'trq_a', 'delta approve yes APPROVAL']) expect(stdout).toContain(part)
  expect(asked().map(([, target]) => target)).toEqual([
    '/v1/approvals?state=pending',
    '/v1/token-requests?state=pending_main',
  ])
})

test('where nothing waits it says so', async () => {
  const none = json(200, { data: [], nextCursor: null })
  const { delta } = await against(none, none, none, none, none)
  expect((await delta('approve')).stdout).toBe('Nothing waits for a decision.\n')
  expect((await delta('approve', '--json')).stdout).toBe('[]\n')
  expect((await delta('approve', '--all')).stdout).toMatch(/^APPROVAL .*\n$/)
})

test.each([
  [['apr_a'], 'delta approve show apr_a'],
  [['trq_a'], 'delta approve show trq_a'],
  [['yse', 'apr_a'], "'yse' is no command"],
  [['list', 'apr_a'], 'delta approve show apr_a'],
])('what is no command asks for nothing and says what there is: %j', async (args, said) => {
  const { delta, asked } = await against(json(200, approval))
  const { stderr, exitCode } = await delta('approve', ...args)
  expect([exitCode, stderr]).toEqual([2, expect.stringContaining(said)])
  expect(asked()).toEqual([])
})

test('show tells what will happen and why, with nothing that a terminal would obey', async () => {
  const { delta } = await against(json(200, approval))
  const { stdout } = await delta('approve', 'show', 'apr_a')
  for (const part of [
    approval.description,
    '{"kind":"egress","host":"a.example"}',
    approval.actionHash,
    'agt_a, of agt_main, of usr_a',
  ]) {
    expect(stdout).toContain(part)
  }
  expect(stdout).toContain('It is \\x1b[2J\\u{202e}needed\\u{2028}really')
})

test('yes shows it, and sends the hash of what was shown when somebody types yes, or the hash that was given', async () => {
  const done = json(200, { ...approval, state: 'executed' })
  const { typing, delta, asked } = await against(json(200, approval), done, done)
  const { stderr, exitCode } = await typing('yes\r', 'approve', 'yes', 'apr_a')
  expect(exitCode).toBe(0)
  expect(stderr).toContain(approval.description)
  expect(stderr).toContain(approval.actionHash)
  await delta('approve', 'yes', 'apr_a', '--hash', 'b'.repeat(64))
  expect(asked().filter(([method]) => method === 'POST')).toEqual([
    ['POST', '/v1/approvals/apr_a/approve', { actionHash: approval.actionHash }],
    ['POST', '/v1/approvals/apr_a/approve', { actionHash: 'b'.repeat(64) }],
  ])
})

test.each(['\r', 'y\r', 'no\r', ''])('typing %j approves nothing', async (typed) => {
  const { typing, asked } = await against(json(200, approval))
  expect((await typing(typed, 'approve', 'yes', 'apr_a')).exitCode).toBe(2)
  expect(asked().filter(([method]) => method === 'POST')).toEqual([])
})

test('yes of a program names the hash', async () => {
  const { delta, asked } = await against(json(200, approval))
  const { stderr, exitCode } = await delta('approve', 'yes', 'apr_a')
  expect([exitCode, stderr]).toEqual([2, expect.stringContaining('--hash')])
  expect(asked().filter(([method]) => method === 'POST')).toEqual([])
})

test('yes to what then could not be done says why and is no success', async () => {
  const failure = { code: 'sandbox_not_found', message: 'There is no sandbox sbx_1' }
  const { delta } = await against(json(200, { ...approval, state: 'failed', failure }))
  const { stdout, exitCode } = await delta('approve', 'yes', 'apr_a', '--hash', approval.actionHash)
  expect(stdout).toContain('sandbox_not_found: There is no sandbox sbx_1')
  expect(exitCode).toBe(1)
})

test('no refuses with the words that follow, and cancel takes back', async () => {
  const refused = json(200, { ...approval, state: 'refused', refusal: 'use the mirror' })
  const { delta, asked } = await against(refused, json(200, { ...approval, state: 'canceled' }))
  expect((await delta('approve', 'no', 'apr_a', 'use', 'the', 'mirror')).stdout).toContain('use the mirror')
  await delta('approve', 'cancel', 'apr_a')
  expect(asked()).toEqual([
    ['POST', '/v1/approvals/apr_a/refuse', { reason: 'use the mirror' }],
    ['POST', '/v1/approvals/apr_a/cancel', undefined],
  ])
})

test('egress request asks for a host and shows what waits', async () => {
  const { delta, asked } = await against(json(200, { ...sandboxInfo, id: sandboxId }), json(201, approval))
  const { stdout, stderr } = await delta('egress', 'request', sandboxId, 'a.example', 'the', 'build', '--port', '443')
  expect(stderr).toBe('')
  expect(stdout).toContain('apr_a')
  expect(asked()[1]).toEqual([
    'POST',
    `/v1/sandboxes/${sandboxId}/network/requests`,
    { host: 'a.example', reason: 'the build', port: 443 },
  ])
})

test('a request for tokens is looked at and decided on in the same way, for exactly as many', async () => {
  const over = {
    ...tokenRequest,
    state: 'granted',
    from: 'reserve',
    decidedBy: 'usr_a',
    decidedAt: tokenRequest.askedAt,
  }
  const failed = { ...over, state: 'failed', failure: { code: 'balance_too_low', message: 'Too low' } }
  const answers = [tokenRequest, over, failed, { ...over, state: 'refused', refusal: 'Later' }, tokenRequest]
  const { delta, typing, asked } = await against(...answers.map((one) => json(200, one)))
  const yes = await typing('yes\r', 'approve', 'yes', 'trq_a')
  expect(yes.stderr).toContain('gets 50 tokens of the account’s reserve')
  expect(yes.stderr).not.toContain('\u001b[2J')
  expect(await delta('approve', 'yes', 'trq_a', '--tokens', '50')).toMatchObject({ exitCode: 1 })
  await delta('approve', 'no', 'trq_a', 'Later')
  expect((await delta('approve', 'show', 'trq_a')).stdout).toContain('agt_main, until 2026-01-01T00:05:00.000Z')
  expect(asked().map(([, target, body]) => [target, body])).toEqual([
    ['/v1/token-requests/trq_a', undefined],
    ['/v1/token-requests/trq_a/approve', { tokens: 50 }],
    ['/v1/token-requests/trq_a/approve', { tokens: 50 }],
    ['/v1/token-requests/trq_a/refuse', { reason: 'Later' }],
    ['/v1/token-requests/trq_a', undefined],
  ])
})

test('without a terminal nobody says yes to tokens by accident', async () => {
  const { delta, asked } = await against(json(200, tokenRequest))
  expect((await delta('approve', 'yes', 'trq_a')).stderr).toContain('--tokens')
  expect(asked()).toHaveLength(1)
})

test('budget requests lists what agents ask for', async () => {
  const page = json(200, { data: [tokenRequest], nextCursor: null })
  const { delta, asked } = await against(page, page)
  expect((await delta('budget', 'requests')).stdout).toMatch(/trq_a +pending_main +agt_b +50/)
  await delta('budget', 'requests', '--all', '--agent', 'agt_b')
  expect(asked().map(([, target]) => target)).toEqual([
    '/v1/token-requests?state=pending',
    '/v1/token-requests?agentId=agt_b',
  ])
})
