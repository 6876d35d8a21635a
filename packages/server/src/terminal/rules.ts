import type { DeltaError } from '../kernel/errors.ts'
import { controlSchema, terminalLimits } from './schema.ts'
import type { ConnectQuery, Control } from './schema.ts'

/** How a connection ends. From 4400 on the number is 4000 + the HTTP status that a request would have had. */
export const closeCodes = {
  /** The terminal has ended; an `exit` frame came before. */
  exit: 1000,
  /** The server stops: connect again, from the offset. */
  goingAway: 1001,
  unsupported: 1003,
  invalidText: 1007,
  tooBig: 1009,
  internal: 1011,
  badRequest: 4400,
  /** The credentials have expired or were revoked. */
  unauthorized: 4401,
  notFound: 4404,
  /** The viewer does not take what it is sent. */
  tooSlow: 4408,
} as const

export function closeCodeOf({ code, status }: Pick<DeltaError, 'code' | 'status'>): number {
  if (code === 'shutting_down') return closeCodes.goingAway
  return status >= 400 && status < 500 ? 4000 + status : closeCodes.internal
}

export type Place = { ok: true; from: number } | { ok: false; reason: string }

/** Where a viewer begins: exactly where it says, else with the last of what is kept. */
export function placeOf(
  { from, scrollback = terminalLimits.scrollbackBytes.default }: Pick<ConnectQuery, 'from' | 'scrollback'>,
  kept: { start: number; end: number },
): Place {
  if (from === undefined) return { ok: true, from: Math.max(kept.start, kept.end - scrollback, 0) }
  if (from > kept.end) return { ok: false, reason: `from: at most ${kept.end}, the output so far` }
  return { ok: true, from }
}

/** Of the query's `readOnly`: such a viewer sees and does not type. */
export function isReadOnly(value: string | undefined): boolean {
  return value === '1' || value === 'true'
}

/** A browser tells which page opens a WebSocket; one of another site may not, whoever the browser belongs to. */
export function originAllowed(origin: string | undefined, host: string | undefined): boolean {
  if (origin === undefined) return true
  const page = URL.canParse(origin) ? new URL(origin).host : ''
  return page !== '' && page === host?.toLowerCase()
}

export type Credential = { kind: 'header'; authorization: string } | { kind: 'token'; token: string }

const terminalProtocol = 'delta.terminal.v1'
const bearerProtocol = 'delta.bearer.'

/** The one word of the client's list that may be said back; never the one that holds a secret. */
export function chosenProtocol(offered: Iterable<string>): string | false {
  for (const protocol of offered) if (protocol === terminalProtocol) return protocol
  return false
}

/**
 * A browser can send no header of its own with a WebSocket. So the key, or a token, may also be one of the protocols it offers; a token, which
 * is good for little and not for long, may be in the query too.
 */
export function credentialOf(shown: {
  authorization: string | undefined
  protocols: string | undefined
  token: string | null
}): Credential | undefined {
  if (shown.authorization !== undefined) {
    const token = /^Bearer +(dat_\S+)$/i.exec(shown.authorization)?.[1]
    return token === undefined ? { kind: 'header', authorization: shown.authorization } : { kind: 'token', token }
  }
  for (const protocol of shown.protocols?.split(',') ?? []) {
    const word = protocol.trim()
    if (!word.startsWith(bearerProtocol)) continue
    const secret = Buffer.from(word.slice(bearerProtocol.length), 'base64url').toString('latin1')
    return isToken(secret) ? { kind: 'token', token: secret } : { kind: 'header', authorization: `Bearer ${secret}` }
  }
  return shown.token === null ? undefined : { kind: 'token', token: shown.token }
}

const isToken = (secret: string): boolean => secret.startsWith('dat_')

export type ReadControl = { ok: true; control: Control } | { ok: false; fatal: boolean; reason: string }

const decoder = new TextDecoder('utf-8', { fatal: true })

/** What a text frame says. Only what is no message at all ends the connection: a size out of bounds does not. */
export function readControl(data: Buffer): ReadControl {
  if (data.length > terminalLimits.controlFrameBytes) {
    return { ok: false, fatal: true, reason: `a text frame has at most ${terminalLimits.controlFrameBytes} bytes` }
  }
  let value: unknown
  try {
    value = JSON.parse(decoder.decode(data))
  } catch {
    return { ok: false, fatal: true, reason: 'a text frame is UTF-8 and holds JSON; input goes in binary frames' }
  }
  const result = controlSchema.safeParse(value)
  if (result.success) return { ok: true, control: result.data }
  const [issue] = result.error.issues
  const field = issue === undefined || issue.path.length === 0 ? 'frame' : issue.path.join('.')
  return { ok: false, fatal: false, reason: `${field}: ${issue?.message ?? 'is not valid'}`.slice(0, 300) }
}
