import type { Feature } from '../../kernel/http/api.ts'
import type { Ledger } from '../../ledger/service.ts'
import type { Approvals } from '../../approvals/service.ts'
import type { Agents } from '../service.ts'
import type { AgentStore } from '../store.ts'
import { tokenRequestsFeature } from './routes.ts'
import { createTokenRequests, type TokenRequests, type TokenRequestsDeps } from './service.ts'
import { createSuspension } from './suspension.ts'

export interface OpenTokenRequestsDeps extends Pick<
  TokenRequestsDeps,
  'database' | 'record' | 'hashBody' | 'clock' | 'log'
> {
  agents: Pick<Agents, 'suspend' | 'wake' | 'events'>
  agentStore: AgentStore
  approvals: Approvals
  ledger: Pick<Ledger, 'transfer' | 'balanceOf' | 'reserveOf' | 'events'>
}

/** Requests and standstill, with the news that each waits for. */
export function openTokenRequests(deps: OpenTokenRequestsDeps): {
  tokenRequests: TokenRequests
  feature: Feature
  start(): void
} {
  const { agents, agentStore, approvals, ledger, log, ...shared } = deps
  const tokenRequests = createTokenRequests({ ...shared, log, agents: agentStore, approvals, ledger })
  const suspension = createSuspension({ ...shared, log, agents, agentStore, ledger, requests: tokenRequests })
  const inBackground = (work: Promise<void>, what: string) =>
    void work.catch((error: unknown) => log.warn('token_requests_late', { what, error }))
  approvals.events.on('approval.changed', ({ approvalId }) => {
    inBackground(tokenRequests.approvalChanged(approvalId), approvalId)
  })
  agents.events.on('agent.halted', ({ agentId }) => inBackground(tokenRequests.mainHalted(agentId), agentId))
  agents.events.on('agent.archived', ({ agentId }) => inBackground(tokenRequests.agentEnded(agentId), agentId))
  ledger.events.on('purse.low', suspension.low)
  ledger.events.on('purse.filled', suspension.filled)
  return {
    tokenRequests,
    feature: tokenRequestsFeature({ tokenRequests, suspension }),
    start() {
      tokenRequests.start()
      suspension.start()
    },
  }
}
