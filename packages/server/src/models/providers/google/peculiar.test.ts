import { expect, test } from 'vitest'
import { startGooglePeer } from '../../testing/google-peer.ts'
import { google } from './google.ts'
import type { ProviderEvent, ProviderRequest } from '../../provider.ts'

const request: ProviderRequest = {
  model: 'gemini-3-pro-preview',
  system: '',
  messages: [{ role: 'user', parts: [{ type: 'text', text: 'Write a book' }] }],
  tools: [],
  maxOutputTokens: 60_000,
  thinking: 'off',
  image: () => Promise.reject(new Error('there is none')),
}

test('a reply that Gemini would go on with in another request is cut there', async () => {
  const chunk = (candidate: object) =>
    `data: ${JSON.stringify({ candidates: [candidate], usageMetadata: { promptTokenCount: 4, candidatesTokenCount: 8 } })}\r\n\r\n`
  const text = (words: string) => ({ content: { parts: [{ text: words }], role: 'model' } })
  const body =
    chunk(text('Chapter one.')) + chunk({ ...text(' It was'), finishReason: 'CONTINUATION', continuationToken: 'abc' })
  let asked = 0
  const events: ProviderEvent[] = []
  const options = {
    endpoint: { apiKey: 'key', baseUrl: 'http://provider.example' },
    signal: new AbortController().signal,
    fetch: () => {
      asked++
      return Promise.resolve(new Response(body))
    },
  }
  for await (const event of google.stream(request, options)) events.push(event)
  expect(asked).toBe(1)
  expect(events.filter(({ type }) => type !== 'delta')).toEqual([
    { type: 'part', part: { type: 'text', text: 'Chapter one. It was' } },
    { type: 'end', stop: 'cut', raw: 'CONTINUATION' },
  ])
})

test('how long to wait may stand in the words of a refusal', async () => {
  const details = [{ '@type': 'type.googleapis.com/google.rpc.RetryInfo', retryDelay: '34.5s' }]
  const body = JSON.stringify({
    error: { code: 429, status: 'RESOURCE_EXHAUSTED', message: 'You exceeded your current quota', details },
  })
  const options = {
    endpoint: { apiKey: 'key', baseUrl: 'http://provider.example' },
    signal: new AbortController().signal,
    fetch: () => Promise.resolve(new Response(body, { status: 429 })),
  }
  await expect(google.stream(request, options)[Symbol.asyncIterator]().next()).rejects.toMatchObject({
    kind: 'limited',
    retryAfterMs: 34_500,
  })
})

test('a signature that is not its own is refused by the peer', async () => {
  const peer = await startGooglePeer()
  const bound = { provider: 'google', model: request.model, data: { thoughtSignature: 'changed' } }
  const messages: ProviderRequest['messages'] = [
    ...request.messages,
    { role: 'assistant', parts: [{ type: 'text', text: 'Yes.', bound }] },
    { role: 'user', parts: [{ type: 'text', text: 'Go on' }] },
  ]
  const options = { endpoint: { apiKey: peer.key, baseUrl: peer.url }, signal: new AbortController().signal, fetch }
  const events = google.stream({ ...request, messages }, options)
  const asked = events[Symbol.asyncIterator]().next()
  await expect(asked).rejects.toMatchObject({
    kind: 'request',
    message: expect.stringContaining('Thought signature is not valid'),
  })
  await peer.close()
})
