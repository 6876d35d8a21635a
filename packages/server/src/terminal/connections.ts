import type { IncomingMessage } from 'node:http'
import type { Duplex } from 'node:stream'
import { WebSocketServer } from 'ws'
import type { WebSocket } from 'ws'
import type { AccessDoor, AccessEnd, CallerDoor, CallerEnd, CountRequest } from '../access/door.ts'
import type { Clock } from '../kernel/clock.ts'
import { DeltaError } from '../kernel/errors.ts'
import type { Caller } from '../kernel/http/api.ts'
import { authorizationOf } from '../kernel/http/authorization.ts'
import type { ClientAddress } from '../kernel/http/client-address.ts'
import { refuseUpgrade } from '../kernel/http/front.ts'
import type { Front } from '../kernel/http/front.ts'
import { parse } from '../kernel/http/validate.ts'
import type { Logger } from '../kernel/log.ts'
import { chosenProtocol, closeCodes, credentialOf, isReadOnly, originAllowed } from './rules.ts'
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
  access: Pick<CallerDoor, 'authenticate' | 'admit' | 'hold' | 'isOver'>
  tokens: Pick<AccessDoor, 'verify' | 'hold'>
  count: CountRequest
  clientAddress: ClientAddress
  /** The sandbox of an agent, which it has from then on. @default no agent has one */
  computerOf?: (agentId: string, caller: Caller) => Promise<string>
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
  /** Of an agent's own computer, which is found once it is known who asks. */
  agentId?: string
  sandboxId: string
  terminalId: string
  url: URL
}

const path = /^\/v1\/(sandboxes|agents)\/([A-Za-z0-9_-]{1,64})\/terminals\/([A-Za-z0-9_-]{1,64})\/connect$/

/** The WebSockets of all viewers. */
export function createConnections(deps: ConnectionsDeps): Connections {
  const { terminals, clock, log, timing = terminalLimits, computerOf = noComputer } = deps
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
    if (credential.kind === 'token') await deps.count({ caller: undefined, address: deps.clientAddress(request) })
    // Between looking at a token and holding on to it nothing else may run, least of all its revocation.
    const entry =
      credential.kind === 'token' ? byToken(deps, credential, target) : await byKey(deps, credential, request, target)
    // Whoever has lost what let them in while it was opened hears of it as soon as they are held.
    const sandboxId = target.agentId === undefined ? target.sandboxId : await computerOf(target.agentId, entry.caller)
    if (stopped) throw new DeltaError('shutting_down', 'The server is stopping')
    if (sockets.size >= terminalLimits.viewers) {
      throw new DeltaError('too_many_requests', `${terminalLimits.viewers} viewers watch terminals already`)
    }
    if (socket.destroyed) return
    server.handleUpgrade(request, socket, head, (ws) => void serve(ws, entry, { ...target, sandboxId }))
  }

  async function serve(ws: WebSocket, { caller, hold }: Entry, { sandboxId, terminalId, url }: Target): Promise<void> {
    const socket = createTerminalSocket(ws, { clock, timing })
    sockets.add(socket)
    const letGo = hold((error) => socket.refuse(error))
    void socket.closed.then(() => {
      sockets.delete(socket)
      letGo()
    })
    try {
      const query: ConnectQuery = parse(connectQuerySchema, queryOf(url), 'query')
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

function noComputer(agentId: string): Promise<string> {
  return Promise.reject(new DeltaError('agent_not_found', `There is no agent ${agentId}`))
}

function targetOf({ url }: IncomingMessage): Target | undefined {
  if (url === undefined || !URL.canParse(url, 'http://localhost')) return undefined
  const parsed = new URL(url, 'http://localhost')
  const [, kind, id, terminalId] = path.exec(parsed.pathname) ?? []
  if (!id || !terminalId) return undefined
  return kind === 'agents'
    ? { agentId: id, sandboxId: '', terminalId, url: parsed }
    : { sandboxId: id, terminalId, url: parsed }
}

/** Of a name that is there twice the last counts, for the decision and for what is then done alike. */
function queryOf({ searchParams }: URL): Record<string, string> {
  return Object.fromEntries(searchParams)
}

/** Who connects, and how to hear when what lets them in has ended. */
interface Entry {
  caller: Caller
  hold(onEnd: (error: DeltaError) => void): () => void
}

function credentialFor({ goesBy }: ConnectionsDeps, request: IncomingMessage, { url }: Target): Credential {
  const { headers } = request
  if (!goesBy(headers.host)) {
    throw new DeltaError('host_not_allowed', 'The server does not go by the name in the Host header')
  }
  const credential = credentialOf({
    authorization: authorizationOf(request),
    protocols: headers['sec-websocket-protocol'],
    token: url.searchParams.get('token'),
  })
  if (credential === undefined) throw new DeltaError('unauthorized', 'The request has no API key and no access token')
  return credential
}

/** A token was made to be handed to a page, so it is good for any. */
function byToken({ tokens }: ConnectionsDeps, { token }: { token: string }, { sandboxId }: Target): Entry {
  const access = tokens.verify(token, { sandboxId, scope: 'terminal' })
  if (access === null)
    throw new DeltaError('unauthorized', 'The access token is not valid for terminals of this sandbox')
  return {
    // Of nobody in particular: whoever was handed the token.
    caller: { accountId: access.accountId, actorId: 'access-token' },
    hold: (onEnd) => tokens.hold(access, (reason) => onEnd(accessEnded(reason))),
  }
}

async function byKey(
  { access, anyOrigin, count, clientAddress }: ConnectionsDeps,
  { authorization }: { authorization: string },
  request: IncomingMessage,
  { agentId, sandboxId, url }: Target,
): Promise<Entry> {
  const { headers } = request
  if (!anyOrigin && !originAllowed(headers.origin, headers.host)) {
    throw new DeltaError('origin_not_allowed', 'A page of another origin may not open a terminal with the API key')
  }
  const known = await access.authenticate({ authorization })
  await count({ caller: known ?? undefined, address: clientAddress(request) })
  if (known === null) throw new DeltaError('unauthorized', 'The API key or token is not valid')
  const right = isReadOnly(queryOf(url)['readOnly']) ? 'read:exec' : 'write:exec'
  const caller =
    agentId === undefined
      ? access.admit<Caller>(known, { right, resource: 'sandbox' }, sandboxId)
      : access.admit<Caller>(known, { right, resource: 'agent' }, agentId)
  return { caller, hold: (onEnd) => access.hold(caller, (reason) => onEnd(callerEnded(reason))) }
}

const endings: Record<AccessEnd, string> = {
  expired: 'The access token has expired',
  revoked: 'The access token was revoked',
  killed: 'The sandbox was killed',
}

function callerEnded(reason: CallerEnd): DeltaError {
  return new DeltaError(
    'unauthorized',
    reason === 'expired' ? 'The key or token has expired' : 'The key or token was revoked',
  )
}

function accessEnded(reason: AccessEnd): DeltaError {
  return new DeltaError('unauthorized', endings[reason])
}
