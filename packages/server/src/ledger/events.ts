import type { Period } from './operations.ts'

/** What others may want to know. Of this process: another server's operations are its own news. */
export interface LedgerEvents {
  /** Positions in the account's journal, each the last of an operation. */
  'ledger.changed': { accountId: string; seqs: readonly number[] }
  /** A hold was refused. */
  'purse.low': { accountId: string; purseId: string; wanted: number; available: number }
  /** It has more to spend than before. */
  'purse.filled': { accountId: string; purseId: string }
  'purse.archived': { accountId: string; purseId: string }
  'period.rolled': { accountId: string; period: Period; unrenewed: readonly string[] }
}
