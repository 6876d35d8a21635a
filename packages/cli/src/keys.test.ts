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

const key = {
  id: 'key_a',
  name: 'ci',
  hint: 'dk_4Fz8',
  state: 'active',
  rights: ['read:sandboxes', 'write:exec'],
  agents: null,
  sandboxes: ['sbx_a'],
  madeBy: 'key_default',
  userId: null,
  createdAt: '2026-01-01T00:00:00.000Z',
  expiresAt: null,
  rotatedAt: null,
  previousGoodUntil: null,
  revokedAt: null,
  lastUsedAt: null,
}

async function against(answer: object | undefined) {
  const asked: { method: string; url: string; body: unknown }[] = []
  const server = createServer((request, response) => {
    let body = ''
    request.on('data', (chunk: Buffer) => (body += chunk.toString()))
    request.on('end', () => {
      asked.push({ method: request.method!, url: request.url!, body: body === '' ? undefined : JSON.parse(body) })
      response
        .writeHead(answer ? 200 : 204, { 'content-type': 'application/json' })
        .end(answer && JSON.stringify(answer))
    })
  }).listen(0, '127.0.0.1')
  await new Promise((resolve) => server.once('listening', resolve))
  ends.push(() => server.close())
  const { port } = server.address() as AddressInfo
  const keys = (...args: string[]) => run(['--url', `http://127.0.0.1:${port}`, 'keys', ...args])
  return { asked, keys }
}

test('create says what the key may and prints its text first', async () => {
  const { asked, keys } = await against({ ...key, key: 'dk_text' })
  const { stdout, exitCode } = await keys(
    'create',
    'ci',
    '--right',
    'read:sandboxes',
    '--right',
    'write:exec',
    '--sandbox',
    'sbx_a',
    '--ttl',
    '90m',
  )
  expect(exitCode).toBe(0)
  expect(stdout.split('\n')[0]).toBe('dk_text')
  expect(asked).toEqual([
    {
      method: 'POST',
      url: '/v1/keys',
      body: { name: 'ci', rights: ['read:sandboxes', 'write:exec'], sandboxes: ['sbx_a'], ttlMs: 5_400_000 },
    },
  ])
})

test('a key without a right is not even asked for', async () => {
  const { asked, keys } = await against(key)
  const { stderr, exitCode } = await keys('create', 'ci')
  expect([exitCode === 0, asked]).toEqual([false, []])
  expect(stderr).toContain('--right')
})

test('list, get, rotate and revoke', async () => {
  const list = await against({ data: [key], nextCursor: null })
  expect((await list.keys('list', '--all')).stdout).toContain('read:sandboxes write:exec')
  expect(list.asked[0]!.url).toContain('state=all')
  const one = await against(key)
  expect((await one.keys('get', 'key_a')).stdout).toContain('dk_4Fz8…')
  const rotated = await against({ ...key, key: 'dk_next' })
  expect((await rotated.keys('rotate', 'key_a', '--overlap', '10s')).stdout).toMatch(/^dk_next\n/)
  expect(rotated.asked).toEqual([{ method: 'POST', url: '/v1/keys/key_a/rotate', body: { overlapMs: 10_000 } }])
  const gone = await against(undefined)
  expect((await gone.keys('revoke', 'key_a')).stdout).toBe('key_a revoked\n')
  expect(gone.asked).toMatchObject([{ method: 'DELETE', url: '/v1/keys/key_a' }])
})
