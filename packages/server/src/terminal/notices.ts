import type { DeltaError } from '../kernel/errors.ts'
import { newId } from '../kernel/ids.ts'
import type { ExecSummary } from '../sandboxes/execs/schema.ts'
import type { Notice } from './schema.ts'

/** How a terminal ended, as its viewers are told. */
export function exitNotice({ state, exitCode, signal, timedOut, oomKilled, outputBytes }: ExecSummary): Notice {
  return { type: 'exit', state, exitCode, signal, timedOut, oomKilled, offset: outputBytes }
}

/** An error in the shape it has everywhere. */
export function errorNotice(error: DeltaError): Notice {
  return { type: 'error', status: error.status, error: error.toBody(newId('req')).error }
}
