import { type KeyObject, sign, verify } from 'node:crypto'
import { z } from 'zod'
import type { AgentKind } from '../principal.ts'
import { covers, isRight, narrow, type Right, rightName } from '../rights.ts'
import { agentTokenLimits } from './schema.ts'

const prefix = 'dag_'
/** Tells tokens of agents from all others that the same key signs. */
const audience = 'delta/agents'
const issuer = 'delta'
/** Compared as text: what names another algorithm, another key or anything more is none of ours, and nothing of it is read. */
const header = base64url('{"alg":"EdDSA","typ":"delta-agent+jwt"}')
const shape = /^([A-Za-z0-9_-]{1,100})\.([A-Za-z0-9_-]{1,16000})\.([A-Za-z0-9_-]{86})$/
const second = 1_000
/** Clocks of servers that share a database may differ by this. */
const skewMs = 30_000

const agentIdSchema = z.string().regex(/^agt_[a-z0-9]{1,40}$/)

/** Every claim is required. Times are seconds, as in every JWT. */
const claimsSchema = z.strictObject({
  iss: z.literal(issuer),
  aud: z.literal(audience),
  /** The agent. */
  sub: agentIdSchema,
  jti: z.string().regex(/^tok_[a-z0-9]{1,40}$/),
  iat: z.int(),
  exp: z.int(),
  account: z.string().regex(/^acc_[a-z0-9]{1,40}$/),
  /** From the key or session at the root down to the token it was made with. */
  parents: z.array(z.string().max(100)).min(1).max(agentTokenLimits.depth),
  rights: z.array(z.string().refine(isRight)).max(agentTokenLimits.rights),
  agents: z.array(z.string().max(64)).nullable(),
  sandboxes: z.array(z.string().max(64)).nullable(),
})
export type AgentClaims = z.output<typeof claimsSchema>

export function isAgentToken(text: string): boolean {
  return text.startsWith(prefix)
}

export function signAgentToken(claims: Omit<AgentClaims, 'iss' | 'aud'>, privateKey: KeyObject): string {
  const payload = base64url(JSON.stringify({ iss: issuer, aud: audience, ...claims }))
  const signed = `${header}.${payload}`
  return `${prefix}${signed}.${sign(null, Buffer.from(signed), privateKey).toString('base64url')}`
}

/** Undefined for whatever this installation did not sign as a token for an agent, and for what is over. */
export function readAgentToken(text: string, publicKey: KeyObject, now: number): AgentClaims | undefined {
  const read = readUnchecked(text, now)
  return read && verify(null, Buffer.from(read.signed), publicKey, read.signature) ? read.claims : undefined
}

/** The same of a text whose signature this process has made, or checked before. */
export function readSignedToken(text: string, now: number): AgentClaims | undefined {
  return readUnchecked(text, now)?.claims
}

interface Unchecked {
  claims: AgentClaims
  signed: string
  signature: Buffer
}

/** All but the signature. */
function readUnchecked(text: string, now: number): Unchecked | undefined {
  const [, head, payload, signature] = (isAgentToken(text) && shape.exec(text.slice(prefix.length))) || []
  if (head !== header || payload === undefined || signature === undefined) return undefined
  const bytes = Buffer.from(signature, 'base64url')
  // Of the last letter some bits mean nothing to a decoder: one signature has one spelling.
  if (bytes.toString('base64url') !== signature) return undefined
  const claims = claimsSchema.safeParse(parsed(payload))
  if (!claims.success) return undefined
  const { iat, exp } = claims.data
  const isOurs = iat * second <= now + skewMs && (exp - iat) * second <= agentTokenLimits.ttlMs.max
  if (!isOurs || exp * second <= now) return undefined
  return { claims: claims.data, signed: `${head}.${payload}`, signature: bytes }
}

function parsed(payload: string): unknown {
  try {
    return JSON.parse(Buffer.from(payload, 'base64url').toString())
  } catch {
    return undefined
  }
}

function base64url(text: string): string {
  return Buffer.from(text).toString('base64url')
}

/** A messenger sends, and has neither sandbox nor workspace. */
const kindsRights: Partial<Record<AgentKind, readonly string[]>> = {
  messenger: ['send', 'request', 'read:tasks', 'read:agents'],
}

/** To look and to ask. */
export function atRest(rights: readonly Right[]): Right[] {
  return rights.filter((one) => one.startsWith('read:') || one === 'request')
}

export type Narrowed = { ok: true; rights: Right[] } | { ok: false; right: Right }

/** What is asked for, out of what the parent has. `read:*` and `write:*` become what the parent has of them; all else is there whole or refused. */
export function narrowed(own: readonly Right[], wanted: readonly Right[], kind: AgentKind): Narrowed {
  const rights = new Set<Right>()
  for (const one of wanted) {
    const name = rightName(one)
    const fits = name === undefined || (kindsRights[kind]?.includes(name) ?? true)
    if (name !== undefined && (!fits || !own.some((mine) => covers(mine, one)))) return { ok: false, right: one }
    const parts = name === undefined ? narrow(own, [one]) : [one]
    for (const part of parts) if (kindsRights[kind]?.includes(rightName(part)!) ?? true) rights.add(part)
  }
  return { ok: true, rights: [...rights] }
}
