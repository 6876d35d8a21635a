import type { SnapshotReason } from './schema.ts'

/** News of this feature for higher ones; sent after the change is on disk. */
export interface WorkspaceEvents {
  'workspace.snapshotted': {
    workspaceId: string
    snapshotId: string
    reason: SnapshotReason
    frozenMicros: number
    flushMicros: number
    durationMs: number
  }
  'snapshot.saved': { snapshotId: string; storedBytes: number; durationMs: number }
  'snapshot.save_failed': { snapshotId: string; error: string }
}
