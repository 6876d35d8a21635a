import type { Role } from '../principal.ts'

/** A key as it is kept. */
export interface KeyRecord {
  id: string
  accountId: string
  /** The person whose role bounds it; null: the operator. */
  userId: string | null
  madeBy: string
  /** Of the keys it was made with, the eldest first: revoking one of them revokes it. */
  ancestors: readonly string[]
  name: string
  hint: string
  hash: string
  previousHash: string | null
  previousUntil: number | null
  rights: readonly string[]
  agents: readonly string[] | null
  sandboxes: readonly string[] | null
  createdAt: number
  expiresAt: number | null
  rotatedAt: number | null
  revokedAt: number | null
  lastUsedAt: number | null
}

/** A key with what bounds it now. */
export interface FoundKey extends KeyRecord {
  /** That of its person in its account; undefined: none any more. The operator's is the owner's. */
  role: Role | undefined
}
