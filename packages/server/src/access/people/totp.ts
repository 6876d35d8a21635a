import { createHmac, randomBytes, timingSafeEqual } from 'node:crypto'
import { peopleLimits } from './limits.ts'

/** Time-based codes of six digits (RFC 6238, with SHA-1 and 30 seconds, which every authenticator app speaks). */

const secretBytes = 20
const digits = 6
const alphabet = 'ABCDEFGHIJKLMNOPQRSTUVWXYZ234567'

export function newTotpSecret(): string {
  return toBase32(randomBytes(secretBytes))
}

/** What an app reads from a QR code. */
export function totpUri(secret: string, email: string): string {
  const query = new URLSearchParams({ secret, issuer: 'DELTA', algorithm: 'SHA1', digits: '6', period: '30' })
  return `otpauth://totp/DELTA:${encodeURIComponent(email)}?${query}`
}

export const stepOf = (nowMs: number) => Math.floor(nowMs / peopleLimits.totpStepMs)

export function totpCode(secret: string, step: number): string {
  const counter = Buffer.alloc(8)
  counter.writeBigUInt64BE(BigInt(step))
  const mac = createHmac('sha1', fromBase32(secret)).update(counter).digest()
  const number = mac.readUInt32BE(mac[mac.length - 1]! & 15) & 0x7fffffff
  return String(number % 10 ** digits).padStart(digits, '0')
}

/** The step whose code this is, of the present one and its neighbours; undefined for any other. Every candidate is compared. */
export function matchingStep(secret: string, code: string, nowMs: number): number | undefined {
  if (!/^[0-9]{6}$/.test(code)) return undefined
  let found: number | undefined
  for (let drift = -peopleLimits.totpDrift; drift <= peopleLimits.totpDrift; drift++) {
    const step = stepOf(nowMs) + drift
    if (timingSafeEqual(Buffer.from(totpCode(secret, step)), Buffer.from(code))) found = step
  }
  return found
}

/** `k7m2q-9xw4c`: 50 bits, in letters and digits that are not taken for others. */
export function newRecoveryCodes(): string[] {
  return Array.from({ length: peopleLimits.recoveryCodes }, () => {
    const text = toBase32(randomBytes(7)).slice(0, 10).toLowerCase()
    return `${text.slice(0, 5)}-${text.slice(5)}`
  })
}

/** As it is compared: however it was typed. Undefined for what can be none. */
export function readRecoveryCode(text: string): string | undefined {
  const code = text.toLowerCase().replaceAll(/[\s-]/g, '')
  return /^[a-z2-7]{10}$/.test(code) ? code : undefined
}

function toBase32(bytes: Buffer): string {
  let bits = ''
  for (const byte of bytes) bits += byte.toString(2).padStart(8, '0')
  return (bits.match(/.{5}/g) ?? []).map((five) => alphabet[Number.parseInt(five, 2)]).join('')
}

function fromBase32(text: string): Buffer {
  const bits = [...text].map((letter) => alphabet.indexOf(letter).toString(2).padStart(5, '0')).join('')
  return Buffer.from((bits.match(/.{8}/g) ?? []).map((eight) => Number.parseInt(eight, 2)))
}
