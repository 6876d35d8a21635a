import { DeltaConfigError, DeltaError } from './errors.ts'
import { bytesOfBase64 } from './output.ts'
import type { TaskInfo, WebhookEvent } from './types.ts'

export interface VerifyWebhookOptions {
  /** Of the request, however their names are written. */
  headers: Headers | Record<string, string | string[] | undefined>
  /** As it came, before it was parsed: parsed and written anew it is another text. */
  body: string | Uint8Array
  /** `whsec_…`, of the answer that made the webhook. */
  secret: string
  /** How far the time of sending may be from this clock; a longer one lets through what somebody recorded. @default 300,000 */
  toleranceMs?: number
}

interface Told<Type extends string, Data> {
  /** The same at every try: what came already is known by it. */
  id: string
  type: Type
  /** When it happened. */
  timestamp: string
  data: Data
}

/** What a webhook is told. */
export type WebhookMessage = Told<WebhookEvent, TaskInfo> | Told<'webhook.test', { webhookId: string }>

/** What came does not come from the webhook, or too late; answer it with 400 and do nothing. */
export class WebhookSignatureError extends DeltaError {
  override name = 'WebhookSignatureError'
  readonly problem: 'headers_missing' | 'wrong_signature' | 'wrong_time' | 'no_message'

  constructor(problem: WebhookSignatureError['problem'], message: string) {
    super(message)
    this.problem = problem
  }
}

/** Old and new secret are two; more are somebody's attempts. */
const maxSignatures = 10
const defaultToleranceMs = 300_000

/**
 * Checks that a request comes from a webhook of yours, and reads it. Throws `WebhookSignatureError` otherwise.
 *
 * @example
 * app.post('/hooks/delta', async (c) => {
 *   const { id, type, data } = await verifyWebhook({ headers: c.req.raw.headers, body: await c.req.text(), secret })
 *   if (type !== 'webhook.test') console.log(id, type, data.id, data.state)
 *   return c.body(null, 204)
 * })
 */
export async function verifyWebhook(options: VerifyWebhookOptions): Promise<WebhookMessage> {
  const { secret, toleranceMs = defaultToleranceMs } = options
  const header = (name: string) => headerOf(options.headers, name)
  const [id, timestamp, signatures] = [header('webhook-id'), header('webhook-timestamp'), header('webhook-signature')]
  if (id === undefined || timestamp === undefined || signatures === undefined) {
    throw new WebhookSignatureError(
      'headers_missing',
      'It has not all of webhook-id, webhook-timestamp and webhook-signature',
    )
  }
  const body = typeof options.body === 'string' ? new TextEncoder().encode(options.body) : options.body
  if (!(await isSigned({ signed: joined(`${id}.${timestamp}.`, body), signatures, secret }))) {
    throw new WebhookSignatureError('wrong_signature', 'No signature of it was made with this secret over these bytes')
  }
  const apartMs = Math.abs(Date.now() - Number(timestamp) * 1_000)
  if (!/^[0-9]{1,12}$/.test(timestamp) || apartMs > toleranceMs) {
    throw new WebhookSignatureError('wrong_time', `It was sent at ${timestamp}, too far from this machine's time`)
  }
  return messageOf(id, body)
}

/** By the runtime's own comparison, which takes as long for every wrong signature. */
async function isSigned({
  signed,
  signatures,
  secret,
}: {
  signed: Uint8Array<ArrayBuffer>
  signatures: string
  secret: string
}): Promise<boolean> {
  const { subtle } = globalThis.crypto
  const hmac = { name: 'HMAC', hash: 'SHA-256' }
  const key = await subtle.importKey('raw', keyOf(secret), hmac, false, ['verify'])
  let isAny = false
  for (const one of signatures.split(' ').slice(0, maxSignatures)) {
    const [, text] = /^v1,([A-Za-z0-9+/]{43}=)$/.exec(one) ?? []
    if (text === undefined) continue
    if (await subtle.verify('HMAC', key, copied(bytesOfBase64(text)), signed)) isAny = true
  }
  return isAny
}

function keyOf(secret: string): Uint8Array<ArrayBuffer> {
  const [, text] = /^whsec_([A-Za-z0-9+/]{4,}={0,2})$/.exec(secret) ?? []
  if (text === undefined) throw new DeltaConfigError('The secret of a webhook is whsec_ and base64: it was shown once')
  return copied(bytesOfBase64(text))
}

function messageOf(id: string, body: Uint8Array): WebhookMessage {
  let told: unknown
  try {
    told = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(body))
  } catch {
    throw new WebhookSignatureError('no_message', 'It is signed, and its body is no JSON')
  }
  const isMessage = typeof told === 'object' && told !== null && 'type' in told && 'data' in told
  if (!isMessage) throw new WebhookSignatureError('no_message', 'It is signed, and its body is no message of a webhook')
  return { ...(told as WebhookMessage), id }
}

function headerOf(headers: VerifyWebhookOptions['headers'], name: string): string | undefined {
  if (headers instanceof Headers) return headers.get(name) ?? undefined
  const values = Object.entries(headers).flatMap(([key, value]) => (key.toLowerCase() === name ? (value ?? []) : []))
  // Which of two would be meant nobody knows.
  return values.length === 1 ? values[0] : undefined
}

function joined(head: string, body: Uint8Array): Uint8Array<ArrayBuffer> {
  const start = new TextEncoder().encode(head)
  const all = new Uint8Array(start.length + body.length)
  all.set(start)
  all.set(body, start.length)
  return all
}

/** Web Crypto takes no memory that may be shared. */
function copied(bytes: Uint8Array): Uint8Array<ArrayBuffer> {
  return new Uint8Array(bytes)
}
