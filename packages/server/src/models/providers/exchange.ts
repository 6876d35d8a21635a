import { systemClock } from '../../kernel/clock.ts'
import { ProviderFailure, type StreamOptions, type UsageReader } from '../provider.ts'
import { failureOf, withoutKey } from './failures.ts'

/** After the end was said, the connection may take this long to end too, so that it can be used again. */
const endMs = 1_000

/** The one HTTP request of a call: what the package says goes out by this `fetch`, and its answer is read along. */
export interface Exchange {
  fetch: typeof globalThis.fetch
  /** Whether the request has left. */
  isAsked(): boolean
  /** Whether the package wanted to ask a second time, which it may not. */
  isAskedAgain(): boolean
  /** Why it was rejected, in our words or in those of the given `fetch`. */
  rejection(): { cause: unknown } | undefined
}

export interface ExchangeOptions extends StreamOptions {
  reader: UsageReader
  /** With the key. */
  header: Record<string, string>
  /** The body that leaves, made of the one that the package wrote. @default as it is */
  rewrite?: ((body: Record<string, unknown>) => Record<string, unknown>) | undefined
}

export function createExchange({ fetch, endpoint, reader, header, rewrite }: ExchangeOptions): Exchange {
  let isAsked = false
  let isAskedAgain = false
  let rejection: { cause: unknown } | undefined

  async function ask(url: string | URL | Request, init: RequestInit = {}): Promise<Response> {
    if (isAsked) {
      isAskedAgain = true
      throw new Error('A call is one request.')
    }
    isAsked = true
    const body = rewrite && typeof init.body === 'string' ? JSON.stringify(rewrite(JSON.parse(init.body))) : init.body
    const headers = { ...(init.headers as Record<string, string>), ...header }
    // A redirect would take the key along to wherever it leads.
    const response = await fetch(url, { ...init, headers, ...(body === undefined ? {} : { body }), redirect: 'manual' })
    if (!response.ok) throw await failureOf(response, endpoint.apiKey)
    if (!response.body) throw new ProviderFailure('unavailable', 'The answer has no body.', { status: response.status })
    return new Response(readAlong(response.body, reader), { status: response.status, headers: response.headers })
  }

  return {
    async fetch(url, init) {
      try {
        return await ask(url, init)
      } catch (cause) {
        rejection ??= { cause: isConnectionError(cause) ? withoutConnection(cause, endpoint.apiKey) : cause }
        throw cause
      }
    },
    isAsked: () => isAsked,
    isAskedAgain: () => isAskedAgain,
    rejection: () => rejection,
  }
}

/** How `fetch` says that there was no connection, or no answer on it. */
function isConnectionError(cause: unknown): cause is TypeError {
  return cause instanceof TypeError && cause.cause instanceof Error
}

function withoutConnection(error: TypeError, apiKey: string | undefined): ProviderFailure {
  const reason = error.cause as Error
  const words = 'code' in reason ? `${String(reason.code)}: ${reason.message}` : reason.message
  return new ProviderFailure('unavailable', withoutKey(`No connection to it (${words}).`, apiKey), { cause: error })
}

/** The same bytes, of which the reader has seen each before it goes on. What is broken after the end was said does no harm. */
function readAlong(body: ReadableStream<Uint8Array>, reader: UsageReader): ReadableStream<Uint8Array> {
  const source = body.getReader()
  const close = (controller: ReadableStreamDefaultController<Uint8Array>) => {
    source.cancel().catch(() => {})
    controller.close()
  }
  return new ReadableStream(
    {
      async pull(controller) {
        const next = source.read()
        try {
          const read = reader.ended() ? await withinEndMs(next) : await next
          if (read === undefined) return close(controller)
          if (read.done) return controller.close()
          reader.push(read.value)
          controller.enqueue(read.value)
        } catch (error) {
          if (reader.ended()) return close(controller)
          throw error
        }
      },
      cancel: (reason) => source.cancel(reason),
    },
    { highWaterMark: 0 },
  )
}

async function withinEndMs<T>(next: Promise<T>): Promise<T | undefined> {
  let forget = () => {}
  const late = new Promise<undefined>((resolve) => {
    forget = systemClock.after(endMs, () => resolve(undefined))
  })
  try {
    return await Promise.race([next, late])
  } finally {
    forget()
    next.catch(() => {})
  }
}
