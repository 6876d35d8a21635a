import { createHmac, timingSafeEqual } from 'node:crypto'
import type { AccessScope } from './door.ts'
import { accessLimits, isScope } from './schema.ts'

/** What a token says. It is readable by whoever holds it, so nothing in it is a secret. */
export interface Claims {
  sandboxId: string
  accountId: string
  scopes: AccessScope[]
  /** Revoking raises the sandbox's generation; tokens of an earlier one are over. */
  generation: number
  /** Unix milliseconds. */
  expiresAt: number
}

const shape = /^dat_([A-Za-z0-9_-]{1,1984})\.([A-Za-z0-9_-]{43})$/
/** Tells this use of the secret from any other that may come. */
const purpose = 'delta access token 1\n'

export function signToken(claims: Claims, secret: Buffer): string {
  const { sandboxId, accountId, scopes, generation, expiresAt } = claims
  const payload = Buffer.from(JSON.stringify([sandboxId, accountId, scopes, generation, expiresAt])).toString(
    'base64url',
  )
  return `dat_${payload}.${seal(payload, secret)}`
}

/** Undefined for whatever was not signed with this secret. Nothing of the payload is read before that is known. */
export function readToken(token: string, secret: Buffer): Claims | undefined {
  if (token.length > accessLimits.tokenChars) return undefined
  const [, payload, signature] = shape.exec(token) ?? []
  if (payload === undefined || signature === undefined) return undefined
  // As text: of the last letter two bits mean nothing to a decoder, so that four spellings would be one signature.
  if (!timingSafeEqual(Buffer.from(signature), Buffer.from(seal(payload, secret)))) return undefined
  const [sandboxId, accountId, scopes, generation, expiresAt] = JSON.parse(
    Buffer.from(payload, 'base64url').toString(),
  ) as [string, string, string[], number, number]
  return { sandboxId, accountId, scopes: scopes.filter(isScope), generation, expiresAt }
}

export interface AccessWish {
  sandboxId: string
  scope: AccessScope
  /** The sandbox's present generation. */
  generation: number
  now: number
}

export function mayAccess(claims: Claims, { sandboxId, scope, generation, now }: AccessWish): boolean {
  return (
    claims.sandboxId === sandboxId &&
    now < claims.expiresAt &&
    claims.generation >= generation &&
    claims.scopes.some((own) => own === scope || (own === 'port:*' && scope.startsWith('port:')))
  )
}

/**
 * The generation after a revocation. It is a time, so that a row may be forgotten once all tokens of before have expired: what was made since
 * carries a later one.
 */
export function nextGeneration(before: number, now: number): number {
  return Math.max(before + 1, now)
}

function seal(payload: string, secret: Buffer): string {
  return createHmac('sha256', secret).update(purpose).update(payload).digest('base64url')
}
