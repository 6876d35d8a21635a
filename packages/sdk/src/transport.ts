import { backoffMs, retryAfterMs, sleep } from './backoff.ts'
import { environmentVariable, findApiKey } from './environment.ts'
import { apiErrorOf, DeltaConfigError, DeltaConnectionError, DeltaError, DeltaTimeoutError } from './errors.ts'

export interface TransportOptions {
  /** @default DELTA_URL, else http://127.0.0.1:8000 */
  url?: string | undefined
  /** @default DELTA_API_KEY; for a server on this machine else the file api-key in DELTA_DATA_DIR (./data) */
  apiKey?: string | ApiKeySource | undefined
  /** @default the runtime's own */
  fetch?: typeof globalThis.fetch | undefined
  /** Longest wait for an answer, not counting the time a command is allowed to run. @default 60,000 */
  timeoutMs?: number | undefined
  /** How often a request that may safely be repeated is repeated. @default 3 */
  maxRetries?: number | undefined
}

/** Asked before each request, for a key that changes, such as the token of a session; undefined: the default. */
export type ApiKeySource = () => Promise<string | undefined>

export type RequestBody =
  | string
  | Uint8Array
  | ArrayBuffer
  | Blob
  | ReadableStream<Uint8Array>
  | AsyncIterable<Uint8Array>

export interface DeltaRequest {
  method?: 'GET' | 'HEAD' | 'POST' | 'PUT' | 'PATCH' | 'DELETE'
  path: string
  query?: Record<string, string | number | boolean | undefined>
  json?: unknown
  body?: RequestBody
  headers?: Record<string, string>
  /**
   * Whether doing it twice is the same as doing it once. @default true for GET, HEAD and requests with an idempotency key.
   * Others are repeated only when the connection was refused, so that nothing can have happened.
   */
  repeatable?: boolean
  idempotencyKey?: string
  /** 0 waits without limit. */
  timeoutMs?: number
  signal?: AbortSignal | undefined
  /** @default the client's `maxRetries` */
  maxRetries?: number
  /** Sent without a key, by whoever has none yet. @default false */
  anonymous?: boolean
}

export interface Transport {
  readonly url: string
  /** The API key, for what is not sent as a request. */
  key(): Promise<string>
  /** The answer, its body unread; throws for any status that is not 2xx. */
  send(request: DeltaRequest): Promise<Response>
  /** The answer's JSON. The time limit covers the body too. */
  json<T>(request: DeltaRequest): Promise<T>
  /** For answers without a body. */
  done(request: DeltaRequest): Promise<void>
}

const retriedStatus = new Set([429, 502, 503, 504])
/** The server certainly never saw the request. */
const neverSent = new Set(['ECONNREFUSED', 'ENOTFOUND', 'EAI_AGAIN', 'ENETUNREACH', 'EHOSTUNREACH'])

export function createTransport(options: TransportOptions): Transport {
  const url = checkedUrl(options.url ?? environmentVariable('DELTA_URL') ?? 'http://127.0.0.1:8000')
  const fetchIt = options.fetch ?? globalThis.fetch
  const defaultTimeoutMs = options.timeoutMs ?? 60_000
  const defaultRetries = options.maxRetries ?? 3
  let apiKey: Promise<string> | undefined

  async function key(): Promise<string> {
    if (typeof options.apiKey === 'function') return (await options.apiKey()) ?? found()
    return options.apiKey ?? found()
  }

  function found(): Promise<string> {
    apiKey ??= findApiKey(url)
    // A key file that appears later must be found by the next call.
    apiKey.catch(() => (apiKey = undefined))
    return apiKey
  }

  async function once<T>(request: DeltaRequest, take: Take<T>): Promise<Attempt<T>> {
    const target = targetOf(url, request)
    const headers = headersOf(request, request.anonymous ? undefined : await key())
    const limit = limitOf(request.timeoutMs ?? defaultTimeoutMs, request.signal)
    try {
      const response = await fetchIt(target, {
        method: request.method ?? 'GET',
        headers,
        redirect: 'manual',
        signal: limit.signal,
        ...bodyOf(request),
      })
      if (response.ok) return { ok: true, value: await take(response) }
      const error = apiErrorOf(response.status, await response.text(), response.headers)
      // The first of two requests with one idempotency key is still being worked on: its answer can be fetched later.
      const mayRetry = retriedStatus.has(response.status) || error.code === 'idempotency_in_progress'
      return { ok: false, error, mayRetry, waitMs: retryAfterMs(response.headers.get('retry-after'), Date.now()) }
    } catch (cause) {
      if (request.signal?.aborted) throw request.signal.reason
      if (cause instanceof DeltaError) throw cause
      return connectionFailure(cause, {
        url,
        request,
        timedOut: limit.timedOut(),
        timeoutMs: request.timeoutMs ?? defaultTimeoutMs,
      })
    } finally {
      limit.stop({ keepSignal: take === asItIs })
    }
  }

  async function withRetries<T>(request: DeltaRequest, take: Take<T>): Promise<T> {
    const replayable = isReplayable(request.body)
    const repeatable = replayable && isRepeatable(request)
    for (let attempt = 0; ; attempt++) {
      const result = await once(request, take)
      if (result.ok) return result.value
      const allowed = (repeatable && result.mayRetry) || (replayable && result.neverSent === true)
      if (!allowed || attempt >= (request.maxRetries ?? defaultRetries)) throw result.error
      await sleep(result.waitMs ?? backoffMs(attempt), request.signal)
    }
  }

  return {
    url,
    key,
    send: (request) => withRetries(request, asItIs),
    json: <T>(request: DeltaRequest) => withRetries(request, parsed<T>),
    done: (request) => withRetries(request, async (response) => void (await response.body?.cancel())),
  }
}

type Take<T> = (response: Response) => Promise<T>

const asItIs = async (response: Response) => response

async function parsed<T>(response: Response): Promise<T> {
  const text = await response.text()
  try {
    return JSON.parse(text) as T
  } catch {
    throw apiErrorOf(response.status, text, response.headers)
  }
}

type Attempt<T> =
  | { ok: true; value: T }
  | { ok: false; error: Error; mayRetry: boolean; neverSent?: boolean; waitMs?: number | undefined }

function checkedUrl(text: string): string {
  let address: URL
  try {
    address = new URL(text)
  } catch {
    throw new DeltaConfigError(`${JSON.stringify(text)} is not an address. DELTA_URL looks like http://127.0.0.1:8000`)
  }
  if (address.protocol !== 'http:' && address.protocol !== 'https:') {
    throw new DeltaConfigError(`${text} is neither http nor https. DELTA_URL looks like http://127.0.0.1:8000`)
  }
  return address.href.replace(/\/+$/, '')
}

function targetOf(url: string, request: DeltaRequest): string {
  const query = new URLSearchParams()
  for (const [name, value] of Object.entries(request.query ?? {})) {
    if (value !== undefined) query.set(name, String(value))
  }
  const text = query.toString()
  return url + request.path + (text === '' ? '' : `?${text}`)
}

function headersOf(request: DeltaRequest, apiKey: string | undefined): Record<string, string> {
  return {
    ...(apiKey === undefined ? {} : { authorization: `Bearer ${apiKey}` }),
    ...(request.json === undefined ? {} : { 'content-type': 'application/json' }),
    ...(request.idempotencyKey === undefined ? {} : { 'idempotency-key': request.idempotencyKey }),
    ...request.headers,
  }
}

function bodyOf(request: DeltaRequest): RequestInit {
  if (request.json !== undefined) return { body: JSON.stringify(request.json) }
  if (request.body === undefined) return {}
  // `duplex` is what the standard asks for when a body is a stream.
  return { body: request.body as NonNullable<RequestInit['body']>, duplex: 'half' } as RequestInit
}

const isReplayable = (body: RequestBody | undefined) =>
  body === undefined ||
  typeof body === 'string' ||
  body instanceof Uint8Array ||
  body instanceof ArrayBuffer ||
  body instanceof Blob

function isRepeatable(request: DeltaRequest): boolean {
  const method = request.method ?? 'GET'
  return request.repeatable ?? (method === 'GET' || method === 'HEAD' || request.idempotencyKey !== undefined)
}

function limitOf(timeoutMs: number, signal: AbortSignal | undefined) {
  const controller = new AbortController()
  let expired = false
  const onAbort = () => controller.abort(signal?.reason)
  if (signal?.aborted) onAbort()
  signal?.addEventListener('abort', onAbort, { once: true })
  const timer =
    timeoutMs > 0
      ? setTimeout(() => {
          expired = true
          controller.abort()
        }, timeoutMs)
      : undefined
  function stop({ keepSignal }: { keepSignal: boolean }): void {
    clearTimeout(timer)
    // A body handed out unread must still end when the caller aborts; anything else lets go of the caller's signal.
    if (!keepSignal) signal?.removeEventListener('abort', onAbort)
  }
  return { signal: controller.signal, timedOut: () => expired, stop }
}

function connectionFailure(
  cause: unknown,
  at: { url: string; request: DeltaRequest; timedOut: boolean; timeoutMs: number },
): Attempt<never> {
  const act = `${at.request.method ?? 'GET'} ${at.request.path}`
  if (at.timedOut) {
    const message = `${at.url} did not answer ${act} within ${at.timeoutMs} ms`
    return { ok: false, error: new DeltaTimeoutError(message, { url: at.url, cause }), mayRetry: true }
  }
  const code = causeCode(cause)
  const error = new DeltaConnectionError(`${at.url} cannot be reached (${act}): ${code ?? describe(cause)}`, {
    url: at.url,
    cause,
  })
  return { ok: false, error, mayRetry: true, neverSent: code !== undefined && neverSent.has(code) }
}

/** fetch hides the system's code in a chain of causes, or in an AggregateError when a name has several addresses. */
function causeCode(cause: unknown, depth = 0): string | undefined {
  if (typeof cause !== 'object' || cause === null || depth > 5) return undefined
  const { code, cause: inner, errors } = cause as { code?: unknown; cause?: unknown; errors?: unknown[] }
  if (typeof code === 'string') return code
  return causeCode(inner, depth + 1) ?? (Array.isArray(errors) ? causeCode(errors[0], depth + 1) : undefined)
}

/** What fetch itself says is only that it failed; the reason lies below. */
function describe(cause: unknown): string {
  if (!(cause instanceof Error)) return String(cause)
  return cause.cause instanceof Error && cause.cause.message !== '' ? cause.cause.message : cause.message
}
