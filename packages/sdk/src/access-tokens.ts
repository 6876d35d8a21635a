import type { Transport } from './transport.ts'
import type { AccessScope, AccessToken } from './types.ts'

export interface CreateAccessTokenOptions {
  /** How long it is good for. @default 3,600,000; at most 604,800,000 */
  ttlMs?: number
}

/**
 * Tokens that open ports or terminals of one sandbox and nothing else, to be given to a browser or another program instead of the API key.
 *
 * @example
 * const { token } = await sandbox.accessTokens.create(['port:3000'], { ttlMs: 600_000 })
 */
export class AccessTokens {
  readonly #transport: Transport
  readonly #path: string

  constructor(transport: Transport, sandboxId: string) {
    this.#transport = transport
    this.#path = `/v1/sandboxes/${encodeURIComponent(sandboxId)}/access-tokens`
  }

  /** `port:3000` opens one port, `port:*` all, `terminal` terminals. */
  create(scopes: AccessScope[], { ttlMs }: CreateAccessTokenOptions = {}): Promise<AccessToken> {
    // One too many harms nobody.
    const request = { method: 'POST', path: this.#path, repeatable: true, json: { scopes, ttlMs } } as const
    return this.#transport.json<AccessToken>(request)
  }

  /** Ends all made so far, and every connection opened with them. */
  revoke(): Promise<void> {
    return this.#transport.done({ method: 'DELETE', path: this.#path, repeatable: true })
  }
}
