import { z } from '@hono/zod-openapi'
import type { ApprovalKind, Approved } from '../../approvals/service.ts'
import { isId } from '../../kernel/ids.ts'

/** Rows are read with it too: what is done is what stands there, or nothing. */
const actionSchema = z.strictObject({
  kind: z.literal('tokens'),
  agentId: z.string(),
  fromPurse: z.string(),
  tokens: z.int().min(1),
  requestId: z.string(),
})
export type TokensAction = z.output<typeof actionSchema>

/** Gives an agent the tokens it asked for: what a person decides on. */
export function tokensApproval(grant: (action: TokensAction, approved: Approved) => Promise<void>): ApprovalKind {
  return {
    kind: 'tokens',
    describe(action) {
      const { agentId, fromPurse, tokens } = actionSchema.parse(action)
      const amount = tokens === 1 ? 'a token' : `${tokens} tokens`
      const whose = isId('agt', fromPurse) ? `of the agent ${fromPurse}` : 'of the account’s reserve'
      return `The agent ${agentId} gets ${amount} ${whose}, to spend as it does its own.`
    },
    execute: (action, approved) => grant(actionSchema.parse(action), approved),
    // The ledger moves tokens once for each approval.
    afterDeath: 'again',
  }
}
