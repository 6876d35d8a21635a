import { hash, timingSafeEqual } from 'node:crypto'
import type { Caller } from '../kernel/http/api.ts'

/** What a request shows of who sent it. */
export interface Credentials {
  /** The `Authorization` header. */
  authorization: string | undefined
}

/** Answers null for whoever is not known, without saying why. */
export type Authenticate = (credentials: Credentials) => Caller | null | Promise<Caller | null>

const bearer = /^Bearer +([\x21-\x7e]{1,512})$/i
const operator: Caller = { accountId: 'acc_default', keyId: 'key_default' }

/** One key for everything. The server knows only its SHA-256, so that nothing it can leak opens it; the time to compare tells nothing. */
export function createApiKeyAuthentication({ sha256 }: { sha256: string }): Authenticate {
  const expected = Buffer.from(sha256)
  return ({ authorization }) => {
    const key = authorization && bearer.exec(authorization)?.[1]
    if (!key) return null
    return timingSafeEqual(Buffer.from(hash('sha256', key)), expected) ? operator : null
  }
}
