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
  /** A box was made to be kept ready. */
  'warm.made': { runtime: string; template: string; durationMs: number }
  /** What became of a create in the pool: served, or not because none of a kept kind was ready, or because its kind is not kept. */
  'warm.asked': { outcome: 'hit' | 'empty' | 'not_kept' }
}
