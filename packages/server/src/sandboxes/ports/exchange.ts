import type { IncomingMessage, ServerResponse } from 'node:http'
import { GuestError } from '../../guest/client.ts'
import type { GuestConnection } from '../../guest/client.ts'
import { createInbox, type Inbox } from '../../guest/inbox.ts'
import { DeltaError } from '../../kernel/errors.ts'
import { refuseRequest } from '../../kernel/http/front.ts'
import { answerHeaders } from './answer-headers.ts'
import { AnswerFault, type AnswerHead } from './answer-parser.ts'
import type { PortAddress } from './address.ts'
import type { AnswerUser, PortConnection, PortConnections } from './connections.ts'
import { noAnswer, portFault } from './faults.ts'
import type { PathPlace } from './location.ts'
import type { Open, OpenEnd } from './open.ts'
import { portLimits } from './schema.ts'

export interface ExchangeDeps {
  connections: PortConnections
  nowMs: () => number
}

export interface ExchangeInput {
  request: IncomingMessage
  response: ServerResponse
  guest: GuestConnection
  address: PortAddress
  /** The head as it goes inside. */
  head: Buffer
  body: 'chunked' | number | undefined
  /** Undefined where the answer is for a host name that is this port's alone. */
  path: PathPlace | undefined
  onOver: () => void
}

const safeMethods = new Set(['GET', 'HEAD', 'OPTIONS'])
/** An answer that is no larger goes out in one piece with its head. */
const smallBytes = 4 * 1024
const crlf = Buffer.from('\r\n')
const lastChunk = Buffer.from('0\r\n\r\n')

/** One request through a port and its answer back. Both ways go no faster than whoever is slower reads. */
export function runExchange(deps: ExchangeDeps, input: ExchangeInput): Open {
  const { connections, nowMs } = deps
  const { request, response, guest, address, head, body, path, onOver } = input
  const { method = 'GET' } = request
  let connection: PortConnection | undefined
  /** What the deadline waits for. */
  let awaits: 'answer' | 'request body' | 'answer body' | 'client' = 'answer'
  let over = false
  let finishing = false
  let uploaded = body === undefined || body === 0
  let answered = false
  let headSent = false
  let heard = false
  let keepsAlive = false
  /** The head, until it is known whether the body comes with it. */
  let pending: { head: AnswerHead; headers: string[] } | undefined
  /** What the client has not taken; only once it has fallen behind. */
  let inbox: Inbox | undefined
  let blocked = false
  let keptOfFeed = 0
  /** Given to the client's connection, and credit once the kernel has taken it. */
  let owed = 0
  let sending = false
  let sourcesPause = false
  let leaveSources: (() => void) | undefined

  const open: Open = { deadlineMs: nowMs() + portLimits.answerMs, expire, cut }

  function wait(what: typeof awaits, limitMs: number): void {
    awaits = what
    open.deadlineMs = nowMs() + limitMs
  }

  // ── the way in ─────────────────────────────────────────────────────────────────────────────────────────────────────────────

  function ask(fresh: boolean): void {
    try {
      connection = connections.take(guest, { ...address, fresh })
    } catch (error) {
      return fail(error)
    }
    connection.user = user
    connection.parser.begin(method)
    const busy = connection.dial.send(head)
    busy?.catch(() => undefined)
  }

  function upload(): void {
    wait('request body', portLimits.clientMs)
    leaveSources = guest.held.addSource({
      pause() {
        sourcesPause = true
        request.pause()
      },
      resume() {
        sourcesPause = false
        if (!sending) request.resume()
      },
    })
    request.on('data', (chunk: Buffer) => {
      if (over) return
      // What comes after an early answer is thrown away.
      if (!connection) return wait('request body', portLimits.clientMs)
      const busy = connection.dial.send(body === 'chunked' ? framed(chunk) : chunk)
      wait('request body', portLimits.clientMs)
      if (!busy) return
      sending = true
      request.pause()
      wait('answer', portLimits.answerMs)
      busy.then(
        () => {
          if (over) return
          sending = false
          if (!answered) wait('request body', portLimits.clientMs)
          if (!sourcesPause) request.resume()
        },
        () => undefined,
      )
    })
    request.once('end', () => {
      if (over) return
      uploaded = true
      leaveSources?.()
      if (body === 'chunked') connection?.dial.send(lastChunk)?.catch(() => undefined)
      if (!answered) wait('answer', portLimits.answerMs)
      finishIfDone()
    })
  }

  // ── the way back ───────────────────────────────────────────────────────────────────────────────────────────────────────────

  const user: AnswerUser = {
    head(answer) {
      pending = { head: answer, headers: answerHeaders(answer, { path }) }
      keepsAlive = answer.keepsAlive
      response.sendDate = false
      wait('answer body', portLimits.silenceMs)
    },
    body(bytes, last) {
      if (last) answered = true
      if (blocked) {
        keptOfFeed += bytes.length
        inbox!.push({ stream: 0, offset: 0, bytes, gap: 0 })
        return
      }
      write(bytes, last)
    },
    upgraded: () => fail(new AnswerFault('it switches protocols without having been asked to')),
    fed(bytes) {
      heard = true
      if (over || !connection) return
      // A head without a body so far, such as the first of an event stream.
      if (pending && !answered) {
        sendHead()
        response.flushHeaders()
      }
      owed += bytes - keptOfFeed
      keptOfFeed = 0
      onTaken()
      if (!blocked && headSent) wait('answer body', portLimits.silenceMs)
      finishIfDone()
    },
    failed(error) {
      const stale = connection?.reused === true && !heard && isEndOfConnection(error)
      connection = undefined
      if (stale && body === undefined && safeMethods.has(method)) return ask(true)
      fail(error)
    },
  }

  function sendHead(): void {
    const { head: answer, headers } = pending!
    pending = undefined
    headSent = true
    if (answer.reason === '') response.writeHead(answer.status, headers)
    else response.writeHead(answer.status, answer.reason, headers)
  }

  function write(bytes: Buffer, last: boolean): void {
    if (pending) sendHead()
    if (last) {
      // As a text the body shares the head's write.
      if (bytes.length <= smallBytes) response.end(bytes.toString('latin1'), 'latin1')
      else response.end(bytes)
      return
    }
    if (bytes.length === 0 || response.write(bytes, onTaken)) return
    block()
  }

  /** More may come for what the kernel has taken: what is on the way to a slow client stays within its channel's window. */
  function onTaken(): void {
    if (owed === 0 || over || !connection || response.writableLength > 0) return
    const bytes = owed
    owed = 0
    connection.dial.consumed(bytes)
  }

  function block(): void {
    blocked = true
    inbox ??= createInbox((bytes) => (owed += bytes))
    wait('client', portLimits.clientMs)
    response.once('drain', unblock)
  }

  function unblock(): void {
    if (over) return
    blocked = false
    for (let chunk = inbox!.take(); chunk; chunk = inbox!.take()) {
      if (!response.write(chunk.bytes, onTaken)) return block()
    }
    wait('answer body', portLimits.silenceMs)
    if (answered) response.end()
    finishIfDone()
  }

  // ── the end ────────────────────────────────────────────────────────────────────────────────────────────────────────────────

  function finishIfDone(): void {
    if (!answered || over || blocked) return
    const taken = response.writableFinished || request.socket.writableLength === 0
    if (!taken) {
      wait('client', portLimits.clientMs)
      if (!finishing) response.once('finish', finishIfDone)
      finishing = true
      return
    }
    if (connection) {
      if (owed > 0) connection.dial.consumed(owed)
      owed = 0
      if (uploaded && keepsAlive && connection.parser.idle) connections.giveBack(connection)
      else connections.drop(connection)
      connection = undefined
    }
    // The rest of what the client sends is read and thrown away; its connection may then carry the next request.
    if (!uploaded) return wait('request body', portLimits.clientMs)
    end()
  }

  function end(): void {
    if (over) return
    over = true
    leaveSources?.()
    response.off('close', end)
    if (connection) connections.drop(connection)
    connection = undefined
    while (inbox?.take());
    onOver()
  }

  function fail(error: unknown): void {
    if (over) return
    end()
    request.resume()
    if (headSent) response.destroy()
    else refuseRequest(response, portFault(error, address.port))
  }

  function expire(): void {
    if (awaits === 'answer') return fail(noAnswer(address.port))
    if (awaits === 'request body') {
      if (!answered) return fail(new DeltaError('request_timeout', 'The body arrived too slowly'))
    }
    end()
    response.destroy()
    request.destroy()
  }

  function cut(reason: OpenEnd): void {
    fail(reason)
  }

  response.once('close', end)
  // Writing to a client that has just gone is told as an error, which nobody else hears.
  response.on('error', () => {})
  ask(false)
  if (!over && !uploaded) upload()
  return open
}

function framed(chunk: Buffer): Buffer {
  return Buffer.concat([Buffer.from(`${chunk.length.toString(16)}\r\n`), chunk, crlf])
}

function isEndOfConnection(error: unknown): boolean {
  return error instanceof AnswerFault || (error instanceof GuestError && error.code === 'io')
}
