import type { Socket } from 'node:net'
import { connect } from 'node:net'
import { OutwardError } from './outward.ts'
import { shownTarget, type Target } from './rules.ts'

/** Of the proxy's answer to CONNECT. */
const mostHeadBytes = 16 * 1024

/** Where the operator's proxy is and what it wants to see. */
export interface UpstreamAddress {
  host: string
  port: number
  /** `Basic …`, where it asks for credentials. */
  authorization?: string | undefined
}

/** Connects to a target through the operator's proxy. */
export type Upstream = (target: Target, signal: AbortSignal) => Promise<Socket>

/** By CONNECT for every port, as a sandbox's own bytes follow whatever they are. */
export function createUpstream({ host, port, authorization }: UpstreamAddress): Upstream {
  return (target, signal) =>
    new Promise((resolve, reject) => {
      const socket = connect({ host, port, noDelay: true, keepAlive: true, allowHalfOpen: true })
      const chunks: Buffer[] = []
      const fail = (reason: string, line: string): void => {
        socket.destroy()
        stop()
        reject(
          new OutwardError('failed', reason, 'connection_refused', `Egress to ${shownTarget(target)} failed: ${line}`),
        )
      }
      const onError = (): void => fail('proxy_unreachable', 'the proxy of the server does not answer')
      const onEnd = (): void => fail('proxy_refused', 'the proxy of the server closed the connection')
      const onAbort = (): void => {
        socket.destroy()
        stop()
        reject(signal.reason as Error)
      }
      const onData = (chunk: Buffer): void => {
        chunks.push(chunk)
        const head = Buffer.concat(chunks)
        const end = head.indexOf('\r\n\r\n')
        if (end === -1) {
          if (head.length > mostHeadBytes) fail('proxy_refused', 'the proxy of the server answered with too much')
          return
        }
        const status = /^HTTP\/1\.[01] ([0-9]{3})/.exec(head.toString('latin1', 0, 16))?.[1]
        if (status === undefined || !status.startsWith('2')) {
          return fail('proxy_refused', `the proxy of the server answered with ${status ?? 'no HTTP'}`)
        }
        stop()
        socket.pause()
        if (end + 4 < head.length) socket.unshift(head.subarray(end + 4))
        resolve(socket)
      }
      const stop = (): void => {
        signal.removeEventListener('abort', onAbort)
        // Its listener for errors stays: an error event that nobody hears would end the server.
        socket.off('data', onData).off('end', onEnd)
      }
      socket.on('error', onError).on('data', onData).on('end', onEnd)
      signal.addEventListener('abort', onAbort, { once: true })
      if (signal.aborted) return onAbort()
      const authority = target.host.includes(':') ? `[${target.host}]:${target.port}` : `${target.host}:${target.port}`
      const credentials = authorization === undefined ? '' : `Proxy-Authorization: ${authorization}\r\n`
      socket.write(`CONNECT ${authority} HTTP/1.1\r\nHost: ${authority}\r\n${credentials}\r\n`)
    })
}
