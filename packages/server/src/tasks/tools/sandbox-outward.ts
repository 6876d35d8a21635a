import type { Duplex } from 'node:stream'
import type { DoorCaller, SandboxDoor } from '../../sandboxes/door.ts'
import { type Connect, WebError } from '../../kernel/http/request-once.ts'

/** The guest's proxy (docs/guest-protocol.md). */
export const guestProxyPort = 3129
/** Of its answer to CONNECT. */
const mostHeadBytes = 16 * 1024
const connectMs = 30_000

/**
 * Connects as a program inside would, by the sandbox's own proxy: so the policy of the sandbox decides, the connection stands in its log and its bytes are paid. Only
 * what is spoken over it is done here, where no tool of the template can be missing.
 */
export function outwardThrough(door: SandboxDoor, sandboxId: string, caller: DoorCaller): Connect {
  return async ({ host, port }, signal) => {
    const { guest } = await door.open(sandboxId, caller)
    const patience = AbortSignal.any([signal, AbortSignal.timeout(connectMs)])
    const stream = await guest.dial(guestProxyPort, { signal: patience })
    return askProxy(stream, host.includes(':') ? `[${host}]:${port}` : `${host}:${port}`, patience)
  }
}

function askProxy(stream: Duplex, authority: string, signal: AbortSignal): Promise<Duplex> {
  return new Promise((resolve, reject) => {
    let head = Buffer.alloc(0)
    const stop = (): void => {
      signal.removeEventListener('abort', onAbort)
      // Its listener for errors stays: an error event that nobody hears would end the server.
      stream.off('data', onData).off('end', onEnd).off('close', onEnd)
    }
    const fail = (error: Error): void => {
      stop()
      stream.destroy()
      reject(error)
    }
    const onAbort = (): void => fail(new WebError(`${authority} did not answer in time`))
    const onEnd = (): void => fail(new WebError('the sandbox closed the connection'))
    const onData = (chunk: Buffer): void => {
      head = Buffer.concat([head, chunk])
      const end = head.indexOf('\r\n\r\n')
      if (end === -1) {
        if (head.length > mostHeadBytes) fail(new WebError('the proxy of the sandbox answered with too much'))
        return
      }
      const [, status, phrase] =
        /^HTTP\/1\.[01] ([0-9]{3}) ?([\x20-\x7e]{0,400})/.exec(head.toString('latin1', 0, end)) ?? []
      if (status !== '200') {
        return fail(new WebError(phrase === undefined ? 'the proxy of the sandbox did not speak HTTP' : phrase))
      }
      stop()
      stream.pause()
      if (end + 4 < head.length) stream.unshift(head.subarray(end + 4))
      resolve(stream)
    }
    stream.on('error', fail).on('data', onData).on('end', onEnd).on('close', onEnd)
    signal.addEventListener('abort', onAbort, { once: true })
    if (signal.aborted) return onAbort()
    stream.write(`CONNECT ${authority} HTTP/1.1\r\nHost: ${authority}\r\n\r\n`)
  })
}
