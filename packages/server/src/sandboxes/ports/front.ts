import type { IncomingMessage, ServerResponse } from 'node:http'
import type { Duplex } from 'node:stream'
import type { Access, AccessDoor, CallerDoor, CountRequest } from '../../access/door.ts'
import { DeltaError } from '../../kernel/errors.ts'
import type { Caller } from '../../kernel/http/api.ts'
import { authorizationOf } from '../../kernel/http/authorization.ts'
import type { ClientAddress } from '../../kernel/http/client-address.ts'
import { type Front, refuseRequest, refuseUpgrade } from '../../kernel/http/front.ts'
import type { Logger } from '../../kernel/log.ts'
import type { OpenDoor, SandboxDoor } from '../door.ts'
import { type Named, type PathAddress, type PortAddress, type PortsDomain, parseHost, parsePath } from './address.ts'
import { isNavigation, splitCookie, splitQuery, tokenCookie, tokenHeader } from './credentials.ts'
import { runExchange } from './exchange.ts'
import { forbidden, notHttp, portFault } from './faults.ts'
import type { Gateway, Place } from './gateway.ts'
import type { PathPlace } from './location.ts'
import type { Open } from './open.ts'
import { bodyOf, writeRequestHead } from './request-head.ts'
import { runTunnel } from './tunnel.ts'

export interface PortsFrontDeps {
  door: SandboxDoor
  gateway: Gateway
  domain: PortsDomain
  tokens: AccessDoor
  access: CallerDoor
  publicOwner(address: PortAddress): string | undefined
  count: CountRequest
  clientAddress: ClientAddress
  /** Whether a Host header names the server itself. */
  isServer(host: string | undefined): boolean
  now(): number
  log: Logger
}

/** Where a request goes, as its Host header or its path says. */
interface Route {
  address: PortAddress
  /** Set on the way by path, whose origin is the API's. */
  path: PathAddress | undefined
  host: string
}

type Grant =
  | { accountId: string; by: 'caller'; caller: Caller }
  | { accountId: string; by: 'token'; access: Access }
  | { accountId: string; by: 'public' }

interface Asked {
  route: Route
  /** For the program inside, without our token. */
  target: string
  grant: Grant
  /** The API key was in it. */
  keepAuthorization: boolean
  /** A page that was opened with a token in its address: the token, to be kept in a cookie. */
  moveToken: string | undefined
}

/** More host names than these are parsed each time. */
const rememberedHosts = 1_024
/** A longer one is no host name. */
const hostChars = 300

/**
 * The way to servers inside. Every request is checked by itself: a kept-alive connection may name another host with each. Nothing tells a port that is not
 * public, a sandbox of somebody else and one that never was from each other.
 */
export function createPortsFront(deps: PortsFrontDeps): Front {
  const { door, gateway, domain, log } = deps
  const hosts = new Map<string, Named>()
  const counted = new WeakSet<Duplex>()

  function named(host: string): Named {
    if (hosts.has(host)) return hosts.get(host)
    const found = parseHost(host, domain.name)
    if (host.length > hostChars) return found
    if (hosts.size >= rememberedHosts) hosts.clear()
    hosts.set(host, found)
    return found
  }

  /** Undefined: not for us. */
  function routeOf({ headers, url = '/' }: IncomingMessage): Route | 'unfit' | undefined {
    const { host } = headers
    if (host === undefined) return undefined
    const byHost = named(host)
    if (byHost) return byHost.kind === 'unfit' ? 'unfit' : { address: byHost.address, path: undefined, host }
    const path = parsePath(url)
    // The API has the right words for who addresses it by a wrong name.
    return path && deps.isServer(host) ? { address: path, path, host } : undefined
  }

  async function ask(request: IncomingMessage, route: Route): Promise<Asked> {
    const { address, path } = route
    const { headers } = request
    const { target, token } = splitQuery(path ? path.target : (request.url ?? '/'))
    const given = authorizationOf(request)
    let caller: Caller | null | Promise<Caller | null> = deps.access.authenticate({ authorization: given })
    if (caller instanceof Promise) caller = await caller
    if (caller) caller = admitted(caller, route)
    const granted = grantOf(headers, route, { caller, token })
    if (!granted || !counted.has(request.socket)) await count(request, { grant: granted?.grant, address })
    if (!granted) throw notGranted(route)
    const { grant, byQuery } = granted
    return {
      route: { address, path, host: route.host },
      target,
      grant,
      keepAuthorization: !path && caller === null && bearerToken(given) === undefined,
      moveToken: byQuery && !path && isNavigation(request.method ?? '', headers) ? token : undefined,
    }
  }

  /**
   * Once for each connection, and each time for whoever is not let in. What goes on in a connection is the program's own affair, within its places. Whoever was handed a token counts as one of
   * the sandbox's, and visitors of what is public by their addresses: they take nothing from its owner.
   */
  async function count(
    request: IncomingMessage,
    { grant, address: { sandboxId } }: { grant: Grant | undefined; address: PortAddress },
  ): Promise<void> {
    const address = deps.clientAddress(request)
    if (grant?.by === 'caller') await deps.count({ caller: grant.caller, address })
    else if (grant?.by === 'token') {
      await deps.count({ caller: { accountId: grant.accountId, actorId: sandboxId }, address })
    } else await deps.count({ caller: undefined, address })
    if (grant) counted.add(request.socket)
  }

  /** Whoever lacks the right learns no more than one who asks for what never was. */
  function admitted(caller: Caller, route: Route): Caller {
    try {
      return deps.access.admit(caller, { right: 'write:exec', resource: 'sandbox' }, route.address.sandboxId)
    } catch (cause) {
      throw route.path ? cause : forbidden()
    }
  }

  function grantOf(
    headers: IncomingMessage['headers'],
    { address, path, host }: Route,
    { caller, token }: { caller: Caller | null; token: string | undefined },
  ): { grant: Grant; byQuery: boolean } | undefined {
    if (caller) return { grant: { accountId: caller.accountId, by: 'caller', caller }, byQuery: false }
    const wish = { sandboxId: address.sandboxId, scope: `port:${address.port}` } as const
    const verified = (text: string | undefined): Grant | undefined => {
      const access = text === undefined ? null : deps.tokens.verify(text, wish)
      return access ? { accountId: access.accountId, by: 'token', access } : undefined
    }
    const byHeader = headers[tokenHeader]
    const first = verified(typeof byHeader === 'string' ? byHeader : bearerToken(headers.authorization))
    if (first) return { grant: first, byQuery: false }
    const second = verified(token)
    if (second) return { grant: second, byQuery: true }
    if (!path && headers.cookie !== undefined && isOwnPage(headers.origin, { host, sandboxId: address.sandboxId })) {
      for (const cookie of splitCookie(headers.cookie).tokens) {
        const grant = verified(cookie)
        if (grant) return { grant, byQuery: false }
      }
    }
    const owner = path ? undefined : deps.publicOwner(address)
    return owner === undefined ? undefined : { grant: { accountId: owner, by: 'public' }, byQuery: false }
  }

  /** A cookie comes along whoever makes the browser ask; it counts for pages of this sandbox alone. */
  function isOwnPage(origin: string | undefined, { host, sandboxId }: { host: string; sandboxId: string }): boolean {
    if (origin === undefined) return true
    const from = /^https?:\/\/(.+)$/.exec(origin)?.[1]
    if (from === undefined) return false
    if (from === host) return true
    const page = named(from)
    return page?.kind === 'port' && page.address.sandboxId === sandboxId
  }

  function headOf(request: IncomingMessage, { route, target, keepAuthorization }: Asked, upgrade?: string) {
    const { address, path, host } = route
    const body = upgrade === undefined ? bodyOf(request.headers) : undefined
    const head = writeRequestHead({
      method: request.method ?? 'GET',
      target,
      headers: request.rawHeaders,
      host: path ? `localhost:${address.port}` : host,
      keepAuthorization,
      forwarded: {
        for: deps.clientAddress(request) ?? 'unknown',
        host,
        proto: domain.scheme,
        ...(path && { prefix: path.prefix }),
      },
      body,
      ...(upgrade !== undefined && { upgrade }),
    })
    if (!head) throw notHttp()
    return { head, body }
  }

  /** A sandbox that had to be woken took its time: what was granted may have been taken back meanwhile, when nothing was open yet to be cut. */
  function isStillGranted(address: PortAddress, grant: Grant): boolean {
    if (grant.by === 'public') return deps.publicOwner(address) === grant.accountId
    return grant.by === 'token' ? !deps.tokens.isOver(grant.access) : !deps.access.isOver(grant.caller)
  }

  /** Runs `start` in a place of its own, which ends with the access it came by. */
  async function run(
    { route, grant }: Asked,
    start: (opened: OpenDoor, onOver: () => void) => Open | undefined,
  ): Promise<void> {
    const { sandboxId, port } = route.address
    const place = gateway.enter(sandboxId, grant.by === 'public' ? port : undefined)
    let opened
    try {
      opened = await door.open(sandboxId, grant)
      if (!isStillGranted(route.address, grant)) throw notGranted(route)
    } catch (error) {
      place.leave()
      throw error
    }
    occupy(place, grant, (onOver) => start(opened, onOver))
  }

  function holdOf(grant: Grant, onEnd: () => void): (() => void) | undefined {
    if (grant.by === 'token') return deps.tokens.hold(grant.access, onEnd)
    return grant.by === 'caller' ? deps.access.hold(grant.caller, onEnd) : undefined
  }

  function occupy(place: Place, grant: Grant, start: (onOver: () => void) => Open | undefined): void {
    let over = false
    let letGo: (() => void) | undefined
    const open = start(() => {
      over = true
      letGo?.()
      place.leave()
    })
    if (!open) return place.leave()
    if (over) return
    place.occupy(open)
    letGo = holdOf(grant, () => open.cut(forbidden()))
  }

  async function serve(request: IncomingMessage, response: ServerResponse, route: Route): Promise<void> {
    if (route.path && !route.path.target.startsWith('/'))
      return moveOn(response, 308, `${route.path.prefix}/${route.path.target}`)
    const asked = await ask(request, route)
    if (asked.moveToken !== undefined) {
      const maxAgeMs = (asked.grant.by === 'token' ? asked.grant.access.expiresAt : 0) - deps.now()
      const cookie = tokenCookie(asked.moveToken, { maxAgeMs, secure: domain.scheme === 'https' })
      // With the host name: a target that begins with // would lead anywhere.
      return moveOn(response, 302, `${domain.scheme}://${route.host}${asked.target}`, cookie)
    }
    const { head, body } = headOf(request, asked)
    const path = placeOf(asked)
    await run(asked, ({ guest }, onOver) => {
      if (response.destroyed) return undefined
      const input = { request, response, guest, address: route.address, head, body, path, onOver }
      return runExchange(gateway.deps, input)
    })
  }

  async function connect(request: IncomingMessage, socket: Duplex, early: Buffer, route: Route): Promise<void> {
    const asked = await ask(request, route)
    const { head } = headOf(request, asked, 'websocket')
    const path = placeOf(asked)
    await run(asked, ({ guest }, onOver) => {
      if (socket.destroyed) return undefined
      const input = { request, socket, early, guest, address: route.address, head, path, onOver }
      return runTunnel(gateway.deps, input)
    })
  }

  function refusal(error: unknown, port: number): DeltaError {
    const fault = portFault(error, port)
    if (fault.code === 'internal') log.error('port_request_failed', { error })
    return fault
  }

  return {
    request(request, response) {
      const route = routeOf(request)
      if (route === undefined) return false
      if (route === 'unfit') refuseRequest(response, forbidden())
      else serve(request, response, route).catch((error) => refuseRequest(response, refusal(error, route.address.port)))
      return true
    },
    upgrade(request, socket, early) {
      const route = routeOf(request)
      if (route === undefined) return false
      // A connection that breaks before anybody listens must not end the server.
      socket.on('error', () => {})
      if (route === 'unfit') refuseUpgrade(socket, forbidden())
      else
        connect(request, socket, early, route).catch((error) =>
          refuseUpgrade(socket, refusal(error, route.address.port)),
        )
      return true
    },
  }
}

function moveOn(response: ServerResponse, status: 302 | 308, location: string, cookie?: string): void {
  response.writeHead(status, {
    Location: location,
    'Content-Length': 0,
    'Cache-Control': 'no-store',
    'Referrer-Policy': 'no-referrer',
    ...(cookie !== undefined && { 'Set-Cookie': cookie }),
  })
  response.end()
}

function notGranted({ path }: Route): DeltaError {
  return path ? new DeltaError('unauthorized', 'The request has no valid API key or access token') : forbidden()
}

function placeOf({ route: { address, path, host }, target }: Asked): PathPlace | undefined {
  return path && { host, prefix: path.prefix, port: address.port, target }
}

/** An access token where the key may stand. It is ours whatever it is good for, and never goes in. */
function bearerToken(authorization: string | undefined): string | undefined {
  return /^Bearer +(dat_\S*)$/i.exec(authorization ?? '')?.[1]
}
