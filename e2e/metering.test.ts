import { once } from 'node:events'
import { readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import { join } from 'node:path'
import { Delta } from '@delta-agents/sdk'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { newDataDir } from './global-setup.ts'
import { leftovers } from './leftovers.ts'
import { ownUids, type Platform, startPlatform } from './platform.ts'
import { refusal } from './target.ts'

const mebibyte = 1024 * 1024
const granted = 2
/** A second of a processor costs a tenth of a token, a MiB of egress one, and nothing else anything. */
const card = {
  version: 'e2e',
  tokenUsd: 0.01,
  meters: {
    sandbox_cpu_seconds: { unit: 'second', perMillion: 100_000_000_000 },
    sandbox_memory_mb_seconds: { unit: 'MB second', perMillion: 0 },
    egress_bytes: { unit: 'byte', perMillion: 953_675 },
    storage_mb_days: { unit: 'MB day', perMillion: 0 },
    storage_s3_mb_days: { unit: 'MB day', perMillion: 0 },
    email: { unit: 'e-mail', perMillion: 0 },
    sms: { unit: 'SMS', perMillion: 0 },
    voice_minutes: { unit: 'minute', perMillion: 0 },
  },
}

let dataDir: string
let platform: Platform
let delta: Delta
let outside: Server

beforeAll(async () => {
  outside = createServer((_request, response) => void response.end(Buffer.alloc(32 * mebibyte, 'x')))
  await once(outside.listen(0, '127.0.0.1'), 'listening')
  dataDir = newDataDir()
  const file = `${dataDir}-card.json`
  writeFileSync(file, JSON.stringify(card))
  const env = {
    ...ownUids(100),
    DELTA_GRANT_TOKENS: String(granted),
    DELTA_RATE_CARD: file,
    DELTA_EGRESS_ALLOW_CIDRS: '127.0.0.1',
    DELTA_EGRESS_HOSTS: 'outside.test=127.0.0.1',
  }
  platform = await startPlatform({ dataDir, env })
  delta = new Delta({ url: platform.url, apiKey: platform.key })
})
afterAll(async () => {
  await platform.stop('SIGINT')
  outside.closeAllConnections()
  outside.close()
  expect(leftovers(dataDir), platform.log()).toEqual([])
  rmSync(dataDir, { recursive: true, force: true })
  rmSync(`${dataDir}-card.json`)
})

const micro = (tokens: number) => Math.round(tokens * 1e6)

/** In micro-tokens; nothing is owed, and all that was given is somewhere. */
async function balances(given: number) {
  const { total, owed } = await delta.ledger.get()
  const [left, held, used] = [micro(total.granted) + micro(total.bought), micro(total.held), micro(total.used)]
  expect(owed).toBe(0)
  expect(left + held + used).toBe(micro(given))
  return { left, held, used }
}

test('a sandbox that runs out is stopped within what is held, keeps its files, and goes on when there are tokens', async () => {
  const workspace = await delta.workspaces.create({ name: 'research' })
  const sandbox = await delta.sandboxes.create({ workspace: workspace.id, timeoutMs: 600_000, cpu: 1 })
  await sandbox.files.write('/workspace/kept', 'kept')
  expect((await balances(granted)).held).toBe(micro(granted))
  // Told as what it is: its sandbox has ended.
  const busy = sandbox.commands.run('while :; do :; done', { timeoutMs: 300_000 })
  await expect.poll(async () => (await sandbox.refresh()).state, { timeout: 60_000 }).toBe('stopped')
  expect(sandbox.info.reason).toBe('out_of_tokens')
  expect(await busy).toMatchObject({ ok: false, state: 'unknown', reason: expect.stringContaining('out_of_tokens') })
  await expect.poll(async () => (await balances(granted)).held).toBe(0)
  const { used } = await balances(granted)
  expect(used).toBeGreaterThan(micro(granted) / 4)
  expect(used).toBeLessThanOrEqual(micro(granted))
  const [snapshot] = await workspace.snapshots().all()
  expect(snapshot!.info).toMatchObject({ reason: 'stop' })

  await delta.ledger.grant({ tokens: 8, sort: 'bought', reason: 'To go on' })
  expect((await sandbox.commands.run('cat /workspace/kept')).stdout).toBe('kept')
  expect((await sandbox.refresh()).state).toBe('running')
  await sandbox.kill()
  await expect.poll(async () => (await balances(granted + 8)).held).toBe(0)
})

test('what nobody can pay is refused before it is made', async () => {
  const { left } = await balances(granted + 8)
  // A minute of so many processors costs more than there is, and so do ten seconds.
  const cpu = Math.ceil(left / 1e6) + 1
  const before = await delta.sandboxes.list().all()
  expect(await refusal(delta.sandboxes.create({ cpu }))).toMatchObject({ code: 'balance_too_low', status: 402 })
  expect((await delta.sandboxes.list().all()).map(({ id }) => id)).toEqual(before.map(({ id }) => id))
})

test('egress ends when its credit is used up, with a line that says so, and no byte passes that is not paid', async () => {
  const sandbox = await delta.sandboxes.create({
    timeoutMs: 600_000,
    cpu: 0.5,
    network: { egress: { hosts: ['outside.test:*'] } },
  })
  const { left } = await balances(granted + 8)
  const { port } = outside.address() as AddressInfo
  const fetched = await sandbox.commands.run(`curl -s http://outside.test:${port}/ | wc -c`, { timeoutMs: 60_000 })
  const bytes = Number(fetched.stdout)
  expect(bytes).toBeGreaterThan(mebibyte / 2)
  expect(bytes).toBeLessThanOrEqual((left / 1e6) * mebibyte)
  const [last] = (await sandbox.network.connections().page()).data
  expect(last).toMatchObject({ host: 'outside.test', reason: 'out_of_tokens' })
  // What was too little for the next piece is paid too, and may pass first.
  let passed = bytes
  const again = async () => {
    const said = await sandbox.commands.run(`curl -s http://outside.test:${port}/ > got; wc -c < got; head -c 300 got`)
    const [, count, text] = /^(\d+)\n(.*)$/s.exec(said.stdout)!
    if (text!.startsWith('x')) passed += Number(count)
    return text
  }
  await expect.poll(again, { timeout: 30_000 }).toMatch(/nobody can pay for more bytes/)
  expect(passed).toBeLessThanOrEqual((left / 1e6) * mebibyte)
  await sandbox.kill()
  await expect.poll(async () => (await balances(granted + 8)).held, { timeout: 40_000 }).toBe(0)
})

test('after kill -9 of the server with sandboxes running, what they used is paid, and all that was given is accounted for', async () => {
  await delta.ledger.grant({ tokens: 50, sort: 'bought', reason: 'To go on' })
  const given = granted + 8 + 50
  const sandboxes = await Promise.all([1, 2].map(() => delta.sandboxes.create({ timeoutMs: 600_000, cpu: 1 })))
  const before = await balances(given)
  const [busy, idle] = [sandboxes[0]!, sandboxes[1]!]
  const begun = (await busy.metrics()).cpuMs
  await busy.commands.start('i=0; while [ $i -lt 400000 ]; do i=$((i+1)); done; touch /workspace/counted')
  const gone = httpPid()
  process.kill(gone, 'SIGKILL')
  await expect.poll(() => serves(gone), { timeout: 30_000 }).toBe(true)
  // Each has a hold of the new server's, and none of the old one's is left.
  await expect.poll(async () => (await delta.ledger.holds({ state: 'open' }).page()).data.length).toBe(2)
  await balances(given)
  await expect.poll(async () => busy.files.exists('/workspace/counted'), { timeout: 60_000 }).toBe(true)
  const burnt = (await busy.metrics()).cpuMs - begun
  const most = burnt + begun + (await idle.metrics()).cpuMs
  await Promise.all(sandboxes.map((sandbox) => sandbox.kill()))
  await expect.poll(async () => (await balances(given)).held).toBe(0)
  const paid = (await balances(given)).used - before.used
  // A tenth of a token for a second; besides, what the two did until they were killed.
  expect(paid).toBeGreaterThanOrEqual(Math.floor(burnt * 100))
  expect(paid).toBeLessThanOrEqual(Math.ceil((most + 500) * 100))
})

/** Pid of the process that speaks HTTP, a descendant of the helper. */
function httpPid(): number {
  const family = [platform.pid]
  for (const pid of family) {
    for (const task of readdirSync(`/proc/${pid}/task`)) {
      const children = readFileSync(join('/proc', String(pid), 'task', task, 'children'), 'utf8')
      for (const child of children.trim().split(' ').filter(Boolean).map(Number)) {
        if (readFileSync(`/proc/${child}/cmdline`, 'utf8').includes('main.mjs')) return child
        family.push(child)
      }
    }
  }
  throw new Error('There is no HTTP process')
}

async function serves(formerPid: number): Promise<boolean> {
  try {
    if (httpPid() === formerPid) return false
    return (await fetch(`${platform.url}/health`, { signal: AbortSignal.timeout(2_000) })).ok
  } catch {
    return false
  }
}
