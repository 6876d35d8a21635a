import { GuestError } from '../../guest/client.ts'
import type { GuestErrorCode } from '../../guest/client.ts'
import { DeltaError } from '../../kernel/errors.ts'
import type { ErrorCode } from '../../kernel/errors.ts'
import type { RoomState } from '../../drivers/driver.ts'
import { commonRefusal } from '../execs/refusals.ts'

const refusals: Partial<Record<GuestErrorCode, { code: ErrorCode; message: string }>> = {
  not_found: { code: 'file_not_found', message: 'There is nothing at this path' },
  exists: { code: 'file_exists', message: 'There is something at this path already' },
  not_a_directory: { code: 'not_a_directory', message: 'The path, or a part of it, is not a directory' },
  is_a_directory: { code: 'is_a_directory', message: 'The path is a directory' },
  not_empty: { code: 'directory_not_empty', message: 'The directory is not empty' },
  permission_denied: { code: 'permission_denied', message: 'The sandbox does not permit this' },
  too_large: { code: 'file_too_large', message: 'This is more than the file system takes' },
  name_too_long: { code: 'name_too_long', message: 'The path or a name in it is too long' },
  symlink_loop: { code: 'symlink_loop', message: 'The path leads through too many symbolic links' },
  invalid: { code: 'path_invalid', message: 'The sandbox does not accept this path' },
  io: { code: 'file_io_failed', message: 'The file system of the sandbox failed' },
  busy: { code: 'file_busy', message: 'The file or directory is in use' },
  unknown_user: { code: 'user_not_found', message: 'The sandbox has no such user' },
  precondition_failed: { code: 'precondition_failed', message: 'The file is not the one named by If-Match' },
  not_a_file: { code: 'not_a_file', message: 'The path is not a regular file' },
}

/** Why the server's own disk does not allow a change; the sandbox itself could only say that it may not write. */
export function roomRefusal(room: RoomState, { grows }: { grows: boolean }): DeltaError | undefined {
  if (room === 'read_only') return new DeltaError('pool_read_only', 'The storage pool has turned read-only')
  if (room === 'fine' || !grows) return undefined
  return new DeltaError('disk_full', 'The disk of the server is nearly full: no sandbox may store more', {
    cause: 'less is free than the reserve; reading and removing go on',
    context: { scope: 'server' },
  })
}

/** Why an operation on a path was refused. Errors that are not the guest's pass through. */
export function fileRefusal(error: unknown, path?: string): unknown {
  if (!(error instanceof GuestError)) return error
  // A body that ended for a reason of its own is told by that reason.
  if (error.cause instanceof DeltaError) return error.cause
  const refusal = refusals[error.code]
  if (refusal === undefined) return commonRefusal(error)
  const context = path === undefined ? {} : { context: { path } }
  return new DeltaError(refusal.code, refusal.message, { cause: error.message, ...context })
}
