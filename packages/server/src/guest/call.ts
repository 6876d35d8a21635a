import { createReader, WireError } from './codec.ts'
import { GuestError } from './errors.ts'
import { violation } from './channel.ts'
import type { Reader, Writer } from './codec.ts'
import type { Link } from './link.ts'

export interface CallOptions {
  /** Aborting gives the call up at once. Costs a listener. */
  signal?: AbortSignal | undefined
}

/** An op that is answered by CLOSE alone. */
export function call<T>(
  link: Link,
  open: Writer,
  read: (reader: Reader) => T,
  { signal }: CallOptions = {},
): Promise<T> {
  return new Promise((resolve, reject) => {
    if (signal?.aborted) return reject(canceled())
    const onAbort = (): void => link.cancel(channel)
    const channel = link.open(open, {
      streams: [],
      closed(reader) {
        signal?.removeEventListener('abort', onAbort)
        resolve(read(reader))
      },
      failed(error) {
        signal?.removeEventListener('abort', onAbort)
        reject(error)
      },
    })
    signal?.addEventListener('abort', onAbort, { once: true })
  })
}

/** Records are never split over frames, so each chunk holds whole ones. */
export function readRecords<T>(bytes: Buffer, read: (reader: Reader) => T): T[] {
  const records: T[] = []
  let at = 0
  while (at < bytes.length) {
    if (bytes.length - at < 4) throw violation('a record is cut short')
    const length = bytes.readUInt32LE(at)
    if (length > bytes.length - at - 4) throw violation('a record is cut short')
    records.push(read(createReader(bytes.subarray(at + 4, at + 4 + length))))
    at += 4 + length
  }
  return records
}

export function canceled(): GuestError {
  return new GuestError('canceled', 'The call was canceled.')
}

/** What a caller hears of an answer that breaks the protocol; the connection ends with the same. */
export function brokenAnswer(cause: unknown): GuestError {
  const reason = cause instanceof WireError ? cause.message : 'its answer could not be read'
  return new GuestError('protocol_error', `The guest broke the protocol: ${reason}.`, { cause })
}

export function ignore(): void {}
