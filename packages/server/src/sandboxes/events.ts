import type { SandboxState, TransitionReason } from './states.ts'

/** News of this feature for higher ones; sent after the change is on disk. */
export interface SandboxEvents {
  'sandbox.changed': {
    sandboxId: string
    accountId: string
    /** Null for a new one. */
    from: SandboxState | null
    to: SandboxState
    reason: TransitionReason
    at: number
  }
}
