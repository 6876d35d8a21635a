import { z } from 'zod'
import type { TokenRequests } from '../../agents/requests/service.ts'
import { notItsTokens } from './delegate.ts'
import { done, failed, type Tool } from './tool.ts'

export interface DecideRequestDeps {
  tokenRequests: Pick<TokenRequests, 'get' | 'approve' | 'refuse'>
}

const input = z.strictObject({
  request: z.string().regex(/^trq_[a-z0-9]{1,40}$/, 'an id such as trq_k3v9x0m2qp7a8b1c4d5e'),
  approve: z.boolean(),
  reason: z
    .string()
    .trim()
    .min(1)
    .max(500)
    .regex(/^[^\p{C}\p{Zl}\p{Zp}]*$/u, 'one line, without control characters')
    .optional()
    .describe('Why not, for whoever asked: one line'),
})
type Input = z.output<typeof input>

export function createDecideRequest({ tokenRequests }: DecideRequestDeps): Tool<Input> {
  return {
    name: 'decide_request',
    description:
      'Say yes or no to an agent below you that asks for tokens: a yes gives it yours, up to what you may give alone; beyond that a person is asked.',
    input,
    needs: ['allocate'],
    mode: 'auto',
    isParallel: false,
    changesFiles: false,
    // What is decided stays so: the same again is told as what it is.
    afterCrash: 'again',
    async run({ request: id, approve, reason = 'The main agent said no' }, { caller, begun, hasOwnTokens }) {
      if (approve && hasOwnTokens) return failed(notItsTokens)
      const seen = await tokenRequests.get(id, caller)
      if (begun && seen.state !== 'pending_main') return done(`${id} is ${seen.state}.`)
      const { state, tokens, agentId, failure } = approve
        ? await tokenRequests.approve(id, seen.tokens, caller)
        : await tokenRequests.refuse(id, reason, caller)
      if (state === 'granted') return done(`${agentId} has ${tokens} more tokens, of yours.`)
      if (state === 'pending_user') return done(`Passed on: a person decides on the ${tokens} tokens for ${agentId}.`)
      if (state === 'failed') return failed(`${id} failed: ${failure?.message ?? 'no reason is known'}.`)
      return done(`${id} is ${state}.`)
    },
  }
}
