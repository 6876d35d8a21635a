import { decide, type Principal } from '../access/callers/door.ts'

/** What of an account's ledger somebody sees: all of it, or of an agent its own purse and those below. */
export interface Sight {
  accountId: string
  /** Undefined: everything. */
  below?: string | undefined
}

export function sightOf(principal: Principal): Sight {
  const { accountId } = principal
  return principal.kind === 'agent' ? { accountId, below: principal.agentId } : { accountId }
}

export interface TransferWish {
  tokens: number
  /** Whether it is the account's reserve that gives. */
  fromReserve: boolean
  /** Whether both purses are within the sight of whoever asks. */
  withinSight: boolean
}

export type TransferRuling =
  | { ok: true }
  /** It must look as if there were no such purse. */
  | { ok: false; reason: 'hidden' }
  | { ok: false; reason: 'lacks_right'; right: string }
  | { ok: false; reason: 'needs_person' }

/** An agent gives of its own and of what lies below it, up to its limit; what the reserve gives is for people to decide, or for keys that may handle the account's bills. */
export function mayTransfer(principal: Principal, { tokens, fromReserve, withinSight }: TransferWish): TransferRuling {
  if (fromReserve && principal.kind === 'agent') return { ok: false, reason: 'needs_person' }
  if (!withinSight) return { ok: false, reason: 'hidden' }
  if (!decide(principal, { right: 'allocate', selector: String(tokens) }).allowed) {
    return { ok: false, reason: 'lacks_right', right: `allocate:${tokens}` }
  }
  if (fromReserve && principal.kind === 'key' && !decide(principal, { right: 'write:billing' }).allowed) {
    return { ok: false, reason: 'lacks_right', right: 'write:billing' }
  }
  return { ok: true }
}
