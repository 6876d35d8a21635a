import type { Span, Traces } from '../kernel/traces.ts'
import { DeltaError } from '../kernel/errors.ts'
import type { Known } from '../agents/door.ts'
import type { CallRecord, TaskRecord } from './record.ts'
import type { Run } from './run.ts'

/** From when a server takes a task to when it rests or ends. No word of the task is in it. */
export function traceRun(traces: Traces, task: TaskRecord, { agent }: Known): Span {
  return traces.span(`invoke_agent ${agent.name}`, {
    'gen_ai.operation.name': 'invoke_agent',
    'gen_ai.agent.id': task.agentId,
    'gen_ai.agent.name': agent.name,
    'gen_ai.conversation.id': task.id,
    'gen_ai.request.model': task.spec.model.replace(/^[a-z]+\//, ''),
    'delta.task.parent_id': task.parentTaskId ?? undefined,
  })
}

export function endRun({ span, task }: Pick<Run, 'span' | 'task'>): void {
  const { state, reason, step } = task
  span.end(
    { 'delta.task.state': state, 'delta.task.step': step },
    state === 'failed' ? (reason ?? 'internal') : undefined,
  )
}

/** One go at a call: one that waits is gone at again. */
export async function traceCall<Ran extends { call: CallRecord }>(
  traces: Traces,
  { call, run }: { call: CallRecord; run: Pick<Run, 'span' | 'task'> },
  work: () => Promise<Ran>,
): Promise<Ran> {
  const attributes = {
    'gen_ai.operation.name': 'execute_tool',
    'gen_ai.tool.name': call.tool,
    'gen_ai.tool.call.id': call.callId,
    'gen_ai.tool.type': 'function',
    'gen_ai.conversation.id': run.task.id,
    'gen_ai.agent.id': run.task.agentId,
  }
  const span = traces.span(`execute_tool ${call.tool}`, attributes, { within: run.span })
  try {
    const ran = await work()
    const { state, outcome } = ran.call
    span.end({ 'delta.call.state': state }, outcome?.isError ? 'tool_error' : undefined)
    return ran
  } catch (error) {
    span.end({}, error instanceof DeltaError ? error.code : 'left')
    throw error
  }
}
