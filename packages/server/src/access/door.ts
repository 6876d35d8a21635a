import type { Caller } from '../kernel/http/api.ts'
import type { Needs } from '../kernel/http/needs.ts'
import type { Principal } from './principal.ts'

/** Of what follows `Bearer` in a request's `Authorization`; what is longer is nobody's. */
export const bearerChars = 4_096

/** `port:3000` one port, `port:*` all of them, `terminal` terminals. */
export type AccessScope = 'terminal' | 'port:*' | `port:${number}`

/** What a verified token gives. */
export interface Access {
  sandboxId: string
  /** Whose sandbox it was when the token was made; sandboxes do not change hands. */
  accountId: string
  /** Unix milliseconds. */
  expiresAt: number
  /** Tells `hold` whether it was revoked since it was verified. */
  generation: number
}

export type AccessEnd = 'expired' | 'revoked' | 'killed'

/**
 * Tokens that open one sandbox's ports or terminals and nothing else: what a browser gets instead of the API key.
 *
 * `verify` is the same for every token that does not fit, whatever is wrong with it, and never tells whether the sandbox exists. It reads no
 * database. Ask it for every request, not once a connection.
 */
export interface AccessDoor {
  verify(token: string, wish: { sandboxId: string; scope: AccessScope }): Access | null
  /** Whether it has ended since it was verified: to be asked after a wait, before anything is done with it. */
  isOver(access: Access): boolean
  /**
   * For what outlives its request's beginning (a body, a WebSocket): calls `onEnd` once, at most a second after the access has ended, also where that was before the call. Returns
   * how to stop listening.
   */
  hold(access: Access, onEnd: (reason: AccessEnd) => void): () => void
}

/** What a request shows of who sent it. */
export interface Credentials {
  /** The `Authorization` header. */
  authorization: string | undefined
}

/** Whoever was recognised. */
export interface KnownCaller extends Caller {
  principal: Principal
  /** Ids of all that lets them in: the key, the session, the person, those they descend from. Revoking one of them ends this. */
  ties: readonly string[]
  /** Of an agent: from the key or session at the root down to the token that its own was made with. */
  parents?: readonly string[]
  /** Of an agent: the agents above it, from the first down. */
  above?: readonly string[]
  /** Of an agent whose token is limited to some sandboxes. */
  sandboxes?: readonly string[]
  /** Unix milliseconds. @default never */
  expiresAt?: number
  /** `Revocations.count` before it was looked up. */
  since: number
}

export type CallerEnd = 'expired' | 'revoked'

/** Counts somebody who asks: a caller with their account, whoever is none by their address. Rejects with `too_many_requests`. */
export type CountRequest = (request: {
  caller: Pick<Caller, 'accountId' | 'actorId'> | undefined
  address: string | undefined
}) => Promise<void>

/** Who calls and what they may: the same for requests, WebSockets and ports. */
export interface CallerDoor {
  /** Answers null for whoever is not known, without saying why. */
  authenticate(shown: Credentials): KnownCaller | null | Promise<KnownCaller | null>
  /**
   * The caller as the action may see it; throws `forbidden`. Of a thing that they may not even know of, they become a caller who owns nothing: so the
   * feature's own look-up answers, as it does for what does not exist.
   */
  admit<Who extends Caller>(caller: Who, needs: Needs, id?: string): Who
  /** Whether it has ended since: to be asked after a wait, before anything is done. */
  isOver(caller: object): boolean
  /** For what outlives its request's beginning: calls `onEnd` once, within a second of the end, also where that was before the call. Returns how to stop listening. */
  hold(caller: Caller, onEnd: (reason: CallerEnd) => void): () => void
}
