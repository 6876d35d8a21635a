import { backoffMs, sleep } from './backoff.ts'
import { DeltaError } from './errors.ts'
import { isPassing } from './exec-stream.ts'
import { readEvents, type ServerEvent } from './sse.ts'
import type { Transport } from './transport.ts'

export interface FollowOptions {
  /** The number that was seen last; what came since comes first. */
  from?: number
  signal?: AbortSignal
  /** How long a lost connection is tried again. @default 60,000 */
  reconnectMs?: number
}

/** The server sends a comment every 15 s; four missed ones mean the connection is dead. */
const idleTimeoutMs = 60_000

/** Events with numbers by which the server goes on after a lost connection. It does not end by itself. */
export async function* followNumbered(
  transport: Transport,
  path: string,
  { from, signal, reconnectMs = 60_000 }: FollowOptions,
): AsyncGenerator<ServerEvent, void> {
  let last = from
  let failedSince: number | undefined
  for (let attempt = 0; ;) {
    let failure: unknown = new DeltaError('The server ended the event stream')
    try {
      const headers = { accept: 'text/event-stream' }
      const response = await transport.send({ path, query: { from: last }, headers, signal })
      if (response.body === null) throw new DeltaError('The server sent no event stream')
      for await (const one of readEvents(response.body, { idleTimeoutMs })) {
        failedSince = undefined
        attempt = 0
        if (one.id !== undefined) last = Number(one.id)
        yield one
      }
    } catch (cause) {
      failure = cause
    }
    if (signal?.aborted) throw signal.reason
    failedSince ??= performance.now()
    if (!isPassing(failure) || performance.now() - failedSince > reconnectMs) throw failure
    await sleep(backoffMs(attempt++), signal)
  }
}
