import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { rmSync } from 'node:fs'
import { type IncomingMessage, request } from 'node:http'
import { Delta } from '@delta-agents/sdk'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { newDataDir } from './global-setup.ts'
import { leftovers } from './leftovers.ts'
import { freePort, type Platform, startPlatform } from './platform.ts'

/** At once a key gets 40 and an address 10. */
const rates = { DELTA_RATE_LIMIT_KEY: '20', DELTA_RATE_LIMIT_ACCOUNT: '1000', DELTA_RATE_LIMIT_ADDRESS: '5' }
let platform: Platform
let redis: ChildProcess
let redisPort: number

beforeAll(async () => {
  redisPort = await freePort()
  redis = await startRedis()
  platform = await startPlatform({
    dataDir: newDataDir(),
    env: { ...rates, REDIS_URL: `redis://127.0.0.1:${redisPort}`, DELTA_TRUSTED_PROXIES: '127.0.0.1' },
  })
})
afterAll(async () => {
  await stopRedis()
  await platform.stop('SIGINT')
  const left = leftovers(platform.dataDir)
  rmSync(platform.dataDir, { recursive: true, force: true })
  expect(left, platform.log()).toEqual([])
})

async function startRedis(): Promise<ChildProcess> {
  const args = ['--port', String(redisPort), '--bind', '127.0.0.1', '--save', '', '--appendonly', 'no']
  const child = spawn('redis-server', args, { stdio: ['ignore', 'pipe', 'inherit'] })
  for await (const line of child.stdout) if (String(line).includes('Ready to accept connections')) return child
  throw new Error('redis-server did not start: npm test installs it')
}

async function stopRedis(): Promise<void> {
  if (redis.exitCode !== null || redis.signalCode !== null) return
  const exited = once(redis, 'exit')
  redis.kill('SIGKILL')
  await exited
}

/** With headers that fetch does not send. */
async function send(path: string, headers: Record<string, string>): Promise<number | undefined> {
  const sent = request(`${platform.url}${path}`, { headers }).end()
  const [answer] = (await once(sent, 'response')) as [IncomingMessage]
  answer.resume()
  return answer.statusCode
}

/** How many of so many at once were let through to be told that they have no key, and how many were too many. */
async function ask(count: number, address: string): Promise<{ through: number; tooMany: number }> {
  const answers = await Promise.all(
    Array.from({ length: count }, async () => {
      const answer = await fetch(`${platform.url}/v1/sandboxes`, { headers: { 'x-forwarded-for': address } })
      await answer.body?.cancel()
      return answer
    }),
  )
  for (const answer of answers.filter(({ status }) => status === 429)) {
    expect(Number(answer.headers.get('retry-after'))).toBeGreaterThanOrEqual(1)
  }
  const having = (wanted: number) => answers.filter(({ status }) => status === wanted).length
  return { through: having(401), tooMany: having(429) }
}

test('behind a trusted proxy each client has a limit of its own', async () => {
  expect(await ask(30, '203.0.113.1')).toEqual({ through: 10, tooMany: 20 })
  expect(await ask(5, '203.0.113.2')).toEqual({ through: 5, tooMany: 0 })
  expect(await ask(30, '1.1.1.1, 203.0.113.3')).toEqual({ through: 10, tooMany: 20 })
  expect(await ask(5, '1.1.1.1')).toEqual({ through: 5, tooMany: 0 })
})

test('the SDK waits as long as it is told to, so that a burst only takes longer', async () => {
  const delta = new Delta({ url: platform.url, apiKey: platform.key })
  const settled = await Promise.allSettled(Array.from({ length: 60 }, () => delta.account.get()))
  expect(settled.filter(({ status }) => status === 'rejected')).toEqual([])
})

test('what is refused before it has a route, and beside the router, is in the audit log', async () => {
  const delta = new Delta({ url: platform.url, apiKey: platform.key })
  const { id, key } = await delta.keys.create({ name: 'looks only', rights: ['read:exec'] })
  const authorization = `Bearer ${key}`
  const port = await send('/v1/sandboxes/sbx_aaaaaaaaaaaaaaaaaaaa/ports/8080/', { authorization })
  expect(port).toBe(403)
  expect(await send('/v1/sandboxes', { authorization, host: 'evil.example' })).toBe(403)
  await expect
    .poll(async () => (await delta.audit.list({ actor: id }).all()).map(({ action, reason }) => [action, reason]))
    .toEqual(
      expect.arrayContaining([
        ['connection.refused', 'forbidden'],
        ['request.refused', 'host_not_allowed'],
      ]),
    )
})

test('without Redis the server goes on alone with the same limits, and says so once; it is used again when it is back', async () => {
  await stopRedis()
  await expect.poll(() => platform.log()).toContain('redis_away')
  expect(await ask(30, '203.0.113.4')).toEqual({ through: 10, tooMany: 20 })
  expect((await fetch(`${platform.url}/health`)).status).toBe(200)
  redis = await startRedis()
  await expect.poll(() => platform.log()).toContain('redis_back')
  expect(await ask(30, '203.0.113.5')).toEqual({ through: 10, tooMany: 20 })
  expect(platform.log().match(/redis_away/g)).toHaveLength(1)
})
