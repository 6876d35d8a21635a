// A million operations of the ledger, by 500 callers at once from one budget, in a process that is killed again and again. Ends with 1 where a token or an acknowledgement is missing.
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { spendAndKill } from '../packages/server/src/ledger/testing/spending.ts'

const operations = Number(process.argv[2] ?? 1_000_000)
const kills = Math.max(5, Math.round(operations / 20_000))
const seed = Number(process.argv[3] ?? Date.now() % 1_000_000)
/** It ends by itself, also where it hangs. */
const longestMs = 3_600_000

const folder = mkdtempSync(join(tmpdir(), 'delta-soak-'))
const startedAt = performance.now()
const seconds = () => Math.round((performance.now() - startedAt) / 1000)
setTimeout(() => {
  process.stderr.write(`Not over after ${seconds()} s\n`)
  process.exit(1)
}, longestMs).unref()
try {
  process.stdout.write(`${operations} operations, ${kills} kills, seed ${seed}\n`)
  const spent = await spendAndKill({
    place: { path: join(folder, 'delta.db') },
    operations,
    kills,
    seed,
    tell({ life, operations: done, refused, spent: amount }) {
      process.stdout.write(
        `life ${life + 1} of ${kills + 1}: ${done} operations, ${refused} refused, ${amount} micro-tokens spent, ${seconds()} s\n`,
      )
    },
  })
  process.stdout.write(
    `Overspent by 0; the rows add up to 0; ${spent.commits} acknowledged commits are there; ${spent.settled} holds of dead lives settled\n`,
  )
} finally {
  rmSync(folder, { recursive: true })
}
