import type { TaskState, TaskWaitsFor } from './schema.ts'

/** From each state to which. What has no successor has ended, once and for all. */
export const successors: Record<TaskState, readonly TaskState[]> = {
  // By a server that takes it; a person may pause or cancel it before.
  queued: ['working', 'paused', 'canceled', 'failed'],
  // `queued`: its server stops or has died, and another one goes on.
  working: ['queued', 'waiting', 'suspended', 'paused', 'finished', 'failed', 'canceled'],
  waiting: ['queued', 'paused', 'canceled', 'failed'],
  // `waiting`: for a message, after an undo.
  suspended: ['queued', 'waiting', 'paused', 'canceled', 'failed'],
  // `waiting`: it stood still before it was paused, and what it waited for has not come.
  paused: ['queued', 'waiting', 'canceled', 'failed'],
  finished: [],
  failed: [],
  canceled: [],
}

export function isOpen(state: TaskState): boolean {
  return successors[state].length > 0
}

export function mayBecome(from: TaskState, to: TaskState): boolean {
  return successors[from].includes(to)
}

/** It stands still until somebody has decided on something. */
export function needsDecision(state: TaskState, waitsFor: readonly TaskWaitsFor[]): boolean {
  if (state === 'suspended') return true
  return (
    state === 'waiting' && waitsFor.some(({ kind }) => kind === 'approval' || kind === 'answer' || kind === 'tokens')
  )
}
