import type { Right } from '../../access/callers/door.ts'
import type { Asker } from '../../approvals/door.ts'

/** `done`: a schedule for one time that has passed. `disabled`: the server ended it, for its `reason`. */
export const scheduleStates = ['active', 'paused', 'disabled', 'done'] as const
export type ScheduleState = (typeof scheduleStates)[number]

export const disabledReasons = ['asker_gone', 'agent_archived', 'task_unreadable', 'time_unreadable'] as const
export type DisabledReason = (typeof disabledReasons)[number]

/** What becomes of the times at which no server ran. */
export const missedPolicies = ['skip', 'once', 'all'] as const
export type MissedPolicy = (typeof missedPolicies)[number]

/** What becomes of a run whose time comes while the task of one before it goes on. */
export const overlapPolicies = ['skip', 'queue'] as const
export type OverlapPolicy = (typeof overlapPolicies)[number]

/** `waiting`: its row is there, its task not yet. */
export const runStates = ['waiting', 'started', 'skipped', 'failed'] as const
export type RunState = (typeof runStates)[number]

export const skipReasons = ['missed', 'overlap', 'queue_full', 'paused', 'disabled'] as const
export type SkipReason = (typeof skipReasons)[number]

/** When it runs: by `cron` in `timeZone`, or once `at`. Times are unix milliseconds. */
export interface Timing {
  cron: string | null
  timeZone: string
  at: number | null
}

export interface ScheduleRecord extends Timing {
  id: string
  accountId: string
  agentId: string
  /** The beginning of the task's text. */
  title: string
  /** The task as JSON, which may hold what lets into MCP servers. */
  sealedTask: string
  missed: MissedPolicy
  overlap: OverlapPolicy
  state: ScheduleState
  reason: DisabledReason | null
  nextAt: number | null
  /** Whose rights it has: whoever made or changed it last. */
  asker: Asker
  /** At most these, of what its agent has: those of the agent's token that made or changed it last. Null: all of it. */
  rights: readonly Right[] | null
  /** Counts the changes that people make. */
  revision: number
  createdAt: number
  changedAt: number
}

export interface RunRecord {
  id: string
  /** By which its task is made once: `<schedule>:<time>`, the same for every server and at every try. */
  key: string
  scheduleId: string
  dueAt: number
  manual: boolean
  state: RunState
  reason: SkipReason | null
  taskId: string | null
  /** Whether its task may be going on. */
  isOpen: boolean
  failureCode: string | null
  failureText: string | null
  tries: number
  /** Until then it is left alone. */
  retryAt: number
  startedAt: number | null
}
