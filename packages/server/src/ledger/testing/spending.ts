import { strict as assert } from 'node:assert'
import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { systemClock } from '../../kernel/clock.ts'
import { rawQuery } from '../../kernel/db/compile.ts'
import type { Database } from '../../kernel/db/database.ts'
import { openDatabase } from '../../kernel/db/open.ts'
import { silentLogger } from '../../kernel/log.ts'
import { ledgerMigrations } from '../migrations.ts'
import { seeded } from '../testing.ts'

export interface Spending {
  place: { url?: string; path: string }
  /** Acknowledged or refused, in all lives together. */
  operations: number
  /** How often the process is killed. */
  kills: number
  seed: number
  tell?: (progress: { life: number; operations: number; refused: number; spent: number }) => void
}

export interface Spent {
  operations: number
  refused: number
  commits: number
  /** Acknowledged in lives that were killed. */
  killedWith: number[]
  /** Holds that a life has left open and the next one has settled. */
  settled: number
}

const program = join(import.meta.dirname, 'spend.program.ts')
const callers = 500
const pageRows = 10_000
/** So much is spent for an operation on the average that the budget ends before the operations do. */
const budgetPerOperation = 90

/**
 * So many callers spend at once from one budget, in a process that is killed at random moments and begun anew on what it has left. After each life: nothing more is spent than the
 * budget has, the rows add up to nothing, and everything that was acknowledged is there. Throws where that is not so.
 */
export async function spendAndKill({ place, operations, kills, seed, tell }: Spending): Promise<Spent> {
  const random = seeded(seed)
  const budget = operations * budgetPerOperation
  const told = { holds: new Map<string, number>(), over: new Map<string, string>(), refused: 0 }
  const done = () => told.holds.size + told.over.size + told.refused
  const killedWith: number[] = []
  let settled = 0
  for (let life = 0; life <= kills; life++) {
    const before = done()
    const isLast = life === kills
    // Of what is left, each life has about its share before it is killed.
    const share = Math.ceil((operations - before) / (kills - life + 1))
    const killAfter = isLast ? Infinity : Math.ceil(share * (0.5 + random.below(100) / 100))
    await live({
      args: [
        JSON.stringify(place),
        String(life),
        String(callers),
        String(isLast ? operations - before : operations),
        String(budget),
      ],
      heard: (line) => hear(told, line),
      killWhen: () => done() - before >= killAfter,
      killDelayMs: random.below(20),
    })
    if (!isLast) killedWith.push(done() - before)
    const database = await openDatabase({ ...place, log: silentLogger, migrations: ledgerMigrations })
    try {
      settled = await check(database, { told, budget })
      const spent = [...told.over.values()].reduce((sum, text) => sum + Number(text.slice(2)), 0)
      tell?.({ life, operations: done(), refused: told.refused, spent })
    } finally {
      await database.close()
    }
  }
  const commits = [...told.over.values()].filter((text) => text.startsWith('c')).length
  return { operations: done(), refused: told.refused, commits, killedWith, settled }
}

interface Told {
  holds: Map<string, number>
  /** `c` and its cost, or `r`. */
  over: Map<string, string>
  refused: number
}

function hear(told: Told, line: string): void {
  const [what, id, amount] = line.split(' ')
  if (what === 'h') told.holds.set(id!, Number(amount))
  else if (what === 'c' || what === 'r') told.over.set(id!, `${what} ${amount}`)
  else if (what === 'x') told.refused += 1
}

interface Life {
  args: string[]
  heard(line: string): void
  killWhen(): boolean
  killDelayMs: number
}

async function live({ args, heard, killWhen, killDelayMs }: Life): Promise<void> {
  const child = spawn(process.execPath, ['--disable-warning=ExperimentalWarning', program, ...args], {
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  let killed = false
  const ended = once(child, 'close') as Promise<[number | null, string | null]>
  const lines = createInterface({ input: child.stdout })
  // A line that was cut by the kill has no number, or too short an id to be found: what is not whole was not acknowledged.
  lines.on('line', (line) => {
    if (/^(x|spending|[hrc] hld_[a-z0-9]{20} \d+)$/.test(line)) heard(line)
    if (killed || !killWhen()) return
    killed = true
    void systemClock.sleep(killDelayMs).then(() => child.kill('SIGKILL'))
  })
  const [code, signal] = await ended
  assert.ok(killed ? signal === 'SIGKILL' || code === 0 : code === 0, `The life ended with ${code ?? signal}`)
}

interface HoldSums {
  state: string
  holds: number
  held: number
  cost: number
}

interface HoldEnd {
  state: string
  cost: number
  held: number
}

/** More of them than the database's worker has memory for at once. */
async function holdsIn(database: Database): Promise<Map<string, HoldEnd>> {
  const found = new Map<string, HoldEnd>()
  for (let last = ''; ;) {
    const rows = await database.all<HoldEnd & { id: string }>(
      rawQuery(
        `select id, state, cost, granted + bought as held from ledger_holds where id > '${last}' order by id limit ${pageRows}`,
      ),
    )
    for (const { id, ...hold } of rows) found.set(id, hold)
    if (rows.length < pageRows) return found
    last = rows.at(-1)!.id
  }
}

/** Returns how many holds were settled because their life had ended. */
async function check(database: Database, { told, budget }: { told: Told; budget: number }): Promise<number> {
  const all = <Row>(text: string) => database.all<Row>(rawQuery(text))
  const rows = await all<{ id: string; kind: string; granted: number; bought: number; held: number; used: number }>(
    'select id, kind, granted, bought, held, used from ledger_accounts_whole',
  )
  const totalOf = ({ granted, bought }: { granted: number; bought: number }) => granted + bought
  assert.equal(
    rows.reduce((sum, row) => sum + totalOf(row), 0),
    0,
    'The rows add up to nothing',
  )
  for (const row of rows.filter(({ kind }) => ['reserve', 'agent', 'hold'].includes(kind)))
    assert.ok(Math.min(row.granted, row.bought, row.held) >= 0, `${row.id} has less than nothing`)
  const purse = rows.find(({ id }) => id === 'agt_budget')!
  // Overspent by exactly nothing: what is left, held and used is what there was.
  assert.equal(totalOf(purse) + purse.held + purse.used, budget, 'The budget is whole')

  const sums = await all<HoldSums>(
    'select state, count(*) as holds, sum(granted + bought) as held, sum(cost) as cost from ledger_holds group by state',
  )
  const used = sums.reduce((sum, { cost }) => sum + cost, 0)
  assert.equal(used, purse.used, 'What was used is what the holds have cost')
  assert.equal(
    sums.find(({ state }) => state === 'open')?.held ?? 0,
    purse.held,
    'What is held is what open holds hold',
  )

  const moved = new Map<string, number>()
  for (const { id, amount } of await all<{ id: string; amount: number }>(
    `select credit as id, sum(amount) as amount from ledger_transfers group by credit
     union all select debit as id, -sum(amount) as amount from ledger_transfers group by debit`,
  ))
    moved.set(id, (moved.get(id) ?? 0) + amount)
  for (const row of rows) assert.equal(moved.get(row.id) ?? 0, totalOf(row), `The journal says the same of ${row.id}`)
  const [journal] = await all<{ entries: number; last: number }>(
    'select count(*) as entries, max(seq) as last from ledger_transfers',
  )
  assert.equal(journal!.entries, journal!.last, 'The journal has no gap')

  const holds = await holdsIn(database)
  for (const [id, amount] of told.holds) assert.equal(holds.get(id)?.held, amount, `The hold ${id} is there`)
  for (const [id, text] of told.over) {
    const { state, cost } = holds.get(id)!
    assert.equal(
      `${state === 'committed' ? 'c' : state === 'released' ? 'r' : state} ${cost}`,
      text,
      `The end of ${id} is there`,
    )
  }
  return sums.find(({ state }) => state === 'unknown')?.holds ?? 0
}
