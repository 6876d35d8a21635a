import { createHmac } from 'node:crypto'
import { decide, type Principal } from '../../access/callers/door.ts'
import { webhookLimits } from './limits.ts'
import type { WebhookRecord } from './record.ts'

/** Pure decisions about webhooks: who may have them, what is signed how, when is tried again. */

/** People and keys. An agent tells nobody outside what becomes of tasks: what it may send it sends by its channels. */
export function mayUse(principal: Principal, agentId: string | null, verb: 'read' | 'write'): boolean {
  if (principal.kind === 'agent') return false
  const need = { right: `${verb}:tasks`, resource: 'agent', ...(agentId !== null && { id: agentId }) } as const
  const decision = decide(principal, need)
  // A webhook for all agents is nothing for who may know of some.
  return decision.allowed && (agentId !== null || decision.only === undefined)
}

/** Of the agents whose webhooks somebody sees. Undefined: all. Null: none. */
export function sightOf(principal: Principal): readonly string[] | undefined | null {
  if (principal.kind === 'agent') return null
  const seen = decide(principal, { right: 'read:tasks', resource: 'agent' })
  return seen.allowed ? seen.only : null
}

const secretPrefix = 'whsec_'

export function secretText(bytes: Uint8Array): string {
  return secretPrefix + Buffer.from(bytes).toString('base64')
}

/** The headers of one try, as Standard Webhooks has them. */
export function signedHeaders(
  { id, body, secret }: { id: string; body: string; secret: string },
  now: number,
): Record<string, string> {
  const timestamp = String(Math.floor(now / 1_000))
  const key = Buffer.from(secret.slice(secretPrefix.length), 'base64')
  const signature = createHmac('sha256', key).update(`${id}.${timestamp}.${body}`).digest('base64')
  return { 'webhook-id': id, 'webhook-timestamp': timestamp, 'webhook-signature': `v1,${signature}` }
}

/** How long until the next try; undefined where there is none. `chance` lies between 0 and 1. */
export function pauseAfter(
  tries: number,
  { chance, retryAfterMs = 0 }: { chance: number; retryAfterMs?: number | undefined },
): number | undefined {
  const pause = webhookLimits.pausesMs[tries - 1]
  if (pause === undefined) return undefined
  const asked = Math.min(retryAfterMs, webhookLimits.longestPauseMs)
  return Math.max(asked, Math.round(pause * (1 + webhookLimits.jitter * chance)))
}

/** Seconds; dates are nothing that a receiver's clock should decide. */
export function readRetryAfter(header: string | undefined): number | undefined {
  return header !== undefined && /^ *[0-9]{1,6} *$/.test(header) ? Number(header) * 1_000 : undefined
}

export function isFailing(
  { failures, failingSince }: Pick<WebhookRecord, 'failures' | 'failingSince'>,
  now: number,
): boolean {
  const { tries, forMs } = webhookLimits.failing
  return failures >= tries && failingSince !== null && now - failingSince >= forMs
}

/** For who may not change it: what lies behind the host often is a secret. */
export function shownUrl(url: string): string {
  return `${new URL(url).origin}/…`
}
