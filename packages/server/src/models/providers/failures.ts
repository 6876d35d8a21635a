import { systemClock } from '../../kernel/clock.ts'
import { ProviderFailure, type FailureKind } from '../provider.ts'
import { isRecord, recordsIn, textOf } from './reading.ts'

const answerBytesMax = 64 * 1024
const retryAfterMsMax = 24 * 60 * 60 * 1_000

/** An answer that is no success. Its body is read to a bound, and closed. */
export async function failureOf(response: Response, apiKey: string | undefined): Promise<ProviderFailure> {
  const text = await beginningOf(response)
  const retryAfterMs = retryAfterOf(response.headers)
  return failureIn(parsed(text) ?? text, { status: response.status, retryAfterMs, apiKey })
}

export interface FailureOptions {
  status?: number | undefined
  retryAfterMs?: number | undefined
  apiKey: string | undefined
}

/** What a provider said in an answer or in the middle of one: `{ error: { type, message } }`, also without its frame, or just words. */
export function failureIn(said: unknown, { status, retryAfterMs, apiKey }: FailureOptions): ProviderFailure {
  const inner = errorWithin(said)
  const words = isRecord(inner) ? inner : {}
  const type = [words.type, words.status, words.code].filter((word) => typeof word === 'string').join(' ')
  const message = textOf(words.message) || (typeof inner === 'string' ? inner : '')
  const own = status ?? (typeof words.code === 'number' && words.code >= 400 ? words.code : undefined)
  const text = message.trim() === '' ? `It answered ${own ?? 'with an error'} without a word.` : message.trim()
  const details = recordsIn(words.details)
  const reasons = details.map(({ reason }) => textOf(reason)).join(' ')
  return new ProviderFailure(kindOf(own, type, `${message} ${reasons}`), withoutKey(text, apiKey), {
    status: own,
    retryAfterMs: retryAfterMs ?? retryDelayIn(details),
  })
}

/** Gemini says in the body how long to wait (https://cloud.google.com/apis/design/errors#retryinfo). */
function retryDelayIn(details: Record<string, unknown>[]): number | undefined {
  const seconds = details
    .map(({ retryDelay }) => /^(\d+(?:\.\d+)?)s$/.exec(textOf(retryDelay))?.[1])
    .find((found) => found !== undefined)
  return seconds === undefined ? undefined : Math.min(Math.ceil(Number(seconds) * 1_000), retryAfterMsMax)
}

/** A list of one is how Gemini answers without `alt=sse`. */
function errorWithin(said: unknown): unknown {
  const first = Array.isArray(said) ? (said[0] as unknown) : said
  return isRecord(first) && first.error !== undefined && first.error !== null ? first.error : first
}

const tooLong =
  /context_length_exceeded|exceed_context_size|request_too_large|string_above_max_length|prompt is too long|input is too long|maximum context length|context (length|window|size)|(input|prompt) token count.{0,40}exceeds|too many (input )?tokens/i
const keyRefused = /API_KEY_INVALID|api key not valid|invalid_api_key|invalid x-api-key|incorrect api key/i
// Their answers have the status of a limit or of a bad request, but no waiting helps.
const keyWithoutMoney = /insufficient_quota|billing_error|credit balance is too low|billing_hard_limit/i
const limited = /rate_limit|RESOURCE_EXHAUSTED|too many requests/i
const unavailable = /overloaded|api_error|timeout_error|server_error|UNAVAILABLE|INTERNAL|DEADLINE_EXCEEDED/

function kindOf(status: number | undefined, type: string, words: string): FailureKind {
  const said = `${type} ${words}`
  const isKey =
    status === 401 ||
    status === 402 ||
    status === 403 ||
    /authentication_error|permission_error|PERMISSION_DENIED|UNAUTHENTICATED/.test(type)
  if (isKey || keyWithoutMoney.test(said) || keyRefused.test(said)) return 'key'
  if (status === 429) return 'limited'
  if (status !== undefined && (status >= 500 || status === 408 || status === 409 || status === 425))
    return 'unavailable'
  if (status === 413 || tooLong.test(said)) return 'too_long'
  if (limited.test(type)) return 'limited'
  // Without a status it stood within a stream that had begun well.
  if (unavailable.test(type) || status === undefined)
    return /invalid_request|not_found|INVALID_ARGUMENT/.test(type) ? 'request' : 'unavailable'
  return 'request'
}

/** `Retry-After` in seconds or as a date, or `retry-after-ms`; a date counts from the answer's own where it has one, since the clocks of two machines differ. */
export function retryAfterOf(headers: Headers): number | undefined {
  const ms = numberIn(headers.get('retry-after-ms'))
  const said = headers.get('retry-after')
  const seconds = numberIn(said)
  const wait = ms ?? (seconds === undefined ? untilDate(said, headers.get('date')) : seconds * 1_000)
  return wait === undefined ? undefined : Math.min(Math.ceil(wait), retryAfterMsMax)
}

function numberIn(text: string | null): number | undefined {
  return text !== null && /^\s*\d+(\.\d+)?\s*$/.test(text) ? Number(text) : undefined
}

function untilDate(said: string | null, date: string | null): number | undefined {
  // `Mon, 23 Nov 2026 12:00:00 GMT`; a date is read out of nearly anything else, too.
  if (said === null || !/^[A-Z][a-z]{2,8}, /.test(said)) return undefined
  const at = Date.parse(said)
  const answered = date === null ? NaN : Date.parse(date)
  const from = Number.isNaN(answered) ? systemClock.now() : answered
  return Number.isNaN(at) ? undefined : Math.max(0, at - from)
}

/** Keys as providers make them, in case one other than ours is named. */
const someKey = /\b(sk-[\w*.-]{6,}|AIza[\w*-]{10,}|Bearer\s+\S{8,})/g

export function withoutKey(text: string, apiKey: string | undefined): string {
  const without = apiKey ? text.replaceAll(apiKey, '[key]') : text
  return without.replaceAll(someKey, '[key]')
}

async function beginningOf(response: Response): Promise<string> {
  const chunks: Uint8Array[] = []
  let size = 0
  try {
    for await (const chunk of response.body ?? []) {
      chunks.push(chunk)
      size += chunk.length
      if (size >= answerBytesMax) break
    }
  } catch {
    // The status is worth more than the words.
  }
  return Buffer.concat(chunks).subarray(0, answerBytesMax).toString()
}

function parsed(text: string): unknown {
  try {
    return JSON.parse(text) as unknown
  } catch {
    return undefined
  }
}
