import { rmSync } from 'node:fs'
import { afterEach, expect, test } from 'vitest'
import { startOtlpReceiver } from '../packages/server/src/kernel/testing-otlp.ts'
import { startAnthropicPeer } from '../packages/server/src/models/testing/anthropic-peer.ts'
import { callTool, refuse, say } from '../packages/server/src/models/testing/peer.ts'
import { newDataDir } from './global-setup.ts'
import { leftovers } from './leftovers.ts'
import { ownUids, startPlatform } from './platform.ts'

const ends: (() => unknown)[] = []
afterEach(async () => {
  for (const end of ends.splice(0)) await end()
})

interface Task {
  id: string
  state: string
}

test('a task is one trace of its run, its requests to the model and its calls, without a word of it', async () => {
  const peer = await startAnthropicPeer()
  const receiver = await startOtlpReceiver()
  ends.push(peer.close, receiver.close)
  const dataDir = newDataDir()
  const platform = await startPlatform({
    dataDir,
    env: {
      ...ownUids(200),
      ANTHROPIC_API_KEY: peer.key,
      ANTHROPIC_BASE_URL: peer.url,
      DELTA_MODEL: 'anthropic/claude-sonnet-4-5',
      OTEL_EXPORTER_OTLP_ENDPOINT: receiver.url,
      OTEL_EXPORTER_OTLP_HEADERS: 'x-team=e2e',
      OTEL_SERVICE_NAME: 'delta-e2e',
    },
  })
  let isStopped = false
  ends.unshift(async () => {
    if (!isStopped) await platform.stop('SIGINT')
    expect(leftovers(dataDir), platform.log()).toEqual([])
    rmSync(dataDir, { recursive: true, force: true })
  })
  const ask = async <Answer>(method: string, path: string, body?: object): Promise<Answer> => {
    const headers = { authorization: `Bearer ${platform.key}`, 'content-type': 'application/json' }
    const answer = await fetch(platform.url + path, { method, headers, ...(body && { body: JSON.stringify(body) }) })
    if (!answer.ok) throw new Error(`${path}: ${answer.status} ${await answer.text()}`)
    return (await answer.json()) as Answer
  }
  peer.script(
    callTool('run_terminal', { command: 'echo planted-argument' }),
    refuse(529, { headers: { 'retry-after': '0' } }),
    callTool('read_file', { path: '/nowhere/planted' }),
    say('planted-reply'),
  )
  const agent = await ask<{ id: string }>('POST', '/v1/agents', { name: 'Ann', tokenBudget: 100 })
  const wish = { agent: agent.id, text: 'planted-message', instructions: 'planted-instruction' }
  const { id } = await ask<Task>('POST', '/v1/tasks', wish)
  await expect.poll(async () => (await ask<Task>('GET', `/v1/tasks/${id}`)).state).toBe('finished')
  // What waits is sent by a server that stops.
  await platform.stop('SIGINT')
  isStopped = true

  expect(receiver.faults).toEqual([])
  expect(receiver.requests[0]).toMatchObject({ path: '/v1/traces', headers: { 'x-team': 'e2e' } })
  expect(receiver.requests.map(({ text }) => text).join()).not.toMatch(/planted/)
  const spans = receiver.spans()
  expect(spans.map(({ name, isError }) => [name, isError])).toEqual([
    ['chat claude-sonnet-4-5', false],
    ['execute_tool run_terminal', false],
    ['chat claude-sonnet-4-5', true],
    ['chat claude-sonnet-4-5', false],
    ['execute_tool read_file', true],
    ['chat claude-sonnet-4-5', false],
    ['invoke_agent Ann', false],
  ])
  const run = spans.at(-1)!
  expect(run).toMatchObject({ kind: 'internal', parentSpanId: undefined, resource: { 'service.name': 'delta-e2e' } })
  expect(run.attributes).toMatchObject({
    'gen_ai.operation.name': 'invoke_agent',
    'gen_ai.request.model': 'claude-sonnet-4-5',
    'delta.task.state': 'finished',
  })
  for (const span of spans) {
    expect(span).toMatchObject({ traceId: run.traceId, resource: { 'service.name': 'delta-e2e' } })
    expect(span.attributes).toMatchObject({ 'gen_ai.conversation.id': id, 'gen_ai.agent.id': agent.id })
    if (span !== run) expect(span.parentSpanId).toBe(run.spanId)
  }
  expect(spans.map(({ attributes }) => attributes['error.type'])).toEqual([
    undefined,
    undefined,
    '529',
    undefined,
    'tool_error',
    undefined,
    undefined,
  ])
  expect(spans[1]!.attributes).toMatchObject({
    'gen_ai.operation.name': 'execute_tool',
    'gen_ai.tool.name': 'run_terminal',
    'gen_ai.tool.call.id': expect.any(String),
    'delta.call.state': 'done',
  })
})
