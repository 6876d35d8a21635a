import { backoffMs, sleep } from './backoff.ts'
import { DeltaApiError, DeltaConfigError, DeltaConnectionError, DeltaError } from './errors.ts'
import { bytesOfBase64, type OutputChunk } from './output.ts'
import { readEvents, type ServerEvent } from './sse.ts'
import type { Transport } from './transport.ts'
import type { ExecInfo } from './types.ts'

export type ExecEvent =
  | { kind: 'start'; id: string; pid: number }
  | ({ kind: 'output' } & OutputChunk)
  | { kind: 'exit'; exec: ExecInfo }

export interface ExecStreamOptions {
  /** Opens the stream for the first time; the answer may begin a new exec. */
  open: () => Promise<Response>
  /** Opens it again at an offset, once the exec is known. */
  reopen: (execId: string, from: number) => Promise<Response>
  /** Set when the exec is known already. */
  execId?: string | undefined
  from?: number | undefined
  signal?: AbortSignal | undefined
  /** How long to keep trying when the connection is lost, for example while the server restarts. @default 60,000 */
  reconnectMs?: number | undefined
  /** Whether whoever asked has gone: then a lost connection is tried for `givenUpMs` alone, to end what may have been started. */
  isGivenUp?: (() => boolean) | undefined
}

/** As long as a server needs to start again. */
const givenUpMs = 5_000

/** The server sends a comment every 15 s; four missed ones mean the connection is dead. */
const idleTimeoutMs = 60_000

/**
 * The events of one exec, from its offset to its exit. A lost connection is opened again where it broke off, so that no byte comes
 * twice and none is left out but those the server itself no longer has (`lostBytes`).
 */
export async function* execEvents(options: ExecStreamOptions): AsyncGenerator<ExecEvent, void> {
  const cursor = createCursor(options)
  let failedSince: number | undefined
  let attempt = 0
  for (;;) {
    let failure: unknown
    try {
      const response =
        cursor.execId === undefined ? await options.open() : await options.reopen(cursor.execId, cursor.offset)
      if (response.body === null) throw new DeltaError('The server sent no event stream')
      for await (const raw of readEvents(response.body, { idleTimeoutMs })) {
        failedSince = undefined
        attempt = 0
        const event = cursor.take(raw)
        if (event === undefined) continue
        yield event
        if (event.kind === 'exit') return
      }
      failure = new DeltaError('The event stream ended before the command did')
    } catch (cause) {
      failure = cause
    }
    if (options.signal?.aborted) throw options.signal.reason
    failedSince ??= performance.now()
    const patienceMs = options.isGivenUp?.() ? givenUpMs : (options.reconnectMs ?? 60_000)
    if (!isPassing(failure) || performance.now() - failedSince > patienceMs) throw failure
    await sleep(backoffMs(attempt++), options.signal)
  }
}

/** The events of a known exec, its output in base64 so that an offset never falls inside a character. */
export function openEvents(
  transport: Transport,
  base: string,
  { execId, from, signal }: { execId: string; from: number; signal?: AbortSignal | undefined },
): Promise<Response> {
  return transport.send({
    path: `${base}/execs/${encodeURIComponent(execId)}/events`,
    query: { from, encoding: 'base64' },
    headers: { accept: 'text/event-stream' },
    signal,
  })
}

/** Errors that a restart of the server or of the network explains. */
export function isPassing(failure: unknown): boolean {
  if (failure instanceof DeltaApiError)
    return [429, 502, 503, 504].includes(failure.status) || failure.code === 'idempotency_in_progress'
  if (failure instanceof DeltaConfigError) return false
  // What fetch throws while a body is read is a plain TypeError.
  return failure instanceof DeltaConnectionError || failure instanceof DeltaError || failure instanceof TypeError
}

interface Cursor {
  readonly execId: string | undefined
  readonly offset: number
  take(raw: ServerEvent): ExecEvent | undefined
}

function createCursor(options: ExecStreamOptions): Cursor {
  let execId = options.execId
  let offset = options.from ?? 0
  let lostBytes = 0
  const decoders = { stdout: new TextDecoder(), stderr: new TextDecoder() }

  function takeOutput(stream: 'stdout' | 'stderr', fields: Record<string, unknown>): ExecEvent | undefined {
    const at = Number(fields['offset'])
    let bytes = bytesOf(String(fields['data'] ?? ''), fields['encoding'])
    if (!Number.isSafeInteger(at) || at < 0) throw malformed(`offset ${String(fields['offset'])}`)
    // What was seen before the connection broke is cut off, should the server start a little earlier.
    if (at < offset) bytes = bytes.subarray(Math.min(bytes.length, offset - at))
    else if (at > offset) lostBytes = Math.max(lostBytes, at - offset)
    if (bytes.length === 0) return undefined
    const start = Math.max(at, offset)
    offset = start + bytes.length
    const text = decoders[stream].decode(bytes, { stream: true })
    const chunk: OutputChunk = { stream, bytes, text, offset: start, lostBytes }
    lostBytes = 0
    return { kind: 'output', ...chunk }
  }

  function take(raw: ServerEvent): ExecEvent | undefined {
    if (raw.event === 'stdout' || raw.event === 'stderr') return takeOutput(raw.event, fieldsOf(raw))
    if (raw.event === 'start') {
      const fields = fieldsOf(raw)
      const first = execId === undefined
      execId = String(fields['id'])
      return first || offset === 0 ? { kind: 'start', id: execId, pid: Number(fields['pid']) } : undefined
    }
    if (raw.event === 'gap') {
      const { from, to } = fieldsOf(raw)
      const end = Number(to)
      if (!Number.isSafeInteger(end)) throw malformed(`gap from ${String(from)} to ${String(to)}`)
      lostBytes += Math.max(0, end - offset)
      offset = Math.max(offset, end)
      return undefined
    }
    if (raw.event === 'exit') return { kind: 'exit', exec: fieldsOf(raw) as unknown as ExecInfo }
    if (raw.event === 'error') throw streamError(fieldsOf(raw))
    return undefined
  }

  return {
    get execId() {
      return execId
    },
    get offset() {
      return offset
    },
    take,
  }
}

const malformed = (what: string) => new DeltaError(`The server's event stream is malformed: ${what}`)

function fieldsOf(raw: ServerEvent): Record<string, unknown> {
  try {
    const fields: unknown = JSON.parse(raw.data)
    if (typeof fields === 'object' && fields !== null) return fields as Record<string, unknown>
  } catch {
    // Reported below with the event's name.
  }
  throw malformed(`event ${raw.event}`)
}

const bytesOf = (data: string, encoding: unknown) =>
  encoding === 'utf8' ? new TextEncoder().encode(data) : bytesOfBase64(data)

/** An error that arose after the stream had begun, when the status could no longer say it. */
function streamError(fields: Record<string, unknown>): Error {
  const error = (typeof fields['error'] === 'object' && fields['error'] !== null ? fields['error'] : fields) as Record<
    string,
    unknown
  >
  return new DeltaApiError({
    status: typeof error['status'] === 'number' ? error['status'] : 500,
    code: String(error['code'] ?? 'unknown'),
    message: String(error['message'] ?? 'The stream failed'),
    remediation: String(error['remediation'] ?? ''),
    requestId: typeof error['requestId'] === 'string' ? error['requestId'] : undefined,
    context: undefined,
    cause: error['cause'],
  })
}
