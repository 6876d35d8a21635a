import { createReadStream, createWriteStream, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { createInterface } from 'node:readline'
import { Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { verifyChain } from '../packages/cli/src/audit-chain.ts'
import { auditMigrations } from '../packages/server/src/access/audit/migrations.ts'
import { createAudit } from '../packages/server/src/access/audit/service.ts'
import { systemClock } from '../packages/server/src/kernel/clock.ts'
import { openDatabase } from '../packages/server/src/kernel/db/open.ts'
import { createLogger } from '../packages/server/src/kernel/log.ts'
import { openFolder } from '../packages/server/src/storage/folder/folder.ts'
import { createBlobStore } from '../packages/server/src/storage/blob-store.ts'
import { type Figure, figure } from './figures.ts'

const entries = 100_000
/** Requests that record at once. */
const callers = 100
const verifications = 5

/** Durable entries a second on SQLite, of so many who each wait for theirs; and what a reader of the export makes of them. */
export async function auditLog(): Promise<Figure[]> {
  const folder = mkdtempSync(join(tmpdir(), 'delta-bench-audit-'))
  const log = createLogger({ level: 'error', write: (line) => process.stderr.write(line) })
  const database = await openDatabase({ path: join(folder, 'delta.db'), log, migrations: auditMigrations })
  const blobs = createBlobStore({ objects: await openFolder({ path: join(folder, 'blobs') }) })
  const audit = createAudit({ database, clock: systemClock, log, documents: blobs, seed: Buffer.alloc(32, 1) })
  try {
    const recorded: number[] = []
    const perRun = entries / 10
    for (let run = 0; run < 10; run++) {
      const startedAt = performance.now()
      let left = perRun
      const record = async () => {
        while (left > 0) {
          left -= 1
          await audit.record({
            accountId: 'acc_a',
            actorId: 'key_default',
            action: 'createSandbox',
            target: `sbx_${left.toString(36).padStart(20, '0')}`,
            outcome: 'done',
            requestId: 'req_k3v9x0m2qp7a8b1c4d5e',
            address: '127.0.0.1',
          })
        }
      }
      await Promise.all(Array.from({ length: callers }, record))
      recorded.push(perRun / ((performance.now() - startedAt) / 1000))
    }
    const file = join(folder, 'export.jsonl')
    await pipeline(Readable.from(linesOf(audit.exported('acc_a'))), createWriteStream(file))
    const verified: number[] = []
    for (let run = 0; run < verifications; run++) {
      const startedAt = performance.now()
      const verdict = await verifyChain(createInterface({ input: createReadStream(file), crlfDelay: Infinity }))
      if (verdict.fault || verdict.entries !== entries) throw new Error('The chain is not whole')
      verified.push(entries / ((performance.now() - startedAt) / 1000))
    }
    return [
      figure({
        name: `audit entries recorded, ${callers} at once`,
        unit: 'entries/s',
        samples: recorded,
        bar: 'p50 ≥ 5,000/s',
        holds: ({ p50 }) => p50 >= 5_000,
      }),
      figure({
        name: `audit entries verified, of ${entries.toLocaleString('en')}`,
        unit: 'entries/s',
        samples: verified,
        bar: 'p50 ≥ 100,000/s',
        holds: ({ p50 }) => p50 >= 100_000,
      }),
    ]
  } finally {
    await audit.stop()
    await blobs.close()
    await database.close()
    rmSync(folder, { recursive: true })
  }
}

async function* linesOf(lines: AsyncIterable<object>): AsyncGenerator<string, void, undefined> {
  for await (const line of lines) yield `${JSON.stringify(line)}\n`
}
