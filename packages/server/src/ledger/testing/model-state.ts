import type {
  Answer,
  Done,
  Hold,
  HoldState,
  Operation,
  PurseKind,
  RefusalReason,
  SideKind,
  Split,
} from '../operations.ts'

export interface ModelRow extends Split {
  kind: PurseKind | SideKind
  parentId: string | null
  state: 'open' | 'closing' | 'archived'
  monthly: number
  /** What it has paid, less what was given back. */
  used: number
}

export interface ModelHold extends Split {
  asked: Hold
  period: string
  state: HoldState
  sent: boolean
  observed?: number | undefined
  /** What the payer has paid. */
  cost: number
  /** What the platform bore. */
  absorbed: number
  /** Of the cost, what was given back. */
  refunded: number
  /** By which words it ended, and after which movement. */
  body: string
  seq: number
}

export interface ModelAccount {
  period: string
  /** In the order in which they were made. */
  rows: Map<string, ModelRow>
  /** Answers by key and hold, and to which words they were given. */
  done: Map<string, { body: string; done: Done }>
  /** How many movements there were. */
  seq: number
  /** Micro-tokens of all usage. */
  booked: number
}

export interface ModelState {
  accounts: Map<string, ModelAccount>
  holds: Map<string, ModelHold>
}

/** The id of an account's own row. */
export type OwnId = (accountId: string, kind: 'reserve' | SideKind) => string

export const total = (row: Split) => row.granted + row.bought
/** Of what there is, `granted` before `bought`. */
export const firstOf = ({ granted }: Split, amount: number): Split => {
  const first = Math.min(granted, amount)
  return { granted: first, bought: amount - first }
}

/** All that is asked for, but not when, nor by whom. */
export const bodyOf = (o: Operation) =>
  JSON.stringify({ ...o, at: 0, ...(o.type === 'hold' && { owner: '', atLeast: o.atLeast ?? o.amount }) })

export class Refused extends Error {
  answer: Answer = { ok: false, reason: 'ledger_full' }
}

export function refuse(reason: RefusalReason, available?: number): never {
  throw Object.assign(new Refused(reason), { answer: { ok: false, reason, available } })
}
