import { DeltaError } from '../../kernel/errors.ts'

/** A refusal as Anthropic would say it (https://docs.claude.com/en/api/errors). */
export interface Refusal {
  status: number
  type: string
  message: string
}

const types: Readonly<Record<number, string>> = {
  400: 'invalid_request_error',
  401: 'authentication_error',
  402: 'billing_error',
  403: 'permission_error',
  404: 'not_found_error',
  413: 'request_too_large',
  429: 'rate_limit_error',
  500: 'api_error',
  529: 'overloaded_error',
}

export function refusal(status: number, message: string): Refusal {
  return { status, type: types[status] ?? 'api_error', message: `DELTA: ${message}` }
}

const statuses: Readonly<Record<string, number>> = {
  balance_too_low: 402,
  account_owes: 402,
  model_refused: 400,
  model_too_long: 400,
  model_not_found: 404,
  model_not_priced: 404,
  model_unavailable: 529,
  model_key_missing: 403,
  model_key_refused: 403,
  model_key_unreadable: 403,
}

/** Why a call came to nothing. Of a mistake of the server's the sandbox hears nothing. */
export function refusalOf(error: unknown): Refusal {
  if (!(error instanceof DeltaError)) return refusal(500, 'The server made a mistake')
  const status = statuses[error.code]
  if (status === undefined) return refusal(500, 'It could not be asked')
  // By these words the engine knows that it should shorten the conversation.
  const words = error.code === 'model_too_long' ? `prompt is too long: ${error.message}` : error.message
  return refusal(status, `${error.code}: ${words}`)
}

export function bodyOf({ type, message }: Refusal): string {
  return JSON.stringify({ type: 'error', error: { type, message } })
}

export function eventOf(refused: Refusal): Buffer {
  return Buffer.from(`event: error\ndata: ${bodyOf(refused)}\n\n`)
}
