import { z } from 'zod'
import type { KnownCaller } from '../../access/callers/door.ts'
import type { ApprovalView } from '../../approvals/schema.ts'
import type { Approvals } from '../../approvals/service.ts'
import { DeltaError } from '../../kernel/errors.ts'
import { type RequestEgress, requestEgressSchema } from '../../sandboxes/egress/schema.ts'
import { computerFor } from './guard.ts'
import { reasonSchema } from './request-tokens.ts'
import { done, failed, type Tool, type ToolOutcome } from './tool.ts'

export interface RequestEgressDeps {
  /** As `sandboxes/egress` has it: who asks for the same while nobody has decided gets what waits. */
  askForHost(sandboxId: string, wish: RequestEgress, caller: KnownCaller): Promise<{ approval: ApprovalView }>
  approvals: Pick<Approvals, 'get'>
}

const input = z.strictObject({
  host: z.string().min(1).max(253).describe('One host, such as fonts.example.com, without scheme, port and *'),
  port: z.int().min(1).max(65_535).optional().describe('Without it: 80 and 443'),
  reason: reasonSchema,
})
type Input = z.output<typeof input>

export function createRequestEgress({ askForHost, approvals }: RequestEgressDeps): Tool<Input> {
  return {
    name: 'request_egress',
    description:
      'Ask a person to let your computer reach a host that it may not reach, and wait for the decision. Use it after a refusal that names the policy of the sandbox.',
    input,
    needs: ['request'],
    mode: 'auto',
    isParallel: false,
    changesFiles: false,
    afterCrash: 'again',
    async run({ host, port, reason }, context) {
      const { waited, caller } = context
      if (waited?.kind === 'approval') return outcomeOf(await approvals.get(waited.approvalId, caller), host)
      const wish = requestEgressSchema.safeParse({ host, reason, ...(port !== undefined && { port }) })
      if (!wish.success) return failed(`Not asked: ${wish.error.issues.map(({ message }) => message).join('; ')}.`)
      const sandboxId = await computerFor(context, 'request')
      try {
        const { approval } = await askForHost(sandboxId, wish.data, caller)
        return outcomeOf(approval, host)
      } catch (error) {
        if (!(error instanceof DeltaError) || error.code !== 'egress_allowed_already') throw error
        return done(`Your computer may reach ${host} already.`)
      }
    },
  }
}

function outcomeOf({ id, state, refusal, failure }: ApprovalView, host: string): ToolOutcome {
  switch (state) {
    case 'pending':
    case 'approved':
      return { kind: 'waits', for: { kind: 'approval', approvalId: id } }
    case 'executed':
      return done(`Approved: your computer may reach ${host} now.`)
    case 'refused':
      return failed(`Refused: ${refusal ?? 'no reason was given'}. Do without ${host}.`)
    case 'failed':
      return failed(`Approved, and it could not be done: ${failure?.message ?? 'no reason is known'}.`)
    default:
      return failed(`Not approved: the request is ${state}. Do without ${host}.`)
  }
}
