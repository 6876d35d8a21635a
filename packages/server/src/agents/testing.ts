import { DeltaError } from '../kernel/errors.ts'
import { type Done, microPerToken, type Operation } from '../ledger/door.ts'
import type { AgentLedger } from './purses.ts'
import { agentLimits } from './schema.ts'
import type { AgentRecord } from './store.ts'

/** A record for tests, of a main agent in its account's own place. */
export function testAgent(id: string, changes: Partial<AgentRecord> = {}): AgentRecord {
  return {
    id,
    accountId: 'acc_default',
    name: id,
    kind: 'main',
    parentId: null,
    state: 'active',
    task: null,
    channel: null,
    template: 'host',
    memoryMb: agentLimits.memoryMb.default,
    rights: [],
    budget: 0,
    monthly: 0,
    confirmAbove: 0,
    workspaceId: null,
    sandboxId: null,
    version: 1,
    createdAt: 1_000,
    changedAt: 1_000,
    ...changes,
  }
}

interface Purse {
  parentId: string
  tokens: number
  /** Set aside by `holdBack`: it is not archived as long as there are any. */
  held: number
  archived: boolean
}

/** What the ledger's operations on purses come to, in memory: one reserve for each account, and nothing of holds, months and prices. */
export function createModelLedger({ reserve = 1_000, mostAgents }: { reserve?: number; mostAgents?: number } = {}) {
  const purses = new Map<string, Purse>()
  const done = new Set<string>()
  const fine: Done = { ok: true, seq: 1, amount: 0 }
  const reserveOf = (accountId: string) => `${accountId}:reserve`
  let fault: (() => Promise<void>) | undefined
  const find = (id: string): Purse => {
    const purse = purses.get(id)
    if (!purse) throw new DeltaError('agent_not_found', `no purse ${id}`)
    return purse
  }
  const ledger: AgentLedger = {
    async ensure(accountId) {
      const id = reserveOf(accountId)
      if (!purses.has(id)) purses.set(id, { parentId: '', tokens: reserve * microPerToken, held: 0, archived: false })
    },
    async apply(operation) {
      await fault?.()
      const answer = act(operation)
      await fault?.()
      return answer
    },
    async balanceOf(_accountId, purseId) {
      return { granted: find(purseId).tokens, bought: 0, held: find(purseId).held, used: 0 }
    },
    mostAgents: () => Promise.resolve(mostAgents),
    reserveOf,
  }

  function act(operation: Operation): Done {
    if (operation.type === 'open_purse') {
      const { purseId, parentId } = operation
      find(parentId)
      if (!purses.has(purseId)) purses.set(purseId, { parentId, tokens: 0, held: 0, archived: false })
      return fine
    }
    if (operation.type === 'transfer') {
      const { from, to, amount, key } = operation
      if (done.has(key)) return { ...fine, repeated: true }
      const [source, target] = [find(from), find(to)]
      if (source.tokens < amount) throw new DeltaError('plan_limit_reached', `${from} has ${source.tokens}`)
      source.tokens -= amount
      target.tokens += amount
      done.add(key)
      return { ...fine, amount }
    }
    if (operation.type === 'archive') {
      const purse = purses.get(operation.purseId)
      if (purse && purse.held > 0) return fine
      if (purse && !purse.archived) {
        find(purse.parentId).tokens += purse.tokens
        Object.assign(purse, { tokens: 0, archived: true })
      }
      return { ...fine, archived: operation.purseId }
    }
    return fine
  }

  return {
    ledger,
    /** Whole tokens in a purse; 0 where there is none. */
    tokensOf: (id: string) => (purses.get(id)?.tokens ?? 0) / microPerToken,
    /** Of all purses together. */
    sum: () => [...purses.values()].reduce((sum, { tokens }) => sum + tokens, 0) / microPerToken,
    holdBack: (id: string, held: number) => void (find(id).held = held),
    /** Awaited before and after each operation; it may reject. */
    onOperation: (next: (() => Promise<void>) | undefined) => void (fault = next),
  }
}
