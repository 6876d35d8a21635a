import { afterEach, expect, test } from 'vitest'
import { systemClock } from '../kernel/clock.ts'
import { testDatabases } from '../kernel/db/testing.ts'
import { silentLogger } from '../kernel/log.ts'
import { createOtlpTraces } from '../kernel/otlp.ts'
import { startOtlpReceiver } from '../kernel/testing-otlp.ts'
import { providers } from './providers/providers.ts'
import { startAnthropicPeer } from './testing/anthropic-peer.ts'
import { callTool, refuse } from './testing/peer.ts'
import { modelTestMigrations, startModels, testCall } from './testing/start.ts'

testDatabases('traces of model calls', (open) => {
  const ends: (() => Promise<unknown>)[] = []
  afterEach(async () => {
    for (const end of ends.splice(0)) await end()
  })

  async function start(grant = 1e9) {
    const peer = await startAnthropicPeer()
    const receiver = await startOtlpReceiver()
    const traces = createOtlpTraces({
      url: receiver.url,
      headers: {},
      serviceName: 'delta',
      version: '0.1.0',
      clock: systemClock,
      log: silentLogger,
    })
    const settings = { anthropic: { apiKey: peer.key, baseUrl: peer.url } }
    const clock = { ...systemClock, sleep: async () => undefined }
    const deps = { traces, providers }
    const { models } = startModels(await open(modelTestMigrations), peer.url, { settings, deps, clock, grant })
    ends.push(models.stop, peer.close, receiver.close)
    return { peer, receiver, traces, models }
  }

  const models = ['anthropic/claude-sonnet-4-5']

  test('each request is a span of its own, with what it used and how it ended', async () => {
    const { peer, receiver, traces, models: service } = await start()
    peer.script(refuse(529), {
      ...callTool('read_file', { path: 'planted-in-a-call' }),
      usage: { input: 100, cacheRead: 20, cacheWrite: 3, output: 7 },
    })
    const span = traces.span('invoke_agent', {})
    const messages = [{ role: 'user' as const, parts: [{ type: 'text' as const, text: 'planted-in-a-message' }] }]
    const tools = [{ name: 'read_file', description: 'Reads.', inputSchema: { type: 'object' } }]
    const call = testCall({ models, messages, tools, span, system: 'planted-in-instructions' })
    const reply = await service.call(call)
    span.end()
    await traces.stop()
    expect(receiver.faults).toEqual([])
    const [first, second, whole] = receiver.spans()
    const common = {
      name: 'chat claude-sonnet-4-5',
      kind: 'client',
      parentSpanId: whole!.spanId,
      traceId: whole!.traceId,
    }
    const asked = {
      'gen_ai.operation.name': 'chat',
      'gen_ai.provider.name': 'anthropic',
      'gen_ai.request.model': 'claude-sonnet-4-5',
      'gen_ai.conversation.id': 'tsk_a',
      'gen_ai.agent.id': 'agt_a',
    }
    expect(first).toMatchObject({ ...common, isError: true })
    expect(first!.attributes).toEqual({
      ...asked,
      'gen_ai.usage.input_tokens': 0,
      'gen_ai.usage.output_tokens': 0,
      'error.type': '529',
    })
    expect(second).toMatchObject({ ...common, isError: false })
    expect(second!.attributes).toEqual({
      ...asked,
      'gen_ai.response.model': reply.answeredBy,
      'gen_ai.response.finish_reasons': ['tool_call'],
      'gen_ai.usage.input_tokens': 123,
      'gen_ai.usage.output_tokens': 7,
      'gen_ai.usage.cache_read.input_tokens': 20,
      'gen_ai.usage.cache_creation.input_tokens': 3,
    })
    expect(reply.answeredBy).toMatch(/^claude-sonnet-4-5/)
    expect(receiver.requests.map(({ text }) => text).join()).not.toMatch(/planted/)
    // Whoever asked is told of attempts as without traces.
    expect(call.told.map(({ state }) => state)).toEqual(['sent', 'failed', 'sent', 'ended'])
  })

  test('what was never sent is no span', async () => {
    const { receiver, traces, models: service } = await start(1)
    await expect(service.call(testCall({ models }))).rejects.toMatchObject({ code: 'balance_too_low' })
    await traces.stop()
    expect(receiver.spans()).toEqual([])
  })

  test('one that was given up is no success', async () => {
    const { peer, receiver, traces, models: service } = await start()
    const giveUp = new AbortController()
    peer.script(() => {
      giveUp.abort(new Error('no more'))
      return { parts: [{ type: 'text', text: 'Hello' }], firstMs: 50 }
    })
    await expect(service.call(testCall({ models, signal: giveUp.signal }))).rejects.toMatchObject({ code: 'canceled' })
    await traces.stop()
    expect(receiver.spans()).toMatchObject([
      { name: 'chat claude-sonnet-4-5', isError: true, attributes: { 'error.type': 'canceled' } },
    ])
  })
})
