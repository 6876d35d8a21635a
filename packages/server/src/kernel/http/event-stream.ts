/** A silent stream says that often that it lives, so that no proxy between takes it for dead. */
export const KEEPALIVE_MS = 15_000

export interface ServerSentEvent {
  event: string
  data: unknown
  /** What a client sends back as Last-Event-ID. */
  id?: string | undefined
}

export const eventStreamHeaders = {
  'content-type': 'text/event-stream; charset=utf-8',
  'cache-control': 'no-store',
  // Asks nginx not to collect events.
  'x-accel-buffering': 'no',
} as const

export function formatEvent({ event, data, id }: ServerSentEvent): string {
  // JSON has no raw line ends, so one data line is enough.
  return `event: ${event}\n${id === undefined ? '' : `id: ${id}\n`}data: ${JSON.stringify(data)}\n\n`
}

/** Events that are formatted already, so that what many read is formatted once. */
export type FormattedEvents = Uint8Array

/**
 * The text of an event stream: what `source` yields, and a comment whenever it is silent. It takes the next event only when it is asked,
 * so a slow viewer holds back the source, not memory. `cancel` is called once when the reader leaves before the end; the source must
 * then end soon.
 */
export function eventStream(
  source: AsyncIterator<ServerSentEvent | FormattedEvents>,
  cancel: () => void,
  keepaliveMs = KEEPALIVE_MS,
): AsyncIterableIterator<string | FormattedEvents> {
  type Answer = IteratorResult<string | FormattedEvents>
  let waiter: { resolve(answer: Answer): void; reject(error: unknown): void; timer: NodeJS.Timeout } | undefined
  let arrived: Answer | { error: unknown } | undefined
  let asked = false
  let over = false

  function deliver(answer: Answer | { error: unknown }): void {
    asked = false
    if (waiter === undefined) {
      arrived = answer
      return
    }
    const { resolve, reject, timer } = waiter
    waiter = undefined
    clearTimeout(timer)
    if ('error' in answer) reject(answer.error)
    else resolve(answer)
  }

  function ask(): void {
    asked = true
    source.next().then(
      (step) => {
        over ||= step.done === true
        deliver(step.done === true ? { done: true, value: undefined } : { done: false, value: textOf(step.value) })
      },
      (error: unknown) => {
        over = true
        deliver({ error })
      },
    )
  }

  return {
    [Symbol.asyncIterator]() {
      return this
    },
    next() {
      const ready = arrived
      arrived = undefined
      if (ready !== undefined) return 'error' in ready ? Promise.reject(ready.error) : Promise.resolve(ready)
      if (over) return Promise.resolve({ done: true, value: undefined })
      return new Promise((resolve, reject) => {
        const timer = setTimeout(() => {
          waiter = undefined
          resolve({ done: false, value: ': keepalive\n\n' })
        }, keepaliveMs)
        waiter = { resolve, reject, timer }
        if (!asked) ask()
      })
    },
    return() {
      if (!over) {
        over = true
        cancel()
        deliver({ done: true, value: undefined })
      }
      return Promise.resolve({ done: true, value: undefined })
    },
  }
}

function textOf(event: ServerSentEvent | FormattedEvents): string | FormattedEvents {
  return event instanceof Uint8Array ? event : formatEvent(event)
}
