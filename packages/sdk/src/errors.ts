/** Everything this package throws on purpose. */
export class DeltaError extends Error {
  override name = 'DeltaError'
}

/** The client itself is set up wrongly, for example without an API key. Nothing was sent. */
export class DeltaConfigError extends DeltaError {
  override name = 'DeltaConfigError'
}

/** No answer came: the server is down, the address is wrong or the connection broke. */
export class DeltaConnectionError extends DeltaError {
  override name = 'DeltaConnectionError'
  readonly url: string

  constructor(message: string, options: { url: string; cause?: unknown }) {
    super(message, { cause: options.cause })
    this.url = options.url
  }
}

/** The answer did not come within the time allowed. Whether the request had an effect is unknown. */
export class DeltaTimeoutError extends DeltaConnectionError {
  override name = 'DeltaTimeoutError'
}

export interface ApiErrorFields {
  status: number
  code: string
  message: string
  remediation: string
  requestId: string | undefined
  context: Record<string, unknown> | undefined
  cause: unknown
}

/** The server answered with an error. Branch on `code`; `remediation` says what to do. */
export class DeltaApiError extends DeltaError {
  override name = 'DeltaApiError'
  readonly status: number
  readonly code: string
  readonly remediation: string
  /** Give this to the operator: the server's log has it. */
  readonly requestId: string | undefined
  readonly context: Record<string, unknown> | undefined

  constructor(fields: ApiErrorFields) {
    super(fields.message, { cause: fields.cause })
    this.status = fields.status
    this.code = fields.code
    this.remediation = fields.remediation
    this.requestId = fields.requestId
    this.context = fields.context
  }
}

export class BadRequestError extends DeltaApiError {
  override name = 'BadRequestError'
}
export class AuthenticationError extends DeltaApiError {
  override name = 'AuthenticationError'
}
export class PermissionError extends DeltaApiError {
  override name = 'PermissionError'
}
export class NotFoundError extends DeltaApiError {
  override name = 'NotFoundError'
}
export class ConflictError extends DeltaApiError {
  override name = 'ConflictError'
}
export class PreconditionFailedError extends DeltaApiError {
  override name = 'PreconditionFailedError'
}
export class TooLargeError extends DeltaApiError {
  override name = 'TooLargeError'
}
export class RangeNotSatisfiableError extends DeltaApiError {
  override name = 'RangeNotSatisfiableError'
}
export class RateLimitError extends DeltaApiError {
  override name = 'RateLimitError'
}
/** The server failed (5xx). */
export class ServerError extends DeltaApiError {
  override name = 'ServerError'
}
export class UnavailableError extends ServerError {
  override name = 'UnavailableError'
}
/** A disk is full: the sandbox's own or the server's; `code` and `remediation` say which. */
export class StorageFullError extends ServerError {
  override name = 'StorageFullError'
}

const classByStatus: Record<number, typeof DeltaApiError> = {
  400: BadRequestError,
  401: AuthenticationError,
  403: PermissionError,
  404: NotFoundError,
  409: ConflictError,
  412: PreconditionFailedError,
  413: TooLargeError,
  416: RangeNotSatisfiableError,
  422: BadRequestError,
  429: RateLimitError,
  503: UnavailableError,
  507: StorageFullError,
}

const isRecord = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null && !Array.isArray(value)

/** Longest piece of an answer that is not DELTA's (a proxy's page, say) shown in a message. */
const maxShownChars = 300

export function apiErrorOf(status: number, bodyText: string, headers: Headers): DeltaApiError {
  const ErrorClass = classByStatus[status] ?? (status >= 500 ? ServerError : DeltaApiError)
  const requestId = headers.get('x-request-id') ?? undefined
  const body = parseError(bodyText)
  if (body === undefined) return new ErrorClass(foreignError(status, bodyText, headers, requestId))
  return new ErrorClass({
    status,
    code: typeof body['code'] === 'string' ? body['code'] : 'unknown',
    message: typeof body['message'] === 'string' ? body['message'] : `The server answered ${status}`,
    remediation: typeof body['remediation'] === 'string' ? body['remediation'] : '',
    requestId: typeof body['requestId'] === 'string' ? body['requestId'] : requestId,
    context: isRecord(body['context']) ? body['context'] : undefined,
    cause: body['cause'],
  })
}

function parseError(bodyText: string): Record<string, unknown> | undefined {
  try {
    const body: unknown = JSON.parse(bodyText)
    return isRecord(body) && isRecord(body['error']) ? body['error'] : undefined
  } catch {
    return undefined
  }
}

function foreignError(
  status: number,
  bodyText: string,
  headers: Headers,
  requestId: string | undefined,
): ApiErrorFields {
  const location = headers.get('location')
  const shown = bodyText.trim().slice(0, maxShownChars)
  return {
    status,
    code: status >= 300 && status < 400 ? 'redirected' : 'unexpected_answer',
    message: location
      ? `The server answered ${status} and points to ${location}`
      : `The server answered ${status}, not in DELTA's format${shown ? `: ${shown}` : ''}`,
    remediation: location
      ? 'Use the address it points to as DELTA_URL.'
      : 'Check that DELTA_URL is the address of a DELTA server and that a proxy in between passes its answers on.',
    requestId,
    context: undefined,
    cause: undefined,
  }
}
