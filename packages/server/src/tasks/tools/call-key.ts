import { createHash } from 'node:crypto'
import type { ToolContext } from './tool.ts'

/** The key under which this call does something once: providers name calls anew in each conversation, so the task is part of it. */
export function callKey({ taskId, callId }: Pick<ToolContext, 'taskId' | 'callId'>): string {
  return `call ${createHash('sha256').update(`${taskId}\0${callId}`).digest('hex')}`
}
