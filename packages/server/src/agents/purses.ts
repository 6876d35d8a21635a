import { type Done, type Operation, shownTokens } from '../ledger/door.ts'
import type { Clock } from '../kernel/clock.ts'
import { DeltaError } from '../kernel/errors.ts'
import type { AgentBalance } from './schema.ts'
import type { AgentRecord } from './store.ts'

/** What is needed of the ledger. */
export interface AgentLedger {
  /** Opens the account, if it is not. */
  ensure(accountId: string): Promise<void>
  /** Throws for a refusal. */
  apply(operation: Operation): Promise<Done>
  /** Micro-tokens. */
  balanceOf(
    accountId: string,
    purseId: string,
  ): Promise<{ granted: number; bought: number; held: number; used: number }>
  /** Agents that the account's plan allows at once; undefined: any number. */
  mostAgents(accountId: string): Promise<number | undefined>
  /** The purse of the account's reserve. */
  reserveOf(accountId: string): string
}

export interface Giving {
  /** Micro-tokens. */
  amount: number
  from: 'parent' | 'reserve'
  reason: string
  /** Done once for each. */
  key: string
}

export type Purses = ReturnType<typeof createPurses>

/** The tokens of agents. Each act may be repeated: what was done before is not done again. */
export function createPurses({ ledger, clock }: { ledger: AgentLedger; clock: Clock }) {
  const at = () => clock.now()
  const parentOf = ({ accountId, parentId }: AgentRecord) => parentId ?? ledger.reserveOf(accountId)

  /** Its purse, with what it is made with in it. */
  async function open(agent: AgentRecord): Promise<void> {
    const { id: purseId, accountId, budget, monthly } = agent
    await ledger.ensure(accountId)
    const parentId = parentOf(agent)
    await ledger
      .apply({ type: 'open_purse', accountId, at: at(), purseId, kind: 'agent', parentId, monthly })
      .catch((error: unknown) => {
        if (!isCode(error, ['purse_exists'])) throw error
      })
    if (budget === 0) return
    await give(agent, { amount: budget, from: 'parent', reason: 'Its budget', key: `budget of ${purseId}` })
  }

  async function give(agent: AgentRecord, { amount, from, reason, key }: Giving): Promise<Done> {
    const { id, accountId } = agent
    const source = from === 'reserve' ? ledger.reserveOf(accountId) : parentOf(agent)
    return ledger.apply({ type: 'transfer', accountId, at: at(), from: source, to: id, amount, reason, key })
  }

  /** True when its balance has gone to its parent; false as long as something is held, or a task of it has some of its own. */
  async function close({ id, accountId }: AgentRecord): Promise<boolean> {
    try {
      const { archived } = await ledger.apply({ type: 'archive', accountId, at: at(), purseId: id })
      return archived !== undefined
    } catch (error) {
      if (isCode(error, ['purse_archived', 'purse_not_found'])) return true
      if (isCode(error, ['purse_has_children'])) return false
      throw error
    }
  }

  async function setMonthly({ id, accountId }: AgentRecord, monthly: number): Promise<void> {
    await ledger.apply({ type: 'change_purse', accountId, at: at(), purseId: id, monthly })
  }

  async function balanceOf({ id, accountId }: AgentRecord): Promise<AgentBalance> {
    const { granted, bought, held, used } = await ledger.balanceOf(accountId, id)
    return {
      granted: shownTokens(granted),
      bought: shownTokens(bought),
      held: shownTokens(held),
      used: shownTokens(used),
    }
  }

  return { open, give, close, setMonthly, balanceOf, mostAgents: ledger.mostAgents }
}

function isCode(error: unknown, codes: readonly string[]): boolean {
  return error instanceof DeltaError && codes.includes(error.code)
}
