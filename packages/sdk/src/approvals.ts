import { followNumbered, type FollowOptions } from './numbered-events.ts'
import { Pages } from './pages.ts'
import type { Transport } from './transport.ts'
import type { ApprovalInfo, ApprovalState, Page } from './types.ts'

export interface ListApprovalsOptions {
  /** @default every state */
  state?: ApprovalState
  /** Such as `egress`. @default every kind */
  kind?: string
  /** Only what is about this sandbox. */
  sandboxId?: string
  /** Approvals fetched at a time. @default 50, at most 200 */
  pageSize?: number
}

/** `from` is the `eventId` that was seen last. @default begins with what is pending */
export type FollowApprovalsOptions = FollowOptions

/**
 * What somebody asked for and may not do without a person.
 *
 * @example
 * for await (const approval of delta.approvals.list({ state: 'pending' })) {
 *   console.log(approval.description, approval.reason)
 *   if (await somebodySaysYes(approval)) await delta.approvals.approve(approval)
 *   else await delta.approvals.refuse(approval.id, 'Use the mirror inside instead')
 * }
 */
export class Approvals {
  readonly #transport: Transport

  constructor(transport: Transport) {
    this.#transport = transport
  }

  /**
   * Your own requests and what you may decide on, newest first.
   *
   * @example
   * for await (const { id, description } of delta.approvals.list({ state: 'pending' })) console.log(id, description)
   */
  list({ state, kind, sandboxId, pageSize }: ListApprovalsOptions = {}): Pages<ApprovalInfo> {
    return new Pages((cursor) =>
      this.#transport.json<Page<ApprovalInfo>>({
        path: '/v1/approvals',
        query: { state, kind, sandboxId, limit: pageSize, cursor },
      }),
    )
  }

  /**
   * What exactly will happen, in words and as data. `approval_not_found`.
   *
   * @example
   * const { description, action, reason } = await delta.approvals.get('apr_k3v9x0m2qp7a8b1c4d5e')
   */
  get(id: string): Promise<ApprovalInfo> {
    return this.#transport.json<ApprovalInfo>({ path: pathOf(id) })
  }

  /**
   * Approves what you have looked at, which does it at once: pass what `get` or `list` gave. `approval_own_request`, `approval_decided`, `approval_expired`,
   * `approval_action_changed`.
   *
   * @example
   * const { state, failure } = await delta.approvals.approve(await delta.approvals.get(id))
   */
  approve({ id, actionHash }: Pick<ApprovalInfo, 'id' | 'actionHash'>): Promise<ApprovalInfo> {
    return this.#transport.json<ApprovalInfo>({ method: 'POST', path: `${pathOf(id)}/approve`, json: { actionHash } })
  }

  /**
   * Refuses it and says why to whoever asked.
   *
   * @example
   * await delta.approvals.refuse(id, 'Use the mirror inside instead')
   */
  refuse(id: string, reason: string): Promise<ApprovalInfo> {
    return this.#transport.json<ApprovalInfo>({ method: 'POST', path: `${pathOf(id)}/refuse`, json: { reason } })
  }

  /**
   * Takes back what you asked for yourself.
   *
   * @example
   * await delta.approvals.cancel(id)
   */
  cancel(id: string): Promise<ApprovalInfo> {
    return this.#transport.json<ApprovalInfo>({ method: 'POST', path: `${pathOf(id)}/cancel`, repeatable: true })
  }

  /**
   * Approvals as they stand after each change, over lost connections too; first what is pending. It does not end by itself.
   *
   * @example
   * for await (const { approval, eventId } of delta.approvals.follow({ signal })) console.log(eventId, approval.state)
   */
  async *follow(
    options: FollowApprovalsOptions = {},
  ): AsyncGenerator<{ approval: ApprovalInfo; eventId: number }, void> {
    for await (const { event, data, id } of followNumbered(this.#transport, '/v1/approvals/events', options)) {
      if (event === 'approval') yield { approval: JSON.parse(data) as ApprovalInfo, eventId: Number(id) }
    }
  }
}

const pathOf = (id: string) => `/v1/approvals/${encodeURIComponent(id)}`
