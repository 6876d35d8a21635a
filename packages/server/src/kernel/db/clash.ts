import { DeltaError } from '../errors.ts'

/** Whether a row was refused because there is one with the same already. */
export function isClash(error: unknown): boolean {
  return error instanceof DeltaError && error.code === 'database_constraint' && error.context?.['kind'] === 'unique'
}
