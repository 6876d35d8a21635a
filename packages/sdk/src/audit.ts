import { Pages } from './pages.ts'
import type { Transport } from './transport.ts'
import type { AuditEntry, AuditHead, Page } from './types.ts'

export interface ListAuditOptions {
  /** Only what this user, key or agent did, by its id; `platform` for the server itself. */
  actor?: string
  /** Only this operation, by its name in /openapi.json, such as `createSandbox`. */
  action?: string
  /** Only what was done to this id. */
  target?: string
  /** Entries fetched at a time. @default 100, at most 500 */
  pageSize?: number
}

/**
 * What was done and refused in the account: who, what, to what, when and from where. Never a secret, and nothing of the content of files,
 * commands and messages.
 *
 * @example
 * for await (const { at, actor, action, target, outcome } of delta.audit.list({ action: 'createSandbox' })) {
 *   console.log(at, actor, action, target, outcome)
 * }
 */
export class AuditLog {
  readonly #transport: Transport

  constructor(transport: Transport) {
    this.#transport = transport
  }

  /** Newest first. */
  list({ actor, action, target, pageSize = 100 }: ListAuditOptions = {}): Pages<AuditEntry> {
    return new Pages((cursor) =>
      this.#transport.json<Page<AuditEntry>>({
        path: '/v1/audit',
        query: { actor, action, target, limit: pageSize, cursor },
      }),
    )
  }

  /** How far the account's chain goes, and the key that signs its heads. */
  head(): Promise<AuditHead> {
    return this.#transport.json<AuditHead>({ path: '/v1/audit/head' })
  }

  /**
   * The whole chain with its signed heads, as JSON lines to be kept elsewhere; `delta audit verify` checks it. A chain has no bound: the body is
   * to be read as it comes.
   */
  async export(options: { signal?: AbortSignal } = {}): Promise<ReadableStream<Uint8Array>> {
    const response = await this.#transport.send({ path: '/v1/audit/export', ...options })
    return response.body!
  }
}
