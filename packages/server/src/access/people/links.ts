import { hash, randomBytes } from 'node:crypto'
import { DeltaError } from '../../kernel/errors.ts'
import type { PeopleContext } from './context.ts'
import { peopleLimits } from './limits.ts'
import type { LinkPurpose } from './rules.ts'
import type { LinkRow } from './store.ts'

export interface IssuedLink {
  url: string
  purpose: LinkPurpose
  expiresAt: number
}

export type Links = ReturnType<typeof createLinks>

/** Links that are good once. Only their hash is kept, so whoever reads the database can use none of them. */
export function createLinks({ store, clock, settings }: Pick<PeopleContext, 'store' | 'clock' | 'settings'>) {
  return {
    async issue(
      purpose: LinkPurpose,
      about: Partial<Pick<LinkRow, 'email' | 'user_id' | 'invitation_id' | 'name'>>,
    ): Promise<IssuedLink> {
      const token = newSecret('dln')
      const now = clock.now()
      const expiresAt = now + peopleLimits.linkMs[purpose]
      const empty = { email: '', user_id: null, invitation_id: null, name: '', tries: 0 }
      const row = { ...empty, ...about, hash: hashOf(token), purpose, created_at: now, expires_at: expiresAt }
      // Of the owner's link only the newest is good: it was printed at each start.
      await store.putLink(row, purpose === 'owner' ? 1 : peopleLimits.linksOfEmail)
      return { url: `${settings.publicUrl}/auth/${purpose}?t=${token}`, purpose, expiresAt }
    },

    /** Refused in the same words whether it was used, is over, was for something else or never was. */
    async find(token: string, purpose: LinkPurpose): Promise<LinkRow> {
      const link = await store.link(hashOf(token), clock.now())
      if (link?.purpose !== purpose || Number(link.tries) >= peopleLimits.codesOfLink) throw linkInvalid()
      return link
    },
  }
}

export function linkInvalid(): DeltaError {
  return new DeltaError('link_invalid', 'The link is over, was used or was never made')
}

/** 256 bits behind a word that says what it is. */
export function newSecret(prefix: string): string {
  return `${prefix}_${randomBytes(32).toString('base64url')}`
}

/** As it is stored. What has 256 random bits needs no salt and no slow hash. */
export function hashOf(secret: string): string {
  return hash('sha256', secret)
}
