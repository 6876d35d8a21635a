import { newKey } from './commands.ts'
import { followNumbered, type FollowOptions } from './numbered-events.ts'
import { Pages } from './pages.ts'
import type { Transport } from './transport.ts'
import type {
  ForecastInfo,
  HoldInfo,
  LedgerInfo,
  Page,
  PlanInfo,
  PlanName,
  RateCardInfo,
  TransferInfo,
  UsageInfo,
  WrittenInfo,
} from './types.ts'

export interface GetLedgerOptions {
  /** Only this purse and those below it: `reserve`, or the id of an agent or task. */
  purseId?: string
  /** Also those that are archived. @default false */
  archived?: boolean
}

export interface ListTransfersOptions {
  /** Only of this purse and those below it. */
  purseId?: string
  /** Such as `transfer` or `commit`. @default every kind */
  kind?: TransferInfo['kind']
  from?: Date
  /** Before this. */
  to?: Date
  /** Entries fetched at a time. @default 50, at most 500 */
  pageSize?: number
}

export interface ListHoldsOptions {
  /** Only what this purse and those below it pay. */
  purseId?: string
  /** @default every state */
  state?: HoldInfo['state']
  /** Holds fetched at a time. @default 50, at most 500 */
  pageSize?: number
}

/** What usage is added up by. */
export type UsageGroup = 'agent' | 'task' | 'sandbox' | 'kind' | 'meter' | 'hour' | 'day'

export interface UsageOptions {
  /** @default by meter */
  groupBy?: UsageGroup[]
  /** Not before the hour of this. @default the beginning of this month (UTC) */
  from?: Date
  /** Before this. @default now */
  to?: Date
  agentId?: string
  taskId?: string
  sandboxId?: string
  /** `sandbox`, `egress`, `storage`, `model` or `message`. */
  kind?: string
  /** As the rate card names it. */
  meter?: string
}

export interface MoveTokensOptions {
  /** Whole tokens. */
  tokens: number
  /** `reserve`, or the id of an agent or task. */
  from: string
  to: string
  /** Kept in the journal. */
  reason: string
  /** The same again is done once. @default a new one */
  idempotencyKey?: string
}

export interface GrantTokensOptions {
  /** Whole tokens. */
  tokens: number
  /** `granted` ends with the period, `bought` does not. */
  sort: 'granted' | 'bought'
  reason: string
  /** @default your own */
  accountId?: string
  /** The same again is done once. @default a new one */
  idempotencyKey?: string
}

export interface RefundTokensOptions {
  /** Of what was spent. */
  holdId: string
  /** With at most six places. */
  tokens: number
  reason: string
  /** @default your own */
  accountId?: string
  /** The same again is done once. @default a new one */
  idempotencyKey?: string
}

/** `from` is the `seq` that was seen last. @default from now on */
export type FollowLedgerOptions = FollowOptions

/**
 * Who has how many tokens, what was spent on what, and how tokens move.
 *
 * @example
 * const { purses, endsAt } = await delta.ledger.get()
 * for (const { id, granted, bought, used } of purses) console.log(id, granted + bought, used)
 * await delta.ledger.transfer({ tokens: 500, from: 'reserve', to: purses[1].id, reason: 'For the release' })
 */
export class Ledger {
  readonly #transport: Transport

  constructor(transport: Transport) {
    this.#transport = transport
  }

  /** The reserve, agents and tasks as a tree: each purse right before those below it. With an agent’s token its own and those below. */
  get({ purseId, archived }: GetLedgerOptions = {}): Promise<LedgerInfo> {
    return this.#transport.json<LedgerInfo>({ path: '/v1/ledger', query: { purseId, archived } })
  }

  /**
   * The journal: every movement of tokens, newest first.
   *
   * @example
   * for await (const { at, from, to, tokens } of delta.ledger.transfers({ kind: 'transfer' })) console.log(at, from, to, tokens)
   */
  transfers({ purseId, kind, from, to, pageSize }: ListTransfersOptions = {}): Pages<TransferInfo> {
    return new Pages((cursor) =>
      this.#transport.json<Page<TransferInfo>>({
        path: '/v1/ledger/transfers',
        query: { purseId, kind, from: from?.toISOString(), to: to?.toISOString(), limit: pageSize, cursor },
      }),
    )
  }

  /** What is, or was, set aside for work, newest first. */
  holds({ purseId, state, pageSize }: ListHoldsOptions = {}): Pages<HoldInfo> {
    return new Pages((cursor) =>
      this.#transport.json<Page<HoldInfo>>({
        path: '/v1/ledger/holds',
        query: { purseId, state, limit: pageSize, cursor },
      }),
    )
  }

  /**
   * What was used and what it cost, added up.
   *
   * @example
   * const byAgent = await delta.ledger.usage({ groupBy: ['agent', 'day'] }).all()
   */
  usage({
    pageSize,
    ...options
  }: UsageOptions & { /** @default 50, at most 500 */ pageSize?: number } = {}): Pages<UsageInfo> {
    return new Pages((cursor) =>
      this.#transport.json<Page<UsageInfo>>({
        path: '/v1/ledger/usage',
        query: { ...usageQuery(options), limit: pageSize, cursor },
      }),
    )
  }

  /** The same, all of it, as a table for spreadsheets. To be read as it comes. */
  async usageCsv({ signal, ...options }: UsageOptions & { signal?: AbortSignal } = {}): Promise<
    ReadableStream<Uint8Array>
  > {
    const query = { ...usageQuery(options), format: 'csv' }
    const response = await this.#transport.send({ path: '/v1/ledger/usage', query, signal })
    return response.body!
  }

  /** What will have been spent at the end of the period, if it goes on as it did. */
  forecast(): Promise<ForecastInfo> {
    return this.#transport.json<ForecastInfo>({ path: '/v1/ledger/forecast' })
  }

  /** What everything costs. */
  rates(): Promise<RateCardInfo> {
    return this.#transport.json<RateCardInfo>({ path: '/v1/ledger/rates' })
  }

  /** Moves tokens from purse to purse. `balance_too_low`, `purse_not_found`, `forbidden`. */
  transfer({ idempotencyKey = newKey(), ...json }: MoveTokensOptions): Promise<WrittenInfo> {
    return this.#transport.json<WrittenInfo>({ method: 'POST', path: '/v1/ledger/transfers', json, idempotencyKey })
  }

  /** Gives tokens to an account’s reserve. For the operator. */
  grant({ idempotencyKey = newKey(), ...json }: GrantTokensOptions): Promise<WrittenInfo> {
    return this.#transport.json<WrittenInfo>({ method: 'POST', path: '/v1/ledger/grants', json, idempotencyKey })
  }

  /** Gives back what was spent, to whoever paid. For the operator. `hold_not_found`, `refund_above_cost`. */
  refund({ idempotencyKey = newKey(), ...json }: RefundTokensOptions): Promise<WrittenInfo> {
    return this.#transport.json<WrittenInfo>({ method: 'POST', path: '/v1/ledger/refunds', json, idempotencyKey })
  }

  plan(): Promise<PlanInfo> {
    return this.#transport.json<PlanInfo>({ path: '/v1/ledger/plan' })
  }

  /** For the operator. */
  setPlan(plan: PlanName, { accountId }: { /** @default your own */ accountId?: string } = {}): Promise<PlanInfo> {
    const json = { plan, accountId }
    return this.#transport.json<PlanInfo>({ method: 'PUT', path: '/v1/ledger/plan', json, repeatable: true })
  }

  /**
   * The journal as it grows, over lost connections too. It does not end by itself.
   *
   * @example
   * for await (const { kind, from, to, tokens } of delta.ledger.follow({ signal })) console.log(kind, from, to, tokens)
   */
  async *follow(options: FollowLedgerOptions = {}): AsyncGenerator<TransferInfo, void> {
    for await (const { event, data } of followNumbered(this.#transport, '/v1/ledger/events', options)) {
      if (event === 'transfer') yield JSON.parse(data) as TransferInfo
    }
  }
}

function usageQuery({ groupBy, from, to, ...filter }: UsageOptions) {
  return { ...filter, groupBy: groupBy?.join(','), from: from?.toISOString(), to: to?.toISOString() }
}
