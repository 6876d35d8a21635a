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
