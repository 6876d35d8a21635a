import type { MeteredLine } from './rules.ts'

/** What metering needs of the ledger. Amounts are micro-tokens. */
export interface MeterLedger {
  ensure(accountId: string): Promise<void>
  hold(wish: {
    accountId: string
    /** @default the account's reserve */
    payer?: string | undefined
    amount: number
    atLeast?: number
    purpose: { kind: string; agentId?: string | undefined; sandboxId?: string | undefined }
    holdId: string
  }): Promise<{ amount: number }>
  sent(holdId: string, accountId: string, observed?: number): Promise<void>
  commit(
    holdId: string,
    accountId: string,
    lines: MeteredLine[],
    options: { estimated?: boolean; excess: 'absorb' },
  ): Promise<{ amount: number; unpaid?: number }>
  release(holdId: string, accountId: string): Promise<void>
  price(meter: string, quantity: number): number
  /** Null: as many as they like. */
  sandboxHoursOf(accountId: string): Promise<number | null>
}

/** What became of tokens, for /metrics: micro-tokens since the start, and those that are held now. */
export interface MeterCounts {
  held: number
  committed: number
  absorbed: number
}
