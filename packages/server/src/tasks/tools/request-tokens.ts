import { z } from 'zod'
import { requestTokensSchema, type TokenRequestView } from '../../agents/requests/schema.ts'
import type { TokenRequests } from '../../agents/requests/service.ts'
import { DeltaError } from '../../kernel/errors.ts'
import { callKey } from './call-key.ts'
import { done, failed, type Tool, type ToolOutcome } from './tool.ts'

export interface RequestTokensDeps {
  tokenRequests: Pick<TokenRequests, 'ask' | 'get'>
}

export const reasonSchema = z
  .string()
  .trim()
  .min(1)
  .max(500)
  .regex(/^[^\p{C}\p{Zl}\p{Zp}]*$/u, 'one line, without control characters')
  .describe('Why, for the person who decides: one line')

const input = z.strictObject({
  tokens: z.int().min(1).max(1_000_000_000).describe('Whole tokens, beyond those you have'),
  reason: reasonSchema,
})
type Input = z.output<typeof input>

export function createRequestTokens({ tokenRequests }: RequestTokensDeps): Tool<Input> {
  return {
    name: 'request_tokens',
    description:
      'Ask for more tokens when those you have will not do for the task, and wait for the decision of your main agent or a person.',
    input,
    needs: ['request'],
    mode: 'auto',
    isParallel: false,
    changesFiles: false,
    // By its key it is asked for once, and found again with what became of it.
    afterCrash: 'again',
    async run({ tokens, reason }, context) {
      const { agentId, caller } = context
      const wish = requestTokensSchema.parse({ tokens, reason })
      try {
        const { request } = await tokenRequests.ask(agentId, wish, caller, { idempotencyKey: callKey(context) })
        return outcomeOf(request)
      } catch (error) {
        const open = openRequest(error)
        if (open === undefined) throw error
        // It waits for another one already, which does as well.
        return outcomeOf(await tokenRequests.get(open, caller))
      }
    },
  }
}

function openRequest(error: unknown): string | undefined {
  const isOther = error instanceof DeltaError && error.code === 'token_request_pending'
  return isOther ? String(error.context?.['requestId']) : undefined
}

function outcomeOf({ id, state, tokens, refusal, failure }: TokenRequestView): ToolOutcome {
  switch (state) {
    case 'pending_main':
    case 'pending_user':
    case 'granting':
      return { kind: 'waits', for: { kind: 'tokens', requestId: id } }
    case 'granted':
      return done(`Granted: ${tokens} more tokens.`)
    case 'unneeded':
      return done('Not needed any more: there are tokens again.')
    case 'refused':
      return failed(`Refused: ${refusal ?? 'no reason was given'}. Finish with the tokens you have.`)
    case 'failed':
      return failed(`Approved, and it could not be done: ${failure?.message ?? 'no reason is known'}.`)
    default:
      return failed(`Not granted: the request is ${state}. Finish with the tokens you have.`)
  }
}
