import { existsSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { expect, test } from 'vitest'
import { newDataDir } from './global-setup.ts'
import { leftovers } from './leftovers.ts'
import { ownUids, type Platform, startPlatform } from './platform.ts'
import { childrenOf, entriesOf, environmentOf, httpPid } from './processes.ts'
import {
  appendedPath,
  type Client,
  type Counter,
  counted,
  createClient,
  type Kept,
  type Random,
  readIfThere,
  seeded,
  type ShortLived,
} from './workload.ts'

/** The long form is run once for each runtime; what the server does with its rows is the same on all. */
const all = process.env['DELTA_TEST_ALL'] === '1' && process.env['DELTA_RUNTIME'] === undefined
/** One platform after the other, each killed this often. */
const [platforms, killsEach] = all ? [10, 20] : [2, 10]
const firstSeed = Number(process.env['DELTA_TEST_SEED'] ?? Date.now() % 1_000_000_000)
const clientsAtOnce = 3
/** Of an id, after its prefix. */
const idChars = 20
const eventuallyMs = 30_000
/** Beside the platform that other tests use. */
const uids = ownUids(500)

interface World {
  random: Random
  dataDir: string
  platform: Platform
  clients: Client[]
  /** In a row: the helper gives up on an HTTP process that ends again and again. */
  httpKills: number
  /** What was done, for whoever reads a failure. */
  story: string[]
}

for (const [index, seed] of Array.from({ length: platforms }, (_, step) => firstSeed + step).entries()) {
  const name = `nothing that was answered is lost over ${killsEach} kills (${index + 1}/${platforms}, DELTA_TEST_SEED=${seed})`
  test(name, { timeout: 600_000 }, () => live(seed))
}

async function live(seed: number): Promise<void> {
  const random = seeded(seed)
  const dataDir = newDataDir()
  const platform = await startPlatform({ dataDir, env: uids })
  const { url, key } = platform
  const clients = Array.from({ length: clientsAtOnce }, (_, index) =>
    createClient({ url, key, name: `client-${index}`, random: seeded(seed * 31 + index) }),
  )
  const world: World = { random, dataDir, platform, clients, httpKills: 0, story: [] }
  try {
    for (let kill = 0; kill < killsEach; kill += 1) {
      const work = Promise.all(clients.map((client) => client.work()))
      // Whoever fails is heard below; meanwhile it is not an unhandled rejection.
      work.catch(() => {})
      const afterMs = random.between(10, 350)
      await sleep(afterMs)
      // Every other time it hits what takes longest and leaves most behind.
      if (random.chance(0.5)) await (random.chance(0.5) ? whileMaking(world) : whileFilling(world))
      const how = chooseCrash(world)
      world.story.push(`${kill + 1}: ${how} after ${afterMs} ms`)
      await crashes[how](world)
      for (const client of clients) client.rest()
      await work
      await judge(world, { wakeShare: kill === killsEach - 1 ? 1 : 0.3 })
    }
    await world.platform.stop('SIGINT')
    expect(whatIsLeft(world)).toEqual([])
    rmSync(dataDir, { recursive: true, force: true })
  } catch (cause) {
    for (const client of clients) client.rest()
    await world.platform.stop('SIGINT').catch(() => {})
    const message = cause instanceof Error ? cause.message : String(cause)
    const told = `DELTA_TEST_SEED=${seed}: ${message}\n${world.story.join('\n')}\ndata: ${dataDir}\n${world.platform.log().slice(-20_000)}`
    throw new Error(told, { cause })
  }
}

async function whileMaking({ clients, random }: World): Promise<void> {
  const deadline = performance.now() + 500
  while (performance.now() < deadline && !clients.some((client) => client.isMaking())) await sleep(1)
  await sleep(random.below(40))
}

/** While boxes are made that nobody has asked for yet. */
async function whileFilling({ clients, random }: World): Promise<void> {
  const deadline = performance.now() + 500
  while (performance.now() < deadline && (await poolOf(clients[0]!)).making === 0) await sleep(1)
  await sleep(random.below(40))
}

type Crash = 'http' | 'helper' | 'both' | 'start'

function chooseCrash({ random, httpKills }: World): Crash {
  const how = random.pick(['http', 'http', 'helper', 'both', 'start'] as const)
  return how === 'http' && httpKills >= 3 ? 'both' : how
}

const crashes: Record<Crash, (world: World) => Promise<void>> = {
  async http(world) {
    world.httpKills += 1
    process.kill(await httpPid(world.platform.pid), 'SIGKILL')
    await healthy(world)
  },
  async helper(world) {
    await world.platform.kill()
    await startAgain(world)
  },
  async both(world) {
    const pid = await httpPid(world.platform.pid)
    await world.platform.kill()
    if (existsSync(`/proc/${pid}`)) process.kill(pid, 'SIGKILL')
    await startAgain(world)
  },
  /** The next start is cut short too, anywhere on its way. */
  async start(world) {
    await world.platform.kill()
    const afterMs = world.random.between(0, 500)
    world.story.push(`   and its restart after ${afterMs} ms`)
    const again = startPlatform({ dataDir: world.dataDir, port: world.platform.port, env: uids })
    again.catch(() => {})
    await sleep(afterMs)
    const helper = childrenOf(process.pid).find((pid) => environmentOf(pid).includes(`DELTA_DATA_DIR=${world.dataDir}`))
    if (helper !== undefined) process.kill(helper, 'SIGKILL')
    // Either it was healthy before it was killed, or its start has failed; nobody answers now.
    await again.catch(() => {})
    await startAgain(world)
  },
}

async function startAgain(world: World): Promise<void> {
  const { dataDir, platform } = world
  world.platform = await startPlatform({ dataDir, port: platform.port, env: uids })
  world.httpKills = 0
  // The HTTP process of before may have given the first answer, on its way out.
  await httpPid(world.platform.pid)
  await healthy(world)
}

async function healthy({ platform, clients }: World): Promise<void> {
  await expect
    .poll(() => clients[0]!.delta.health().then(({ status }) => status, String), {
      timeout: eventuallyMs,
      interval: 10,
    })
    .toBe('ok')
  await httpPid(platform.pid)
}

async function judge(world: World, { wakeShare }: { wakeShare: number }): Promise<void> {
  for (const client of world.clients) {
    for (const kept of client.all) await judgeKept(world, kept, { wakeShare })
    for (const shortLived of client.shortLived.splice(0)) {
      if (Date.now() > shortLived.dueAt || wakeShare === 1) await judgeShortLived(shortLived)
      else client.shortLived.push(shortLived)
    }
  }
  await judgeWhole(world)
}

async function judgeKept(world: World, kept: Kept, { wakeShare }: { wakeShare: number }): Promise<void> {
  const { sandbox } = kept
  const info = await sandbox.refresh()
  const told = `${sandbox.id}: ${JSON.stringify(info)}`
  expect(info.state, told).toBe(kept.state)
  expect(info.metadata, told).toEqual(kept.metadata)
  if (kept.state === 'killed') return
  if (kept.state !== 'running' && !world.random.chance(wakeShare)) return
  expect(await sandbox.commands.run('echo usable'), told).toMatchObject({ stdout: 'usable\n', exitCode: 0 })
  kept.state = 'running'
  for (const [path, content] of kept.files) {
    const there = await readIfThere(sandbox, path)
    expect(there?.equals(content), `${sandbox.id} ${path} has ${there?.length} bytes of ${content.length}`).toBe(true)
  }
  judgeAppended(kept, (await readIfThere(sandbox, appendedPath))?.toString() ?? '')
  for (const counter of kept.counters) await judgeCounter(world, kept, counter)
}

/** Each command ran once; the lines rise since a client waits for one before the next. */
function judgeAppended({ sandbox, appended, perhapsAppended }: Kept, text: string): void {
  const there = text.split('\n').slice(0, -1).map(Number)
  const expected = [...appended, ...perhapsAppended.filter((line) => there.includes(line))].toSorted((a, b) => a - b)
  expect(there, `${sandbox.id} ${appendedPath}`).toEqual(expected)
}

async function judgeCounter({ random, platform }: World, { sandbox }: Kept, counter: Counter): Promise<void> {
  const { execId, pid, path } = counter
  expect(
    (await sandbox.commands.list()).find(({ id }) => id === execId),
    `${sandbox.id} ${execId}`,
  ).toMatchObject({
    state: 'running',
    pid,
  })
  const before = counter.seen
  await expect
    .poll(async () => (counter.seen = await linesOf(sandbox, path)), { timeout: eventuallyMs, interval: 20 })
    .toBeGreaterThan(before)
  const text = counted(counter.seen)
  const from = random.below(text.length)
  expect(
    await outputOf({ platform, sandboxId: sandbox.id, execId, from, to: text.length }),
    `${execId} from ${from}`,
  ).toBe(text.slice(from))
}

/** How many, given that none is missing or doubled; the last may be half written. */
async function linesOf(sandbox: Kept['sandbox'], path: string): Promise<number> {
  const text = (await readIfThere(sandbox, path))?.toString() ?? ''
  const lines = text.split('\n').length - 1
  expect(text.startsWith(counted(lines)), `${sandbox.id} ${path}: ${text.slice(0, 2_000)}`).toBe(true)
  return lines
}

/** The bytes of its output, read as one who was there before goes on. */
async function outputOf(at: {
  platform: Platform
  sandboxId: string
  execId: string
  from: number
  to: number
}): Promise<string> {
  const { platform, sandboxId, execId, from, to } = at
  const address = `${platform.url}/v1/sandboxes/${sandboxId}/execs/${execId}/events?from=${from}&encoding=base64`
  const headers = { authorization: `Bearer ${platform.key}`, accept: 'text/event-stream' }
  const answer = await fetch(address, { headers, signal: AbortSignal.timeout(eventuallyMs) })
  expect(answer.status, address).toBe(200)
  let text = ''
  let events = ''
  for await (const part of answer.body!.pipeThrough(new TextDecoderStream())) {
    events += part
    const whole = events.split('\n\n')
    events = whole.pop()!
    for (const event of whole) {
      if (!event.startsWith('event: stdout')) continue
      const { data, offset } = JSON.parse(/^data: (.*)$/m.exec(event)![1]!) as { data: string; offset: number }
      expect(offset, `${execId}: where a piece begins`).toBe(from + text.length)
      text += Buffer.from(data, 'base64').toString()
    }
    if (text.length >= to - from) break
  }
  return text.slice(0, to - from)
}

async function judgeShortLived({ sandbox, dueAt, becomes }: ShortLived): Promise<void> {
  const told = `${sandbox.id}, due at ${new Date(dueAt).toISOString()}`
  await expect
    .poll(async () => (await sandbox.refresh()).state, { timeout: eventuallyMs, interval: 20, message: told })
    .toBe(becomes)
  const reasons = (await sandbox.logs().all()).map(({ reason }) => reason)
  // A server killed between the freezing and its row finds the box frozen.
  const expected = becomes === 'paused' ? ['timeout', 'found_frozen'] : ['timeout']
  expect(
    reasons.some((reason) => expected.includes(reason)),
    `${told}: ${reasons.join()}`,
  ).toBe(true)
  await sandbox.kill()
}

/** What the server lists is what is known and what is on the machine: nothing twice, nothing that nobody knows. */
async function judgeWhole({ clients, dataDir }: World): Promise<void> {
  const listed = await clients[0]!.delta.sandboxes.list({ pageSize: 500 }).all()
  const there = listed.filter(({ state }) => state !== 'killed' && state !== 'failed')
  const known = new Set(
    clients.flatMap(({ living, shortLived }) => [...living(), ...shortLived].map(({ sandbox }) => sandbox.id)),
  )
  expect(
    there.filter(({ id }) => !known.has(id)).map(({ info }) => info),
    'sandboxes nobody asked for, or made twice',
  ).toEqual([])
  const ids = there.map(({ id }) => id)
  await expect
    .poll(async () => strangers(dataDir, ids, await poolOf(clients[0]!)), { timeout: eventuallyMs, interval: 20 })
    .toEqual([])
}

interface Pool {
  ready: number
  making: number
}

async function poolOf({ delta }: Client): Promise<Pool> {
  return ((await delta.health())['sandboxes'] as { pool: Pool }).pool
}

/** Disks, boxes and wires that belong to no sandbox, but for those that the server says it keeps ready: each whole. */
function strangers(dataDir: string, sandboxIds: string[], { ready, making }: Pool): string[] {
  const names = sandboxIds.map((id) => id.slice('sbx_'.length))
  const folders = ['pool/uppers', 'pool/new', 'pool/trash', 'state/boxes', 'wires']
  const found = folders.flatMap((folder) =>
    entriesOf(join(dataDir, folder))
      .map((entry) => ({ folder, name: entry.slice(4, 4 + idChars) }))
      .filter(({ name }) => !names.includes(name)),
  )
  const whole = [...Map.groupBy(found, ({ name }) => name).values()].filter(
    (parts) => parts.map(({ folder }) => folder).join() === 'pool/uppers,state/boxes,wires',
  )
  if (making === 0 && whole.length === ready && whole.flat().length === found.length) return []
  return [`${ready} are kept ready, ${making} being made`, ...found.map(({ folder, name }) => `${folder}: ${name}`)]
}

function whatIsLeft({ dataDir, clients }: World): string[] {
  const boxIds = clients.flatMap((client) =>
    client.all.flatMap(({ sandbox }) =>
      Array.from({ length: 36 }, (_, starts) => `box_${sandbox.id.slice(4)}${starts.toString(36)}`),
    ),
  )
  return [
    ...leftovers(dataDir, boxIds),
    ...['state/boxes', 'wires', 'pool'].flatMap((folder) => entriesOf(join(dataDir, folder))),
  ]
}
