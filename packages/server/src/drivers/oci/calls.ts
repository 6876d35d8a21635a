import type { Duplex } from 'node:stream'
import { DeltaError } from '../../kernel/errors.ts'
import type { Logger } from '../../kernel/log.ts'
import {
  createFrameDecoder,
  createReader,
  createWriter,
  type Frame,
  type Reader,
  WireError,
  type Writer,
} from '../../guest/codec.ts'
import { type GuestErrorName, guestErrorNames } from '../../guest/errors.ts'

/** Answers may be long lists; requests stay within 64 KiB. */
const maxAnswerBytes = 4 * 1024 * 1024
const maxRequestBytes = 64 * 1024
/** Requests under way at once. The service bounds creates far below it; this is what keeps a bug from growing the memory. */
const maxOutstanding = 1_024
const maxMessageBytes = 2_000
const firstNewsType = 100

/** What the helper answered instead of doing it. `oci.ts` turns it into the `DeltaError` of the call. */
export class HelperRefusal extends Error {
  override readonly name = 'HelperRefusal'
  readonly code: GuestErrorName
  constructor(code: GuestErrorName, message: string) {
    super(message)
    this.code = code
  }
}

export interface HelperCalls {
  call<Answer>(request: {
    type: number
    timeoutMs: number
    write?: (writer: Writer) => void
    read: (reader: Reader) => Answer
  }): Promise<Answer>
  /** Resolves when the helper is gone, or was closed from here. */
  readonly closed: Promise<void>
  close(): void
}

interface Waiting {
  type: number
  timer: NodeJS.Timeout
  settle(frame: Frame): void
  fail(error: Error): void
}

/** Numbered requests and their answers over the helper's socket; answers come in any order. */
export function createHelperCalls(deps: {
  helper: Duplex
  log: Logger
  onNews: (type: number, reader: Reader) => void
}): HelperCalls {
  const { helper, log, onNews } = deps
  const waiting = new Map<number, Waiting>()
  const decoder = createFrameDecoder({ maxPayload: maxAnswerBytes })
  let lastNumber = 0
  let gone: DeltaError | undefined
  const { promise: closed, resolve: announceClosed } = Promise.withResolvers<void>()

  const lose = (message: string, cause?: unknown): void => {
    if (gone) return
    gone = new DeltaError('driver_unavailable', message, { cause })
    for (const { timer, fail } of waiting.values()) {
      clearTimeout(timer)
      fail(gone)
    }
    waiting.clear()
    helper.destroy()
    announceClosed()
  }

  const take = (frame: Frame): void => {
    if (frame.type >= firstNewsType && frame.channel === 0) return onNews(frame.type, createReader(frame.payload))
    const request = waiting.get(frame.channel)
    if (!request) {
      // The answer to a call that timed out: whoever asked has been told so.
      if (frame.channel !== 0 && frame.channel <= lastNumber) return
      throw new WireError('bad_value', `an answer to request ${frame.channel}, which was never made`)
    }
    if (request.type !== frame.type) throw new WireError('bad_value', `an answer of type ${frame.type}`)
    waiting.delete(frame.channel)
    clearTimeout(request.timer)
    request.settle(frame)
  }

  helper.on('data', (chunk: Buffer) => {
    try {
      for (const frame of decoder.push(chunk)) take(frame)
      if (decoder.error) throw decoder.error
    } catch (error) {
      log.error('helper_protocol_error', { error })
      lose('The privileged helper sent something this server does not understand', error)
    }
  })
  helper.on('error', (error) => lose('The connection to the privileged helper broke', error))
  helper.on('end', () => lose('The privileged helper closed the connection'))
  helper.on('close', () => lose('The privileged helper is gone'))

  return {
    call({ type, timeoutMs, write, read }) {
      if (gone) return Promise.reject(gone)
      if (waiting.size >= maxOutstanding) {
        const message = `${maxOutstanding} requests to the privileged helper are under way already`
        return Promise.reject(new DeltaError('too_many_requests', message))
      }
      const writer = createWriter()
      write?.(writer)
      if (writer.payload().length > maxRequestBytes) {
        return Promise.reject(new DeltaError('invalid_request', 'The specification of the sandbox is too long'))
      }
      // Numbers are never used twice on a connection, so 2³² calls end it: the helper restarts this process then.
      lastNumber += 1
      if (lastNumber > 0xffff_ffff) {
        lose('The connection to the privileged helper has used up its request numbers')
        return Promise.reject(gone!)
      }
      const number = lastNumber
      return new Promise((resolve, reject) => {
        const timer = setTimeout(() => {
          waiting.delete(number)
          const message = `The privileged helper gave no answer within ${timeoutMs / 1000} s`
          reject(new DeltaError('driver_timed_out', message))
        }, timeoutMs)
        timer.unref()
        const settle = (frame: Frame): void => {
          try {
            resolve(readAnswer(frame, read))
          } catch (error) {
            reject(error as Error)
            // A refusal is an answer like any other; a payload that cannot be read means that the two do not fit together.
            if (error instanceof WireError) throw error
          }
        }
        waiting.set(number, { type, timer, settle, fail: reject })
        helper.write(writer.frame(type, number))
      })
    },
    closed,
    close: () => lose('The server has closed the connection to the privileged helper'),
  }
}

function readAnswer<Answer>(frame: Frame, read: (reader: Reader) => Answer): Answer {
  const reader = createReader(frame.payload)
  const code = reader.u16('code')
  const message = reader.str('message', maxAnswerBytes)
  if (code === 0) return read(reader)
  throw new HelperRefusal(guestErrorNames[code - 1] ?? 'io', message.slice(0, maxMessageBytes))
}
