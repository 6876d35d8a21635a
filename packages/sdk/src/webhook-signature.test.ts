import { createHmac } from 'node:crypto'
import { afterEach, beforeEach, expect, test, vi } from 'vitest'
import { signedHeaders } from '../../server/src/tasks/webhooks/rules.ts'
import { DeltaConfigError } from './errors.ts'
import { verifyWebhook, type VerifyWebhookOptions, WebhookSignatureError } from './webhook-signature.ts'

// The example of the Standard Webhooks specification.
const secret = 'whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw'
const example = {
  headers: {
    'webhook-id': 'msg_p5jXN8AQM9LWM0D4loKWxJek',
    'webhook-timestamp': '1614265330',
    'webhook-signature': 'v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=',
  },
  body: '{"test": 2432232314}',
  secret,
}
const now = 1_614_265_330_000
const told = { type: 'task.finished', timestamp: '2021-02-25T15:02:10.000Z', data: { id: 'tsk_a', text: 'Zürich' } }

beforeEach(() => void vi.useFakeTimers({ now, toFake: ['Date'] }))
afterEach(() => void vi.useRealTimers())

const made = (body = JSON.stringify(told), at = now) => ({
  headers: signedHeaders({ id: 'dlv_a', body, secret }, at),
  body,
  secret,
})

async function problemOf(options: VerifyWebhookOptions): Promise<string> {
  try {
    await verifyWebhook(options)
  } catch (error) {
    if (error instanceof WebhookSignatureError) return error.problem
    throw error
  }
  return 'none'
}

test('the example of the specification is genuine, though it is no message of ours', async () => {
  expect(await problemOf(example)).toBe('no_message')
})

test('what the server signs is read, as text or bytes, by headers of every form', async () => {
  const { headers, body } = made()
  const expected = { id: 'dlv_a', ...told }
  expect(await verifyWebhook({ headers, body, secret })).toEqual(expected)
  expect(await verifyWebhook({ headers: new Headers(headers), body: Buffer.from(body), secret })).toEqual(expected)
  const written = Object.fromEntries(Object.entries(headers).map(([name, value]) => [name.toUpperCase(), [value]]))
  expect(await verifyWebhook({ headers: written, body, secret })).toEqual(expected)
})

test('one changed bit of id, time, body or signature is another message', async () => {
  const { headers, body } = made()
  const changed = (name: string, value: string) => problemOf({ headers: { ...headers, [name]: value }, body, secret })
  expect(await changed('webhook-id', 'dlv_b')).toBe('wrong_signature')
  expect(await changed('webhook-timestamp', String(now / 1_000 + 1))).toBe('wrong_signature')
  expect(await problemOf({ headers, body: `${body} `, secret })).toBe('wrong_signature')
  expect(await problemOf({ headers, body, secret: 'whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSx' })).toBe('wrong_signature')
  const bytes = Buffer.from(headers['webhook-signature']!.slice(3), 'base64')
  for (const index of bytes.keys()) {
    const flipped = Buffer.from(bytes)
    flipped[index]! ^= 1
    expect(await changed('webhook-signature', `v1,${flipped.toString('base64')}`)).toBe('wrong_signature')
  }
})

test('one right signature among several is enough; other versions and what is no signature are passed over', async () => {
  const { headers, body } = made()
  const own = headers['webhook-signature']!
  const by = (signatures: string) =>
    problemOf({ headers: { ...headers, 'webhook-signature': signatures }, body, secret })
  expect(await by(`v1,${'A'.repeat(43)}= v1a,abc ${own}`)).toBe('none')
  for (const signatures of ['', 'v1', 'v1,', own.slice(3), own.replace('v1', 'v2'), own.slice(0, -1), `x${own}`]) {
    expect(await by(signatures), signatures).toBe('wrong_signature')
  }
  expect(await by(`${'v1,x '.repeat(10)}${own}`)).toBe('wrong_signature')
})

test('what was sent too long ago, or is yet to be sent, is refused, however well it is signed', async () => {
  for (const [sentAt, problem] of [
    [now - 300_000, 'none'],
    [now - 301_000, 'wrong_time'],
    [now + 300_000, 'none'],
    [now + 301_000, 'wrong_time'],
  ] as const) {
    expect(await problemOf(made(undefined, sentAt)), String(sentAt - now)).toBe(problem)
  }
  expect(await problemOf({ ...made(undefined, now - 3_000_000), toleranceMs: 3_000_000 })).toBe('none')
})

test('a time that is no number is refused even where it is signed', async () => {
  const key = Buffer.from(secret.slice(6), 'base64')
  const body = JSON.stringify(told)
  for (const timestamp of ['', 'NaN', '1e9', `${now / 1_000}.0`, ' 1614265330']) {
    const signature = createHmac('sha256', key).update(`dlv_a.${timestamp}.${body}`).digest('base64')
    const headers = {
      'webhook-id': 'dlv_a',
      'webhook-timestamp': timestamp,
      'webhook-signature': `v1,${signature}`,
    }
    expect(await problemOf({ headers, body, secret }), timestamp).toBe('wrong_time')
  }
})

test('a header that is missing or stands there twice is no header', async () => {
  const { headers, body } = made()
  for (const name of Object.keys(headers)) {
    expect(await problemOf({ headers: { ...headers, [name]: undefined }, body, secret })).toBe('headers_missing')
    const twice = { ...headers, [name]: [headers[name]!, headers[name]!] }
    expect(await problemOf({ headers: twice, body, secret })).toBe('headers_missing')
  }
})

test('bytes that are no text, and JSON that is no message, are refused though they are signed', async () => {
  for (const body of ['', 'null', '[]', '{"type":"task.finished"}', '{']) {
    expect(await problemOf(made(body)), body).toBe('no_message')
  }
  const bytes = Uint8Array.of(0x7b, 0xff, 0x7d)
  const signature = createHmac('sha256', Buffer.from(secret.slice(6), 'base64'))
    .update(`dlv_a.${now / 1_000}.`)
    .update(bytes)
    .digest('base64')
  const headers = {
    'webhook-id': 'dlv_a',
    'webhook-timestamp': String(now / 1_000),
    'webhook-signature': `v1,${signature}`,
  }
  expect(await problemOf({ headers, body: bytes, secret })).toBe('no_message')
})

test.each(['', 'whsec_', 'MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw', 'whsec_***'])(
  'without a secret nothing is genuine: %j',
  async (none) => {
    await expect(verifyWebhook({ ...made(), secret: none })).rejects.toBeInstanceOf(DeltaConfigError)
  },
)
