import { hash, randomBytes } from 'node:crypto'
import { crc32 } from 'node:zlib'

const prefix = 'dk_'
const alphabet = '0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz'
const secretBytes = 32
/** 62⁴³ is the first power above 2²⁵⁶. */
const secretChars = 43
const checksumChars = 6
const shape = new RegExp(`^${prefix}[0-9A-Za-z]{${secretChars + checksumChars}}$`)

/** A new key: `dk_`, 256 random bits in base 62, and a checksum of all that, as GitHub's tokens have it: a key that leaked or was mistyped is told from others without asking anybody. */
export function newKeyText(): string {
  const secret = prefix + base62(BigInt(`0x${randomBytes(secretBytes).toString('hex')}`), secretChars)
  return secret + checksumOf(secret)
}

/** Whether it could be a key, by its form and its checksum. Says nothing about whether there is one. */
export function isKeyText(text: string): boolean {
  return shape.test(text) && text.slice(-checksumChars) === checksumOf(text.slice(0, -checksumChars))
}

/** What is kept of a key. Its 256 bits are random, so a slow hash would protect nothing and cost every request. */
export function keyHash(text: string): string {
  return hash('sha256', text)
}

/** So many as a whole number holds in JavaScript. */
export const placeDigits = 13

/**
 * Where in the table a key lies: the first 52 bits of its hash. No two keys have one place: of 100,000 keys the next one meets such a place once in 45,000,000,000 times, and is then refused by
 * the database.
 */
export function keyPlace(hashed: string): number {
  return Number.parseInt(hashed.slice(0, placeDigits), 16)
}

function checksumOf(text: string): string {
  return base62(BigInt(crc32(text)), checksumChars)
}

function base62(value: bigint, chars: number): string {
  let text = ''
  for (let left = value; text.length < chars; left /= 62n) text = alphabet[Number(left % 62n)]! + text
  return text
}
