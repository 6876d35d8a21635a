import { randomBytes } from 'node:crypto'
import type { Duplex } from 'node:stream'
import { createBox } from '../access/secrets.ts'
import type { Faults } from '../drivers/testing/faults.ts'
import type { GuestConnection } from '../guest/client.ts'
import type { Database } from '../kernel/db/database.ts'
import { createSandboxSchema } from './schema.ts'
import { newRecord } from './records.ts'
import type { SandboxRecord } from './store.ts'

/** One for all, as the servers of an installation have it. */
export const testSeal = createBox(randomBytes(32))

/** Records for tests, made as the service makes them. */
export function testRecord(id: string, changes: Partial<SandboxRecord> = {}): SandboxRecord {
  const wish = createSandboxSchema.parse({})
  return { ...newRecord(wish, { id, accountId: 'acc_a', runtime: 'crun', now: 1_000 }), ...changes }
}

export function testId(number: number): string {
  return `sbx_${number.toString(36).padStart(20, '0')}`
}

/** A connection that lives as long as its stream, for tests in which nobody speaks to the guest. */
export async function silentGuest(stream: Duplex): Promise<GuestConnection> {
  if (stream.destroyed) throw new Error('The stream is gone')
  const closed = new Promise<void>((resolve) => stream.once('close', () => resolve()))
  const guest = {
    bootId: 'b007',
    features: 0n,
    channels: 0,
    execs: async () => [],
    closed,
    error: undefined,
    setMemory: async () => undefined,
    onEgress: () => undefined,
    close: () => void stream.destroy(),
  }
  return guest as unknown as GuestConnection
}

/** Every call of the database counts, also of the views that stores make of it. */
export function withFaults(database: Database, faults: Faults): Database {
  const wrapped = faults.wrap(database, { except: ['of', 'close', 'check'] })
  return new Proxy(wrapped, {
    get: (target, name) => (name === 'of' ? () => wrapped : Reflect.get(target, name)),
  })
}
