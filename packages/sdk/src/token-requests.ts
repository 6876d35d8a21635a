import { sleep } from './backoff.ts'
import { followNumbered, type FollowOptions } from './numbered-events.ts'
import { Pages } from './pages.ts'
import type { Transport } from './transport.ts'
import type { Page, TokenRequestInfo, TokenRequestState } from './types.ts'

export interface RequestTokensOptions {
  /** Whole tokens. */
  tokens: number
  /** Why, for whoever decides. */
  reason: string
  /** Until when somebody must have decided. @default a day, at most seven */
  ttlMs?: number
  /** Requests with the same key are one. @default none: the same again while it waits is the same */
  idempotencyKey?: string
}

export interface ListTokenRequestsOptions {
  /** `pending`: whoever decides. @default every state */
  state?: TokenRequestState | 'pending'
  agentId?: string
  /** Requests fetched at a time. @default 50, at most 200 */
  pageSize?: number
}

export interface WaitForTokensOptions {
  signal?: AbortSignal
  /** How often is looked. @default 1,000 */
  pollMs?: number
}

/** `from` is the `eventId` that was seen last. @default begins with what is not over */
export type FollowTokenRequestsOptions = FollowOptions

/**
 * What agents ask for. The main agent above decides first, then a person.
 *
 * @example
 * for await (const request of delta.tokenRequests.list({ state: 'pending' })) {
 *   console.log(request.info.agentId, request.info.tokens, request.info.reason)
 *   await request.approve()
 * }
 */
export class TokenRequests {
  readonly #transport: Transport

  constructor(transport: Transport) {
    this.#transport = transport
  }

  /** `token_request_not_found`. */
  async get(id: string): Promise<TokenRequest> {
    return new TokenRequest(this.#transport, await this.#transport.json<TokenRequestInfo>({ path: pathOf(id) }))
  }

  /**
   * Newest first; an agent sees its own and those of agents below it.
   *
   * @example
   * for await (const { id, info } of delta.tokenRequests.list({ state: 'pending' })) console.log(id, info.tokens)
   */
  list({ pageSize, ...filter }: ListTokenRequestsOptions = {}): Pages<TokenRequest> {
    return new Pages(async (cursor) => {
      const query = { ...filter, limit: pageSize, cursor }
      const page = await this.#transport.json<Page<TokenRequestInfo>>({ path: '/v1/token-requests', query })
      return { ...page, data: page.data.map((info) => new TokenRequest(this.#transport, info)) }
    })
  }

  /**
   * Says yes to as many tokens as you saw. Of a main agent that is enough up to its limits, else a person is asked. `token_request_changed`,
   * `token_request_decided`, `token_request_expired`, `approval_own_request`.
   *
   * @example
   * const { state, failure } = await delta.tokenRequests.approve({ id, tokens: 50 })
   */
  approve({ id, tokens }: Pick<TokenRequestInfo, 'id' | 'tokens'>): Promise<TokenRequestInfo> {
    return this.#transport.json<TokenRequestInfo>({ method: 'POST', path: `${pathOf(id)}/approve`, json: { tokens } })
  }

  /**
   * Refuses it and says why to whoever asked.
   *
   * @example
   * await delta.tokenRequests.refuse(id, 'The mails can wait for tomorrow')
   */
  refuse(id: string, reason: string): Promise<TokenRequestInfo> {
    return this.#transport.json<TokenRequestInfo>({ method: 'POST', path: `${pathOf(id)}/refuse`, json: { reason } })
  }

  /** Takes back what you asked for. */
  cancel(id: string): Promise<TokenRequestInfo> {
    return this.#transport.json<TokenRequestInfo>({ method: 'POST', path: `${pathOf(id)}/cancel`, repeatable: true })
  }

  /**
   * Requests as they stand after each change, over lost connections too; first what is not over. It does not end by itself.
   *
   * @example
   * for await (const { request, eventId } of delta.tokenRequests.follow({ signal })) console.log(eventId, request.state)
   */
  async *follow(
    options: FollowTokenRequestsOptions = {},
  ): AsyncGenerator<{ request: TokenRequestInfo; eventId: number }, void> {
    for await (const { event, data, id } of followNumbered(this.#transport, '/v1/token-requests/events', options)) {
      if (event === 'token_request') yield { request: JSON.parse(data) as TokenRequestInfo, eventId: Number(id) }
    }
  }
}

/** One request of an agent for tokens. */
export class TokenRequest {
  readonly #requests: TokenRequests
  readonly #transport: Transport
  #info: TokenRequestInfo

  constructor(transport: Transport, info: TokenRequestInfo) {
    this.#transport = transport
    this.#requests = new TokenRequests(transport)
    this.#info = info
  }

  get id(): string {
    return this.#info.id
  }

  get state(): TokenRequestState {
    return this.#info.state
  }

  /** As of the last answer about it; `refresh` asks anew. */
  get info(): TokenRequestInfo {
    return this.#info
  }

  async refresh(): Promise<TokenRequestInfo> {
    return this.#remember(await this.#transport.json<TokenRequestInfo>({ path: pathOf(this.id) }))
  }

  /**
   * Resolves when it is over: `granted`, `refused`, `failed`, `expired`, `canceled` or `unneeded`.
   *
   * @example
   * const { state, refusal } = await request.wait()
   */
  async wait({ signal, pollMs = 1_000 }: WaitForTokensOptions = {}): Promise<TokenRequestInfo> {
    for (;;) {
      const info = await this.refresh()
      if (info.endedAt !== null || !isOpen(info.state)) return info
      await sleep(pollMs, signal)
    }
  }

  /** Says yes to what was seen of it last. */
  async approve(): Promise<TokenRequestInfo> {
    return this.#remember(await this.#requests.approve(this.#info))
  }

  async refuse(reason: string): Promise<TokenRequestInfo> {
    return this.#remember(await this.#requests.refuse(this.id, reason))
  }

  async cancel(): Promise<TokenRequestInfo> {
    return this.#remember(await this.#requests.cancel(this.id))
  }

  #remember(info: TokenRequestInfo): TokenRequestInfo {
    this.#info = info
    return info
  }
}

function isOpen(state: TokenRequestState): boolean {
  return state === 'pending_main' || state === 'pending_user' || state === 'granting'
}

const pathOf = (id: string) => `/v1/token-requests/${encodeURIComponent(id)}`
