import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createAgentTokens } from '../packages/server/src/access/agent-tokens/service.ts'
import { createCallerDoor } from '../packages/server/src/access/authenticate.ts'
import { keyMigrations } from '../packages/server/src/access/keys/migrations.ts'
import { createKeyReader } from '../packages/server/src/access/keys/reader.ts'
import type { KeyRecord } from '../packages/server/src/access/keys/record.ts'
import { openKeys } from '../packages/server/src/access/keys/open.ts'
import { createKeyStore } from '../packages/server/src/access/keys/store.ts'
import { keyHash, newKeyText } from '../packages/server/src/access/keys/text.ts'
import { accessMigrations } from '../packages/server/src/access/migrations.ts'
import { peopleMigrations } from '../packages/server/src/access/people/migrations.ts'
import { openRevocations } from '../packages/server/src/access/revocations.ts'
import { createDirectory } from '../packages/server/src/agents/directory.ts'
import { agentMigrations } from '../packages/server/src/agents/migrations.ts'
import type { AgentRecord } from '../packages/server/src/agents/store.ts'
import { type Right, right } from '../packages/server/src/access/rights.ts'
import { createSecrets } from '../packages/server/src/access/secrets.ts'
import { systemClock } from '../packages/server/src/kernel/clock.ts'
import { rawQuery } from '../packages/server/src/kernel/db/compile.ts'
import type { Database } from '../packages/server/src/kernel/db/database.ts'
import { openDatabase } from '../packages/server/src/kernel/db/open.ts'
import { newId } from '../packages/server/src/kernel/ids.ts'
import { createLogger } from '../packages/server/src/kernel/log.ts'
import { type Figure, figure, percentile } from './figures.ts'

const few = 10
const many = 100_000
const manyAgents = 10_000
/** Keys that are asked for, each once unknown and many times known. */
const asked = 10
const rounds = 2_000
const insertsAtOnce = 500

/** What was measured, by the case it is of. */
type Samples = Record<string, number[]>

/** So many keys or agents on a database of their own. */
interface Served {
  samples: Samples
  rounds: number
  round(round: number): Promise<void>
  end(): Promise<void>
}

/** What recognising a caller, deciding and holding on to the request add to it, with that many keys in the database. */
async function serveKeys(keys: number): Promise<Served> {
  const folder = mkdtempSync(join(tmpdir(), 'delta-bench-access-'))
  const log = createLogger({ level: 'error', write: (line) => process.stderr.write(line) })
  const database = await openDatabase({
    path: join(folder, 'delta.db'),
    log,
    migrations: [...accessMigrations, ...peopleMigrations, ...keyMigrations],
  })
  await addPerson(database)
  const store = createKeyStore(database)
  const texts = Array.from({ length: keys }, newKeyText)
  for (let at = 0; at < keys; at += insertsAtOnce) {
    await Promise.all(texts.slice(at, at + insertsAtOnce).map((text) => store.insert(recordOf(text))))
  }
  const revocations = await openRevocations({ database, clock: systemClock, log })
  const chosen = Array.from({ length: asked }, (_, at) => texts[Math.floor((at * keys) / asked)]!)
  const samples = { 'a key in use': [] as number[], 'a key not seen yet': [] as number[] }
  return {
    samples,
    rounds: rounds / asked,
    async round() {
      // A new reader knows no key yet.
      const { reader, stop } = createKeyReader({ store, revocations, clock: systemClock, log })
      const door = createCallerDoor({ readers: [reader], revocations, clock: systemClock })
      for (const text of chosen) samples['a key not seen yet'].push(await one(door, text))
      for (let again = 0; again < asked; again++) {
        for (const text of chosen) samples['a key in use'].push(await one(door, text))
      }
      door.stop()
      await stop()
    },
    async end() {
      revocations.stop()
      await database.close()
      rmSync(folder, { recursive: true })
    },
  }
}

/**
 * The same for agents that act at once, each with a token of its own, limited to sandboxes of its own and made with one of as many keys. What stands above a token that was not seen yet is
 * looked up; where another server made it, its signature is checked too.
 */
async function serveAgents(agents: number): Promise<Served> {
  const folder = mkdtempSync(join(tmpdir(), 'delta-bench-access-'))
  const log = createLogger({ level: 'error', write: (line) => process.stderr.write(line) })
  const database = await openDatabase({
    path: join(folder, 'delta.db'),
    log,
    migrations: [...accessMigrations, ...peopleMigrations, ...keyMigrations, ...agentMigrations],
  })
  const revocations = await openRevocations({ database, clock: systemClock, log })
  const directory = createDirectory({ database, revocations, clock: systemClock })
  const keys = openKeys({
    database,
    revocations,
    hasSecondFactor: () => Promise.resolve(false),
    clock: systemClock,
    log,
  })
  const { signing } = createSecrets({ secretKey: 'of the bench, which protects nothing' })
  const parts = {
    signing,
    findRoot: keys.find,
    findAgent: directory.findAgent,
    revocations,
    clock: systemClock,
  }
  const [tokens, others] = [createAgentTokens(parts), createAgentTokens(parts)]
  const door = createCallerDoor({ readers: [tokens.reader], revocations, clock: systemClock })
  await addPerson(database)
  const store = createKeyStore(database)
  const makers = Array.from({ length: agents }, () => recordOf(newKeyText()))
  for (let at = 0; at < agents; at += insertsAtOnce) {
    await Promise.all(makers.slice(at, at + insertsAtOnce).map((record) => store.insert(record)))
  }
  const kept = Array.from({ length: agents }, () => newId('agt'))
  const rights = ['read:sandboxes', 'write:exec'].map(right)
  for (let at = 0; at < agents; at += insertsAtOnce) {
    const some = kept.slice(at, at + insertsAtOnce)
    await Promise.all(some.map((id) => directory.store.insert(agentOf(id, rights), { line: [id], limit: undefined })))
  }
  const sandboxes = ['sbx_a', ...Array.from({ length: 9 }, () => newId('sbx'))]
  const make = async (agent: number, by = tokens): Promise<string> => {
    const maker = (await keys.find(makers[agent % agents]!.id))!
    const agentId = kept[agent % agents]!
    return (await by.create({ agentId, rights, sandboxes, ttlMs: 900_000 }, maker)).token
  }
  const texts: string[] = []
  for (let agent = 0; agent < agents; agent++) texts.push(await make(agent))
  for (const text of texts) await one(door, text)
  const samples = {
    'an agent in action': [] as number[],
    'an agent not seen yet': [] as number[],
    'an agent not seen yet, with a token of another server': [] as number[],
  }
  return {
    samples,
    rounds,
    async round(round) {
      const known = texts[Math.floor(((round % asked) * agents) / asked)]!
      for (let again = 0; again < asked; again++) samples['an agent in action'].push(await one(door, known))
      samples['an agent not seen yet'].push(await one(door, await make(round)))
      const text = await make(round, others)
      samples['an agent not seen yet, with a token of another server'].push(await one(door, text))
    },
    async end() {
      door.stop()
      await keys.feature.stop?.('leave')
      revocations.stop()
      await database.close()
      rmSync(folder, { recursive: true })
    },
  }
}

/** Round by round in turn: what else the machine does meets both alike. */
async function inTurns(small: Served, large: Served): Promise<{ few: Samples; many: Samples }> {
  for (let round = 0; round < small.rounds; round++) {
    await small.round(round)
    await large.round(round)
  }
  await small.end()
  await large.end()
  return { few: small.samples, many: large.samples }
}

async function one(door: ReturnType<typeof createCallerDoor>, text: string): Promise<number> {
  const authorization = `Bearer ${text}`
  const startedAt = performance.now()
  const found = door.authenticate({ authorization })
  const caller = found instanceof Promise ? await found : found
  if (!caller) throw new Error('A key that is there was not found')
  const admitted = door.admit(caller, { right: 'read:sandboxes', resource: 'sandbox' }, 'sbx_a')
  door.hold(admitted, () => {})()
  return performance.now() - startedAt
}

/** Whose keys they are. */
async function addPerson(database: Database): Promise<void> {
  await database.batch(
    [
      `insert into accounts (id, name, created_at) values ('acc_a', 'bench', 1)`,
      `insert into users (id, email, name, created_at) values ('usr_a', 'bench@example.com', 'bench', 1)`,
      `insert into memberships (account_id, user_id, role, created_at) values ('acc_a', 'usr_a', 'owner', 1)`,
    ].map((text) => ({ query: rawQuery(text) })),
  )
}

function agentOf(id: string, rights: readonly Right[]): AgentRecord {
  const at = systemClock.now()
  const none = { parentId: null, task: null, channel: null, workspaceId: null, sandboxId: null }
  const own = { id, accountId: 'acc_a', name: id, kind: 'main', state: 'active', rights } as const
  return {
    ...none,
    ...own,
    template: 'host',
    memoryMb: 512,
    budget: 0,
    confirmAbove: 0,
    monthly: 0,
    version: 1,
    createdAt: at,
    changedAt: at,
  }
}

function recordOf(text: string): KeyRecord {
  return {
    id: newId('key'),
    accountId: 'acc_a',
    userId: 'usr_a',
    madeBy: 'usr_a',
    ancestors: [],
    name: 'bench',
    hint: text.slice(0, 7),
    hash: keyHash(text),
    previousHash: null,
    previousUntil: null,
    rights: ['read:*', 'write:exec'],
    agents: null,
    sandboxes: null,
    createdAt: 1,
    expiresAt: null,
    rotatedAt: null,
    revokedAt: null,
    lastUsedAt: null,
  }
}

export async function accessAdded(): Promise<Figure[]> {
  const keys = await inTurns(await serveKeys(few), await serveKeys(many))
  const agents = await inTurns(await serveAgents(few), await serveAgents(manyAgents))
  return [...figuresOf({ ...keys, count: many }), ...figuresOf({ ...agents, count: manyAgents })]
}

interface Measured {
  few: Samples
  many: Samples
  count: number
}

function figuresOf({ few: small, many: large, count }: Measured): Figure[] {
  const flat = 1.3
  return Object.entries(large).map(([what, samples]) => {
    const ofFew = small[what]!
    return figure({
      name: `access, ${what}, of ${count.toLocaleString('en')}`,
      unit: 'ms',
      samples,
      rival: { name: `of ${few}`, samples: ofFew },
      bar: `p50 ≤ 0.3 ms, p99 ≤ 1 ms, ≤ ${flat} × of ${few}`,
      holds: ({ p50, p99 }) => p50 <= 0.3 && p99 <= 1 && p50 <= flat * percentile(ofFew, 50),
    })
  })
}
