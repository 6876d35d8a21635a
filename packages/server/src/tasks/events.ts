import type { EndReason, TaskState } from './schema.ts'

/** News of tasks for higher features; sent after the change is on disk. */
export interface TaskEvents {
  'task.changed': { accountId: string; agentId: string; taskId: string; state: TaskState; reason: EndReason | null }
  /** It stands still until a person, or another agent, has decided on something. */
  'task.needs_decision': { accountId: string; agentId: string; taskId: string }
}
