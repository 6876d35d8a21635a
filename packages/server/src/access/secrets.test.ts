import { sign, verify } from 'node:crypto'
import { expect, test } from 'vitest'
import { createBox, createSecrets } from './secrets.ts'

const secretKey = 'kZ0pXq7T3vYbN5mRw8eHs2aLc9dGf4uJ'
const message = Buffer.from('message')

test('each purpose has a key of its own, the same at every start', () => {
  const [first, second] = [createSecrets({ secretKey }), createSecrets({ secretKey })]
  expect(first.deriveKey('mail')).toEqual(second.deriveKey('mail'))
  expect(first.deriveKey('mail')).toHaveLength(32)
  expect(first.deriveKey('mail')).not.toEqual(first.deriveKey('totp'))
  expect(createSecrets({ secretKey: `${secretKey}x` }).deriveKey('mail')).not.toEqual(first.deriveKey('mail'))
})

test('JWT_SECRET_KEY changes who signs, and nothing else', () => {
  const own = createSecrets({ secretKey })
  const other = createSecrets({ secretKey, jwtSecretKey: 'another-secret-of-at-least-32-bytes' })
  const signature = sign(null, message, own.signing.privateKey)
  expect(verify(null, message, createSecrets({ secretKey }).signing.publicKey, signature)).toBe(true)
  expect(verify(null, message, other.signing.publicKey, signature)).toBe(false)
  expect(other.deriveKey('mail')).toEqual(own.deriveKey('mail'))
})

test('what was sealed opens with the same key in the same place, and nowhere else', () => {
  const box = createBox(createSecrets({ secretKey }).deriveKey('mail'))
  const sealed = box.seal('a link', 'mail msg_1')
  expect(box.open(sealed, 'mail msg_1')).toBe('a link')
  expect(sealed).not.toBe(box.seal('a link', 'mail msg_1'))
  expect(box.open(sealed, 'mail msg_2')).toBeUndefined()
  expect(createBox(createSecrets({ secretKey }).deriveKey('totp')).open(sealed, 'mail msg_1')).toBeUndefined()
  expect(box.open(`${sealed.slice(0, -4)}AAAA`, 'mail msg_1')).toBeUndefined()
  expect(box.open('', 'mail msg_1')).toBeUndefined()
})
