import { randomBytes } from 'node:crypto'
import { createBox } from '../../access/secrets.ts'
import { systemClock } from '../../kernel/clock.ts'
import type { Clock } from '../../kernel/clock.ts'
import type { Database, Migration } from '../../kernel/db/database.ts'
import { newId } from '../../kernel/ids.ts'
import { silentLogger } from '../../kernel/log.ts'
import type { Logger } from '../../kernel/log.ts'
import { ledgerMigrations } from '../../ledger/migrations.ts'
import { firstCard } from '../../ledger/rate-card.ts'
import { createLedger } from '../../ledger/service.ts'
import type { Ledger } from '../../ledger/service.ts'
import type { Attempt, ModelCall } from '../call.ts'
import { modelMigrations } from '../migrations.ts'
import { createModels } from '../service.ts'
import type { ModelsDeps, ModelSettings } from '../service.ts'
import { plainProvider } from './plain.ts'

export const modelTestMigrations: readonly Migration[] = [...ledgerMigrations, ...modelMigrations]
export const testBox = createBox(randomBytes(32))
export const accountId = 'acc_a'

/** Easy to reckon with: a token of input is 3 micro-tokens, from the cache 1, into it 4 or 6, one of output 15. */
export const testMeters = {
  'model:anthropic/plain:input': { unit: 'x', perMillion: 3_000_000 },
  'model:anthropic/plain:cache_read': { unit: 'x', perMillion: 1_000_000 },
  'model:anthropic/plain:cache_write': { unit: 'x', perMillion: 4_000_000 },
  'model:anthropic/plain:cache_write_hour': { unit: 'x', perMillion: 6_000_000 },
  'model:anthropic/plain:output': { unit: 'x', perMillion: 15_000_000 },
  'model:google/plain:input': { unit: 'x', perMillion: 2_000_000 },
  'model:google/plain:output': { unit: 'x', perMillion: 10_000_000 },
} as const

export interface TestModelsOptions {
  /** Micro-tokens that the account has. @default 10 tokens */
  grant?: number
  clock?: Clock
  log?: Logger
  settings?: Partial<ModelSettings>
  /** Meters of the card beside those of the first one. @default `testMeters` */
  meters?: Record<string, { unit: string; perMillion: number }>
  wrapLedger?: (ledger: Ledger) => Ledger
  deps?: Partial<ModelsDeps>
}

/** Models on a real ledger, whose providers all speak to the peer at `url`. */
export function startModels(database: Database, url: string, options: TestModelsOptions = {}) {
  const { grant = 10_000_000, clock = systemClock, log = silentLogger, settings, meters = testMeters } = options
  const begin = () =>
    createLedger({
      database,
      clock,
      log,
      rates: { ...firstCard, meters: { ...firstCard.meters, ...meters } },
      grant,
      planAtStart: () => 'enterprise',
      incarnation: newId('srv'),
    })
  const ledger = begin()
  const at = { apiKey: 'sk-operator-key', baseUrl: url }
  const models = createModels({
    database,
    ledger: options.wrapLedger?.(ledger) ?? ledger,
    clock,
    log,
    seal: testBox,
    providers: {
      anthropic: plainProvider('anthropic'),
      google: plainProvider('google'),
      openai: plainProvider('openai'),
    },
    settings: { anthropic: at, google: at, openai: at, defaultModel: undefined, localModels: ['*'], ...settings },
    image: async () => new Uint8Array(),
    random: () => 0,
    ...options.deps,
  })
  return { ledger, models, begin }
}

/** A call of one short message. */
export function testCall(changes: Partial<ModelCall> = {}): ModelCall & { told: Attempt[]; heard: string[] } {
  const told: Attempt[] = []
  const heard: string[] = []
  return {
    accountId,
    payer: `${accountId}:reserve`,
    agentId: 'agt_a',
    taskId: 'tsk_a',
    models: ['anthropic/plain'],
    system: '',
    messages: [{ role: 'user', parts: [{ type: 'text', text: 'Hi' }] }],
    tools: [],
    maxOutputTokens: 1_000,
    signal: new AbortController().signal,
    onEvent: (event) => void (event.type === 'delta' && heard.push(event.text)),
    onAttempt: (attempt) => void told.push(attempt),
    told,
    heard,
    ...changes,
  }
}
