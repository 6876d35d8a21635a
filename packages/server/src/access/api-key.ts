import { hash, timingSafeEqual } from 'node:crypto'
import type { TokenReader } from './authenticate.ts'
import type { KnownCaller } from './door.ts'
import { operatorAccountId } from './policy.ts'
import { rightsOfRole, withheldFrom } from './rights.ts'

export const defaultKeyId = 'key_default'

/** The operator's: the owner's rights, but to approve. */
export const operator: KnownCaller = {
  accountId: operatorAccountId,
  actorId: defaultKeyId,
  principal: {
    kind: 'key',
    accountId: operatorAccountId,
    keyId: defaultKeyId,
    role: 'owner',
    rights: rightsOfRole('owner').filter((one) => withheldFrom(one) !== 'programs'),
  },
  ties: [defaultKeyId],
  since: 0,
}

/** The key in the data folder. The server knows only its SHA-256, so that nothing it can leak opens it; the time to compare tells nothing. */
export function createDefaultKeyReader({ sha256 }: { sha256: string }): TokenReader {
  const expected = Buffer.from(sha256)
  return {
    fits: () => true,
    read: (key) => (timingSafeEqual(Buffer.from(hash('sha256', key)), expected) ? operator : null),
  }
}
