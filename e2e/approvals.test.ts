import { once } from 'node:events'
import { readdirSync, readFileSync, rmSync } from 'node:fs'
import { createServer, type Server } from 'node:http'
import { type ApprovalInfo, Delta, type Sandbox } from '@delta-agents/sdk'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { newDataDir } from './global-setup.ts'
import { leftovers } from './leftovers.ts'
import { freePort, ownUids, type Platform, startPlatform } from './platform.ts'
import { refusal } from './target.ts'

/** Beside the platform that other tests use. */
const uids = ownUids(500)
const names = ['fonts.test', 'other.test', 'killed.test', 'raced.test']
// What stands for the outside is one port of this machine's loopback: no packet leaves it, also where a refusal fails.
const operator = {
  DELTA_EGRESS_ALLOW_CIDRS: '127.0.0.1',
  DELTA_EGRESS_HOSTS: names.map((name) => `${name}=127.0.0.1`).join(','),
}
const reason = 'The build fetches its fonts from there'
const password = 'a password of the tests'

let dataDir: string
let platform: Platform
let outside: Server
let port: number
/** With the key in the data folder. */
let delta: Delta
let ada: Delta
let ben: Delta
let sandbox: Sandbox
/** Their ids. */
let agents: { fonts: string; goes: string }

async function person(email: string): Promise<Delta> {
  await delta.account.invite(email)
  const { url } = await delta.auth.createLink(email)
  const session = await delta.auth.acceptInvitation({ token: new URL(url).searchParams.get('t')!, password })
  return new Delta({ url: platform.url, apiKey: delta.auth.keep(session), maxRetries: 0 })
}

const withKey = (apiKey: string) => new Delta({ url: platform.url, apiKey, maxRetries: 0 })

async function agent(maker: Delta, rights: string[], more: object = {}): Promise<Delta> {
  const { token } = await maker.agentTokens.create({ agentId: agents.fonts, rights, ...more })
  return withKey(token)
}

async function ask(who: Delta, host: string, more: object = {}): Promise<ApprovalInfo> {
  return (await who.sandboxes.get(sandbox.id)).network.request(host, { reason, port, ...more })
}

beforeAll(async () => {
  outside = createServer((_, response) => response.end('hello from outside\n')).listen(0, '127.0.0.1')
  await once(outside, 'listening')
  const address = outside.address()
  if (typeof address !== 'object' || address === null) throw new Error('Nothing listens')
  port = address.port
  dataDir = newDataDir()
  platform = await startPlatform({ dataDir, port: await freePort(), env: { ...uids, ...operator } })
  delta = new Delta({ url: platform.url, apiKey: platform.key })
  ada = await person('ada@e2e.example')
  ben = await person('ben@e2e.example')
  const [fonts, goes] = [await delta.agents.create({ name: 'Fonts' }), await delta.agents.create({ name: 'Goes' })]
  agents = { fonts: fonts.id, goes: goes.id }
  sandbox = await ada.sandboxes.create({ timeoutMs: 1_800_000 })
})
afterAll(async () => {
  await platform.stop('SIGINT')
  outside.closeAllConnections()
  outside.close()
  expect(leftovers(dataDir), platform.log()).toEqual([])
  rmSync(dataDir, { recursive: true, force: true })
})

const fetched = async (host: string) => (await sandbox.commands.run(`curl -sS -m 20 http://${host}:${port}/`)).stdout
const hosts = async (): Promise<string[]> => {
  const { egress } = await sandbox.network.get()
  return typeof egress === 'string' ? [] : egress.hosts
}

test('a refused host is asked for by an agent, looked at and approved by a person, and reached', async () => {
  const bot = await agent(ada, ['request', 'read:sandboxes'])
  expect(await fetched('fonts.test')).toContain(`POST /v1/sandboxes/{id}/network/requests`)
  const asked = await ask(bot, 'FONTS.test.')
  expect(asked).toMatchObject({
    state: 'pending',
    kind: 'egress',
    askedBy: agents.fonts,
    askedThrough: [expect.stringMatching(/^usr_/)],
    reason,
    sandboxId: sandbox.id,
    action: { kind: 'egress', sandboxId: sandbox.id, host: 'fonts.test', ports: [port] },
  })
  expect(await ask(bot, 'fonts.test')).toMatchObject({ id: asked.id })
  expect(await fetched('fonts.test')).toContain('is refused by the policy')

  expect(await refusal(bot.approvals.approve(asked))).toMatchObject({ status: 403 })
  expect(await refusal(delta.approvals.approve(asked))).toMatchObject({ code: 'forbidden' })
  const seen = await ben.approvals.get(asked.id)
  expect(seen.description).toContain(`may connect to fonts.test at port ${port}`)
  const changed = { id: seen.id, actionHash: seen.actionHash.replace(/./, (digit) => (digit === '0' ? '1' : '0')) }
  expect(await refusal(ben.approvals.approve(changed))).toMatchObject({ code: 'approval_action_changed', status: 409 })
  expect(await ben.approvals.approve(seen)).toMatchObject({ state: 'executed', failure: null })
  expect(await fetched('fonts.test')).toBe('hello from outside\n')
  expect(await fetched('other.test')).toContain('is refused by the policy')
  for (const again of [ben, ada]) {
    expect(await refusal(again.approvals.approve(seen))).toMatchObject({ code: 'approval_decided' })
    expect(await refusal(again.approvals.refuse(seen.id, 'No'))).toMatchObject({ code: 'approval_decided' })
  }
  expect(await refusal(ask(bot, 'fonts.test'))).toMatchObject({ code: 'egress_allowed_already' })

  const said = async (filter: object) =>
    (await delta.audit.list(filter).all()).map(({ actor, action, outcome }) => `${actor} ${action} ${outcome}`)
  expect(await said({ action: 'requestEgress' })).toContain(`${agents.fonts} requestEgress done`)
  const ofThis = await said({ target: asked.id })
  for (const entry of [
    `${agents.fonts} approve refused`,
    'key_default approve refused',
    'platform approval.execute done',
  ]) {
    expect(ofThis).toContain(entry)
  }
})

test('a refused request changes nothing, and says why to whoever asked', async () => {
  const bot = await agent(ada, ['request', 'read:sandboxes'])
  const asked = await ask(bot, 'other.test')
  await ben.approvals.refuse(asked.id, 'Use the mirror inside instead')
  expect(await bot.approvals.get(asked.id)).toMatchObject({
    state: 'refused',
    refusal: 'Use the mirror inside instead',
  })
  expect(await fetched('other.test')).toContain('is refused by the policy')
})

test('nobody decides on their own: as the same person, or for a key of theirs', async () => {
  const key = await ada.keys.create({ name: 'asks', rights: ['request', 'read:sandboxes'] })
  const approving = await ada.keys.create({ name: 'approves', rights: ['approve:egress'] })
  for (const asked of [await ask(ada, 'other.test'), await ask(withKey(key.key), 'other.test')]) {
    expect(await refusal(ada.approvals.approve(asked))).toMatchObject({ code: 'approval_own_request' })
    expect(await refusal(withKey(approving.key).approvals.approve(asked))).toMatchObject({
      code: 'approval_own_request',
    })
    expect((await ben.approvals.refuse(asked.id, 'no')).state).toBe('refused')
  }
})

test('what was asked by whom was let go is not done', async () => {
  const key = await ada.keys.create({ name: 'goes', rights: ['request', 'read:sandboxes', 'delegate'] })
  const byKey = await ask(withKey(key.key), 'other.test')
  const token = await withKey(key.key).agentTokens.create({
    agentId: agents.goes,
    rights: ['request', 'read:sandboxes'],
  })
  const byToken = await ask(withKey(token.token), 'other.test', { ttlMs: 120_000 })
  await ada.agentTokens.revoke(token.token)
  await expect.poll(async () => (await ben.approvals.get(byToken.id)).state).toBe('canceled')
  await ada.keys.revoke(key.id)
  expect(await refusal(ben.approvals.approve(byKey))).toMatchObject({ code: 'approval_requester_gone' })
  expect(await hosts()).not.toContain(`other.test:${port}`)
  await ben.approvals.refuse(byKey.id, 'They have left')
})

test('of two people at once one decides', async () => {
  const cleo = await person('cleo@e2e.example')
  const asked = await ask(ada, 'raced.test')
  const acts = [ben, cleo, ben, cleo].map((who, at) =>
    at < 3 ? who.approvals.approve(asked) : who.approvals.refuse(asked.id, 'no'),
  )
  const ended = await Promise.allSettled(acts)
  expect(ended.filter(({ status }) => status === 'fulfilled')).toHaveLength(1)
  const { state } = await ben.approvals.get(asked.id)
  expect((await hosts()).includes(`raced.test:${port}`)).toBe(state === 'executed')
})

describe('what misleads is refused before a person sees it', () => {
  test.each([
    ['fonts.test:443', 'without * and port'],
    ['*.test', 'without * and port'],
    ['*', 'every host'],
    ['http://fonts.test', 'scheme'],
    ['fonts.test/../other.test', 'more than a host'],
    ['user@fonts.test', 'more than a host'],
    ['fonts.test\u202e', 'not a host name'],
    ['127.1', 'not a host name'],
    ['0x7f000001', 'not a host name'],
  ])('the host %j', async (host, why) => {
    const error = await refusal(ask(ada, host))
    expect(error).toMatchObject({ code: 'invalid_request' })
    expect(JSON.stringify(error.cause ?? error.message)).toContain(why)
  })

  test.each(['clear\u001b[2J', 'line\nends', 'turned \u202e gninrut', 'hidden \u200b', '\u3164', '  '])(
    'the reason %j',
    async (words) => {
      expect(await refusal(ask(ada, 'other.test', { reason: words }))).toMatchObject({ code: 'invalid_request' })
    },
  )

  test('a name that looks like another is shown in the letters that are sent', async () => {
    const asked = await ask(ada, 'f\u043ents.test')
    expect(asked.action).toMatchObject({ host: expect.stringMatching(/^xn--[a-z0-9-]+\.test$/) })
    expect(asked.description).not.toMatch(/[^ -~]/)
    await ada.approvals.cancel(asked.id)
  })
})

test('who watches is told of each change', async () => {
  const watching = new AbortController()
  const seen: string[] = []
  const asked = await ask(ada, 'other.test')
  const done = (async () => {
    for await (const { approval } of ben.approvals.follow({ signal: watching.signal })) {
      if (approval.id === asked.id) seen.push(approval.state)
      if (approval.state === 'pending') await ben.approvals.refuse(approval.id, 'no')
    }
  })().catch(() => undefined)
  await expect.poll(() => seen).toEqual(['pending', 'refused'])
  watching.abort()
  await done
})

/** Pid of the process that speaks HTTP, a child of the helper. */
function httpPid(): number {
  const family = [platform.pid]
  for (const pid of family) {
    for (const task of readdirSync(`/proc/${pid}/task`)) {
      const children = readFileSync(`/proc/${pid}/task/${task}/children`, 'utf8').trim()
      for (const child of children.split(' ').filter(Boolean).map(Number)) {
        if (readFileSync(`/proc/${child}/cmdline`, 'utf8').includes('main.mjs')) return child
        family.push(child)
      }
    }
  }
  throw new Error('There is no HTTP process')
}

/** The helper starts it again; how long that takes is the machine's business. */
async function servesAgain(gone: number): Promise<void> {
  const serves = async () => {
    try {
      return httpPid() !== gone && (await fetch(`${platform.url}/health`)).ok
    } catch {
      return false
    }
  }
  await expect.poll(serves, { timeout: 30_000 }).toBe(true)
}

test('a server that is killed between the decision and the deed does it once', async () => {
  const asked = await ask(ada, 'killed.test')
  const gone = httpPid()
  // The deed waits its turn behind what the sandbox is at, which waits for the helper.
  process.kill(platform.pid, 'SIGSTOP')
  const waiting: Promise<unknown>[] = []
  try {
    waiting.push(sandbox.stop().catch(() => undefined))
    waiting.push(ben.approvals.approve(asked).catch(() => undefined))
    await expect.poll(async () => (await ben.approvals.get(asked.id)).state).toBe('approved')
    process.kill(httpPid(), 'SIGKILL')
  } finally {
    process.kill(platform.pid, 'SIGCONT')
  }
  await servesAgain(gone)
  await Promise.all(waiting)
  await expect.poll(async () => (await ben.approvals.get(asked.id)).state).toBe('executed')
  expect((await hosts()).filter((host) => host === `killed.test:${port}`)).toHaveLength(1)
  const entries = (await delta.audit.list({ target: asked.id }).all()).map(
    ({ action, outcome }) => `${action} ${outcome}`,
  )
  expect(entries.filter((entry) => entry === 'approval.approved done')).toHaveLength(1)
  expect(entries.filter((entry) => entry === 'approval.execute done')).toHaveLength(1)
  expect(await refusal(ben.approvals.approve(asked))).toMatchObject({ code: 'approval_decided' })
  expect(await fetched('killed.test')).toBe('hello from outside\n')
})

test('a server that is killed at any moment has not decided, or has and does it', async () => {
  // Not often: the helper gives up on a server that ends again and again.
  for (const waitMs of [1, 6]) {
    const asked = await ask(ada, `name-${waitMs}.test`)
    const approving = ben.approvals.approve(asked).catch(() => undefined)
    await new Promise((done) => setTimeout(done, waitMs))
    const gone = httpPid()
    process.kill(gone, 'SIGKILL')
    await servesAgain(gone)
    await approving
    await expect.poll(async () => (await ben.approvals.get(asked.id)).state).not.toBe('approved')
    const { state } = await ben.approvals.get(asked.id)
    expect(['pending', 'executed']).toContain(state)
    expect((await hosts()).includes(`name-${waitMs}.test:${port}`)).toBe(state === 'executed')
  }
})

test('how long a request waits is bounded', async () => {
  const asked = await ask(ada, 'late.test', { ttlMs: 60_000 })
  expect(Date.parse(asked.expiresAt) - Date.parse(asked.askedAt)).toBe(60_000)
  for (const ttlMs of [59_999, 7 * 86_400_000 + 1]) {
    expect(await refusal(ask(ada, 'later.test', { ttlMs }))).toMatchObject({ code: 'invalid_request' })
  }
})
