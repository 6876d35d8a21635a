import { randomBytes } from 'node:crypto'
import { onTestFinished } from 'vitest'
import { z } from 'zod'
import type { KnownCaller } from '../access/callers/door.ts'
import { openRevocations } from '../access/revocations.ts'
import { createBox } from '../access/secrets.ts'
import { testCaller } from '../access/testing.ts'
import { createDirectory } from '../agents/directory.ts'
import { agentMigrations } from '../agents/migrations.ts'
import { tokensApproval } from '../agents/requests/approval.ts'
import { openTokenRequests } from '../agents/requests/feature.ts'
import { tokenRequestMigrations } from '../agents/requests/migrations.ts'
import { createAgentSchema } from '../agents/schema.ts'
import { createAgents } from '../agents/service.ts'
import { approvalMigrations } from '../approvals/migrations.ts'
import { createApprovals } from '../approvals/service.ts'
import { accessMigrations } from '../access/migrations.ts'
import { createModelDriver } from '../drivers/testing/model.ts'
import { type Clock, systemClock } from '../kernel/clock.ts'
import { rawQuery } from '../kernel/db/compile.ts'
import type { Database } from '../kernel/db/database.ts'
import { testHashBody } from '../kernel/http/testing-body-hash.ts'
import { newId } from '../kernel/ids.ts'
import { createLogger, type Logger, silentLogger } from '../kernel/log.ts'
import { microPerToken } from '../ledger/door.ts'
import { ledgerMigrations } from '../ledger/migrations.ts'
import { firstCard } from '../ledger/rate-card.ts'
import { createLedger } from '../ledger/service.ts'
import { modelMigrations } from '../models/migrations.ts'
import { providers } from '../models/providers/providers.ts'
import { createModels } from '../models/service.ts'
import { startPeers, type ScriptedPeer } from '../models/testing/peers.ts'
import { sandboxMigrations } from '../sandboxes/migrations.ts'
import { createSandboxes } from '../sandboxes/service.ts'
import { silentGuest, testSeal } from '../sandboxes/testing.ts'
import { openTestStorage } from '../workspaces/testing.ts'
import { workspaceMigrations } from '../workspaces/migrations.ts'
import { createWorkspaces } from '../workspaces/service.ts'
import { toolCallApproval } from './approval.ts'
import { openTasks } from './feature.ts'
import { taskMigrations } from './migrations.ts'
import { webhookMigrations } from './webhooks/migrations.ts'
import type { CallRecord, TaskEvent, TaskRecord } from './record.ts'
import { createTaskSchema, type TaskView } from './schema.ts'
import { createTaskStore } from './store.ts'
import { testDeps } from './tools/testing.ts'
import { createTools } from './tools/table.ts'
import { done, failed, type Tool, type ToolContext, type ToolOutcome } from './tools/tool.ts'

export const taskTestMigrations = [
  accessMigrations,
  approvalMigrations,
  ledgerMigrations,
  workspaceMigrations,
  sandboxMigrations,
  agentMigrations,
  tokenRequestMigrations,
  modelMigrations,
  taskMigrations,
  webhookMigrations,
].flat()

export const accountId = 'acc_a'

const asPerson = (userId: string, role: 'owner' | 'viewer' = 'owner', account = accountId): KnownCaller =>
  testCaller({
    kind: 'user',
    accountId: account,
    userId,
    sessionId: `ses_${userId.slice(4)}`,
    role,
    secondFactor: false,
  })

export const anna = asPerson('usr_anna')
export const bert = asPerson('usr_bert')
export const viewer = asPerson('usr_viewer', 'viewer')
export const stranger = asPerson('usr_stranger', 'owner', 'acc_b')

/** For each model so cheap that nobody has to reckon: a token is 1 micro-token in, 10 out. */
const models = [
  'anthropic/claude-sonnet-4-5',
  'anthropic/claude-haiku-4-5',
  'google/gemini-2.5-flash',
  'openai/gpt-5',
] as const
const meters = Object.fromEntries(
  models.flatMap((model) => [
    [`model:${model}:input`, { unit: 'x', perMillion: 1_000_000 }],
    [`model:${model}:output`, { unit: 'x', perMillion: 10_000_000 }],
    ...(model.startsWith('anthropic')
      ? [
          [`model:${model}:cache_read`, { unit: 'x', perMillion: 1_000_000 }],
          [`model:${model}:cache_write`, { unit: 'x', perMillion: 1_000_000 }],
          [`model:${model}:cache_write_hour`, { unit: 'x', perMillion: 1_000_000 }],
        ]
      : []),
  ]),
) as Record<string, { unit: string; perMillion: number }>

export const modelOf: Record<ScriptedPeer['name'], string> = {
  anthropic: 'anthropic/claude-sonnet-4-5',
  google: 'google/gemini-2.5-flash',
  openai: 'openai/gpt-5',
}

/** How a server dies: from the write after so many on, and whatever it asks the database then, nothing is answered any more. */
export interface Life {
  writes: number
  isDead: boolean
  /** Called when it dies by its writes. */
  onDeath?: () => void
}

const never = () => new Promise<never>(() => undefined)

/** The database as a server sees it that may be killed at any write: what it asks afterwards is never answered. */
function mortal<Schema>(database: Database<Schema>, life: Life): Database<Schema> {
  const write = <Answer>(work: () => Promise<Answer>): Promise<Answer> => {
    if (!life.isDead && life.writes <= 0) {
      life.isDead = true
      life.onDeath?.()
    }
    if (life.isDead) return never()
    life.writes -= 1
    // Of a write that was under way when it died nobody hears.
    return work().then((answer) => (life.isDead ? never() : answer))
  }
  const read = <Answer>(work: () => Promise<Answer>): Promise<Answer> =>
    life.isDead ? never() : work().then((answer) => (life.isDead ? never() : answer))
  return {
    ...database,
    all: (query) => read(() => database.all(query)),
    first: (query) => read(() => database.first(query)),
    lookUp: (query) => read(() => database.lookUp(query)),
    run: (query) => write(() => database.run(query)),
    batch: (steps) => write(() => database.batch(steps)),
    program<Operation, Answer>(url: URL) {
      const call = database.program<Operation, Answer>(url)
      return (operation: Operation) => write(() => call(operation))
    },
    of: <Tables>() => mortal(database.of<Tables>(), life),
  }
}

/** What tools did, in every life. */
export interface Ran {
  tool: string
  callId: string
  begun: boolean
  /** What it was called with. */
  text: string
}

/** Holds whoever comes until it is opened. */
export function gate() {
  let open = () => {}
  const opened = new Promise<void>((resolve) => (open = resolve))
  return { open: () => open(), opened }
}

export interface WorldOptions {
  clock?: Clock | undefined
  /** Whole tokens of the account. @default 1,000 */
  grant?: number
  log?: Logger
  tools?: readonly Tool[]
}

const input = z.strictObject({ text: z.string() })

function testTool(
  name: string,
  changes: Partial<Tool<{ text: string }>>,
  run: (text: string, context: ToolContext) => Promise<ToolOutcome>,
): Tool {
  const tool: Tool<{ text: string }> = {
    name,
    description: `A tool for tests: ${name}`,
    input,
    needs: [],
    mode: 'auto',
    isParallel: false,
    changesFiles: false,
    afterCrash: 'again',
    ...changes,
    run: ({ text }, context) => run(text, context),
  }
  return tool as Tool
}

/** All that servers share: a database, disks, peers that speak for models; and what the tools did. */
export async function newWorld(database: Database, options: WorldOptions = {}) {
  const {
    clock = systemClock,
    grant = 1_000,
    log = process.env['DELTA_TEST_LOG']
      ? createLogger({ level: 'info', write: (line) => void process.stderr.write(line) })
      : silentLogger,
  } = options
  const ran: Ran[] = []
  /** What `slow` waits for; by its text. */
  const gates = new Map<string, ReturnType<typeof gate>>()
  const gateOf = (name: string) => {
    const known = gates.get(name) ?? gate()
    gates.set(name, known)
    return known
  }
  const noted = (tool: string, text: string, { callId, begun }: ToolContext) => ran.push({ tool, callId, begun, text })
  const tools: Tool[] = [
    testTool('echo', { isParallel: true }, async (text, context) => {
      noted('echo', text, context)
      return done(text)
    }),
    testTool('fail', { isParallel: true }, async (text) => failed(`It fails: ${text}`)),
    // What may not happen twice, such as a payment.
    testTool('pay', { afterCrash: 'unknown' }, async (text, context) => {
      noted('pay', text, context)
      return done(`paid ${text}`)
    }),
    testTool('attach', { afterCrash: 'attach' }, async (text, context) => {
      noted('attach', text, context)
      return done(context.begun ? `attached to ${text}` : `ran ${text}`)
    }),
    testTool('guarded', { needs: ['write:exec'] }, async (text, context) => {
      noted('guarded', text, context)
      return done(text)
    }),
    testTool('slow', {}, async (text, context) => {
      noted('slow', text, context)
      context.onOutput('stdout', `begins ${text}\n`)
      const aborted = new Promise<'aborted'>((resolve) => {
        if (context.signal.aborted) resolve('aborted')
        context.signal.addEventListener('abort', () => resolve('aborted'), { once: true })
      })
      const end = await Promise.race([gateOf(text).opened, aborted])
      return end === 'aborted' ? failed('Interrupted.') : done(`done with ${text}`)
    }),
    testTool('change', { changesFiles: true }, async (text, context) => {
      noted('change', text, context)
      await context.computer()
      return done(`changed ${text}`)
    }),
    ...(options.tools ?? []),
  ]
  const peers = {
    anthropic: await startPeers.anthropic(),
    google: await startPeers.google(),
    openai: await startPeers.openai(),
  }
  for (const peer of Object.values(peers)) onTestFinished(peer.close)
  const driver = createModelDriver()
  const storage = await openTestStorage((end) => onTestFinished(end))
  const seal = createBox(randomBytes(32))
  const shared = { database, driver, hashBody: testHashBody, clock, log }
  const workspaces = createWorkspaces({ ...shared, ...storage })
  await workspaces.start()
  onTestFinished(workspaces.stop)
  const sandboxes = createSandboxes({ ...shared, seal: testSeal, workspaces, connectGuest: silentGuest })
  await (
    await sandboxes.start()
  ).reconciled
  onTestFinished(() => sandboxes.stop('leave'))

  const lives: { owner: string; life: Life }[] = []
  /** As if those that were killed had been silent for long. */
  async function bury(): Promise<void> {
    for (const { owner, life } of lives) {
      if (!life.isDead) continue
      for (const table of ['task_owners', 'ledger_owners']) {
        await database.run(rawQuery(`delete from ${table} where owner = '${owner}'`))
      }
    }
  }

  /** One server. */
  async function serve({
    life = { writes: Infinity, isDead: false },
    own = database,
  }: { life?: Life; own?: Database } = {}) {
    const db = mortal(own, life)
    await bury()
    const owner = newId('srv')
    lives.push({ owner, life })
    const parts = { database: db, hashBody: testHashBody, clock, log }
    const ledger = createLedger({
      ...parts,
      rates: { ...firstCard, meters: { ...firstCard.meters, ...meters } },
      grant: grant * microPerToken,
      planAtStart: () => 'enterprise',
      incarnation: owner,
    })
    const server = createModels({
      ...parts,
      ledger,
      seal,
      providers,
      settings: {
        anthropic: { apiKey: peers.anthropic.key, baseUrl: peers.anthropic.url },
        google: { apiKey: peers.google.key, baseUrl: peers.google.url },
        openai: { apiKey: peers.openai.key, baseUrl: peers.openai.url },
        defaultModel: modelOf.anthropic,
        localModels: [],
      },
      image: async () => new Uint8Array(),
      random: () => 0,
    })
    const revocations = await openRevocations(parts)
    const directory = createDirectory({ database: db, revocations, clock })
    const agents = createAgents({
      ...parts,
      directory,
      ledger: { ...ledger, mostAgents: async () => undefined },
      revocations,
      sandboxes,
      workspaces,
    })
    const record = async () => undefined
    const approvals = createApprovals({
      ...parts,
      kinds: [tokensApproval((...asked) => requests.tokenRequests.grant(...asked)), toolCallApproval()],
      hasSecondFactor: async () => false,
      mayStillAsk: async () => true,
      record,
    })
    const requests = openTokenRequests({ ...parts, agents, agentStore: directory.store, approvals, ledger, record })
    const opened = openTasks({
      ...parts,
      blobs: storage.blobs,
      agents,
      directory,
      ledger,
      models: server,
      approvals,
      tokenRequests: requests.tokenRequests,
      sandboxes,
      workspaces,
      tools: {
        ...testDeps({}),
        connect: () => Promise.reject(new Error('This test has no outside')),
        createOwn: (deps) => new Map([...createTools(deps), ...tools.map((tool) => [tool.name, tool] as const)]),
      },
      seal,
      owner,
    })
    const { tasks } = opened
    ledger.events.on('purse.archived', ({ purseId }) => {
      if (purseId.startsWith('agt_')) agents.purseArchived(purseId)
      else if (purseId.startsWith('tsk_')) tasks.purseArchived(purseId)
    })
    ledger.events.on('purse.filled', ({ purseId }) => tasks.purseFilled(purseId))
    let isRunning = true
    const stop = async (): Promise<void> => {
      if (!isRunning) return
      isRunning = false
      revocations.stop()
      if (life.isDead) return
      await tasks.stop()
      await requests.feature.stop?.('leave')
      await agents.stop()
      await approvals.stop()
      await server.stop()
      await ledger.stop()
    }
    onTestFinished(stop)
    await ledger.start()
    requests.start()
    approvals.start()
    await opened.start()
    return {
      life,
      owner,
      ledger,
      models: server,
      directory,
      agents,
      approvals,
      requests: requests.tokenRequests,
      tasks,
      feature: opened.feature,
      stop,
      /** As by `kill -9`: it says and hears nothing any more. */
      kill(): void {
        life.isDead = true
        revocations.stop()
      },
    }
  }

  const store = createTaskStore(database)
  return {
    database,
    clock,
    driver,
    peers,
    peer: peers.anthropic,
    store,
    workspaces,
    sandboxes,
    blobs: storage.blobs,
    ran,
    gateOf,
    serve,
    record: async (id: string): Promise<TaskRecord> => (await store.get(id))!,
    calls: (id: string): Promise<CallRecord[]> => store.calls(id),
    events: (id: string): Promise<TaskEvent[]> => store.events(id, { after: 0, limit: 100_000 }),
  }
}

export type World = Awaited<ReturnType<typeof newWorld>>
export type Server = Awaited<ReturnType<World['serve']>>

/** Until it is so. What never becomes so ends with its test. */
export async function until(
  isSo: () => boolean | Promise<boolean>,
  what = 'it is so',
  durationMs = 20_000,
): Promise<void> {
  for (const endAt = performance.now() + durationMs; performance.now() < endAt;) {
    if (await isSo()) return
    await new Promise((resolve) => setTimeout(resolve, 5))
  }
  throw new Error(`Waited in vain until ${what}`)
}

const standing = new Set(['waiting', 'suspended', 'paused', 'finished', 'failed', 'canceled'])

/** Until it neither works nor is about to, and all that follows is done. */
export async function atRest({ store }: World, id: string): Promise<TaskRecord> {
  let last: TaskRecord | undefined
  const isAtRest = async () => {
    last = await store.get(id)
    return last !== undefined && standing.has(last.state) && (last.endedAt === null || last.isSettled)
  }
  // A write of a server that was killed may reach PostgreSQL after the next one has looked for what it held, which looks again every half minute.
  await until(isAtRest, `${id} is at rest`, 90_000).catch((error: unknown) => {
    throw new Error(`${String(error)}: it is ${last?.state} (${last?.message})`)
  })
  return last!
}

export async function newAgent({ agents }: Server, wish: object = {}, by: KnownCaller = anna) {
  return agents.create(createAgentSchema.parse({ name: 'Worker', tokenBudget: 100, ...wish }), by)
}

export function give({ tasks }: Server, agent: string, wish: object = {}, by: KnownCaller = anna): Promise<TaskView> {
  return tasks.create(createTaskSchema.parse({ agent, text: 'Do it', ...wish }), by)
}

/** What all holds of a task at any time: events without gaps, ended once, results for calls. */
export async function checkTask({ store, events }: World, id: string): Promise<void> {
  const [task, all, calls, steps] = await Promise.all([store.get(id), events(id), store.calls(id), store.steps(id)])
  if (!task) throw new Error(`There is no ${id}`)
  const numbers = all.map(({ seq }) => seq)
  if (numbers.some((seq, at) => seq !== at + 1)) throw new Error(`${id} has a gap in its events: ${numbers.join(' ')}`)
  if (task.lastEvent !== numbers.length) throw new Error(`${id} says ${task.lastEvent} of ${numbers.length} events`)
  const ends = all.filter(({ kind }) => kind === 'end').length
  if (ends !== (task.endedAt === null ? 0 : 1)) throw new Error(`${id} is ${task.state} and has ended ${ends} times`)
  if (steps.some(({ step }, at) => step !== at)) throw new Error(`${id} has a gap in its steps`)
  const results = all.filter(({ kind }) => kind === 'result').map(({ data }) => data['id'])
  if (new Set(results).size !== results.length) throw new Error(`${id} tells a result twice`)
  const over = calls.filter(({ state }) => state === 'done')
  if (over.some(({ outcome }) => outcome === null)) throw new Error(`${id} has a call without an outcome`)
}

/** Micro-tokens of all purses of the account; what was used is among them. */
export async function sumOf({ ledger }: Server, purses: readonly string[]): Promise<{ free: number; held: number }> {
  let [free, held] = [0, 0]
  for (const purse of purses) {
    const balance = await ledger.balanceOf(accountId, purse)
    free += balance.granted + balance.bought
    held += balance.held
  }
  return { free, held }
}
