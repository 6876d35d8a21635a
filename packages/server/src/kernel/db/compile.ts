import type { Compilable, CompiledQuery, Dialect, Driver } from 'kysely'
import { CompiledQuery as Compiled, Kysely } from 'kysely'
import { sqlFault } from './values.ts'
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

/** What stands for the values in a query that is compiled once. As the text holds a NUL and the number is none, no value is like them. */
const anyText = 'any\0value'
const anyNumber = Number.NaN

/** For what requests wait for: a query is compiled once, not each time. What `build` makes must be the same whatever the values. */
export function compiledOnce<Row>(
  build: (text: string, number: number) => Compilable<Row>,
): (text: string, number?: number) => CompiledQuery<Row> {
  const query = build(anyText, anyNumber).compile()
  return (text, number) => ({
    ...query,
    parameters: query.parameters.map((one) => (one === anyText ? text : Number.isNaN(one) ? number : one)),
  })
}

/** Texts of one kind of query that are kept. */
const shapesKept = 256

/**
 * For what is written again and again, though not always with as many rows or columns: the text is made once for each `shape`, and `parameters` stand for the values in its order. A shape must
 * say all that the text depends on; where a text is made, its own values are compared with them.
 */
export function compiledByShape() {
  const known = new Map<string, CompiledQuery>()
  return (shape: string, parameters: readonly unknown[], build: () => Compilable): CompiledQuery => {
    const found = known.get(shape)
    if (found) {
      if (found.parameters.length !== parameters.length) throw new Error(`${shape} has several texts`)
      return { ...found, parameters }
    }
    const query = build().compile()
    const isSame =
      query.parameters.length === parameters.length &&
      query.parameters.every((one, at) => Object.is(one, parameters[at]))
    if (!isSame) throw new Error(`The values of ${shape} are not in the order of "${query.sql.slice(0, 200)}"`)
    if (known.size >= shapesKept) known.delete(known.keys().next().value!)
    known.set(shape, query)
    return query
  }
}

/** Whether a query can run outside a write transaction. When in doubt it can not. */
export function readsOnly({ query, sql }: CompiledQuery): boolean {
  if (query.kind === 'SelectQueryNode') return true
  return query.kind === 'RawNode' && /^\s*select\b/i.test(sql)
}

/** Nothing is written by looking it up. */
export function refuseWriting(query: CompiledQuery): void {
  if (!readsOnly(query)) throw new RangeError(`"${query.sql.slice(0, 200)}" does not only read`)
}

/** The parameters, of kinds that both databases store and give back alike. */
export function sqlValues({ sql, parameters }: CompiledQuery): SqlValue[] {
  return parameters.map((value, index) => {
    const fault = sqlFault(value)
    if (fault) throw new RangeError(`Parameter ${index + 1} of "${sql.slice(0, 200)}" ${fault}`)
    return value as SqlValue
  })
}
