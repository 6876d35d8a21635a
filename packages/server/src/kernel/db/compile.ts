import type { CompiledQuery, Dialect, Driver } from 'kysely'
import { CompiledQuery as Compiled, Kysely } from 'kysely'
import type { SqlValue } from './worker-messages.ts'

/** A Kysely that only builds queries: what is executed goes through `Database`, which knows about commits. */
export function queryBuilder<Schema>(dialect: Omit<Dialect, 'createDriver'>): Kysely<Schema> {
  return new Kysely<Schema>({ dialect: { ...dialect, createDriver: () => buildOnly } })
}

function refuse(): Promise<never> {
  return Promise.reject(new Error('Compile the query and give it to database.all, first, run or batch'))
}

const buildOnly: Driver = {
  init: () => Promise.resolve(),
  acquireConnection: refuse,
  beginTransaction: refuse,
  commitTransaction: refuse,
  rollbackTransaction: refuse,
  releaseConnection: () => Promise.resolve(),
  destroy: () => Promise.resolve(),
}

export function rawQuery(text: string, parameters: SqlValue[] = []): CompiledQuery {
  return Compiled.raw(text, parameters)
}

/** Whether a query can run outside a write transaction. When in doubt it can not. */
export function readsOnly({ query, sql }: CompiledQuery): boolean {
  if (query.kind === 'SelectQueryNode') return true
  return query.kind === 'RawNode' && /^\s*select\b/i.test(sql)
}

/** The parameters, of kinds that both databases store and give back alike. */
export function sqlValues({ sql, parameters }: CompiledQuery): SqlValue[] {
  return parameters.map((value, index) => {
    const fault = faultOf(value)
    if (fault) throw new RangeError(`Parameter ${index + 1} of "${sql.slice(0, 200)}" ${fault}`)
    return value as SqlValue
  })
}

const largest = BigInt(Number.MAX_SAFE_INTEGER)

function faultOf(value: unknown): string | undefined {
  if (value === null || value instanceof Uint8Array) return undefined
  if (typeof value === 'string') return value.includes('\0') ? 'holds a NUL character' : undefined
  if (typeof value === 'bigint') return value > largest || value < -largest ? 'is beyond ±2^53' : undefined
  if (typeof value !== 'number') return `is ${typeof value}, not text, number, bytes or null`
  if (!Number.isFinite(value)) return 'is not a finite number'
  return Number.isInteger(value) && !Number.isSafeInteger(value) ? 'is beyond ±2^53' : undefined
}
