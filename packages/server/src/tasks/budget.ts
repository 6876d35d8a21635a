import { DeltaError, type ErrorCode } from '../kernel/errors.ts'
import type { Done } from '../ledger/door.ts'
import type { TaskRecord } from './record.ts'

/** What is needed of the ledger. Amounts are micro-tokens. */
export interface TaskLedger {
  openPurse(wish: {
    accountId: string
    purseId: string
    kind: 'task'
    parentId: string
    monthly: number
  }): Promise<unknown>
  /** Done once for each key; a refusal is thrown. */
  transfer(wish: {
    accountId: string
    from: string
    to: string
    amount: number
    reason: string
    key: string
  }): Promise<unknown>
  /** By its model calls that were begun since then, recorded or not. */
  spentSince(accountId: string, taskId: string, since: number): Promise<number>
  wasDone(accountId: string, key: string): Promise<boolean>
  archive(wish: { accountId: string; purseId: string }): Promise<Done>
}

export type Budgets = ReturnType<typeof createBudgets>

type Spender = Pick<TaskRecord, 'id' | 'accountId' | 'agentId' | 'budget' | 'payerId'>

/** Where its own tokens come from, and what it spends without any. */
const sourceOf = ({ agentId, payerId }: Spender) => payerId ?? agentId

/** The tokens of a task that has some of its own: set aside from its agent's, or from those of the task that delegated it, and what is left goes back. Each act may be repeated. */
export function createBudgets(ledger: TaskLedger) {
  return {
    payerOf: (task: Spender) => (task.budget === null ? sourceOf(task) : task.id),

    async open(task: Spender): Promise<void> {
      const { id, accountId, budget } = task
      if (budget === null) return
      const from = sourceOf(task)
      await unless(['purse_exists'], () =>
        ledger.openPurse({ accountId, purseId: id, kind: 'task', parentId: from, monthly: 0 }),
      )
      if (budget === 0) return
      const reason = 'Its budget'
      await ledger.transfer({ accountId, from, to: id, amount: budget, reason, key: `budget of ${id}` })
    },

    async give(task: Spender, amount: number, key: string): Promise<void> {
      const { id, accountId } = task
      await ledger.transfer({ accountId, from: sourceOf(task), to: id, amount, reason: 'More for the task', key })
    },

    wasGiven: ({ accountId }: Spender, key: string) => ledger.wasDone(accountId, key),

    spentSince: ({ id, accountId }: Spender, since: number) => ledger.spentSince(accountId, id, since),

    /** True when what is left is its agent's again; false as long as something is held. */
    async close({ id, accountId, budget }: Spender): Promise<boolean> {
      if (budget === null) return true
      try {
        return (await ledger.archive({ accountId, purseId: id })).archived !== undefined
      } catch (error) {
        if (isCode(error, ['purse_archived', 'purse_not_found'])) return true
        // What it delegated has some of them still.
        if (isCode(error, ['purse_has_children'])) return false
        throw error
      }
    },
  }
}

async function unless(codes: readonly ErrorCode[], work: () => Promise<unknown>): Promise<void> {
  try {
    await work()
  } catch (error) {
    if (!isCode(error, codes)) throw error
  }
}

export function isCode(error: unknown, codes: readonly ErrorCode[]): boolean {
  return error instanceof DeltaError && codes.includes(error.code)
}
