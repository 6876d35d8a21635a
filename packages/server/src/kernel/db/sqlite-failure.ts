import type { WorkerFailure } from './worker-messages.ts'

// The low byte of an SQLite error number is its class, the rest says more.
const classOf = (errcode: number) => errcode & 0xff
const busy = [5, 6]
const full = 13
const constraint = 19
/** read-only, I/O error, corrupt, cannot open, not a database: the storage can no longer be trusted. */
const storage = [8, 10, 11, 14, 26]
const constraintKinds: Record<number, string> = {
  275: 'check',
  787: 'foreign_key',
  1299: 'not_null',
  1555: 'unique',
  2067: 'unique',
}

function errcodeOf(error: unknown): number {
  return (error as { errcode?: number }).errcode ?? 0
}

/** Whether nothing may be written after this error until a person has looked. */
export function stopsWriting(error: unknown): boolean {
  return storage.includes(classOf(errcodeOf(error)))
}

export function failureOf(error: unknown): WorkerFailure {
  const errcode = errcodeOf(error)
  const message = (error as Error).message
  if (classOf(errcode) === constraint) {
    const kind = constraintKinds[errcode] ?? 'other'
    return { code: 'database_constraint', message: `A ${kind} constraint refuses the change`, context: { kind } }
  }
  if (busy.includes(classOf(errcode))) return { code: 'database_busy', message: 'Another process holds the database' }
  if (classOf(errcode) === full) return { code: 'disk_full', message: 'The disk of the database is full' }
  if (stopsWriting(error))
    return { code: 'database_failed', message: `The database can not be written (SQLite error ${errcode})` }
  return { message }
}
