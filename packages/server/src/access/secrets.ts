import { createCipheriv, createDecipheriv, createPrivateKey, createPublicKey, hkdfSync, randomBytes } from 'node:crypto'
import type { KeyObject } from 'node:crypto'

/** Everything of the installation that must not be guessed, derived from the one `SECRET_KEY`. */
export interface Secrets {
  /** 32 bytes of their own for each purpose: who learns one of them learns no other. */
  deriveKey(purpose: string): Buffer
  /** Ed25519, for session and agent tokens. */
  signing: { privateKey: KeyObject; publicKey: KeyObject }
}

export interface SecretsOptions {
  secretKey: string
  /** @default derived from `secretKey` */
  jwtSecretKey?: string | undefined
}

export function createSecrets({ secretKey, jwtSecretKey }: SecretsOptions): Secrets {
  const deriveKey = (purpose: string) => derive(secretKey, purpose)
  const seed = jwtSecretKey === undefined ? deriveKey('token signing') : derive(jwtSecretKey, 'token signing')
  const privateKey = privateKeyOf(seed)
  return { deriveKey, signing: { privateKey, publicKey: createPublicKey(privateKey) } }
}

/** HKDF-SHA-256 (RFC 5869). The salt is the product's, since there is no other that all servers of an installation know. */
function derive(secret: string, purpose: string): Buffer {
  return Buffer.from(hkdfSync('sha256', secret, 'delta/1', purpose, 32))
}

/** What stands before the 32 bytes of a seed in the PKCS #8 form of an Ed25519 key (RFC 8410). */
const pkcs8Prefix = Buffer.from('302e020100300506032b657004220420', 'hex')

/** The Ed25519 key of a seed of 32 bytes. */
export function privateKeyOf(seed: Buffer): KeyObject {
  return createPrivateKey({ key: Buffer.concat([pkcs8Prefix, seed]), format: 'der', type: 'pkcs8' })
}

const nonceBytes = 12
const tagBytes = 16

/** What only this installation reads, bound to where it lies: AES-256-GCM as base64url of nonce, text and tag. */
export interface Box {
  seal(text: string, place: string): string
  /** Undefined for whatever was not sealed by this key for this place. */
  open(sealed: string, place: string): string | undefined
}

export function createBox(key: Buffer): Box {
  return {
    seal(text, place) {
      const nonce = randomBytes(nonceBytes)
      const cipher = createCipheriv('aes-256-gcm', key, nonce).setAAD(Buffer.from(place))
      const sealed = [nonce, cipher.update(text, 'utf8'), cipher.final()]
      return Buffer.concat([...sealed, cipher.getAuthTag()]).toString('base64url')
    },
    open(sealed, place) {
      const bytes = Buffer.from(sealed, 'base64url')
      if (bytes.length < nonceBytes + tagBytes) return undefined
      const decipher = createDecipheriv('aes-256-gcm', key, bytes.subarray(0, nonceBytes), { authTagLength: tagBytes })
      decipher.setAAD(Buffer.from(place)).setAuthTag(bytes.subarray(-tagBytes))
      try {
        const text = decipher.update(bytes.subarray(nonceBytes, -tagBytes))
        return Buffer.concat([text, decipher.final()]).toString('utf8')
      } catch {
        // Sealed by another SECRET_KEY, for another place, or changed since: there is nothing to tell apart.
        return undefined
      }
    },
  }
}
