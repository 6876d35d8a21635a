import { DeltaError } from '../../kernel/errors.ts'

/** What a failed request means for whoever sent it. */
export type Verdict =
  | { kind: 'again'; afterMs: number }
  | { kind: 'missing' }
  | { kind: 'upload gone' }
  | { kind: 'changed' }
  | { kind: 'not offered' }
  | { kind: 'refused' }

const againStatus = new Set([408, 425, 429, 500, 502, 503, 504])
/** Codes that say `again` whatever the status, such as an error within an answer of status 200. */
const againNames = new Set([
  'BadDigest',
  'IncompleteBody',
  'InternalError',
  'InvalidDigest',
  'OperationAborted',
  'RequestTimeout',
  'ServiceUnavailable',
  'SlowDown',
  'Throttling',
  'ThrottlingException',
  'TimeoutError',
  'TooManyRequests',
  'XAmzContentChecksumMismatch',
  'XAmzContentSHA256Mismatch',
])
/** A wish of the service for more patience than this is not granted: whoever comes back later starts anew. */
const longestWishMs = 60_000

/** Thrown by us where an answer shows that bytes were lost or turned on the way. */
export class Garbled extends Error {
  override readonly name = 'Garbled'
}

interface Seen {
  name: string
  message: string
  /** Undefined: no answer came. */
  status: number | undefined
  headers: Record<string, unknown>
}

function look(error: unknown): Seen {
  if (!(error instanceof Error)) return { name: 'Error', message: String(error), status: undefined, headers: {} }
  const { $metadata, $response } = error as {
    $metadata?: { httpStatusCode?: number }
    $response?: { statusCode?: number; headers?: Record<string, unknown> }
  }
  return {
    name: error.name,
    message: error.message,
    status: $response?.statusCode ?? $metadata?.httpStatusCode,
    headers: $response?.headers ?? {},
  }
}

export function judge(error: unknown): Verdict {
  if (error instanceof Garbled) return { kind: 'again', afterMs: 0 }
  const { name, status, headers } = look(error)
  if (againNames.has(name) || status === undefined || againStatus.has(status)) {
    return { kind: 'again', afterMs: wishOf(headers['retry-after']) }
  }
  if (name === 'NoSuchUpload') return { kind: 'upload gone' }
  if (name === 'NoSuchBucket') return { kind: 'refused' }
  if (status === 404) return { kind: 'missing' }
  if (status === 412 || status === 416) return { kind: 'changed' }
  if (status === 501 || status === 405) return { kind: 'not offered' }
  // What looks like success but could not be understood.
  return status < 300 ? { kind: 'again', afterMs: 0 } : { kind: 'refused' }
}

/** Seconds, or a date, which is not worth a clock that may differ: then the usual pause. */
function wishOf(header: unknown): number {
  const seconds = typeof header === 'string' && /^\d{1,6}$/.test(header) ? Number(header) : 0
  return Math.min(seconds * 1000, longestWishMs)
}

/** In words, for the operator. The messages of the service may name the access key, never the secret. */
export function failureOf(error: unknown, { key, tries }: { key: string; tries: number }): unknown {
  if (error instanceof DeltaError) return error
  const { name, status, message } = look(error)
  const said = status === undefined ? `${name}: ${message}` : `${name} (${status})`
  const context = { object: key }
  const verdict = judge(error)
  switch (verdict.kind) {
    case 'missing':
      return new DeltaError('blob_missing', `There is no object ${key}`, { context })
    case 'changed':
      return new DeltaError('blob_damaged', `The object ${key} changed while it was read`, { context })
    case 'upload gone':
    case 'again':
      return new DeltaError('storage_unavailable', `The storage failed ${tries} times: ${said}`, {
        cause: error,
        context,
      })
    default:
      return new DeltaError('storage_refused', `The storage refused ${key}: ${said}`, { cause: error, context })
  }
}
