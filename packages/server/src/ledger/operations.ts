/**
 * Everything that may happen to tokens. An operation is decided and written whole, in one step of the database, or refused by name with nothing written.
 *
 * Amounts are whole micro-tokens (10⁻⁶ token) from 1 to 2⁵³−1. `granted` expires at the period's end and is spent first; `bought` does not.
 *
 * Every row of `ledger_accounts` is one of these purses and sides. Purses hold tokens and are never negative: `reserve` (one for each account), `agent`, `task`, and `hold`
 * (one for each account: what all open holds hold). Sides are the other ends, so that debit is always credit: `grant` (tokens come from here and expire to here), `usage` (what was spent
 * went here), `refund` (corrections in the payer's favour come from here), `absorbed` (cost beyond a hold, which the platform bears), `owed` (cost that nobody could pay yet: as long as it is
 * not paid, no new hold is made). The sum over all rows of an account is 0 at every moment.
 */
export const purseKinds = ['reserve', 'agent', 'task'] as const
export type PurseKind = (typeof purseKinds)[number]
export const sideKinds = ['hold', 'grant', 'usage', 'refund', 'absorbed', 'owed'] as const
export type SideKind = (typeof sideKinds)[number]

/** Micro-tokens of the two sorts. */
export interface Split {
  granted: number
  bought: number
}

/** What is metered, as the rate card names it. Model calls and messages add theirs. */
export type MeterKind = string

/** A price's line: what was used, and what it cost by which card. */
export interface UsageLine {
  meter: MeterKind
  /** In the meter's unit; a finite number, not negative. */
  quantity: number
  /** Micro-tokens. */
  cost: number
}

/** What a hold is for: usage can be asked for by each of these. */
export interface Purpose {
  /** The broad kind: `sandbox`, `egress`, `storage`, `model`, `message`. */
  kind: string
  agentId?: string | undefined
  taskId?: string | undefined
  sandboxId?: string | undefined
}

/** A month in UTC, `2026-11`. */
export type Period = string

/** How a hold that is over has ended. */
export type HoldState = 'open' | 'committed' | 'released' | 'unknown'

interface Base {
  accountId: string
  /** Milliseconds since 1970: when it happens. */
  at: number
}

/** Makes the sides and the reserve of an account, if they are not there. */
export interface OpenAccount extends Base {
  type: 'open_account'
  /** The plan's grant of the period; micro-tokens, 0 for none. */
  grantTokens: number
  period: Period
  /** The plan's name, kept beside the account. */
  plan: string
}

/** Makes the purse of an agent or a task. */
export interface OpenPurse extends Base {
  type: 'open_purse'
  /** The agent's or task's id. */
  purseId: string
  kind: 'agent' | 'task'
  /** The purse its balance goes to when it is archived: the reserve, the parent agent or the task's agent. */
  parentId: string
  /** Renewed at each roll-over from the reserve, in order of creation, as long as there is a grant left; micro-tokens, 0 for none. */
  monthly: number
}

export interface ChangePurse extends Base {
  type: 'change_purse'
  purseId: string
  monthly: number
}

/** Tokens for the reserve. `granted` ends with the period. */
export interface Grant extends Base {
  type: 'grant'
  sort: keyof Split
  amount: number
  reason: string
  /** Done once for each key; the same key with something else is refused. */
  key: string
}

/** From purse to purse of one account; keeps the sorts, `granted` first. */
export interface Transfer extends Base {
  type: 'transfer'
  from: string
  to: string
  amount: number
  reason: string
  key: string
  /** What it is about: an approval, a task. */
  reference?: string | undefined
}

export interface Hold extends Base {
  type: 'hold'
  /** Chosen by the caller, `hld_…`: the same again is the same hold, and with something else refused. */
  holdId: string
  payer: string
  amount: number
  /** Less will do: what there is down to this is held. @default amount */
  atLeast?: number | undefined
  purpose: Purpose
  /** The life of the process that holds it, `srv_…`. */
  owner: string
}

/** The request that costs is about to leave: from now on it can not be released. `observed` says what it has cost so far. */
export interface Sent extends Base {
  type: 'sent'
  holdId: string
  /** Micro-tokens; what it is settled at when its owner dies. @default all of it */
  observed?: number | undefined
}

export interface Commit extends Base {
  type: 'commit'
  holdId: string
  lines: readonly UsageLine[]
  /** Version of the rate card. */
  rates: string
  estimated?: boolean | undefined
  /** What the lines cost above the hold: refused, or borne by the platform. @default 'refuse' */
  excess?: 'refuse' | 'absorb' | undefined
}

export interface Release extends Base {
  type: 'release'
  holdId: string
}

/** Of a hold whose owner has died: released if it was never sent, else settled as `unknown`, at what was observed, else whole. */
export interface Settle extends Base {
  type: 'settle'
  holdId: string
}

/** Cost that has come already, such as storage's: paid from the purse as far as it goes, the rest is owed. */
export interface Charge extends Base {
  type: 'charge'
  payer: string
  lines: readonly UsageLine[]
  rates: string
  purpose: Purpose
  key: string
}

/** Pays what is owed, as far as the reserve goes. */
export interface PayOwed extends Base {
  type: 'pay_owed'
  key: string
}

/** Gives back what was spent, to the purse that paid or what has taken its place: a transfer of its own with its reason. */
export interface Refund extends Base {
  type: 'refund'
  holdId: string
  amount: number
  reason: string
  key: string
}

/** No new hold and no transfer to it; when the last hold has settled its balance goes to its parent and it is archived. Its children must be archived before. */
export interface Archive extends Base {
  type: 'archive'
  purseId: string
}

/** Once for each account and period; a period that is not after the account's own changes nothing. */
export interface RollOver extends Base {
  type: 'roll_over'
  period: Period
  /** Micro-tokens, 0 for none. */
  grantTokens: number
}

export type Operation =
  | OpenAccount
  | OpenPurse
  | ChangePurse
  | Grant
  | Transfer
  | Hold
  | Sent
  | Commit
  | Release
  | Settle
  | Charge
  | PayOwed
  | Refund
  | Archive
  | RollOver

/** Why an operation is refused. Each has a row in the error table. */
export const refusalReasons = [
  'amount_invalid',
  'ledger_account_not_found',
  'purse_not_found',
  'purse_exists',
  'purse_archived',
  'purse_has_children',
  'transfer_to_itself',
  'balance_too_low',
  'account_owes',
  'hold_not_found',
  'hold_conflict',
  'hold_over',
  'hold_sent',
  'commit_above_hold',
  'refund_above_cost',
  'key_conflict',
  'ledger_full',
] as const
export type RefusalReason = (typeof refusalReasons)[number]

export interface Refusal {
  ok: false
  reason: RefusalReason
  /** For `balance_too_low`: what there is. */
  available?: number
}

/** What an operation came to; the same again for the same key or hold. */
export interface Done {
  ok: true
  /** The position of its last transfer in the account's journal; 0 where nothing moved. */
  seq: number
  /** Of a hold: what is held. Of commit, release, settle, charge and refund: what was spent, or given back. Of the others: what moved. */
  amount: number
  /** Of a charge, and of a commit whose excess is absorbed: what the purse did not pay. */
  unpaid?: number
  /** A purse that was archived by this. */
  archived?: string
  /** It had been done before. */
  repeated?: true
  /** Of a roll-over: purses whose monthly allocation could not be renewed whole. */
  unrenewed?: readonly string[]
  /** Purses that have more to spend by this: of a grant, a transfer, a refund, an archive and a roll-over. */
  filled?: readonly string[]
}

export type Answer = Done | Refusal
