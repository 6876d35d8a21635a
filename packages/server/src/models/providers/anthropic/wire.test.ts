import { expect, test } from 'vitest'
import type { Message } from '../../conversation.ts'
import { startPeers, say } from '../../testing/peers.ts'
import { anthropic } from './anthropic.ts'
import { anthropicWire } from './wire.ts'

test('the budget for thinking stays below what may be said, or goes', () => {
  const body = { model: 'm', max_tokens: 10_000, thinking: { type: 'enabled', budget_tokens: 6_000 } }
  const lowered = (limit: number) => anthropicWire.withOutputLimit(body, limit)
  expect(lowered(20_000)).toEqual(body)
  expect(lowered(6_001)).toMatchObject({ max_tokens: 6_001, thinking: { budget_tokens: 6_000 } })
  expect(lowered(6_000)).toMatchObject({ max_tokens: 6_000, thinking: { budget_tokens: 3_000 } })
  expect(lowered(2_048)).toMatchObject({ max_tokens: 2_048, thinking: { budget_tokens: 1_024 } })
  expect(lowered(2_047)).toEqual({ model: 'm', max_tokens: 2_047 })
  const adaptive = { ...body, thinking: { type: 'adaptive' } }
  expect(anthropicWire.withOutputLimit(adaptive, 256)).toEqual({ ...adaptive, max_tokens: 256 })
})

test('what is kept in the cache is marked: tools, system prompt and the last two messages of the user', async () => {
  const peer = await startPeers.anthropic()
  peer.otherwise(say('Yes.'))
  const turn = (at: number): Message[] => [
    { role: 'user', parts: [{ type: 'text', text: `question ${at}` }] },
    { role: 'assistant', parts: [{ type: 'tool_call', callId: `call_${at}`, tool: 'read_file', input: '{}' }] },
    {
      role: 'tool',
      parts: [
        {
          type: 'tool_result',
          callId: `call_${at}`,
          tool: 'read_file',
          content: [{ type: 'text', text: `result ${at}` }],
          isError: false,
        },
      ],
    },
    { role: 'user', parts: [{ type: 'text', text: `and then ${at}` }] },
    { role: 'assistant', parts: [{ type: 'text', text: `answer ${at}` }] },
  ]
  const stream = anthropic.stream(
    {
      model: 'claude-sonnet-4-5',
      system: 'the system prompt',
      messages: [...turn(1), ...turn(2), { role: 'user', parts: [{ type: 'text', text: 'the last' }] }],
      tools: ['a', 'b'].map((name) => ({ name, description: name, inputSchema: { type: 'object' } })),
      maxOutputTokens: 1_000,
      thinking: 'off',
      image: () => Promise.reject(new Error('there is none')),
    },
    { endpoint: { apiKey: peer.key, baseUrl: peer.url }, fetch, signal: new AbortController().signal },
  )
  for await (const _ of stream);
  const body = peer.requests()[0]!.body
  const marked = JSON.stringify(body).match(/"(?:text|name)":"[^"]*"(?:[^{}]|\{[^{}]*\})*?,"cache_control"/g) ?? []
  expect(marked.map((found) => /:"([^"]*)"/.exec(found)![1])).toEqual([
    'the system prompt',
    'and then 2',
    'the last',
    'b',
  ])
  await peer.close()
})

test('a turn that another model began is ended without thinking, where thinking has a budget', async () => {
  const peer = await startPeers.anthropic()
  peer.otherwise(say('Yes.'))
  const messages: Message[] = [
    { role: 'user', parts: [{ type: 'text', text: 'Go on' }] },
    {
      role: 'assistant',
      parts: [
        {
          type: 'thinking',
          text: 'Hm.',
          bound: { provider: 'google', model: 'gemini-2.5-pro', data: { thoughtSignature: 'x' } },
        },
        { type: 'tool_call', callId: 'call_1', tool: 'read_file', input: '{}' },
      ],
    },
    {
      role: 'tool',
      parts: [{ type: 'tool_result', callId: 'call_1', tool: 'read_file', content: [], isError: false }],
    },
  ]
  const image = () => Promise.reject(new Error('there is none'))
  const request = { system: '', messages, tools: [], maxOutputTokens: 9_000, thinking: 'high' as const, image }
  for (const model of ['claude-sonnet-4-5', 'claude-opus-4-7']) {
    const options = { endpoint: { apiKey: peer.key, baseUrl: peer.url }, fetch, signal: new AbortController().signal }
    for await (const _ of anthropic.stream({ ...request, model }, options));
  }
  expect(peer.requests().map(({ body }) => body.thinking)).toEqual([
    undefined,
    { type: 'adaptive', display: 'summarized' },
  ])
  await peer.close()
})
