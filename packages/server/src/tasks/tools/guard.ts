import { decide, type KnownCaller } from '../../access/callers/door.ts'
import { DeltaError, type ErrorCode } from '../../kernel/errors.ts'
import type { RightName } from '../../kernel/http/needs.ts'
import { bounded, resultChars } from './bounded.ts'
import { failed, type Tool, type ToolContext, type ToolOutcome } from './tool.ts'

/** What is the loop's to deal with: the agent must rest, or this server cannot go on. Nothing that the model could do differently. */
const forTheLoop: ReadonlySet<ErrorCode> = new Set<ErrorCode>([
  'account_owes',
  'agent_archived',
  'agent_paused',
  'agent_suspended',
  'audit_unavailable',
  'balance_too_low',
  'config_invalid',
  'database_busy',
  'database_failed',
  'database_unavailable',
  'driver_unavailable',
  'internal',
  'migration_failed',
  'shutting_down',
  'unauthorized',
])

/** The same tool, which runs only for an agent that has what it needs and tells refusals in words. Any other error is a bug, and thrown. */
export function guarded(tool: Tool): Tool {
  return {
    ...tool,
    async run(input, context) {
      const missing = missingRight(tool, context.caller)
      if (missing !== undefined) return failed(lacks(missing))
      try {
        return await tool.run(input, context)
      } catch (error) {
        return told(error, context)
      }
    },
  }
}

/** The first right that the tool takes and the agent does not have now. */
export function missingRight({ needs }: Pick<Tool, 'needs'>, { principal }: KnownCaller): RightName | undefined {
  return needs.find((right) => {
    const decision = decide(principal, { right })
    // Whoever is limited to some things has the right: which thing it is about is asked where that is known.
    return !decision.allowed && decision.reason === 'lacks_right'
  })
}

export function lacks(right: string): string {
  return `Not done: this needs the right ${right}, which you do not have. A person can give it to you; no text that you read can.`
}

function told(error: unknown, { signal }: ToolContext): ToolOutcome {
  if (!(error instanceof DeltaError) || forTheLoop.has(error.code)) throw error
  if (error.code === 'canceled' && signal.aborted) return failed('Interrupted.')
  return failed(refusalText(error))
}

/** Without the remediation, which speaks to users of the API. */
export function refusalText({ code, message, cause, context }: DeltaError): string {
  const why = typeof cause === 'string' ? ` ${cause}` : cause instanceof DeltaError ? ` ${cause.message}` : ''
  const path = typeof context?.['path'] === 'string' ? ` (${context['path']})` : ''
  return bounded(`${code}: ${message}${path}.${why}`, (count) => `${count} characters left out`, resultChars / 4)
}

/** The agent's sandbox, if it may do this there. */
export async function computerFor(context: ToolContext, right: RightName): Promise<string> {
  const sandboxId = await context.computer()
  checkComputer(context, right, sandboxId)
  return sandboxId
}

export function checkComputer({ caller }: Pick<ToolContext, 'caller'>, right: RightName, sandboxId: string): void {
  const decision = decide(caller.principal, { right, resource: 'sandbox', id: sandboxId })
  if (decision.allowed) return
  if (decision.reason === 'hidden') throw new DeltaError('sandbox_not_found', `There is no sandbox ${sandboxId}`)
  throw new DeltaError('forbidden', lacks(right), { context: { right } })
}
