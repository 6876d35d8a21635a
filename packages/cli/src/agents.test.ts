import { createServer } from 'node:http'
import type { AddressInfo } from 'node:net'
import { afterEach, beforeEach, expect, test, vi } from 'vitest'
import { run } from './testing.ts'

const ends: (() => void)[] = []
beforeEach(() => void vi.stubEnv('DELTA_API_KEY', 'delta_test'))
afterEach(() => {
  vi.unstubAllEnvs()
  for (const end of ends.splice(0)) end()
})

const shop = {
  id: `agt_${'a'.repeat(20)}`,
  name: 'Shop',
  kind: 'main',
  parentAgent: null,
  depth: 1,
  state: 'active',
  task: null,
  channel: null,
  template: 'host',
  memoryMb: 512,
  monthlyTokens: 0,
  confirmAboveTokens: 10,
  rights: ['write:exec'],
  effectiveRights: ['write:exec'],
  workspaceId: null,
  sandboxId: null,
  createdAt: '2026-01-01T00:00:00.000Z',
}
const balance = { granted: 12.5, bought: 1, held: 0, used: 3 }
const bot = { ...shop, id: `agt_${'b'.repeat(20)}`, name: 'Orders', kind: 'bot', parentAgent: shop.id }
/** A server that knows of these two, and what it was asked. */
async function serve() {
  const asked: { method: string; url: string; body: unknown }[] = []
  const server = createServer((request, response) => {
    let text = ''
    request.on('data', (chunk: Buffer) => (text += chunk.toString()))
    request.on('end', () => {
      const { method = '', url = '' } = request
      if (method !== 'GET') asked.push({ method, url, body: text === '' ? undefined : JSON.parse(text) })
      const answer = (body: object, status = 200) =>
        response.writeHead(status, { 'content-type': 'application/json' }).end(JSON.stringify(body))
      if (url.startsWith('/v1/agents?') || (url === '/v1/agents' && method === 'GET')) {
        return answer({
          data: [
            bot,
            shop,
            { ...bot, id: `agt_${'c'.repeat(20)}`, name: 'Twice' },
            { ...bot, id: `agt_${'d'.repeat(20)}`, name: 'Twice' },
          ],
          nextCursor: null,
        })
      }
      if (url === '/v1/agents/tree') {
        const node = ({ id, name, kind, state }: Pick<typeof shop, 'id' | 'name' | 'kind' | 'state'>) => ({
          id,
          name,
          kind,
          state,
          channel: null,
          createdAt: shop.createdAt,
        })
        return answer({
          data: [{ ...node(shop), children: [{ ...node(bot), state: 'paused', children: [] }] }],
          complete: true,
        })
      }
      if (url === '/v1/agents') return answer(bot, 201)
      return answer({ ...shop, balance, ...(url.endsWith('/archive') && { state: 'archiving' }) })
    })
  }).listen(0, '127.0.0.1')
  await new Promise((done) => server.once('listening', done))
  ends.push(() => server.close())
  const { port } = server.address() as AddressInfo
  const delta = (...args: string[]) => run(['--url', `http://127.0.0.1:${port}`, 'agents', ...args])
  return { asked, delta }
}

test('lists and shows agents, by name or the beginning of an id', async () => {
  const { delta } = await serve()
  expect((await delta('list')).stdout).toMatch(/AGENT.*\n.*Orders.*bot/)
  expect((await delta('tree')).stdout).toBe(`${shop.id}  Shop  main\n  ${bot.id}  Orders  bot, paused\n`)
  for (const text of ['Shop', shop.id, 'agt_aaa', 'aaa']) {
    expect((await delta('show', text)).stdout).toMatch(
      /name +Shop\n[^]*tokens +13.5 \(1 of them bought\), 0 held, 3 used/,
    )
  }
  expect(JSON.parse((await delta('show', 'Shop', '--json')).stdout)).toMatchObject({ id: shop.id, balance })
  expect(await delta('show', 'Twice')).toMatchObject({
    exitCode: 1,
    stderr: expect.stringContaining('2 agents go by Twice'),
  })
  expect(await delta('show', 'Nobody')).toMatchObject({
    exitCode: 1,
    stderr: expect.stringContaining('no agent Nobody'),
  })
})

test('makes one with what is said, and nothing more', async () => {
  const { asked, delta } = await serve()
  const flags = [
    '--parent',
    'Shop',
    '--channel',
    'email',
    '--task',
    'Answer',
    '--tokens',
    '50',
    '--right',
    'read:files',
    '--right',
    'request',
  ]
  expect(await delta('create', 'Orders', ...flags)).toMatchObject({ exitCode: 0, stdout: `${bot.id}\n` })
  expect(await delta('create', 'Shop')).toMatchObject({ exitCode: 0 })
  expect(asked.map(({ body }) => body)).toEqual([
    {
      name: 'Orders',
      parentAgent: shop.id,
      channel: 'email',
      task: 'Answer',
      tokenBudget: 50,
      rights: ['read:files', 'request'],
    },
    { name: 'Shop' },
  ])
  expect((await delta('create', 'Shop', '--channel', 'pigeon')).exitCode).toBe(2)
  expect((await delta('create', 'Shop', '--tokens', 'many')).exitCode).toBe(2)
})

test('changes, gives, pauses, resumes and archives', async () => {
  const { asked, delta } = await serve()
  await delta('set', 'Shop', '--confirm-above', '0', '--no-rights')
  await delta('give', 'Shop', '20', '--from', 'reserve')
  await delta('pause', 'Shop')
  await delta('resume', 'Shop')
  expect((await delta('archive', 'Shop')).stdout).toBe(`${shop.id} is archiving\n`)
  const path = `/v1/agents/${shop.id}`
  expect(asked).toEqual([
    { method: 'PATCH', url: path, body: { confirmAboveTokens: 0, rights: [] } },
    { method: 'POST', url: `${path}/tokens`, body: { tokens: 20, from: 'reserve' } },
    { method: 'POST', url: `${path}/pause`, body: undefined },
    { method: 'POST', url: `${path}/resume`, body: undefined },
    { method: 'POST', url: `${path}/archive`, body: undefined },
  ])
  expect((await delta('set', 'Shop', '--right', 'request', '--no-rights')).exitCode).toBe(2)
})

test('a terminal is asked of the agent, and only from a terminal', async () => {
  const { delta } = await serve()
  expect(await delta('shell', 'Shop')).toMatchObject({ exitCode: 2, stderr: expect.stringContaining('terminal') })
  expect((await delta('exec', 'Shop', '--tag')).exitCode).toBe(2)
})
