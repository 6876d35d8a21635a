import { backoffMs, sleep } from './backoff.ts'
import { DeltaApiError, DeltaError } from './errors.ts'
import { readEvents, type ServerEvent } from './sse.ts'
import type { Transport } from './transport.ts'
import type { SandboxInfo, WatchEvent } from './types.ts'

const idleTimeoutMs = 60_000
const reconnectMs = 60_000

export interface WatchRequest {
  url: string
  path: string
  recursive?: boolean
  signal?: AbortSignal
}

/** Changes of a folder as they happen. Iterate it once; leaving the loop or `close` ends it. */
export class Watcher implements AsyncIterable<WatchEvent>, AsyncDisposable {
  readonly #events: AsyncGenerator<WatchEvent, void>
  readonly #closing: AbortController

  constructor(events: AsyncGenerator<WatchEvent, void>, closing: AbortController) {
    this.#events = events
    this.#closing = closing
  }

  [Symbol.asyncIterator](): AsyncGenerator<WatchEvent, void> {
    return this.#events
  }

  async close(): Promise<void> {
    this.#closing.abort()
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.close()
  }
}

/** Resolves once the folder is watched, so that no change made after it is missed. */
export async function openWatcher(transport: Transport, request: WatchRequest): Promise<Watcher> {
  const closing = new AbortController()
  const signal = request.signal ? AbortSignal.any([closing.signal, request.signal]) : closing.signal
  const first = await connectWatch(transport, request, signal)
  const reconnect = async () => {
    await mustLive(transport, request, signal)
    return connectWatch(transport, request, signal)
  }
  return new Watcher(watchEvents(reconnect, { first, closing, signal }), closing)
}

/** Watching anew would start a stopped sandbox, and pay for it, only because a connection was lost. */
async function mustLive(transport: Transport, { url }: WatchRequest, signal: AbortSignal): Promise<void> {
  const { id, state, reason } = await transport.json<SandboxInfo>({ path: url.replace(/\/watch$/, ''), signal })
  if (state !== 'stopped' && state !== 'stopping' && state !== 'killed' && state !== 'failed') return
  throw new DeltaApiError({
    status: 409,
    code: 'sandbox_ended',
    message: `Sandbox ${id} is ${state} (${reason ?? 'no reason given'}); what was watched is over`,
    remediation: 'Start the sandbox, then watch again and look at what changed meanwhile.',
    requestId: undefined,
    context: { state },
    cause: undefined,
  })
}

async function connectWatch(
  transport: Transport,
  { url, path, recursive }: WatchRequest,
  signal: AbortSignal,
): Promise<AsyncGenerator<ServerEvent, void>> {
  const headers = { accept: 'text/event-stream' }
  const response = await transport.send({ path: url, query: { path, recursive }, headers, signal })
  if (response.body === null) throw new DeltaError('The server sent no event stream')
  const events = readEvents(response.body, { idleTimeoutMs })
  const ready = await events.next()
  if (!ready.done && ready.value.event === 'ready') return events
  await events.return()
  throw new DeltaError('The server ended the watch before it began')
}

async function* watchEvents(
  reconnect: () => Promise<AsyncGenerator<ServerEvent, void>>,
  {
    first,
    closing,
    signal,
  }: { first: AsyncGenerator<ServerEvent, void>; closing: AbortController; signal: AbortSignal },
): AsyncGenerator<WatchEvent, void> {
  let events: AsyncGenerator<ServerEvent, void> | undefined = first
  let failedSince: number | undefined
  let interrupted = false
  try {
    for (let attempt = 0; ;) {
      try {
        events ??= await reconnect()
        // What happened while nobody watched is unknown.
        if (interrupted) yield overflow
        interrupted = false
        for await (const raw of events) {
          failedSince = undefined
          attempt = 0
          if (raw.event === 'change') yield JSON.parse(raw.data) as WatchEvent
          if (raw.event === 'overflow') yield overflow
        }
      } catch (cause) {
        if (closing.signal.aborted) return
        if (signal.aborted) throw signal.reason
        failedSince ??= performance.now()
        const passing = !(cause instanceof DeltaApiError) || cause.status >= 500 || cause.status === 429
        if (!passing || performance.now() - failedSince > reconnectMs) throw cause
      }
      if (closing.signal.aborted) return
      events = undefined
      interrupted = true
      await sleep(backoffMs(attempt++), signal)
    }
  } catch (cause) {
    if (!closing.signal.aborted) throw cause
  } finally {
    closing.abort()
  }
}

const overflow: WatchEvent = { kind: 'overflow', path: '', isDirectory: false }
