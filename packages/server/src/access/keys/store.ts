import { sql as text } from 'kysely'
import { compiledOnce } from '../../kernel/db/compile.ts'
import type { BatchStep, Database } from '../../kernel/db/database.ts'
import type { Place } from '../../kernel/http/cursors.ts'
import type { Role } from '../principal.ts'
import type { FoundKey, KeyRecord } from './record.ts'
import { keyPlace } from './text.ts'

interface Row {
  /** `keyPlace` of the hash: what the table is in the order of. */
  place: number
  id: string
  account_id: string
  user_id: string | null
  made_by: string
  ancestors: string
  name: string
  hint: string
  hash: string
  previous_hash: string | null
  previous_until: number | null
  rights: string
  agents: string | null
  sandboxes: string | null
  created_at: number
  expires_at: number | null
  rotated_at: number | null
  revoked_at: number | null
  last_used_at: number | null
}

interface FoundRow extends Row {
  role: Role | null
}

/** Roles are people's, and only read here: a key and its person's role are asked for together, as every request with a key needs both. */
interface Tables {
  api_keys: Row
  memberships: { account_id: string; user_id: string; role: Role }
}

export interface KeyFilter {
  accountId: string
  /** Only those of this person. */
  userId?: string | undefined
  /** Only those that are good at this time. */
  activeAt?: number | undefined
  limit: number
  before?: Place | undefined
}

export type KeyStore = ReturnType<typeof createKeyStore>

export function createKeyStore(database: Database) {
  const db = database.of<Tables>()
  const sql = db.sql
  const active = (now: number) =>
    sql
      .selectFrom('api_keys')
      .where('revoked_at', 'is', null)
      .where((where) => where.or([where('expires_at', 'is', null), where('expires_at', '>', now)]))

  const withRole = sql
    .selectFrom('api_keys')
    .leftJoin('memberships', (join) =>
      join
        .onRef('memberships.account_id', '=', 'api_keys.account_id')
        .onRef('memberships.user_id', '=', 'api_keys.user_id'),
    )
    .selectAll('api_keys')
    .select('memberships.role')
  const withId = compiledOnce<FoundRow>((id) => withRole.where('api_keys.id', '=', id))
  /** By its place, and only where there is none by an index. The limit is a literal: one that is a parameter makes SQLite prepare the statement anew each time. */
  const withHash = compiledOnce<FoundRow>((hash, place) => {
    const before = withRole.where('api_keys.previous_hash', '=', hash)
    const now = withRole.where('api_keys.place', '=', place).where('api_keys.hash', '=', hash)
    return now.unionAll(before).limit(text.lit(1))
  })

  return {
    async insert(record: KeyRecord): Promise<void> {
      await db.run(sql.insertInto('api_keys').values(toRow(record)).compile())
    },

    async get(id: string): Promise<FoundKey | undefined> {
      const row = await db.first(withId(id))
      return row && toFound(row)
    },

    /** The same for whoever comes with what was made with it. */
    async byId(id: string): Promise<FoundKey | undefined> {
      const [row] = await db.lookUp(withId(id))
      return row && toFound(row)
    },

    /** By the text's hash, or by that of the text before the last rotation. */
    async byHash(hash: string): Promise<FoundKey | undefined> {
      const [row] = await db.lookUp(withHash(hash, keyPlace(hash)))
      return row && toFound(row)
    },

    async list({ accountId, userId, activeAt, limit, before }: KeyFilter): Promise<KeyRecord[]> {
      let query = (activeAt === undefined ? sql.selectFrom('api_keys') : active(activeAt))
        .selectAll()
        .where('account_id', '=', accountId)
      if (userId !== undefined) query = query.where('user_id', '=', userId)
      if (before) {
        query = query.where((where) =>
          where.or([
            where('created_at', '<', before.createdAt),
            where.and([where('created_at', '=', before.createdAt), where('id', '<', before.id)]),
          ]),
        )
      }
      const rows = await db.all(query.orderBy('created_at', 'desc').orderBy('id', 'desc').limit(limit).compile())
      return rows.map(toRecord)
    },

    async countActive(accountId: string, now: number): Promise<number> {
      const query = active(now)
        .where('account_id', '=', accountId)
        .select(({ fn }) => fn.countAll<number>().as('keys'))
      return Number((await db.first(query.compile()))?.keys ?? 0)
    },

    /** The key and all that were made with it, directly or not, which are not revoked yet. */
    async withDescendants(id: string, accountId: string): Promise<string[]> {
      const query = sql
        .selectFrom('api_keys')
        .select('id')
        .where('account_id', '=', accountId)
        .where('revoked_at', 'is', null)
        .where((where) => where.or([where('id', '=', id), where('ancestors', 'like', `%"${id}"%`)]))
      return (await db.all(query.compile())).map((row) => row.id)
    },

    revokeStep(ids: readonly string[], now: number): BatchStep {
      const query = sql
        .updateTable('api_keys')
        .set({ revoked_at: now })
        .where('id', 'in', [...ids])
      return { query: query.where('revoked_at', 'is', null).compile() }
    },

    /** All that a person has in an account, also what was made with them: it carries their id. */
    endOfPersonStep(userId: string, accountId: string, now: number): BatchStep {
      const query = sql
        .updateTable('api_keys')
        .set({ revoked_at: now })
        .where('account_id', '=', accountId)
        .where('user_id', '=', userId)
        .where('revoked_at', 'is', null)
      return { query: query.compile() }
    },

    /** Applied only while the text is still the one that was looked at. */
    rotateStep(
      { id, hash }: KeyRecord,
      next: Pick<KeyRecord, 'hash' | 'hint' | 'previousUntil' | 'rotatedAt'>,
    ): BatchStep {
      const query = sql
        .updateTable('api_keys')
        .set({
          place: keyPlace(next.hash),
          hash: next.hash,
          hint: next.hint,
          previous_hash: hash,
          previous_until: next.previousUntil,
          rotated_at: next.rotatedAt,
        })
        .where('id', '=', id)
        .where('hash', '=', hash)
        .where('revoked_at', 'is', null)
      return { query: query.compile(), mustChange: 1 }
    },

    usedStep(id: string, at: number): BatchStep {
      return { query: sql.updateTable('api_keys').set({ last_used_at: at }).where('id', '=', id).compile() }
    },

    batch: (steps: BatchStep[]) => db.batch(steps),
  }
}

function toRow(record: KeyRecord): Row {
  return {
    place: keyPlace(record.hash),
    id: record.id,
    account_id: record.accountId,
    user_id: record.userId,
    made_by: record.madeBy,
    ancestors: JSON.stringify(record.ancestors),
    name: record.name,
    hint: record.hint,
    hash: record.hash,
    previous_hash: record.previousHash,
    previous_until: record.previousUntil,
    rights: JSON.stringify(record.rights),
    agents: record.agents && JSON.stringify(record.agents),
    sandboxes: record.sandboxes && JSON.stringify(record.sandboxes),
    created_at: record.createdAt,
    expires_at: record.expiresAt,
    rotated_at: record.rotatedAt,
    revoked_at: record.revokedAt,
    last_used_at: record.lastUsedAt,
  }
}

function toFound(row: FoundRow): FoundKey {
  return { ...toRecord(row), role: row.user_id === null ? 'owner' : (row.role ?? undefined) }
}

function toRecord(row: Row): KeyRecord {
  const texts = (json: string) => JSON.parse(json) as string[]
  return {
    id: row.id,
    accountId: row.account_id,
    userId: row.user_id,
    madeBy: row.made_by,
    ancestors: texts(row.ancestors),
    name: row.name,
    hint: row.hint,
    hash: row.hash,
    previousHash: row.previous_hash,
    previousUntil: row.previous_until,
    rights: texts(row.rights),
    agents: row.agents === null ? null : texts(row.agents),
    sandboxes: row.sandboxes === null ? null : texts(row.sandboxes),
    createdAt: row.created_at,
    expiresAt: row.expires_at,
    rotatedAt: row.rotated_at,
    revokedAt: row.revoked_at,
    lastUsedAt: row.last_used_at,
  }
}
