import { createHmac, generateKeyPairSync, sign } from 'node:crypto'
import { expect, test } from 'vitest'
import { createSecrets } from '../secrets.ts'
import { readSession, signSession } from './session-token.ts'

const { privateKey, publicKey } = createSecrets({ secretKey: 'kZ0pXq7T3vYbN5mRw8eHs2aLc9dGf4uJ' }).signing
const now = Date.UTC(2026, 0, 15)
const claims = {
  userId: 'usr_a',
  sessionId: 'ses_a',
  accountId: 'acc_a',
  secondFactor: false,
  id: 'jti_a',
  issuedAt: now,
  expiresAt: now + 600_000,
}
const said = {
  iss: 'delta',
  aud: 'delta:session',
  sub: 'usr_a',
  sid: 'ses_a',
  acc: 'acc_a',
  mfa: false,
  jti: 'jti_a',
  iat: now / 1000,
  exp: now / 1000 + 600,
}
const encode = (value: object) => Buffer.from(JSON.stringify(value)).toString('base64url')

/** Signed with the right key, whatever it says. */
function signed(payload: object, header: object = { alg: 'EdDSA', typ: 'JWT' }, key = privateKey): string {
  const text = `${encode(header)}.${encode(payload)}`
  return `${text}.${sign(null, Buffer.from(text), key).toString('base64url')}`
}
const without = (name: string) => signed(Object.fromEntries(Object.entries(said).filter(([key]) => key !== name)))
const [header, payload, signature] = signSession(claims, privateKey).split('.') as [string, string, string]

test('what was signed is read', () => {
  expect(readSession(signSession(claims, privateKey), publicKey, now)).toEqual(claims)
  expect(readSession(signed(said), publicKey, now)).toEqual(claims)
})

const foreign = generateKeyPairSync('ed25519').privateKey
const spki = publicKey.export({ format: 'pem', type: 'spki' })

test.each([
  ['nothing', ''],
  ['no signature', `${header}.${payload}.`],
  ['no third part', `${header}.${payload}`],
  ['alg none', `${encode({ alg: 'none', typ: 'JWT' })}.${payload}.`],
  ['alg none with a signature', `${encode({ alg: 'none', typ: 'JWT' })}.${payload}.${signature}`],
  [
    'an HMAC keyed with the public key',
    ((text) => `${text}.${createHmac('sha512', spki).update(text).digest('base64url')}`)(
      `${encode({ alg: 'HS512', typ: 'JWT' })}.${payload}`,
    ),
  ],
  ['another header, well signed', signed(said, { alg: 'EdDSA', typ: 'JWT', kid: '../../etc/passwd' })],
  ['another key', signed(said, undefined, foreign)],
  ['the signature of another payload', `${header}.${encode({ ...said, sub: 'usr_b' })}.${signature}`],
  [
    'another spelling of the signature',
    `${header}.${payload}.${signature.slice(0, -1)}${signature.endsWith('A') ? 'B' : String.fromCharCode(signature.charCodeAt(85) + 1)}`,
  ],
  ['an audience of other tokens', signed({ ...said, aud: 'delta:agent' })],
  ['a list of audiences', signed({ ...said, aud: ['delta:session', 'other'] })],
  ['another issuer', signed({ ...said, iss: 'other' })],
  ['over', signed({ ...said, iat: now / 1000 - 900, exp: now / 1000 - 1 })],
  ['over just now', signed({ ...said, iat: now / 1000 - 600, exp: now / 1000 })],
  ['from tomorrow', signed({ ...said, iat: now / 1000 + 86_400, exp: now / 1000 + 87_000 })],
  ['good for a day', signed({ ...said, exp: now / 1000 + 86_400 })],
  ['a time as text', signed({ ...said, exp: '2000000000' })],
  ['an empty user', signed({ ...said, sub: '' })],
  ['no object', signed([said])],
  ['too long', `${header}.${'a'.repeat(100_000)}.${signature}`],
  ...Object.keys(said).map((name) => [`no ${name}`, without(name)]),
] as [string, string][])('%s: refused', (_what, token) => {
  expect(readSession(token, publicKey, now)).toBeUndefined()
})
