import { GuestError } from '../../guest/client.ts'
import type { GuestErrorCode } from '../../guest/client.ts'
import { DeltaError } from '../../kernel/errors.ts'
import { AnswerFault } from './answer-parser.ts'
import { portLimits } from './schema.ts'

/** Why a request to a port came to nothing, for whoever asked. */
export function portFault(error: unknown, port: number): DeltaError {
  if (error instanceof DeltaError) return error
  if (error instanceof AnswerFault) {
    const message = `What listens on port ${port} inside the sandbox gave no valid HTTP answer`
    return new DeltaError('port_bad_answer', message, { cause: error.message })
  }
  if (!(error instanceof GuestError)) return new DeltaError('internal', 'The request failed', { cause: error })
  const options = { cause: error.message, context: { port } }
  const code: GuestErrorCode = error.code
  switch (code) {
    case 'connection_refused':
      return new DeltaError('port_not_listening', `Nothing listens on port ${port} inside the sandbox`, {
        context: { port },
      })
    case 'timed_out':
      return new DeltaError('port_timed_out', `Port ${port} inside the sandbox did not take the connection`, options)
    case 'connection_lost':
      return new DeltaError('guest_unreachable', 'The connection to the sandbox was lost')
    case 'limit':
    case 'busy':
      return new DeltaError('guest_limit_reached', 'The sandbox can not take more at the moment', options)
    case 'protocol_error':
      return new DeltaError('guest_protocol_error', 'The sandbox broke the protocol', options)
    default:
      return new DeltaError('port_bad_answer', `Port ${port} inside the sandbox broke the connection off`, options)
  }
}

export function noAnswer(port: number): DeltaError {
  const seconds = portLimits.answerMs / 1_000
  return new DeltaError('port_timed_out', `Port ${port} inside the sandbox did not answer within ${seconds} seconds`, {
    context: { port },
  })
}

/** The same for a port that is not to be had, a sandbox of somebody else and one that never was. */
export function forbidden(): DeltaError {
  return new DeltaError('port_forbidden', 'This needs a valid access token for this port')
}

export function notHttp(): DeltaError {
  return new DeltaError('invalid_request', 'The request is not plain HTTP', {
    cause: 'request: its path begins with / and neither it nor a header has control characters',
  })
}
