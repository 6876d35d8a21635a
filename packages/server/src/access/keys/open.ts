import type { Clock } from '../../kernel/clock.ts'
import type { BatchStep, Database } from '../../kernel/db/database.ts'
import type { Feature } from '../../kernel/http/api.ts'
import type { Logger } from '../../kernel/log.ts'
import type { TokenReader } from '../authenticate.ts'
import type { KnownCaller } from '../door.ts'
import type { Revocations } from '../revocations.ts'
import { callerOf, createKeyReader } from './reader.ts'
import { keysFeature } from './routes.ts'
import { goodUntil } from './rules.ts'
import { createKeys } from './service.ts'
import { createKeyStore } from './store.ts'

export interface KeysParts {
  database: Database
  revocations: Revocations
  hasSecondFactor(userId: string): Promise<boolean>
  clock: Clock
  log: Logger
}

export interface OpenKeys {
  reader: TokenReader
  feature: Feature
  /** Who a key stands for now, by its id: for what was made with it. */
  find(id: string): Promise<KnownCaller | null>
  /** Ends all keys of a person in an account for good, together with what else removes them from it; the news of the person ends what is open. */
  endKeysSteps(userId: string, accountId: string): BatchStep[]
}

/** Keys with all their parts. */
export function openKeys({ database, revocations, hasSecondFactor, clock, log }: KeysParts): OpenKeys {
  const store = createKeyStore(database)
  const { reader, stop } = createKeyReader({ store, revocations, clock, log })
  const keys = createKeys({ store, revocations, hasSecondFactor, clock })
  return {
    reader,
    feature: keysFeature({ keys, stop }),
    endKeysSteps: (userId, accountId) => [store.endOfPersonStep(userId, accountId, clock.now())],
    async find(id) {
      const since = revocations.count
      const record = await store.byId(id)
      const until = record && goodUntil(record, record.hash, clock.now())
      if (!record || until === undefined) return null
      const caller = callerOf(record, since)
      return caller ? { ...caller, ...(until < Infinity && { expiresAt: until }) } : null
    },
  }
}
