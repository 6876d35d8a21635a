import { DeltaError, type ErrorCode } from '../kernel/errors.ts'
import type { WorkspaceRecord } from './records.ts'

export function noWorkspace(idOrName: string): DeltaError {
  return new DeltaError('workspace_not_found', `There is no workspace ${idOrName.slice(0, 64)}`)
}

export function noSnapshot(snapshotId: string): DeltaError {
  return new DeltaError('snapshot_not_found', `There is no snapshot ${snapshotId.slice(0, 64)}`)
}

export function inUse({ id, holder }: WorkspaceRecord): DeltaError {
  return new DeltaError('workspace_in_use', `Workspace ${id} is in use by sandbox ${holder}`, {
    context: { workspaceId: id, sandboxId: holder },
  })
}

export function changedMeanwhile({ id }: WorkspaceRecord): DeltaError {
  return new DeltaError('workspace_conflict', `Workspace ${id} was changed by something else`, {
    context: { workspaceId: id },
  })
}

/** What operations here may be refused with, for the API's description; each takes in the one before. */
export const database: readonly ErrorCode[] = ['database_busy', 'database_unavailable', 'database_failed']
export const driver: readonly ErrorCode[] = ['driver_failed', 'driver_timed_out', 'driver_unavailable']
export const storage: readonly ErrorCode[] = [
  'storage_unavailable',
  'storage_refused',
  'storage_key_wrong',
  'storage_failed',
]
export const ofWorkspace: readonly ErrorCode[] = [...database, 'workspace_not_found']
export const ofSnapshot: readonly ErrorCode[] = [...database, 'snapshot_not_found']
export const ofFetch: readonly ErrorCode[] = [
  ...driver,
  'disk_full',
  'disk_not_found',
  'disk_exists',
  'pool_read_only',
  'template_not_found',
  'template_not_ready',
  'snapshot_lost',
  'blob_missing',
  'blob_damaged',
  ...storage,
  'layer_invalid',
  'layer_too_large',
]
