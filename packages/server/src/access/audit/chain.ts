import { createPublicKey, hash, type KeyObject, sign } from 'node:crypto'
import { withoutSecrets } from '../../kernel/secret-texts.ts'
import { privateKeyOf } from '../secrets.ts'
import { type AuditDetails, type AuditEntry, auditLimits, type AuditOutcome } from './entry.ts'

// docs/audit.md states this form; `audit-vectors.json` beside it holds what every reader of it must find.

/** An entry in its place of an account's chain. */
export interface Link {
  /** From 1, without a gap. */
  seq: number
  /** Unix milliseconds. */
  at: number
  actor: string
  action: string
  target: string | null
  outcome: AuditOutcome
  reason: string | null
  details: AuditDetails | null
  requestId: string | null
  address: string | null
  /** Of this entry and of the one before it, as hexadecimal digits. */
  hash: string
}

/** Where a chain ends, or ended once. */
export interface ChainHead {
  /** 0 before the first entry. */
  seq: number
  /** Empty before the first entry. */
  hash: string
}

export interface SignedHead extends ChainHead {
  accountId: string
  at: number
  /** Ed25519, in base64url. */
  signature: string
}

/**
 * That a backup was restored: from then on the chain goes on behind `seq`, and what was signed before vouches only where it agrees. Whoever has not
 * the key can not say so.
 */
export interface RestoreMark extends SignedHead {
  /** The last entry that had been signed, of those that were given up; `seq` or less where there is none. */
  givenUpSeq: number
}

export const noHead: ChainHead = { seq: 0, hash: '' }

export function linkOf(entry: AuditEntry, { seq, hash: previous }: ChainHead, at: number): Link {
  const link = {
    seq: seq + 1,
    at,
    actor: cut(entry.actorId),
    action: cut(entry.action),
    target: orNull(entry.target),
    outcome: entry.outcome,
    reason: orNull(entry.reason),
    details: entry.details ? tidy(entry.details) : null,
    requestId: orNull(entry.requestId),
    address: orNull(entry.address),
  }
  return { ...link, hash: hashOf(entry.accountId, link, previous) }
}

/** SHA-256 over one JSON array, in which no two different entries read alike. */
export function hashOf(accountId: string, link: Omit<Link, 'hash'>, previous: string): string {
  const { seq, at, actor, action, target, outcome, reason, details, requestId, address } = link
  const pairs = details && Object.entries(details).toSorted(([a], [b]) => (a < b ? -1 : 1))
  return hash(
    'sha256',
    JSON.stringify([
      'delta audit 1',
      accountId,
      seq,
      at,
      actor,
      action,
      target,
      outcome,
      reason,
      pairs,
      requestId,
      address,
      previous,
    ]),
  )
}

/** The key pair of a seed of 32 bytes; the public one in base64url. */
export function headKeys(seed: Buffer): { privateKey: KeyObject; publicKey: string } {
  const privateKey = privateKeyOf(seed)
  const { x } = createPublicKey(privateKey).export({ format: 'jwk' })
  return { privateKey, publicKey: x ?? '' }
}

export function signHead(accountId: string, { seq, hash: last }: ChainHead, at: number, key: KeyObject): SignedHead {
  const signature = sign(null, signedText({ accountId, seq, hash: last, at }), key).toString('base64url')
  return { accountId, seq, hash: last, at, signature }
}

export function signRestore(mark: Omit<RestoreMark, 'signature'>, key: KeyObject): RestoreMark {
  const { accountId, seq, hash: last, at, givenUpSeq } = mark
  const text = JSON.stringify(['delta audit restored 1', accountId, seq, last, at, givenUpSeq])
  return { ...mark, signature: sign(null, Buffer.from(text), key).toString('base64url') }
}

export function signedText({ accountId, seq, hash: last, at }: Omit<SignedHead, 'signature'>): Buffer {
  return Buffer.from(JSON.stringify(['delta audit head 1', accountId, seq, last, at]))
}

function tidy(details: AuditDetails): AuditDetails {
  const entries = Object.entries(details).slice(0, auditLimits.details)
  return Object.fromEntries(
    entries.map(([name, value]) => [cut(name), typeof value === 'string' ? cut(value) : value] as const),
  )
}

function orNull(text: string | undefined): string | null {
  return text === undefined ? null : cut(text)
}

/** A key may stand where an id belongs. Neither database takes a NUL, and half a pair of surrogates would come back as something else. */
function cut(text: string): string {
  return withoutSecrets(text).slice(0, auditLimits.textChars).toWellFormed().replaceAll('\0', '\uFFFD')
}
