import { createHash } from 'node:crypto'
import { z } from 'zod'
import type { ApprovalKind } from '../approvals/service.ts'
import type { CallRecord, TaskRecord } from './record.ts'
import { shown } from './rules.ts'

/** Rows are read with it too: what is done is what stands there, or nothing. */
const actionSchema = z.strictObject({
  kind: z.literal('tool_call'),
  taskId: z.string(),
  agentId: z.string(),
  callId: z.string(),
  tool: z.string(),
  input: z.string(),
  /** Of all of it: what is longer is shown in part. */
  inputSha256: z.string(),
})
export type ToolCallAction = z.output<typeof actionSchema>

const shownChars = 20_000

export function actionOf(
  { id: taskId, agentId }: Pick<TaskRecord, 'id' | 'agentId'>,
  call: CallRecord,
): ToolCallAction {
  const { id: callId, tool, input } = call
  const inputSha256 = createHash('sha256').update(input).digest('hex')
  return { kind: 'tool_call', taskId, agentId, callId, tool, input: shown(input, shownChars), inputSha256 }
}

/** One call of a tool that the task says a person confirms. The task itself goes on with it: it looks at what was decided. */
export function toolCallApproval(): ApprovalKind {
  return {
    kind: 'tool_call',
    describe(action) {
      const { agentId, taskId, tool, input } = actionSchema.parse(action)
      return `The agent ${agentId} uses ${tool} once, in its task ${taskId}, with: ${shown(input, 1_000)}`
    },
    async execute(action) {
      actionSchema.parse(action)
    },
    afterDeath: 'again',
  }
}
