import type { IncomingMessage } from 'node:http'
import type { Duplex } from 'node:stream'
import { WebSocketServer } from 'ws'
import type { WebSocket } from 'ws'
import type { Access, AccessDoor, AccessEnd } from '../access/door.ts'
import type { Clock } from '../kernel/clock.ts'
import { DeltaError } from '../kernel/errors.ts'
import type { Caller } from '../kernel/http/api.ts'
import { refuseUpgrade } from '../kernel/http/front.ts'
import type { Front } from '../kernel/http/front.ts'
import { parse } from '../kernel/http/validate.ts'
import type { Logger } from '../kernel/log.ts'
import type { DoorCaller } from '../sandboxes/door.ts'
import { chosenProtocol, closeCodes, credentialOf, originAllowed } from './rules.ts'
import type { Credential } from './rules.ts'
import { connectQuerySchema, terminalLimits } from './schema.ts'
import type { ConnectQuery } from './schema.ts'
import type { Terminals } from './service.ts'
import { createTerminalSocket } from './socket.ts'
import type { TerminalSocket, Timing } from './socket.ts'

/** The library closes what exceeds this before it is kept; our own smaller bounds answer with a reason. */
const FRAME_MOST_BYTES = 1024 * 1024

export interface ConnectionsDeps {
  terminals: Terminals
  authenticate(credentials: { authorization: string | undefined }): Caller | null | Promise<Caller | null>
  access: Pick<AccessDoor, 'verify' | 'hold'>
  /** Whether the server goes by the name in a Host header. */
  goesBy(host: string | undefined): boolean
  /** Pages of other sites may connect with the API key; for development. */
  anyOrigin: boolean
  clock: Clock
  log: Logger
  /** @default terminalLimits */
  timing?: Timing
}

export interface Connections {
  front: Front
  readonly count: number
  stop(): Promise<void>
}

interface Target {
  sandboxId: string
  terminalId: string
  url: URL
}

const path = /^\/v1\/sandboxes\/([A-Za-z0-9_-]{1,64})\/terminals\/([A-Za-z0-9_-]{1,64})\/connect$/

/** The WebSockets of all viewers. */
export function createConnections(deps: ConnectionsDeps): Connections {
  const { terminals, clock, log, timing = terminalLimits } = deps
  const sockets = new Set<TerminalSocket>()
  let stopped = false
  const server = new WebSocketServer({
    noServer: true,
    clientTracking: false,
    perMessageDeflate: false,
    maxPayload: FRAME_MOST_BYTES,
    // Both are done here, where they can be bounded and answered in words.
    autoPong: false,
    skipUTF8Validation: true,
    handleProtocols: chosenProtocol,
  })
  server.on('wsClientError', (_error, socket) => {
    refuseUpgrade(
      socket,
      new DeltaError('invalid_request', 'The WebSocket handshake is not valid (RFC 6455, version 13)'),
    )
  })

  async function accept(request: IncomingMessage, socket: Duplex, head: Buffer, target: Target): Promise<void> {
    const credential = credentialFor(deps, request, target)
    // Between looking at a token and holding on to it nothing else may run, least of all its revocation.
    const entry =
      credential.kind === 'token' ? byToken(deps, credential, target) : await byKey(deps, credential, request)
    if (stopped) throw new DeltaError('shutting_down', 'The server is stopping')
    if (sockets.size >= terminalLimits.viewers) {
      throw new DeltaError('too_many_requests', `${terminalLimits.viewers} viewers watch terminals already`)
    }
    if (socket.destroyed) return
    server.handleUpgrade(request, socket, head, (ws) => void serve(ws, entry, target))
  }

  async function serve(
    ws: WebSocket,
    { caller, access }: Entry,
    { sandboxId, terminalId, url }: Target,
  ): Promise<void> {
    const socket = createTerminalSocket(ws, { clock, timing })
    sockets.add(socket)
    const letGo = access && deps.access.hold(access, (reason) => socket.refuse(accessEnded(reason)))
    void socket.closed.then(() => {
      sockets.delete(socket)
      letGo?.()
    })
    try {
      const query: ConnectQuery = parse(connectQuerySchema, Object.fromEntries(url.searchParams), 'query')
      socket.serve(await terminals.watch(sandboxId, caller, terminalId, { socket, query }))
    } catch (error) {
      if (!(error instanceof DeltaError)) log.error('terminal_failed', { error, sandboxId, terminalId })
      socket.refuse(
        error instanceof DeltaError ? error : new DeltaError('internal', 'The terminal could not be opened'),
      )
    }
  }

  return {
    front: {
      upgrade(request, socket, head) {
        const target = targetOf(request)
        if (!target) return false
        // Until the library has taken it, nobody else would hear of its errors.
        socket.on('error', () => socket.destroy())
        accept(request, socket, head, target).catch((error: unknown) => {
          if (!(error instanceof DeltaError)) log.error('terminal_failed', { error })
          refuseUpgrade(socket, error instanceof DeltaError ? error : new DeltaError('internal', 'The request failed'))
        })
        return true
      },
    },
    get count() {
      return sockets.size
    },
    async stop() {
      stopped = true
      for (const socket of sockets) socket.close(closeCodes.goingAway, 'the server stops')
      await Promise.all(Array.from(sockets, ({ closed }) => closed))
    },
  }
}

function targetOf({ url }: IncomingMessage): Target | undefined {
  if (url === undefined || !URL.canParse(url, 'http://localhost')) return undefined
  const parsed = new URL(url, 'http://localhost')
  const [, sandboxId, terminalId] = path.exec(parsed.pathname) ?? []
  return sandboxId && terminalId ? { sandboxId, terminalId, url: parsed } : undefined
}

/** Who connects, and the token that lets them, where it was one. */
interface Entry {
  caller: DoorCaller
  access?: Access
}

function credentialFor({ goesBy }: ConnectionsDeps, { headers }: IncomingMessage, { url }: Target): Credential {
  if (!goesBy(headers.host)) {
    throw new DeltaError('host_not_allowed', 'The server does not go by the name in the Host header')
  }
  const credential = credentialOf({
    authorization: headers.authorization,
    protocols: headers['sec-websocket-protocol'],
    token: url.searchParams.get('token'),
  })
  if (credential === undefined) throw new DeltaError('unauthorized', 'The request has no API key and no access token')
  return credential
}

/** A token was made to be handed to a page, so it is good for any. */
function byToken({ access: door }: ConnectionsDeps, { token }: { token: string }, { sandboxId }: Target): Entry {
  const access = door.verify(token, { sandboxId, scope: 'terminal' })
  if (access === null)
    throw new DeltaError('unauthorized', 'The access token is not valid for terminals of this sandbox')
  return { caller: { accountId: access.accountId }, access }
}

async function byKey(
  { authenticate, anyOrigin }: ConnectionsDeps,
  { authorization }: { authorization: string },
  { headers }: IncomingMessage,
): Promise<Entry> {
  if (!anyOrigin && !originAllowed(headers.origin, headers.host)) {
    throw new DeltaError('origin_not_allowed', 'A page of another origin may not open a terminal with the API key')
  }
  const caller = await authenticate({ authorization })
  if (caller === null) throw new DeltaError('unauthorized', 'The API key is not valid')
  return { caller }
}

const endings: Record<AccessEnd, string> = {
  expired: 'The access token has expired',
  revoked: 'The access token was revoked',
  killed: 'The sandbox was killed',
}

function accessEnded(reason: AccessEnd): DeltaError {
  return new DeltaError('unauthorized', endings[reason])
}
