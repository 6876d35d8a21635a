import { describe, expect, test } from 'vitest'
import { testDatabases } from '../../kernel/db/testing.ts'
import type { Attempt } from '../../models/door.ts'
import { callTool, refuse, say, type PeerReply } from '../../models/testing/peers.ts'
import { modelOf, newAgent, newWorld, sumOf, taskTestMigrations, until } from '../testing.ts'
import { createEndpoint, type EngineRequest } from './endpoint.ts'
import { engineLimits } from './limits.ts'

const secret = 'secret-of-this-turn'
const model = 'claude-sonnet-4-5'
const question = { model, max_tokens: 1_000, messages: [{ role: 'user', content: 'Do it' }] }

type Body = Record<string, unknown>

testDatabases('the endpoint for engines', (open) => {
  async function start({ tokenBudget = 100 }: { tokenBudget?: number } = {}) {
    const world = await newWorld((await open(taskTestMigrations)).of())
    const server = await world.serve()
    const agent = await newAgent(server, { tokenBudget })
    const attempts: Attempt[][] = []
    const faults: unknown[] = []
    let shorts = 0
    const endpoint = createEndpoint({
      secret,
      model,
      admit: async () => undefined,
      onRefused: () => undefined,
      async ask(passage, { maxOutputTokens, signal }) {
        const own: Attempt[] = []
        attempts.push(own)
        return server.models.call({
          accountId: 'acc_a',
          payer: agent.id,
          agentId: agent.id,
          taskId: 'tsk_a',
          models: [modelOf.anthropic],
          system: '',
          messages: [],
          tools: [],
          passage,
          maxOutputTokens,
          signal,
          onEvent: () => undefined,
          onAttempt: (attempt) => void own.push(attempt),
        })
      },
      count: ({ body, headers }, signal) =>
        server.models.countTokens({ accountId: 'acc_a', model: modelOf.anthropic, body, headers, signal }),
      onShort: () => void (shorts += 1),
      onFault: (error) => void faults.push(error),
    })

    async function post(
      body: Body | string,
      changes: Partial<EngineRequest> = {},
      signal = new AbortController().signal,
    ) {
      const answer = { status: 0, headers: {} as Record<string, string>, text: '', cut: false }
      await endpoint.serve(
        {
          method: 'POST',
          path: '/v1/messages?beta=true',
          headers: { authorization: `Bearer ${secret}` },
          body: Buffer.from(typeof body === 'string' ? body : JSON.stringify(body)),
          ...changes,
        },
        {
          head: async (status, headers) => void Object.assign(answer, { status, headers }),
          data: async (bytes) => void (answer.text += Buffer.from(bytes).toString()),
          end: async (cut) => void (answer.cut = cut),
        },
        signal,
      )
      return answer
    }
    const freeOf = async () => (await sumOf(server, [agent.id])).free
    return { ...world, server, agent, attempts, faults, post, freeOf, shorts: () => shorts }
  }

  const events = (text: string): Body[] =>
    text
      .split('\n\n')
      .filter((event) => event !== '')
      .map((event) => JSON.parse(/^data: (.*)$/m.exec(event)![1]!) as Body)
  const errorIn = (text: string) => (JSON.parse(text) as { error: { type: string; message: string } }).error
  const thought: PeerReply = {
    parts: [
      { type: 'thinking', text: 'I should look.' },
      { type: 'thinking', text: 'Nobody sees this.', isHidden: true },
      { type: 'tool_call', tool: 'look', input: { at: 'naïve ✓' }, callId: 'toolu_1' },
    ],
  }
  const thinking = { thinking: { type: 'enabled', budget_tokens: 1_024 }, max_tokens: 4_000 }
  const tools = [{ name: 'look', description: 'Looks', input_schema: { type: 'object' } }]

  describe('an answer', () => {
    test('passes byte by byte, wherever it was cut on its way, and is paid for once', async () => {
      const { post, peer, attempts, freeOf } = await start()
      const before = await freeOf()
      peer.script(say('It is made.'), { ...say('It is made.'), chunkBytes: 7 })
      const whole = await post({ ...question, stream: true })
      const pieces = await post({ ...question, stream: true })
      expect(whole.status).toBe(200)
      expect(whole.headers['content-type']).toMatch(/^text\/event-stream/)
      expect(events(whole.text).map(({ type }) => type)).toEqual([
        'message_start',
        'content_block_start',
        'ping',
        'content_block_delta',
        'content_block_stop',
        'message_delta',
        'message_stop',
      ])
      const withoutId = (text: string) => text.replaceAll(/"id":"[^"]*"/g, '')
      expect(withoutId(pieces.text)).toBe(withoutId(whole.text))
      const costs = attempts.map((own) => own.at(-1))
      expect(costs).toMatchObject([
        { state: 'ended', estimated: false },
        { state: 'ended', estimated: false },
      ])
      expect(before - (await freeOf())).toBe(costs.reduce((sum, one) => sum + one!.cost!, 0))
    })

    test('keeps what proves its thinking: the provider takes it back', async () => {
      const { post, peer } = await start()
      peer.script(thought, say('Seen.'))
      const first = await post({ ...question, ...thinking, tools })
      const message = JSON.parse(first.text) as { content: Body[]; stop_reason: string }
      expect(message.stop_reason).toBe('tool_use')
      expect(message.content.map(({ type }) => type)).toEqual([
        'thinking',
        expect.stringContaining('thinking'),
        'tool_use',
      ])
      expect(message.content[2]).toMatchObject({ id: 'toolu_1', input: { at: 'naïve ✓' } })
      const messages = [
        ...question.messages,
        { role: 'assistant', content: message.content },
        { role: 'user', content: [{ type: 'tool_result', tool_use_id: 'toolu_1', content: 'a tree' }] },
      ]
      const second = await post({ ...question, ...thinking, tools, messages, stream: true })
      expect(second.status).toBe(200)
      expect(second.text).toContain('Seen.')
    })

    test('says the same in one piece as in a stream', async () => {
      const { post, peer } = await start()
      peer.script({ ...thought, usage: { input: 100, output: 50 } })
      const { status, headers, text } = await post({ ...question, ...thinking, tools })
      expect([status, headers['content-type']]).toEqual([200, 'application/json'])
      expect(JSON.parse(text)).toMatchObject({
        type: 'message',
        role: 'assistant',
        model,
        stop_reason: 'tool_use',
        usage: { input_tokens: 100, output_tokens: 50 },
      })
    })

    test('of no other key than the server’s: what the sandbox says of itself does not go on', async () => {
      const { post, peer } = await start()
      peer.script(say('Yes.'))
      const headers = {
        'x-api-key': secret,
        'anthropic-beta':
          'interleaved-thinking-2025-05-14,mcp-client-2025-04-04, code-execution-2025-05-22,context-1m-2025-08-07',
        'anthropic-version': '1999-01-01',
        host: 'elsewhere.test',
      }
      await post({ ...question, metadata: { user_id: 'whoever' }, stream: true }, { headers })
      const [request] = peer.requests()
      expect(request!.headers['x-api-key']).toBe(peer.key)
      expect(request!.headers.authorization).toBeUndefined()
      expect(request!.headers['anthropic-beta']).toBe('interleaved-thinking-2025-05-14')
      expect(JSON.stringify([request!.headers, request!.body])).not.toContain(secret)
      expect(request!.body.metadata).toBeUndefined()
    })
  })

  describe('a provider that fails', () => {
    test('is asked again before anything came, each time with a hold of its own', async () => {
      const { post, peer, attempts } = await start()
      peer.script(refuse(429), refuse(529), say('At last.'))
      const { status, text } = await post({ ...question, stream: true })
      expect(status).toBe(200)
      expect(text).toContain('At last.')
      const states = attempts[0]!.filter(({ state }) => state !== 'sent')
      expect(states.map(({ state, cost }) => [state, cost! > 0])).toEqual([
        ['failed', false],
        ['failed', false],
        ['ended', true],
      ])
      expect(new Set(states.map(({ holdId }) => holdId)).size).toBe(3)
    })

    test('again and again is said to be overloaded, once and for all', async () => {
      const { post, peer, freeOf, faults } = await start()
      const before = await freeOf()
      peer.otherwise(refuse(500))
      const { status, headers, text } = await post({ ...question, stream: true })
      expect([status, headers['x-should-retry']]).toEqual([529, 'false'])
      expect(errorIn(text).type).toBe('overloaded_error')
      expect(await freeOf()).toBe(before)
      expect(faults).toMatchObject([{ code: 'model_unavailable' }])
    })

    test.each([
      ['breaks off', { ...say('x'.repeat(2_000)), cutAtByte: 1_500 }],
      ['says so in its middle', { ...say('x'.repeat(2_000)), broken: { status: 529, afterEvents: 5 } }],
    ])('in the middle of an answer, since it %s, is not asked again: what came is paid for', async (_, reply) => {
      const { post, peer, attempts } = await start()
      peer.script(reply)
      peer.otherwise(say('never'))
      const { status, text } = await post({ ...question, stream: true })
      expect(status).toBe(200)
      expect(events(text).at(-1)).toMatchObject({ type: 'error', error: { type: 'overloaded_error' } })
      expect(peer.requests()).toHaveLength(1)
      expect(attempts[0]!.at(-1)).toMatchObject({ state: 'cut', estimated: true })
      expect(attempts[0]!.at(-1)!.cost).toBeGreaterThan(0)
    })

    test('that refuses the request is believed', async () => {
      const { post, peer } = await start()
      peer.script(refuse(400, { message: 'prompt is too long: 300000 tokens > 200000 maximum' }))
      const { status, text } = await post({ ...question, stream: true })
      expect(status).toBe(400)
      expect(errorIn(text)).toMatchObject({
        type: 'invalid_request_error',
        message: expect.stringContaining('prompt is too long'),
      })
    })
  })

  describe('tokens', () => {
    test('that do not reach are said before anything is asked', async () => {
      const { post, peer, faults } = await start({ tokenBudget: 1 })
      const { status, headers, text } = await post({
        ...question,
        stream: true,
        messages: [{ role: 'user', content: 'x'.repeat(1_100_000) }],
      })
      expect([status, headers['x-should-retry']]).toEqual([402, 'false'])
      expect(errorIn(text).type).toBe('billing_error')
      expect(peer.requests()).toEqual([])
      expect(faults).toMatchObject([{ code: 'balance_too_low' }])
    })

    test('at an end in the middle of a reply: its last call is never whole', async () => {
      const { post, peer, freeOf, shorts } = await start({ tokenBudget: 1 })
      peer.script({ ...callTool('look', { at: 'x'.repeat(200) }), stop: 'cut' })
      const messages = [{ role: 'user', content: 'x'.repeat(600_000) }]
      const { text } = await post({ ...question, max_tokens: 64_000, messages, tools, stream: true })
      expect(peer.requests()[0]!.maxOutputTokens).toBeLessThan(50_000)
      const all = events(text)
      expect(all.some(({ type }) => type === 'content_block_start')).toBe(true)
      expect(all.some(({ type }) => type === 'content_block_stop' || type === 'message_stop')).toBe(false)
      expect(all.at(-1)).toMatchObject({ type: 'error', error: { type: 'billing_error' } })
      expect(shorts()).toBe(1)
      expect(await freeOf()).toBeGreaterThanOrEqual(0)
    })

    test('that reach: a reply that is as long as was asked for is whole', async () => {
      const { post, peer, shorts } = await start()
      peer.script({ ...callTool('look', { at: 'x' }), stop: 'cut' })
      const all = events((await post({ ...question, tools, stream: true })).text)
      expect(all.slice(-3).map(({ type }) => type)).toEqual(['content_block_stop', 'message_delta', 'message_stop'])
      expect(shorts()).toBe(0)
    })

    test('are spent by no more than there are, by twenty at once', async () => {
      const { post, peer, agent, server } = await start({ tokenBudget: 1 })
      peer.otherwise({ ...say('Yes.'), firstMs: 300 })
      const answers = await Promise.all(
        Array.from({ length: 20 }, () => post({ ...question, max_tokens: 64_000, stream: true })),
      )
      expect(new Set(answers.map(({ status }) => status))).toEqual(new Set([200, 402]))
      const { free, held } = await sumOf(server, [agent.id])
      expect(free).toBeGreaterThanOrEqual(0)
      expect(held).toBe(0)
    })
  })

  test('one who goes away ends the call, which is charged as cut', async () => {
    const { post, peer, attempts } = await start()
    peer.script({ ...say('x'.repeat(5_000)), pieceMs: 20 })
    const leaving = new AbortController()
    const asked = post({ ...question, stream: true }, {}, leaving.signal)
    await until(() => peer.requests().length === 1, 'it is asked')
    leaving.abort(new Error('gone'))
    await asked
    expect(attempts[0]!.at(-1)).toMatchObject({ state: 'cut' })
    await until(() => peer.requests()[0]!.isAborted, 'the provider hears of it')
  })

  describe('refused, without a word to the provider:', () => {
    const deep = `${'['.repeat(200_000)}${']'.repeat(200_000)}`
    const block = (one: Body): Body => ({ messages: [{ role: 'user', content: [one] }] })
    const refused: [what: string, status: number, body: Body | string, changes?: Partial<EngineRequest>][] = [
      ['no key', 401, question, { headers: {} }],
      ['another key', 401, question, { headers: { authorization: `Bearer ${secret}x` } }],
      ['the key of a provider', 401, question, { headers: { 'x-api-key': 'sk-ant-123' } }],
      ['another path', 404, question, { path: '/v1/complete' }],
      ['another method', 404, question, { method: 'GET' }],
      ['a folder above', 404, question, { path: '/v1/messages/../files' }],
      ['another model', 404, { ...question, model: 'claude-opus-4-5' }],
      ['a model of another provider', 404, { ...question, model: 'google/gemini-2.5-flash' }],
      ['no model', 400, { ...question, model: undefined }],
      ['no JSON', 400, '{"model":'],
      ['a list', 400, '[]'],
      ['what is nested too deep', 400, `{"model":"${model}","max_tokens":1,"messages":${deep}}`],
      ['what is too large', 413, `{"model":"${model}","x":"${'x'.repeat(engineLimits.bodyBytes)}"}`],
      ['no limit', 400, { ...question, max_tokens: undefined }],
      ['a limit below 1', 400, { ...question, max_tokens: 0 }],
      ['no messages', 400, { ...question, messages: [] }],
      ['fast at another price', 400, { ...question, speed: 'fast' }],
      ['another tier', 400, { ...question, service_tier: 'auto' }],
      ['servers that Anthropic asks', 400, { ...question, mcp_servers: [{ type: 'url', url: 'https://x.test' }] }],
      ['a container', 400, { ...question, container: 'c' }],
      [
        'a search that Anthropic makes',
        400,
        { ...question, tools: [{ type: 'web_search_20250305', name: 'web_search' }] },
      ],
      ['code that Anthropic runs', 400, { ...question, tools: [{ type: 'code_execution_20250522', name: 'code' }] }],
      [
        'a summary that Anthropic writes',
        400,
        { ...question, context_management: { edits: [{ type: 'compact_20260112' }] } },
      ],
      ['a document', 400, { ...question, ...block({ type: 'document', source: { type: 'base64', data: '' } }) }],
      [
        'an image that lies elsewhere',
        400,
        { ...question, ...block({ type: 'image', source: { type: 'url', url: 'https://x.test' } }) },
      ],
      [
        'a document in a result',
        400,
        { ...question, ...block({ type: 'tool_result', tool_use_id: 'a', content: [{ type: 'document' }] }) },
      ],
      ['a system that is no text', 400, { ...question, system: [{ type: 'image' }] }],
    ]
    test('all that is no plain question for this task’s model', async () => {
      const { post, peer, freeOf, attempts } = await start()
      const before = await freeOf()
      peer.otherwise(say('never'))
      const got: string[] = []
      const wanted: string[] = []
      for (const [what, status, body, changes] of refused) {
        const answer = await post(body, changes)
        got.push(`${what}: ${answer.status} ${typeof errorIn(answer.text).message}`)
        wanted.push(`${what}: ${status} string`)
      }
      expect(got).toEqual(wanted)
      expect([peer.requests(), attempts]).toEqual([[], []])
      expect(await freeOf()).toBe(before)
    })
  })
})
