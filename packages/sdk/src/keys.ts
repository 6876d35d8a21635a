import { Pages } from './pages.ts'
import type { Transport } from './transport.ts'
import type { KeyInfo, MadeKey, Page } from './types.ts'

export interface CreateKeyOptions {
  /** What it is for, to know it again. */
  name: string
  /** `verb:resource[:selector]`, such as `read:sandboxes` or `write:exec`: never more than whoever makes it has. */
  rights: string[]
  /** Limited to these agents. @default all */
  agents?: string[]
  /** Limited to these sandboxes, and to nothing that is no sandbox. @default all */
  sandboxes?: string[]
  /** Until when. @default until it is revoked */
  expiresAt?: Date
  /** The same, from now on. */
  ttlMs?: number
}

export interface ListKeysOptions {
  /** `all` with those that are revoked or have expired. @default 'active' */
  state?: 'active' | 'all'
  /** Keys fetched at a time. @default 50, at most 100 */
  pageSize?: number
}

/**
 * API keys: each with the rights it needs and no more.
 *
 * @example
 * const { key } = await delta.keys.create({ name: 'nightly build', rights: ['write:sandboxes', 'write:exec'], ttlMs: 86_400_000 })
 * const build = new Delta({ apiKey: key })
 */
export class Keys {
  readonly #transport: Transport

  constructor(transport: Transport) {
    this.#transport = transport
  }

  /**
   * Makes one. Its text, `key`, is in this answer alone. `forbidden` where it would be wider than your own.
   *
   * @example
   * const { id, key } = await delta.keys.create({ name: 'metrics', rights: ['read:operations'] })
   */
  create({ expiresAt, ...rest }: CreateKeyOptions): Promise<MadeKey> {
    const json = { ...rest, ...(expiresAt && { expiresAt: expiresAt.toISOString() }) }
    return this.#transport.json<MadeKey>({ method: 'POST', path: '/v1/keys', json })
  }

  /**
   * Newest first.
   *
   * @example
   * for await (const { id, name, lastUsedAt } of delta.keys.list()) console.log(id, name, lastUsedAt)
   */
  list({ state, pageSize }: ListKeysOptions = {}): Pages<KeyInfo> {
    return new Pages((cursor) =>
      this.#transport.json<Page<KeyInfo>>({ path: '/v1/keys', query: { state, limit: pageSize, cursor } }),
    )
  }

  /**
   * `key_not_found`.
   *
   * @example
   * const { rights, expiresAt } = await delta.keys.get('key_k3v9x0m2qp7a8b1c4d5e')
   */
  get(id: string): Promise<KeyInfo> {
    return this.#transport.json<KeyInfo>({ path: `/v1/keys/${encodeURIComponent(id)}` })
  }

  /**
   * Gives it a new text; the old one is good for `overlapMs` more. `key_ended` where it is revoked or has expired.
   *
   * @example
   * const { key } = await delta.keys.rotate(id, { overlapMs: 3_600_000 })
   */
  rotate(id: string, { overlapMs }: { overlapMs?: number } = {}): Promise<MadeKey> {
    const json = overlapMs === undefined ? {} : { overlapMs }
    return this.#transport.json<MadeKey>({ method: 'POST', path: `/v1/keys/${encodeURIComponent(id)}/rotate`, json })
  }

  /**
   * Ends it, with the keys made with it and all that they opened, within a second. One that is revoked already is no error.
   *
   * @example
   * await delta.keys.revoke(id)
   */
  revoke(id: string): Promise<void> {
    return this.#transport.done({ method: 'DELETE', path: `/v1/keys/${encodeURIComponent(id)}`, repeatable: true })
  }
}
