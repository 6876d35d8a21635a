import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, afterEach, expect, test, vi } from 'vitest'
import { type Answer, events, failure, json, type Peer, startPeer } from '../../sdk/test/peer.ts'
import { run, type RunSettings } from './testing.ts'

const folder = mkdtempSync(join(tmpdir(), 'delta-tasks-'))
const id = `tsk_${'a'.repeat(20)}`
const at = '2030-01-01T00:00:00.000Z'
const usage = { input: 10, cacheRead: 0, cacheWrite: 0, output: 5, tokens: 1.5, estimated: false }
const task = (changes: object = {}) => ({
  id,
  agentId: 'agt_a',
  state: 'working',
  reason: null,
  message: null,
  waitsFor: [],
  text: 'Do it',
  model: 'recording/fibonacci',
  chat: false,
  turn: 1,
  step: 2,
  maxSteps: 200,
  lastEvent: 3,
  tokenBudget: null,
  paidBy: null,
  parentTaskId: null,
  forkedFrom: null,
  usage,
  metadata: {},
  createdBy: 'key_default',
  createdAt: at,
  endedAt: null,
  ...changes,
})
const agent = { id: 'agt_a', name: 'Worker', kind: 'main', state: 'active' }
const finished = task({ state: 'finished', reason: 'done', endedAt: at })
const said = (text: string) => ({ by: 'key_default', parts: [{ type: 'text', text }] })

let peer: Peer | undefined
afterEach(async () => {
  vi.unstubAllEnvs()
  await peer?.close()
  peer = undefined
})
afterAll(() => rmSync(folder, { recursive: true }))

type Told = [kind: string, data?: object]
const stream = (told: readonly Told[]): Answer =>
  events(told.map(([event, data], index) => ({ event, id: index + 1, data: { ...data, at } })))

interface Scene {
  info?: object
  /** Each time somebody watches the next one. */
  told?: readonly (readonly Told[])[]
}

async function start({ info = finished, told = [] }: Scene = {}) {
  const left = [...told]
  peer = await startPeer((request, response) => {
    const path = request.target.replace(/\?.*/, '')
    if (path === '/v1/agents') return json(200, { data: [agent], nextCursor: null })(request, response)
    if (path.startsWith('/v1/agents/')) return json(200, agent)(request, response)
    if (path.endsWith('/events')) return stream(left.shift() ?? [])(request, response)
    if (path === '/v1/tasks' && request.method === 'GET')
      return json(200, { data: [info], nextCursor: null })(request, response)
    if (path.endsWith('/result'))
      return json(200, { state: 'finished', reason: 'done', text: 'Done\u001b[2J.', value: null, files: [] })(
        request,
        response,
      )
    return json(request.method === 'POST' ? 201 : 200, info)(request, response)
  })
  vi.stubEnv('DELTA_URL', peer.url)
  vi.stubEnv('DELTA_API_KEY', 'test-key')
  const sent = () => peer!.requests.filter(({ method }) => method === 'POST')
  const bodies = () => sent().map(({ body }) => (body === '' ? undefined : (JSON.parse(body) as object)))
  const delta = (args: string[], settings?: RunSettings) => run(['task', ...args], settings)
  return { delta, sent, bodies }
}

const end: Told = ['end', { state: 'finished', reason: 'done', message: 'It is done' }]

test('what it does is shown as text: what the model writes, one line for each call, its output cut', async () => {
  const lines = Array.from({ length: 40 }, (_, index) => `line ${index}`)
  const { delta } = await start({
    told: [
      [
        ['message', said('Do it')],
        ['step', { step: 1, turn: 1 }],
        ['text', { text: 'I lo' }],
        [
          'attempt',
          { model: 'a/b', state: 'failed', failure: { kind: 'limited', message: 'Slow down' }, waitMs: 1500 },
        ],
        ['text', { text: 'I look' }],
        ['reply', { parts: [{ type: 'text', text: 'I look.' }] }],
        ['call', { id: 'tcl_a', tool: 'run_terminal', input: JSON.stringify({ command: 'seq 40\nls' }) }],
        ['output', { callId: 'tcl_a', stream: 'stdout', text: 'line 0\nli' }],
        ['output', { callId: 'tcl_a', stream: 'stdout', text: `ne 1\n${lines.slice(2).join('\n')}\n` }],
        ['result', { id: 'tcl_a', tool: 'run_terminal', isError: false, text: `${lines.join('\n')}\n[exit code 0]` }],
        ['call', { id: 'tcl_b', tool: 'read_file', input: '{"path":"a\\u001b[2J"}' }],
        ['result', { id: 'tcl_b', tool: 'read_file', isError: true, text: 'no such\tfile\u0007' }],
        ['reply', { parts: [{ type: 'text', text: 'Done.\nAll\u001b[31m of it.' }] }],
        end,
      ],
    ],
  })
  const shown = await delta(['attach', id])
  expect(shown.exitCode).toBe(0)
  expect(shown.stdout).toBe(
    [
      '> Do it',
      'I lo',
      '  (Slow down; asked again in 1.5 s)',
      'I look.',
      '→ run_terminal seq 40 ls',
      ...lines.slice(0, 12).map((line) => `  ${line}`),
      '  …',
      '  [exit code 0]',
      '→ read_file a\\x1b[2J',
      '  no such  file\\x07',
      '  failed',
      'Done.',
      'All\\x1b[31m of it.',
      '',
    ].join('\n'),
  )
  expect(shown.stderr).toBe(`\nfinished (${id}, 2 steps, 1.5 tokens for the model)\n`)
})

test('with --json its events are lines', async () => {
  const { delta } = await start({ told: [[['message', said('Do it')], end]] })
  const shown = await delta(['create', '--agent', 'Worker', '--json', 'Do it'])
  expect(shown).toMatchObject({ exitCode: 0, stderr: '' })
  const parsed = shown.stdout
    .trim()
    .split('\n')
    .map((line) => JSON.parse(line) as object)
  expect(parsed).toEqual([
    { id: 1, kind: 'message', at, data: said('Do it') },
    { id: 2, kind: 'end', at, data: end[1] },
  ])
})

test('a question is answered on a terminal, and without one it is told with exit code 2', async () => {
  const asks = { state: 'waiting', waitsFor: [{ kind: 'answer', callId: 'tcl_a', question: 'Which\u001b[2J?' }] }
  const told: Told[] = [['message', said('Do it')], ['step'], ['state', asks]]
  const scene = { info: task(asks), told: [told] }
  const plain = await (await start(scene)).delta(['attach', id])
  expect(plain.exitCode).toBe(2)
  expect(plain.stderr).toBe(`It asks: Which\\x1b[2J?\nAnswer: delta task message ${id} TEXT\n`)
  await peer!.close()

  const { delta, bodies } = await start({ info: task(asks), told: [[...told, ['message', said('red')], end]] })
  const typed = await delta(['attach', id], { stdin: ['\r', ' red', '\r'], tty: true })
  expect(bodies()).toEqual([{ text: 'red' }])
  expect(typed.stderr).toContain('? Which\\x1b[2J?\n')
  // It stands there already, as it was typed.
  expect(typed.stdout).not.toContain('red')
})

test('a question that was answered is not asked again', async () => {
  const asks = { state: 'waiting', waitsFor: [{ kind: 'answer', callId: 'tcl_a', question: 'Which?' }] }
  const { delta, sent } = await start({
    info: { ...finished, lastEvent: 4 },
    told: [[['state', asks], ['message', said('red')], ['state', { state: 'working' }], end]],
  })
  expect(await delta(['attach', id])).toMatchObject({ exitCode: 0, stdout: '> red\n' })
  expect(sent()).toEqual([])
})

test.each([
  [{ state: 'paused', waitsFor: [] }, `delta task resume ${id}`, 2],
  [{ state: 'suspended', message: 'Its agent is out of tokens', waitsFor: [] }, 'Its agent is out of tokens', 2],
  [{ state: 'suspended', message: 'x', waitsFor: [{ kind: 'tokens', requestId: 'trq_a' }] }, 'approve yes trq_a', 2],
  [{ state: 'waiting', waitsFor: [{ kind: 'approval', callId: 'c', approvalId: 'apr_a' }] }, 'approve yes apr_a', 2],
  [{ state: 'waiting', chat: true, waitsFor: [{ kind: 'message' }] }, '', 0],
  [{ state: 'waiting', waitsFor: [{ kind: 'message' }] }, `delta task message ${id}`, 2],
])('standing still is told with what lets it go on: %j', async (state, told, exitCode) => {
  const { delta } = await start({ info: task({ ...state, lastEvent: 1 }), told: [[['state', state]]] })
  const shown = await delta(['attach', id])
  expect(shown).toMatchObject({ exitCode, stderr: expect.stringContaining(told) })
})

test('a task that failed, or was canceled, is exit code 1 with its reason', async () => {
  const failed = task({ state: 'failed', reason: 'step_limit', message: 'It has taken 200 steps', endedAt: at })
  const { delta } = await start({ info: failed, told: [[['end', { state: 'failed' }]]] })
  expect(await delta(['attach', id])).toMatchObject({
    exitCode: 1,
    stderr: expect.stringMatching(/^\nfailed: It has taken 200 steps \(/),
  })
})

test('Ctrl-C leaves it, and says how to come back', async () => {
  let send: (() => void) | undefined
  peer = await startPeer(json(200, task()), json(200, task()), (_, response) => {
    response.writeHead(200, { 'content-type': 'text/event-stream' })
    response.write(': here\n\n', () => send!())
  })
  vi.stubEnv('DELTA_URL', peer.url)
  vi.stubEnv('DELTA_API_KEY', 'test-key')
  const left = await run(['task', 'attach', id], { interrupt: (interrupt) => (send = interrupt) })
  expect(left).toMatchObject({
    exitCode: 130,
    stderr: `\nDetached; the task goes on. Attach again: delta task attach ${id}\n`,
  })
  expect(peer.requests.every(({ method }) => method === 'GET')).toBe(true)
})

test('all that a task can be given is sent', async () => {
  const { delta, bodies } = await start()
  const schema = join(folder, 'schema.json')
  const data = join(folder, 'data.csv')
  const image = join(folder, 'a.PNG')
  writeFileSync(schema, '{"type":"object"}')
  writeFileSync(data, 'a,b\n')
  writeFileSync(image, 'png')
  const flags =
    `create -d -a Worker --model a/b --fallback c/d --thinking low --engine claude-agent-sdk --budget 5 --time-limit 1h --max-steps 9 --chat -m k=v --tool run_terminal=ask --tool *=off --schema ${schema} -f ${data} -f ${data}:in/x.csv --image ${image} --instructions Short`.split(
      ' ',
    )
  expect(await delta(flags, { stdin: ['From ', 'stdin\n'] })).toMatchObject({ exitCode: 0, stdout: `${id}\n` })
  expect(bodies()).toEqual([
    {
      agent: 'agt_a',
      text: 'From stdin',
      model: 'a/b',
      fallbackModels: ['c/d'],
      thinking: 'low',
      engine: 'claude-agent-sdk',
      instructions: 'Short',
      tokenBudget: 5,
      timeLimitMs: 3_600_000,
      maxSteps: 9,
      chat: true,
      metadata: { k: 'v' },
      tools: { run_terminal: 'ask', '*': 'off' },
      resultSchema: { type: 'object' },
      files: [
        { path: 'data.csv', content: 'YSxiCg==', encoding: 'base64' },
        { path: 'in/x.csv', content: 'YSxiCg==', encoding: 'base64' },
      ],
      images: [{ mediaType: 'image/png', data: 'cG5n' }],
    },
  ])
})

test('the other commands ask for what they say', async () => {
  const { delta, sent, bodies } = await start()
  await delta(['message', id, '--interrupt', 'Go', 'on'])
  for (const act of ['interrupt', 'pause', 'resume', 'cancel']) await delta([act, id.slice(0, 10)])
  await delta(['give', id, '5'])
  await delta(['fork', id, '--step', '0', '--budget', '7', 'Else'])
  await delta(['undo', id, '--step', '1'])
  expect(sent().map(({ target }) => target.replace(`/v1/tasks/${id}`, ''))).toEqual([
    '/messages',
    '/interrupt',
    '/pause',
    '/resume',
    '/cancel',
    '/tokens',
    '/fork',
    '/undo',
  ])
  expect(bodies().filter((body) => body !== undefined)).toEqual([
    { text: 'Go on', interrupt: true },
    { tokens: 5 },
    { text: 'Else', step: 0, tokenBudget: 7 },
    { step: 1 },
  ])
  expect((await delta(['result', id])).stdout).toBe('Done\\x1b[2J.\n')
  expect((await delta(['list'])).stdout).toMatch(/finished +agt_a +2 +1\.5 /)
})

test.each([
  [['create'], 'There is no text'],
  [['create', '--tool', 'fetch=maybe', 'x'], 'not of the form NAME=MODE'],
  [['create', '--image', 'a.txt', '-a', 'Worker', 'x'], 'is no image'],
  [['show', '!'], 'neither a task'],
  [['undo', id, '--step', '-1'], 'is no step'],
])('what makes no sense is refused before anything is sent: %j', async (args, told) => {
  const { delta, sent } = await start()
  expect(await delta(args)).toMatchObject({ exitCode: 2, stderr: expect.stringContaining(told) })
  expect(sent()).toEqual([])
})

test('a key of a provider is read from stdin, never said again', async () => {
  peer = await startPeer(json(200, { provider: 'google', last: 'y-42', setBy: 'key_a', setAt: at }))
  vi.stubEnv('DELTA_URL', peer.url)
  vi.stubEnv('DELTA_API_KEY', 'test-key')
  const set = await run(['models', 'key', 'set', 'google'], { stdin: ['my-secret-key-42\n'] })
  expect(set.stdout).toBe('The key of google that ends with y-42 is used from now on.\n')
  expect(peer.requests[0]).toMatchObject({ method: 'PUT', body: '{"apiKey":"my-secret-key-42"}' })
  for (const args of [['my-secret-key-42'], ['google', 'my-secret-key-42']]) {
    const refused = await run(['models', 'key', 'set', ...args], { stdin: [] })
    expect(refused.exitCode).toBe(2)
    expect(refused.stdout + refused.stderr).not.toContain('my-secret')
  }
  expect(peer.requests).toHaveLength(1)
})

test('models that can be used are shown with what they cost, and of others why not', async () => {
  const reason = { code: 'model_key_missing', message: 'Models of google can not be used', remediation: 'Set it' }
  const model = { ownKey: false, prices: { input: 300, output: 1500 }, longPrices: [], contextTokens: 200_000 }
  const list = {
    data: [
      { ...model, id: 'anthropic/a', usable: true, reason: null },
      { ...model, id: 'google/b', usable: false, reason },
    ],
    providers: [{ provider: 'google', usable: false, reason, ownKey: false }],
    default: null,
  }
  peer = await startPeer(json(200, list))
  vi.stubEnv('DELTA_URL', peer.url)
  vi.stubEnv('DELTA_API_KEY', 'test-key')
  const { stdout } = await run(['models'])
  expect(stdout).toMatch(/anthropic\/a +yes +300 +1500 +200000\n/)
  expect(stdout).not.toContain('google/b')
  expect(stdout).toContain('Models of google can not be used.\n1 more can not be used now: --all\n')
  expect((await run(['models', 'list', '--all'])).stdout).toMatch(/google\/b +no/)
  await peer.close()
  peer = await startPeer(failure(401, 'unauthorized'))
  vi.stubEnv('DELTA_URL', peer.url)
  expect((await run(['models'])).exitCode).toBe(1)
})
