import type { Answer, HoldState, Period, PurseKind, SideKind } from './operations.ts'
import { purseKinds, sideKinds } from './operations.ts'

// What of the ledger an operation is decided over: rows that were loaded, changed in memory, and written at the end of the group.

export interface Tenant {
  accountId: string
  period: Period
  plan: string
  /** Position of the last transfer. */
  seq: number
  /** How many purses there have been: the next one's number. */
  purses: number
}

/** What nearly every operation changes: a table of its own, whose rows are so short that those of many purses lie in one page. */
export interface Balances {
  granted: number
  bought: number
  /** In open holds that it pays. */
  held: number
  /** What it has paid, less what was given back. */
  used: number
}

export interface Account extends Balances {
  id: string
  accountId: string
  kind: PurseKind | SideKind
  parentId: string | null
  state: 'open' | 'closing' | 'archived'
  monthly: number
  /** In order of creation within the account. */
  number: number
  /** Purses below it that are not archived. */
  children: number
  createdAt: number
  /** The key of its balances; 0 until it is first written. */
  place: number
}

export interface HoldRow {
  id: string
  accountId: string
  payer: string
  /** What was asked for: the same hold again asks for the same. */
  wished: number
  atLeast: number
  /** What was held. */
  granted: number
  bought: number
  /** Whose grant `granted` is of. */
  period: Period
  kind: string
  agentId: string | null
  taskId: string | null
  sandboxId: string | null
  owner: string
  /** 1 from the moment at which it can no longer be released. */
  sent: number
  observed: number | null
  state: HoldState
  /** What the payer has paid of it. */
  cost: number
  /** What the platform bore. */
  absorbed: number
  refunded: number
  /** Of the commit. */
  digest: string | null
  madeAt: number
  madeSeq: number
  endedAt: number | null
  endedSeq: number
}

export interface TransferRow {
  accountId: string
  seq: number
  at: number
  kind: TransferKind
  debit: string
  credit: string
  amount: number
  sort: 'granted' | 'bought'
  holdId: string | null
  reference: string | null
  reason: string | null
}

export type TransferKind =
  | 'grant'
  | 'transfer'
  | 'renew'
  | 'hold'
  | 'release'
  | 'commit'
  | 'absorb'
  | 'charge'
  | 'owe'
  | 'pay_owed'
  | 'refund'
  | 'expire'
  | 'archive'

/** Added to what there is of the same hour, purpose and meter. */
export interface UsageRow {
  accountId: string
  hour: number
  kind: string
  agentId: string
  taskId: string
  sandboxId: string
  meter: string
  quantity: number
  cost: number
  /** Of the cost, what is no measured use. */
  estimated: number
}

export interface KeyRow {
  accountId: string
  key: string
  digest: string
  answer: string
  at: number
}

export const isPurse = ({ kind }: Account) => (purseKinds as readonly string[]).includes(kind)

export function reserveId(accountId: string): string {
  return `${accountId}:reserve`
}

export function sideId(accountId: string, kind: SideKind): string {
  return `${accountId}:${kind}`
}

export function ownIds(accountId: string): string[] {
  return [reserveId(accountId), ...sideKinds.map((kind) => sideId(accountId, kind))]
}

export type Book = ReturnType<typeof createBook>

/** Rows by id. What was looked for and is not there is known not to be there; to ask for anything else is a fault of the program. */
export function createBook() {
  const tenants = new Map<string, Tenant>()
  const accounts = new Map<string, Account | undefined>()
  const holds = new Map<string, HoldRow | undefined>()
  const keys = new Map<string, KeyRow | undefined>()
  const usage = new Map<string, UsageRow>()
  const changed = {
    tenants: new Set<Tenant>(),
    /** In anything but their balances. */
    accounts: new Set<Account>(),
    balances: new Set<Account>(),
    holds: new Set<HoldRow>(),
  }
  const added = {
    tenants: new Set<Tenant>(),
    accounts: new Set<Account>(),
    holds: new Set<HoldRow>(),
    keys: [] as KeyRow[],
    transfers: [] as TransferRow[],
  }
  const loaded = <Row>(rows: Map<string, Row | undefined>, id: string): Row | undefined => {
    if (!rows.has(id)) throw new Error(`${id} was not loaded`)
    return rows.get(id)
  }
  return {
    tenants,
    changed,
    added,
    usage,
    knows: (accountRowId: string) => accounts.has(accountRowId),
    knowsHold: (id: string) => holds.has(id),
    knowsKey: (id: string) => keys.has(id),
    peek: (accountRowId: string) => accounts.get(accountRowId),
    account: (id: string) => loaded(accounts, id),
    hold: (id: string) => loaded(holds, id),
    key: (id: string) => loaded(keys, id),
    peekHold: (id: string) => holds.get(id),
    /** As it was loaded; undefined where there is none. */
    putAccount: (id: string, row: Account | undefined) => void accounts.set(id, row),
    putHold: (id: string, row: HoldRow | undefined) => void holds.set(id, row),
    putKey: (id: string, row: KeyRow | undefined) => void keys.set(id, row),
    addTenant(row: Tenant) {
      tenants.set(row.accountId, row)
      added.tenants.add(row)
    },
    addAccount(row: Account) {
      accounts.set(row.id, row)
      added.accounts.add(row)
    },
    addHold(row: HoldRow) {
      holds.set(row.id, row)
      added.holds.add(row)
    },
    addKey(row: KeyRow) {
      keys.set(keyId(row), row)
      added.keys.push(row)
    },
    addUsage(row: UsageRow) {
      const { accountId, hour, kind, agentId, taskId, sandboxId, meter } = row
      const id = [accountId, hour, kind, agentId, taskId, sandboxId, meter].join('\n')
      const there = usage.get(id)
      if (!there) return void usage.set(id, { ...row })
      there.quantity += row.quantity
      there.cost += row.cost
      there.estimated += row.estimated
    },
    /** Of one account, in order of creation. Only where all of it but what is archived was loaded. */
    pursesOf(accountId: string): Account[] {
      const found: Account[] = []
      for (const row of accounts.values()) if (row?.accountId === accountId && isPurse(row)) found.push(row)
      return found.toSorted((a, b) => a.number - b.number)
    },
    all: () => accounts.values(),
  }
}

export function keyId({ accountId, key }: { accountId: string; key: string }): string {
  return `${accountId}\n${key}`
}

export type Remembered = Extract<Answer, { ok: true }>
