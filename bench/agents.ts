import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { openRevocations } from '../packages/server/src/access/revocations.ts'
import { testCaller, testKeyPrincipal } from '../packages/server/src/access/testing.ts'
import { createDirectory } from '../packages/server/src/agents/directory.ts'
import { agentListQuerySchema, createAgentSchema } from '../packages/server/src/agents/schema.ts'
import { createAgents } from '../packages/server/src/agents/service.ts'
import { systemClock } from '../packages/server/src/kernel/clock.ts'
import { openDatabase } from '../packages/server/src/kernel/db/open.ts'
import { testHashBody } from '../packages/server/src/kernel/http/testing-body-hash.ts'
import { newId } from '../packages/server/src/kernel/ids.ts'
import { createLogger } from '../packages/server/src/kernel/log.ts'
import { firstCard } from '../packages/server/src/ledger/rate-card.ts'
import { createLedger } from '../packages/server/src/ledger/service.ts'
import { allMigrations } from '../packages/server/src/migrations.ts'
import { type Figure, figure, percentile } from './figures.ts'

const few = 10
const many = 10_000
const rounds = 300
const madeAtOnce = 200
const flat = 1.3
const accountId = 'acc_a'
const person = testCaller(testKeyPrincipal({ accountId }))
const grant = 1_000_000_000_000

const acts = ['known', 'unknown', 'listed', 'made'] as const
type Samples = Record<(typeof acts)[number], number[]>
const titles: Record<keyof Samples, string> = {
  known: 'what one may, asked again',
  unknown: 'what one may, not asked before',
  listed: 'the newest 50 of a main agent’s',
  made: 'one made with its budget',
}

const noComputer = () => Promise.reject(new Error('No agent of the bench uses its computer'))
const sandboxes = {
  createOrJoin: noComputer,
  get: noComputer,
  getNetwork: noComputer,
  setNetwork: noComputer,
  isAlive: noComputer,
  ofAgents: noComputer,
  kill: noComputer,
  patch: noComputer,
  pause: noComputer,
  resume: noComputer,
  stopSandbox: noComputer,
}

/** With that many agents in the account, all of them bots of one main agent. */
async function measure(count: number): Promise<Samples> {
  const folder = mkdtempSync(join(tmpdir(), 'delta-bench-agents-'))
  const log = createLogger({ level: 'error', write: (line) => process.stderr.write(line) })
  const database = await openDatabase({ path: join(folder, 'delta.db'), log, migrations: allMigrations })
  const shared = { database, clock: systemClock, log }
  const ledger = createLedger({
    ...shared,
    rates: firstCard,
    grant,
    planAtStart: () => 'enterprise',
    incarnation: newId('srv'),
  })
  const revocations = await openRevocations(shared)
  const open = () => createDirectory({ ...shared, revocations })
  const mostAgents = async (of: string) => (await ledger.planOf(of)).agents ?? undefined
  const workspaces = { create: noComputer, get: noComputer }
  const parts = { ...shared, revocations, sandboxes, workspaces, ledger: { ...ledger, mostAgents } }
  const agents = createAgents({ hashBody: testHashBody, ...parts, directory: open() })
  const main = await agents.create(createAgentSchema.parse({ name: 'main', tokenBudget: 500_000 }), person)
  const wish = createAgentSchema.parse({ name: 'bot', parentAgent: main.id, task: 'wait', tokenBudget: 1 })
  const ids: string[] = []
  while (ids.length < count - 1) {
    const some = Array.from({ length: Math.min(madeAtOnce, count - 1 - ids.length) }, () => agents.create(wish, person))
    ids.push(...(await Promise.all(some)).map(({ id }) => id))
  }
  const asMain = testCaller({
    kind: 'agent',
    accountId,
    agentId: main.id,
    agentKind: 'main',
    jti: 'tok_a',
    rights: testKeyPrincipal().rights,
  })
  const page = agentListQuerySchema.parse({})
  const samples: Samples = { known: [], unknown: [], listed: [], made: [] }
  const time = async (act: keyof Samples, work: () => Promise<unknown>) => {
    const startedAt = performance.now()
    await work()
    samples[act].push(performance.now() - startedAt)
  }
  // What is known to one directory is not known to the next.
  for (let round = 0, directory = open(); round < rounds; round++) {
    if (round % few === 0) directory = open()
    const id = ids[Math.floor((round / rounds) * ids.length)]!
    const { find } = directory
    directory.changed(id)
    await time('unknown', () => find(id, accountId))
    await time('known', () => find(id, accountId))
    await time('listed', () => agents.list(asMain, page))
    await time('made', () => agents.create(wish, person))
  }
  revocations.stop()
  await agents.stop()
  await ledger.stop()
  await database.close()
  rmSync(folder, { recursive: true })
  return samples
}

export async function manyAgents(): Promise<Figure[]> {
  const [small, large] = [await measure(few), await measure(many)]
  return acts.map((act) =>
    figure({
      name: `agents, ${titles[act]}, of ${many.toLocaleString('en')}`,
      unit: 'ms',
      samples: large[act],
      rival: { name: `of ${few}`, samples: small[act] },
      bar: `p50 ≤ ${flat} × of ${few}`,
      holds: ({ p50 }) => p50 <= flat * percentile(small[act], 50),
    }),
  )
}
