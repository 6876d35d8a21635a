import type { IncomingMessage } from 'node:http'
import type { Duplex } from 'node:stream'
import type { GuestConnection } from '../../guest/client.ts'
import { createInbox, type Inbox } from '../../guest/inbox.ts'
import { refuseUpgrade } from '../../kernel/http/front.ts'
import type { PortAddress } from './address.ts'
import { answerHeaders } from './answer-headers.ts'
import { AnswerFault, type AnswerHead } from './answer-parser.ts'
import type { PortConnection, PortConnections } from './connections.ts'
import { noAnswer, portFault } from './faults.ts'
import type { PathPlace } from './location.ts'
import type { Open } from './open.ts'
import { portLimits } from './schema.ts'

export interface TunnelDeps {
  connections: PortConnections
  nowMs: () => number
}

export interface TunnelInput {
  request: IncomingMessage
  socket: Duplex
  /** What the client sent behind its request already. */
  early: Buffer
  guest: GuestConnection
  address: PortAddress
  head: Buffer
  path: PathPlace | undefined
  onOver: () => void
}

/** When one side has ended, the other may take this long. */
const halfOpenMs = 10_000

/**
 * A WebSocket to a server inside. Its handshake is checked; its frames are bytes that go through as they come, whole or not, each way no faster than
 * they are taken. A server that refuses is passed on as it answered.
 */
export function runTunnel({ connections, nowMs }: TunnelDeps, input: TunnelInput): Open {
  const { socket, early, guest, address, head, path, onOver } = input
  let connection: PortConnection | undefined
  let over = false
  let state: 'asking' | 'refused' | 'open' = 'asking'
  let inbox: Inbox | undefined
  let blocked = false
  let keptOfFeed = 0
  /** Given to the client's connection, and credit once the kernel has taken it. */
  let owed = 0
  let sending = false
  let sourcesPause = false
  let lastHeld = false
  let leaveSources: (() => void) | undefined
  let serverEnded = false
  let clientEnded = false
  const open: Open = {
    deadlineMs: nowMs() + portLimits.answerMs,
    expire: () => (state === 'asking' ? fail(noAnswer(address.port)) : end()),
    cut: fail,
  }

  const alive = (): void => {
    const limitMs = blocked ? portLimits.clientMs : serverEnded || clientEnded ? halfOpenMs : portLimits.silenceMs
    open.deadlineMs = nowMs() + limitMs
  }

  // ── towards the client ─────────────────────────────────────────────────────────────────────────────────────────────────────

  const toClient = (bytes: Buffer): void => {
    if (bytes.length === 0) return
    if (!blocked) {
      if (!socket.write(bytes, onTaken)) block()
      return
    }
    keptOfFeed += bytes.length
    inbox!.push({ stream: 0, offset: 0, bytes, gap: 0 })
  }

  const onTaken = (): void => {
    if (owed === 0 || over || !connection || socket.writableLength > 0) return
    const bytes = owed
    owed = 0
    connection.dial.consumed(bytes)
  }

  const block = (): void => {
    blocked = true
    inbox ??= createInbox((bytes) => (owed += bytes))
    alive()
    socket.once('drain', unblock)
  }

  const unblock = (): void => {
    if (over) return
    blocked = false
    for (let chunk = inbox!.take(); chunk; chunk = inbox!.take()) {
      if (!socket.write(chunk.bytes, onTaken)) return block()
    }
    alive()
    if (lastHeld) finish()
  }

  /** Nothing more comes from inside. */
  const finish = (): void => {
    if (blocked) {
      lastHeld = true
      return
    }
    serverEnded = true
    socket.end()
    if (clientEnded || state === 'refused') socket.once('finish', end)
    alive()
  }

  const fed = (bytes: number): void => {
    owed += bytes - keptOfFeed
    keptOfFeed = 0
    onTaken()
    if (!over) alive()
  }

  // ── towards the server inside ──────────────────────────────────────────────────────────────────────────────────────────────

  const toServer = (bytes: Buffer): void => {
    const busy = connection?.dial.send(bytes)
    alive()
    if (!busy) return
    sending = true
    socket.pause()
    busy.then(
      () => {
        sending = false
        if (!over && !sourcesPause) socket.resume()
      },
      () => undefined,
    )
  }

  const upgraded = (answer: AnswerHead, rest: Buffer): void => {
    if (!isWebSocket(answer)) throw new AnswerFault('it switches to another protocol than WebSocket')
    state = 'open'
    connection!.dial.listener = {
      data(bytes) {
        toClient(bytes)
        fed(bytes.length)
      },
      ended: finish,
      failed: end,
    }
    socket.write(headText(answer, path, 'Connection: Upgrade\r\nUpgrade: websocket\r\n'), 'latin1')
    toClient(rest)
    if (early.length > 0) toServer(early)
    socket.on('data', toServer)
    leaveSources = guest.held.addSource({
      pause() {
        sourcesPause = true
        socket.pause()
      },
      resume() {
        sourcesPause = false
        if (!sending) socket.resume()
      },
    })
    socket.once('end', () => {
      clientEnded = true
      connection?.dial.sendEnd()
      if (serverEnded) end()
      else alive()
    })
  }

  // ── the end ────────────────────────────────────────────────────────────────────────────────────────────────────────────────

  function end(): void {
    if (over) return
    over = true
    leaveSources?.()
    if (connection) connections.drop(connection)
    connection = undefined
    while (inbox?.take());
    socket.destroy()
    onOver()
  }

  function fail(error: unknown): void {
    if (over) return
    if (state !== 'asking') return end()
    over = true
    if (connection) connections.drop(connection)
    connection = undefined
    refuseUpgrade(socket, portFault(error, address.port))
    onOver()
  }

  socket.on('error', () => {})
  socket.once('close', end)
  try {
    connection = connections.take(guest, { ...address, fresh: true })
    connection.user = {
      head(answer) {
        state = 'refused'
        socket.write(headText(answer, path, 'Connection: close\r\n'), 'latin1')
      },
      body(bytes, last) {
        toClient(bytes)
        if (last) finish()
      },
      upgraded,
      fed,
      failed: fail,
    }
    connection.parser.begin('GET', true)
    connection.dial.send(head)?.catch(() => undefined)
  } catch (error) {
    fail(error)
  }
  return open
}

/** A body without a length ends with the connection. */
function headText(answer: AnswerHead, path: PathPlace | undefined, connection: string): string {
  const headers = answerHeaders(answer, { path })
  let text = `HTTP/1.1 ${answer.status} ${answer.reason}\r\n`
  for (let at = 0; at < headers.length; at += 2) text += `${headers[at]}: ${headers[at + 1]}\r\n`
  return `${text}${connection}\r\n`
}

function isWebSocket({ headers }: AnswerHead): boolean {
  const at = headers.findIndex((name, index) => index % 2 === 0 && name.toLowerCase() === 'upgrade')
  return at >= 0 && headers[at + 1]!.toLowerCase() === 'websocket'
}
