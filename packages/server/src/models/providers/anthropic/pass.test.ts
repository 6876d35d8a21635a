import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { expect, onTestFinished, test } from 'vitest'
import { countTokens } from './pass.ts'

/** What the peer of the tests does not speak: how many tokens a request has. */
async function startCounter(status: number, answer: string) {
  const asked: { path: string | undefined; key: unknown; beta: unknown; body: unknown }[] = []
  const server = createServer(async (request, response) => {
    let text = ''
    for await (const chunk of request) text += String(chunk)
    const { 'x-api-key': key, 'anthropic-beta': beta } = request.headers
    asked.push({ path: request.url, key, beta, body: JSON.parse(text) })
    response.writeHead(status, { 'content-type': 'application/json' }).end(answer)
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  onTestFinished(() => void server.close())
  const endpoint = {
    apiKey: 'sk-operator-key',
    baseUrl: `http://127.0.0.1:${(server.address() as AddressInfo).port}/v1`,
  }
  const count = () =>
    countTokens(
      { model: 'claude-x', body: { messages: [] }, headers: { 'anthropic-beta': 'b-1', 'x-api-key': 'guessed' } },
      { endpoint, fetch, signal: new AbortController().signal },
    )
  return { asked, count }
}

test('tokens are counted with the server’s key', async () => {
  const { asked, count } = await startCounter(200, '{"input_tokens":42}')
  expect(await count()).toBe(42)
  const body = { messages: [], model: 'claude-x' }
  expect(asked).toEqual([{ path: '/v1/messages/count_tokens', key: 'sk-operator-key', beta: 'b-1', body }])
})

test.each([
  ['a limit', 429, '{"type":"error","error":{"type":"rate_limit_error","message":"Slow"}}', 'limited'],
  ['a count that is none', 200, '{"input_tokens":"many"}', 'unavailable'],
  ['no JSON', 200, 'many', 'unavailable'],
])('%s is a failure', async (_, status, answer, kind) => {
  const { count } = await startCounter(status, answer)
  await expect(count()).rejects.toMatchObject({ name: 'ProviderFailure', kind })
})
