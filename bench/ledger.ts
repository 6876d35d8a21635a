import { spawnSync } from 'node:child_process'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { systemClock } from '../packages/server/src/kernel/clock.ts'
import type { Database } from '../packages/server/src/kernel/db/database.ts'
import { openDatabase } from '../packages/server/src/kernel/db/open.ts'
import { newId } from '../packages/server/src/kernel/ids.ts'
import { createLogger } from '../packages/server/src/kernel/log.ts'
import { ledgerMigrations } from '../packages/server/src/ledger/migrations.ts'
import { firstCard } from '../packages/server/src/ledger/rate-card.ts'
import { createLedger, type Ledger } from '../packages/server/src/ledger/service.ts'
import { startPostgres } from '../scripts/postgres.ts'
import { type Figure, figure } from './figures.ts'

const callers = 500
const samples = 9
const holdsPerSample = 10_000
const purpose = { kind: 'model', agentId: 'agt_bench' }

interface Payer {
  accountId: string
  payer: string
}

interface Opened {
  database: Database
  ledger: Ledger
  close(): Promise<void>
}

async function open(url?: string): Promise<Opened> {
  const folder = mkdtempSync(join(tmpdir(), 'delta-bench-ledger-'))
  const log = createLogger({ level: 'error', write: (line) => process.stderr.write(line) })
  const path = join(folder, 'delta.db')
  const database = await openDatabase({ url, path, log, migrations: ledgerMigrations })
  const ledger = createLedger({
    database,
    clock: systemClock,
    log,
    rates: firstCard,
    grant: 1_000_000_000_000,
    planAtStart: () => 'enterprise',
    incarnation: newId('srv'),
  })
  const close = async () => {
    await ledger.stop()
    await database.close()
    rmSync(folder, { recursive: true })
  }
  return { database, ledger, close }
}

/** An account with so many agents, each with a budget; of none, its reserve. */
async function budgets(ledger: Ledger, agents: number): Promise<Payer[]> {
  const accountId = newId('acc')
  await ledger.ensure(accountId)
  const reserve = ledger.reserveOf(accountId)
  if (agents === 0) return [{ accountId, payer: reserve }]
  const made: Payer[] = []
  const make = async () => {
    while (made.length < agents) {
      const payer = newId('agt')
      made.push({ accountId, payer })
      await ledger.openPurse({ accountId, purseId: payer, kind: 'agent', parentId: reserve, monthly: 0 })
      await ledger.transfer({ accountId, from: reserve, to: payer, amount: 50_000_000, reason: 'bench', key: payer })
    }
  }
  await Promise.all(Array.from({ length: callers }, make))
  return made
}

/** Holds a second, each durable when it is answered; no caller has more than one under way. */
async function holdsPerSecond(ledger: Ledger, payers: readonly Payer[], holds: number): Promise<number> {
  let begun = 0
  const startedAt = performance.now()
  const caller = async () => {
    while (begun < holds) {
      const budget = payers[begun++ % payers.length]!
      await ledger.hold({ ...budget, amount: 100, purpose })
    }
  }
  await Promise.all(Array.from({ length: callers }, caller))
  return holds / ((performance.now() - startedAt) / 1000)
}

async function repeat(measure: () => Promise<number>): Promise<number[]> {
  const found: number[] = []
  await measure()
  for (let run = 0; run < samples; run++) found.push(await measure())
  return found
}

export async function ledgerHolds(): Promise<Figure[]> {
  const { ledger, close } = await open()
  try {
    const payers = await budgets(ledger, 0)
    const rate = await repeat(() => holdsPerSecond(ledger, payers, holdsPerSample))
    return [
      figure({
        name: `holds of tokens, ${callers} callers on one budget, SQLite`,
        unit: 'holds/s',
        samples: rate,
        bar: 'p50 ≥ 20,000/s',
        holds: ({ p50 }) => p50 >= 20_000,
      }),
    ]
  } finally {
    await close()
  }
}

/** Both figures in turn, so that what else the machine does falls on both. */
async function inTurn(first: () => Promise<number>, second: () => Promise<number>): Promise<[number[], number[]]> {
  const found: [number[], number[]] = [[], []]
  await first()
  await second()
  for (let run = 0; run < samples; run++) {
    found[0].push(await first())
    found[1].push(await second())
  }
  return found
}

export async function ledgerGrowth(): Promise<Figure[]> {
  const [few, many] = [await open(), await open()]
  try {
    const entries = 1_000_000
    const payers = await budgets(many.ledger, 0)
    for (let there = 0; there < entries; there += 50_000) await holdsPerSecond(many.ledger, payers, 50_000)
    const [large, small] = await inTurn(
      () => holdsPerSecond(many.ledger, payers, holdsPerSample),
      async () => {
        const fresh = await open()
        try {
          const own = await budgets(fresh.ledger, 0)
          await holdsPerSecond(fresh.ledger, own, 100)
          return await holdsPerSecond(fresh.ledger, own, holdsPerSample)
        } finally {
          await fresh.close()
        }
      },
    )
    const [ten, crowd] = [await budgets(few.ledger, 10), await budgets(few.ledger, 10_000)]
    const [crowded, lonely] = await inTurn(
      () => holdsPerSecond(few.ledger, crowd, holdsPerSample),
      () => holdsPerSecond(few.ledger, ten, holdsPerSample),
    )
    const [among, alone] = await inTurn(
      () => holdsPerSecond(few.ledger, crowd.slice(0, 10), holdsPerSample),
      () => holdsPerSecond(few.ledger, ten, holdsPerSample),
    )
    return [
      figure({
        name: 'holds of tokens, 10 agents of an account with 10,000',
        unit: 'holds/s',
        samples: among,
        rival: { name: 'of an account with 10 agents', samples: alone },
        bar: '≥ 1/1.3 of the rival',
        holds: ({ ratio }) => ratio! >= 1 / 1.3,
      }),
      figure({
        name: 'holds of tokens, 1,000,000 entries in the journal',
        unit: 'holds/s',
        samples: large,
        rival: { name: 'with 100 entries', samples: small },
        bar: '≥ 1/1.3 of the rival',
        holds: ({ ratio }) => ratio! >= 1 / 1.3,
      }),
      figure({
        name: 'holds of tokens, of 10,000 agents in turn',
        unit: 'holds/s',
        samples: crowded,
        rival: { name: 'of 10 agents', samples: lonely },
        bar: '≥ 1/1.3 of the rival',
        holds: ({ ratio }) => ratio! >= 1 / 1.3,
      }),
    ]
  } finally {
    await many.close()
    await few.close()
  }
}

const clients = 32
const pgbenchSeconds = 3

export async function ledgerOnPostgres(): Promise<Figure[]> {
  const server = await startPostgres({ durable: true })
  const folder = mkdtempSync(join(tmpdir(), 'delta-bench-pgbench-'))
  try {
    const tables =
      'create table hot (id int primary key, v bigint); insert into hot values (1, 0); create table entries (id bigserial primary key, text text, v bigint)'
    const made = spawnSync(server.tool('psql'), [server.url, '-c', tables], { encoding: 'utf8' })
    if (made.status !== 0) throw new Error(made.stderr)
    const pgbench = async (statement: string): Promise<number> => {
      const file = join(folder, 'statement.sql')
      writeFileSync(file, statement)
      const args = ['-n', '-c', String(clients), '-j', '2', '-T', String(pgbenchSeconds), '-f', file, server.url]
      const { stdout, stderr } = spawnSync(server.tool('pgbench'), args, { encoding: 'utf8' })
      const rate = Number(/tps = ([\d.]+)/.exec(stdout)?.[1])
      if (!(rate > 0)) throw new Error(`pgbench: ${stderr}`)
      return rate
    }
    const { ledger, close } = await open(server.url)
    try {
      const one = await budgets(ledger, 0)
      const thousand = (await Promise.all(Array.from({ length: 100 }, () => budgets(ledger, 10)))).flat()
      const [hot, update] = await inTurn(
        () => holdsPerSecond(ledger, one, holdsPerSample),
        () => pgbench('update hot set v = v + 1 where id = 1;'),
      )
      const [spread, insert] = await inTurn(
        () => holdsPerSecond(ledger, thousand, holdsPerSample),
        () => pgbench(`insert into entries (text, v) values ('x', 1);`),
      )
      return [
        figure({
          name: `holds of tokens, ${callers} callers on one budget, PostgreSQL`,
          unit: 'holds/s',
          samples: hot,
          rival: { name: `pgbench -c ${clients}, update of one hot row`, samples: update },
          bar: '≥ 5 × the rival',
          holds: ({ ratio }) => ratio! >= 5,
        }),
        figure({
          name: `holds of tokens, ${callers} callers on 1,000 budgets of 100 accounts, PostgreSQL`,
          unit: 'holds/s',
          samples: spread,
          rival: { name: `pgbench -c ${clients}, insert of one row`, samples: insert },
          bar: '≥ 0.4 × the rival',
          holds: ({ ratio }) => ratio! >= 0.4,
        }),
      ]
    } finally {
      await close()
    }
  } finally {
    server.stop()
    rmSync(folder, { recursive: true })
  }
}
