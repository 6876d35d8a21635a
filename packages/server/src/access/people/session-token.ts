import { sign, verify } from 'node:crypto'
import type { KeyObject } from 'node:crypto'

/** What a session token says (RFC 7519, signed by Ed25519). Readable by its holder. */
export interface SessionClaims {
  userId: string
  sessionId: string
  accountId: string
  /** A second factor was shown in this session. */
  secondFactor: boolean
  /** Of this token. */
  id: string
  /** Unix milliseconds. */
  issuedAt: number
  expiresAt: number
}

/** Tells session tokens from any other that is signed with the same key. */
export const sessionAudience = 'delta:session'
const issuer = 'delta'
const header = encode({ alg: 'EdDSA', typ: 'JWT' })
/** A token with everything it must say stays far below this; more is not looked at. */
const tokenChars = 1_024
const longestMs = 15 * 60_000
/** Clocks of two servers may be so far apart. */
const skewMs = 5_000

export function signSession(claims: SessionClaims, privateKey: KeyObject): string {
  const payload = encode({
    iss: issuer,
    aud: sessionAudience,
    sub: claims.userId,
    sid: claims.sessionId,
    acc: claims.accountId,
    mfa: claims.secondFactor,
    jti: claims.id,
    iat: Math.floor(claims.issuedAt / 1000),
    exp: Math.floor(claims.expiresAt / 1000),
  })
  const signed = `${header}.${payload}`
  return `${signed}.${sign(null, Buffer.from(signed), privateKey).toString('base64url')}`
}

const shape = /^([\w-]{1,200})\.([\w-]{1,800})\.([\w-]{86})$/

/** Undefined for whatever was not signed with this key, is not for this use, is over, or lacks anything it must say. */
export function readSession(token: string, publicKey: KeyObject, now: number): SessionClaims | undefined {
  if (token.length > tokenChars) return undefined
  const [, head, payload, signature] = shape.exec(token) ?? []
  // The one header that is written here: an algorithm is never taken from the token.
  if (head !== header || payload === undefined || signature === undefined) return undefined
  const bytes = Buffer.from(signature, 'base64url')
  // Of the last letter four bits mean nothing to a decoder, so that sixteen spellings would be one signature.
  if (bytes.toString('base64url') !== signature) return undefined
  if (!verify(null, Buffer.from(`${head}.${payload}`), publicKey, bytes)) return undefined
  return claimsOf(decode(payload), now)
}

function claimsOf(said: Record<string, unknown>, now: number): SessionClaims | undefined {
  const { iss, aud, sub, sid, acc, mfa, jti, iat, exp } = said
  if (iss !== issuer || aud !== sessionAudience || typeof mfa !== 'boolean') return undefined
  if (!isText(sub) || !isText(sid) || !isText(acc) || !isText(jti) || !isTime(iat) || !isTime(exp)) return undefined
  const [issuedAt, expiresAt] = [iat * 1000, exp * 1000]
  if (expiresAt <= now || issuedAt > now + skewMs || expiresAt - issuedAt > longestMs) return undefined
  return { userId: sub, sessionId: sid, accountId: acc, secondFactor: mfa, id: jti, issuedAt, expiresAt }
}

const isText = (value: unknown): value is string => typeof value === 'string' && value !== ''
const isTime = (value: unknown): value is number => Number.isSafeInteger(value)

function encode(value: object): string {
  return Buffer.from(JSON.stringify(value)).toString('base64url')
}

/** Only of what was signed here. */
function decode(payload: string): Record<string, unknown> {
  const value: unknown = JSON.parse(Buffer.from(payload, 'base64url').toString('utf8'))
  return typeof value === 'object' && value !== null ? (value as Record<string, unknown>) : {}
}
