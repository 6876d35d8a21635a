/** The protocol's error table: the name at index n has the number n + 1. */
export const guestErrorNames = [
  'not_found',
  'exists',
  'not_a_directory',
  'is_a_directory',
  'not_empty',
  'permission_denied',
  'no_space',
  'too_large',
  'name_too_long',
  'symlink_loop',
  'invalid',
  'io',
  'busy',
  'limit',
  'unknown_exec',
  'unknown_user',
  'precondition_failed',
  'canceled',
  'not_supported',
  'connection_refused',
  'timed_out',
  'not_executable',
  'not_a_file',
] as const

export type GuestErrorName = (typeof guestErrorNames)[number]
/** `protocol_error`: the guest broke the protocol and the connection was closed. `connection_lost`: it ended before the answer came. */
export type GuestErrorCode = GuestErrorName | 'protocol_error' | 'connection_lost'

export class GuestError extends Error {
  readonly code: GuestErrorCode
  constructor(code: GuestErrorCode, message: string, options?: { cause?: unknown }) {
    super(message, options)
    this.name = 'GuestError'
    this.code = code
  }
}

/** A guest's message goes into logs and answers, so it gets no more room than a sentence needs. */
const maxMessageChars = 1_000

/** A number from a newer guest is an `io` error with its message; it is no violation. */
export function guestErrorFrom(code: number, message: string): GuestError {
  const name = guestErrorNames[code - 1] ?? 'io'
  return new GuestError(name, message.slice(0, maxMessageChars) || name)
}

export function guestErrorNumber(name: GuestErrorName): number {
  return guestErrorNames.indexOf(name) + 1
}
