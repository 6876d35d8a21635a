import type { Clock } from '../../kernel/clock.ts'
import type { Database } from '../../kernel/db/database.ts'
import { isId } from '../../kernel/ids.ts'
import type { Logger } from '../../kernel/log.ts'
import { createTurns } from '../../kernel/turns.ts'
import { isOver } from '../rules.ts'
import { microPerToken } from '../../ledger/door.ts'
import type { Agents } from '../service.ts'
import type { AgentRecord, AgentStore } from '../store.ts'
import { requestLimits } from './limits.ts'
import type { SuspensionRecord } from './record.ts'
import { automaticTokens, hasTokensAgain } from './rules.ts'
import type { RequestLedger, TokenRequests } from './service.ts'
import { createTokenRequestStore } from './store.ts'

export interface SuspensionDeps {
  database: Database
  agents: Pick<Agents, 'suspend' | 'wake'>
  agentStore: Pick<AgentStore, 'get'>
  ledger: Pick<RequestLedger, 'balanceOf'>
  requests: Pick<TokenRequests, 'askAutomatically' | 'tokensCame'>
  clock: Clock
  log: Logger
}

/** A hold that was refused. Micro-tokens. */
export interface Low {
  accountId: string
  purseId: string
  wanted: number
}

export type Suspension = ReturnType<typeof createSuspension>

/**
 * An agent that is out of tokens stands still, and goes on where it stood when it has some. Of each such agent there is a row before anything is done to it, and until all
 * is done: from that row whoever comes after a crash does the rest.
 */
export function createSuspension({ database, agents, agentStore, ledger, requests, clock, log }: SuspensionDeps) {
  const store = createTokenRequestStore(database)
  const turns = createTurns('tokens of agent')
  const waiting = new Set<string>()
  const stopped = new AbortController()
  let loop = Promise.resolve()

  /** Of many at once one is enough: what is decided is decided by the balance then. */
  function inTurn(agentId: string, work: () => Promise<void>, what: string): void {
    const name = `${what} ${agentId}`
    if (stopped.signal.aborted || waiting.has(name)) return
    waiting.add(name)
    void turns
      .takeAlways(agentId, () => {
        waiting.delete(name)
        return work()
      })
      .catch((error: unknown) => log.error('agent_tokens_not_looked_at', { agentId, error }))
  }

  async function ranOut({ accountId, purseId: agentId, wanted }: Low): Promise<void> {
    const agent = await livingAgent(agentId)
    if (!agent) return
    const { granted, bought, held } = await ledger.balanceOf(accountId, agentId)
    // Meanwhile some have come.
    if (granted + bought >= wanted) return
    const before = await store.suspension(agentId)
    const row: SuspensionRecord = {
      agentId,
      accountId,
      state: 'low',
      wanted,
      had: granted + bought + held,
      at: before?.at ?? clock.now(),
    }
    await store.putSuspension(row)
    await advance(row)
  }

  async function livingAgent(agentId: string): Promise<AgentRecord | undefined> {
    const agent = await agentStore.get(agentId)
    return agent && !isOver(agent.state) ? agent : undefined
  }

  /** The next step of one that ran out, as far as that goes now; may be repeated. */
  async function advance(row: SuspensionRecord): Promise<void> {
    const { agentId, accountId } = row
    const agent = await livingAgent(agentId)
    if (!agent) return store.dropSuspension(agentId)
    if (row.state === 'waking' || hasTokensAgain(row, await ledger.balanceOf(accountId, agentId))) return wake(row)
    if (agent.state === 'active') {
      await agents.suspend(agentId, accountId).catch((error: unknown) => {
        // Its row is written, so it gets no work; its computer stops at the latest when what is held for it is used up.
        log.warn('agent_not_frozen', { agentId, error })
      })
    }
    await requests
      .askAutomatically(agent, {
        tokens: automaticTokens(row.wanted, agent.monthly),
        reason: `Out of tokens: ${row.wanted / microPerToken} were needed at once`,
        since: row.at,
      })
      .catch((error: unknown) => log.warn('agent_tokens_not_asked', { agentId, error }))
  }

  async function wake(row: SuspensionRecord): Promise<void> {
    const { agentId, accountId } = row
    if (row.state !== 'waking') await store.putSuspension({ ...row, state: 'waking' })
    await agents.wake(agentId, accountId)
    await store.dropSuspension(agentId)
    await requests.tokensCame(agentId)
  }

  async function look(agentId: string): Promise<void> {
    const row = await store.suspension(agentId)
    if (row) await advance(row)
  }

  /** All that are out of tokens: for what happened while no server ran, or on another one. */
  async function mend(): Promise<void> {
    for (let after = ''; !stopped.signal.aborted;) {
      const page = await store.suspensions(after)
      for (const { agentId } of page) inTurn(agentId, () => look(agentId), 'look')
      await turns.settled()
      after = page.at(-1)?.agentId ?? ''
      if (page.length < requestLimits.swept) return
    }
  }

  async function keepUp(): Promise<void> {
    while (!stopped.signal.aborted) {
      await mend().catch((error: unknown) => log.warn('agent_tokens_not_mended', { error }))
      await clock.sleep(requestLimits.mendMs, stopped.signal).catch(() => undefined)
    }
  }

  return {
    /** A hold was refused. */
    low(news: Low): void {
      if (isId('agt', news.purseId)) inTurn(news.purseId, () => ranOut(news), 'low')
    },
    /** It has more to spend than before. */
    filled({ purseId }: { purseId: string }): void {
      if (isId('agt', purseId)) inTurn(purseId, () => look(purseId), 'look')
    },
    mend,
    settled: turns.settled,
    start(): void {
      loop = keepUp()
    },
    async stop(): Promise<void> {
      stopped.abort(new Error('The server is stopping'))
      await loop
      await turns.settled()
    },
  }
}
