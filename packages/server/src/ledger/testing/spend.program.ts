// Started by spending.ts as a process of its own, to be killed: so many callers spend from one budget, and each thing that was acknowledged is said on a line of its own.
import { systemClock } from '../../kernel/clock.ts'
import { openDatabase } from '../../kernel/db/open.ts'
import { DeltaError } from '../../kernel/errors.ts'
import { createLogger } from '../../kernel/log.ts'
import { ledgerMigrations } from '../migrations.ts'
import { firstCard } from '../rate-card.ts'
import { createLedger } from '../service.ts'
import { seeded } from '../testing.ts'

const [place, life, callers, most, budget] = process.argv.slice(2)
const { url, path } = JSON.parse(place!) as { url?: string; path: string }
const accountId = 'acc_a'
const purseId = 'agt_budget'
const random = seeded(Number(life) + 1)
const log = createLogger({ level: 'error', write: (line) => process.stderr.write(line) })

const database = await openDatabase({ url, path, log, migrations: ledgerMigrations })
const ledger = createLedger({
  database,
  clock: systemClock,
  log,
  rates: firstCard,
  grant: Number(budget),
  planAtStart: () => 'pro',
  incarnation: `srv_life${life}`,
})
await ledger.start()
const parentId = ledger.reserveOf(accountId)
await ledger.openPurse({ accountId, purseId, kind: 'agent', parentId, monthly: 0 })
await ledger.transfer({ accountId, from: parentId, to: purseId, amount: Number(budget), reason: 'all', key: 'all' })

// One write for all that was acknowledged in a turn.
let lines: string[] = []
const say = (line: string) => {
  if (lines.push(line) === 1) setImmediate(() => process.stdout.write(`${lines.splice(0).join('\n')}\n`))
}
say('spending')
let left = Number(most)

/** True where the budget has no more, not even one. */
async function spend(): Promise<boolean> {
  const amount = 1 + random.below(1_000)
  left -= 1
  let holdId: string
  try {
    const held = await ledger.hold({
      accountId,
      payer: purseId,
      amount,
      atLeast: 1,
      purpose: { kind: 'model', agentId: purseId },
    })
    holdId = held.holdId
    left -= 1
    say(`h ${holdId} ${held.amount}`)
    if (random.below(10) === 0) {
      await ledger.release(holdId, accountId)
      say(`r ${holdId} 0`)
      return false
    }
    if (random.below(3) === 0) await ledger.sent(holdId, accountId, random.below(held.amount))
    const cost = random.below(held.amount + 1)
    await ledger.commit(holdId, accountId, [{ meter: 'in', quantity: 1, cost }])
    say(`c ${holdId} ${cost}`)
    return false
  } catch (error) {
    if (!(error instanceof DeltaError) || error.code !== 'balance_too_low') throw error
    say('x')
    return true
  }
}

async function caller(): Promise<void> {
  while (left > 0) await spend()
}

await Promise.all(Array.from({ length: Number(callers) }, caller))
await ledger.stop()
await database.close()
