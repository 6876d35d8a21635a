import type { Transport } from './transport.ts'
import type { AgentKind, AgentToken } from './types.ts'

export interface CreateAgentTokenOptions {
  agentId: string
  /** Refused where the agent is of another kind. @default whatever it is */
  agentKind?: AgentKind
  /** A part of what you and the agent have now; nothing of keys, people and money. */
  rights: string[]
  /** Limited to these agents. @default as you are */
  agents?: string[]
  /** Limited to these sandboxes. @default as you are */
  sandboxes?: string[]
  /** At most 15 minutes. @default 15 minutes */
  ttlMs?: number
}

/**
 * Short-lived tokens by which an agent acts for itself, with a part of its maker's rights.
 *
 * @example
 * const { token } = await delta.agentTokens.create({ agentId: 'agt_k3v9x0m2qp7a8b1c4d5e', rights: ['read:files'] })
 * const bot = new Delta({ apiKey: token })
 */
export class AgentTokens {
  readonly #transport: Transport

  constructor(transport: Transport) {
    this.#transport = transport
  }

  /**
   * Makes one. `forbidden` where it would be wider than your own rights.
   *
   * @example
   * const { token, expiresAt } = await delta.agentTokens.create({ agentId, rights: ['write:exec', 'delegate'] })
   */
  create(json: CreateAgentTokenOptions): Promise<AgentToken> {
    return this.#transport.json<AgentToken>({ method: 'POST', path: '/v1/agent-tokens', json })
  }

  /**
   * Ends one before its time, with those made with it.
   *
   * @example
   * await delta.agentTokens.revoke(token)
   */
  revoke(token: string): Promise<void> {
    return this.#transport.done({ method: 'POST', path: '/v1/agent-tokens/revoke', json: { token }, repeatable: true })
  }
}
