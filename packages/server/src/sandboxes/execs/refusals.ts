import { GuestError } from '../../guest/client.ts'
import { DeltaError } from '../../kernel/errors.ts'

/** What any operation can meet. A code that makes no sense for the operation comes from a guest that is not to be trusted. */
export function commonRefusal(error: GuestError): DeltaError {
  const options = { cause: error.message }
  switch (error.code) {
    case 'connection_lost':
      return new DeltaError('guest_unreachable', 'The connection to the sandbox was lost', { cause: error })
    case 'protocol_error':
      return new DeltaError('guest_protocol_error', 'The sandbox broke the protocol', options)
    case 'limit':
    case 'busy':
      return new DeltaError('guest_limit_reached', 'The sandbox can not take more at the moment', options)
    case 'timed_out':
      return new DeltaError('guest_timed_out', 'The sandbox took too long', options)
    case 'no_space':
      return new DeltaError('disk_full', 'The disk of the sandbox is full', options)
    case 'canceled':
      return new DeltaError('canceled', 'The operation was given up')
    case 'not_supported':
      return new DeltaError('not_supported', 'The sandbox does not support this', options)
    default:
      return new DeltaError(
        'guest_protocol_error',
        `The sandbox answered with ${error.code}, which is out of place`,
        options,
      )
  }
}

/** Why an exec did not start. Errors that are not the guest's pass through. */
export function startRefusal(error: unknown): unknown {
  if (!(error instanceof GuestError)) return error
  const options = { cause: error.message }
  switch (error.code) {
    case 'unknown_user':
      return new DeltaError('user_not_found', 'The sandbox has no such user', options)
    case 'limit':
      return new DeltaError('exec_limit_reached', 'The sandbox can not start another process', options)
    case 'not_found':
    case 'not_a_directory':
    case 'not_a_file':
    case 'is_a_directory':
    case 'permission_denied':
    case 'not_executable':
    case 'too_large':
    case 'name_too_long':
    case 'symlink_loop':
    case 'invalid':
    case 'io':
      return new DeltaError('exec_start_failed', 'The process could not be started', options)
    default:
      return commonRefusal(error)
  }
}

/** Why an operation on a known exec was refused. */
export function execRefusal(error: unknown, execId: string): unknown {
  if (!(error instanceof GuestError)) return error
  switch (error.code) {
    case 'unknown_exec':
      return execNotFound(execId)
    case 'not_found':
    case 'invalid':
      return new DeltaError('exec_not_running', `Exec ${execId} does not run any more`, { cause: error.message })
    default:
      return commonRefusal(error)
  }
}

export function execNotFound(execId: string): DeltaError {
  return new DeltaError('exec_not_found', `There is no exec ${execId.slice(0, 64)} in this sandbox`)
}
