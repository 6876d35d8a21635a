import { DeltaError } from '../errors.ts'
import { ProgramFault } from './program.ts'

const constraintKinds: Record<string, string> = {
  '23502': 'not_null',
  '23503': 'foreign_key',
  '23505': 'unique',
  '23514': 'check',
}
/** Serialisation failure, deadlock: PostgreSQL undid the transaction and asks to repeat it. */
const repeatable = ['40001', '40P01']
/** A lock, or the statement, took longer than it may. */
const waitedTooLong = ['55P03', '57014']
const diskFull = ['53100']
const storageFailed = ['58030', 'XX001', 'XX002']
/** Class 08: no connection; too many connections; starting up, shutting down. */
const unavailable = /^(08|53300|57P0)/

function stateOf(error: unknown): string {
  return String((error as { code?: unknown }).code ?? '')
}

export function isRepeatable(error: unknown): boolean {
  return repeatable.includes(stateOf(error))
}

/** What carries no five-character state came from the connection, not from the server. */
export function isConnectionLost(error: unknown): boolean {
  const state = stateOf(error)
  return unavailable.test(state) || !/^[0-9A-Z]{5}$/.test(state)
}

/** What a caller may learn of an error of `pg`; a fault of the program is given back as it is. */
export function postgresError(error: unknown): unknown {
  if (error instanceof RangeError || error instanceof DeltaError || error instanceof ProgramFault) return error
  const state = stateOf(error)
  const kind = constraintKinds[state]
  if (kind)
    return new DeltaError('database_constraint', `A ${kind} constraint refuses the change`, {
      cause: error,
      context: { kind },
    })
  if (isRepeatable(error) || waitedTooLong.includes(state)) {
    return new DeltaError('database_busy', 'The database is too busy for this operation', { cause: error })
  }
  if (diskFull.includes(state)) return new DeltaError('disk_full', 'The disk of the database is full', { cause: error })
  if (storageFailed.includes(state))
    return new DeltaError('database_failed', 'The database reports a storage error', { cause: error })
  if (isConnectionLost(error))
    return new DeltaError('database_unavailable', 'The database can not be reached', { cause: error })
  return error
}
