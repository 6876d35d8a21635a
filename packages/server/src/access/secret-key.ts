import type { Database } from '../kernel/db/database.ts'
import { DeltaError } from '../kernel/errors.ts'
import type { Logger } from '../kernel/log.ts'
import type { Secrets } from './secrets.ts'
import { createAccessStore } from './store.ts'

const name = 'secret key fingerprint'

export interface SecretKeyCheck {
  database: Database
  secrets: Pick<Secrets, 'deriveKey'>
  log: Pick<Logger, 'warn'>
  /** The operator says that the key of before is lost: from now on it is this one. */
  isLost: boolean
}

/**
 * Under another SECRET_KEY than the one a database was used with, everything would seem to work, and everybody with a second factor be locked out, without a
 * word. What is compared is derived from the key as everything else is, and leads back to none of it.
 */
export async function checkSecretKey({ database, secrets, log, isLost }: SecretKeyCheck): Promise<void> {
  const store = createAccessStore(database)
  const fingerprint = secrets.deriveKey('fingerprint').toString('hex')
  const known = await store.secret(name, fingerprint)
  if (known === fingerprint) return
  if (!isLost) {
    throw new DeltaError(
      'config_invalid',
      'The configuration is not valid: SECRET_KEY is not the one that this database was used with. Set that one again. If it is lost, start with DELTA_SECRET_KEY_LOST=true: second factors, mails and variables of sandboxes from before can not be read then, and `delta user reset-totp EMAIL` lets somebody in without theirs',
    )
  }
  await store.replaceSecret(name, fingerprint)
  log.warn('secret_key_replaced', {
    unreadable: ['second factors', 'recovery codes', 'mails that are kept', 'variables of sandboxes'],
  })
}
