/** News of this feature for higher ones; sent after the change is on disk. */
export interface AgentEvents {
  'agent.created': { accountId: string; agentId: string }
  'agent.halted': { accountId: string; agentId: string; state: 'paused' | 'suspended' }
  'agent.resumed': { accountId: string; agentId: string }
  /** It gets no work any more: what stands on its tokens is to end, so that they can go back. */
  'agent.ending': { accountId: string; agentId: string }
  'agent.archived': { accountId: string; agentId: string }
  /** Tokens were moved to it; whole tokens. */
  'agent.given': { accountId: string; agentId: string; tokens: number }
}
