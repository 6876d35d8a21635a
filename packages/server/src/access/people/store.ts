import { sql as raw } from 'kysely'
import type { CompiledQuery } from 'kysely'
import type { BatchStep, Database } from '../../kernel/db/database.ts'
import { DeltaError } from '../../kernel/errors.ts'
import type { Role } from '../principal.ts'
import { firstAccountId } from './rules.ts'
import type { LinkPurpose } from './rules.ts'

interface Tables {
  accounts: { id: string; name: string; created_at: number }
  users: UserRow
  memberships: { account_id: string; user_id: string; role: Role; created_at: number }
  sessions: SessionRow
  refresh_tokens: { hash: string; session_id: string; created_at: number; used_at: number | null }
  invitations: InvitationRow
  login_links: LinkRow
  totp: TotpRow
  recovery_codes: { user_id: string; hash: string }
  people_counts: { name: string; day: number; count: number }
}

export interface UserRow {
  id: string
  email: string
  name: string
  email_verified_at: number | null
  password_hash: string | null
  created_at: number
}

export interface SessionRow {
  id: string
  user_id: string
  account_id: string
  /** 1: shown. */
  second_factor: number
  client: string
  address: string
  created_at: number
  used_at: number
  expires_at: number
  ended_at: number | null
}

export interface InvitationRow {
  id: string
  account_id: string
  email: string
  role: Role
  invited_by: string
  /** The person behind it, whose role it hangs on; null for the operator's key. */
  user_id: string | null
  created_at: number
  expires_at: number
}

export interface LinkRow {
  /** SHA-256: the link itself is nowhere. */
  hash: string
  purpose: LinkPurpose
  email: string
  user_id: string | null
  invitation_id: string | null
  name: string
  created_at: number
  expires_at: number
  /** Codes that were tried with it. */
  tries: number
}

export interface TotpRow {
  user_id: string
  /** Sealed. */
  secret: string
  confirmed_at: number | null
  /** No code of this step or an earlier one is taken again. */
  last_step: number
  /** Codes tried since the last that was right, and when the next may be. */
  failures: number
  next_at: number
}

export interface MemberRow {
  user_id: string
  email: string
  name: string
  role: Role
  created_at: number
  totp: number
}

export type PeopleStore = ReturnType<typeof createPeopleStore>

export function createPeopleStore(database: Database) {
  const db = database.of<Tables>()
  const { sql } = db
  const once = (query: CompiledQuery): BatchStep => ({ query, mustChange: 1 })
  const useLink = (hash: string, now: number): BatchStep =>
    once(sql.deleteFrom('login_links').where('hash', '=', hash).where('expires_at', '>', now).compile())
  const apply = async (steps: BatchStep[]): Promise<boolean> => (await db.batch(steps)).applied
  const insertUser = (user: UserRow) => ({ query: sql.insertInto('users').values(user).compile() })
  const insertAccount = (account: Tables['accounts']) => ({
    query: sql.insertInto('accounts').values(account).compile(),
  })
  const insertMember = (row: Tables['memberships']) => ({
    query: sql.insertInto('memberships').values(row).compile(),
  })
  const putMember = (row: Tables['memberships']) => ({
    query: sql
      .insertInto('memberships')
      .values(row)
      .onConflict((conflict) => conflict.columns(['account_id', 'user_id']).doNothing())
      .compile(),
  })
  const endSessions = (userId: string, now: number, { but = '' } = {}) => ({
    query: sql
      .updateTable('sessions')
      .set({ ended_at: now })
      .where('user_id', '=', userId)
      .where('id', '!=', but)
      .where('ended_at', 'is', null)
      .compile(),
  })
  const dropLinks = (email: string, purposes: LinkPurpose[]) => ({
    query: sql.deleteFrom('login_links').where('email', '=', email).where('purpose', 'in', purposes).compile(),
  })
  const dropOwnerLinks = () => ({ query: sql.deleteFrom('login_links').where('purpose', '=', 'owner').compile() })
  const dropInvitations = (accountId: string, userId: string, roles: readonly Role[]): BatchStep[] => {
    if (roles.length === 0) return []
    const invited = sql
      .selectFrom('invitations')
      .select('id')
      .where('account_id', '=', accountId)
      .where('user_id', '=', userId)
      .where('role', 'in', roles)
    return [
      { query: sql.deleteFrom('login_links').where('invitation_id', 'in', invited).compile() },
      { query: sql.deleteFrom('invitations').where('id', 'in', invited).compile() },
    ]
  }
  /** Changes nothing, but holds on to the user as they are: whoever gives them another password waits, or was first. */
  const stillHasPassword = (userId: string, passwordHash: string): BatchStep =>
    once(
      sql
        .updateTable('users')
        .set((one) => ({ email: one.ref('email') }))
        .where('id', '=', userId)
        .where('password_hash', '=', passwordHash)
        .compile(),
    )
  const countUp = (name: string, day: number, most: number): BatchStep =>
    once(
      sql
        .insertInto('people_counts')
        .values({ name, day, count: 1 })
        .onConflict((conflict) =>
          conflict
            .columns(['name', 'day'])
            .doUpdateSet({ count: raw<number>`people_counts.count + 1` })
            .where('people_counts.count', '<', most),
        )
        .compile(),
    )
  const openSessions = async (userId: string): Promise<string[]> => {
    const query = sql.selectFrom('sessions').select('id').where('user_id', '=', userId).where('ended_at', 'is', null)
    return (await db.all<{ id: string }>(query.compile())).map(({ id }) => id)
  }

  /**
   * Ends a user's sessions together with the news of exactly those: one that began after they were looked for makes it look again. Undefined: another of the
   * steps did not hold.
   */
  async function endAll(
    { userId, now, but = '' }: { userId: string; now: number; but?: string },
    newsOf: NewsOf,
    { before = [], after = [] }: { before?: BatchStep[]; after?: BatchStep[] } = {},
  ): Promise<string[] | undefined> {
    for (let looks = 0; looks < sessionLooks; looks++) {
      const ids = (await openSessions(userId)).filter((id) => id !== but)
      const end = { ...endSessions(userId, now, { but }), mustChange: ids.length }
      const { applied, failedStep } = await db.batch([...before, end, ...after, ...newsOf(ids)])
      if (applied) return ids
      if (failedStep !== before.length) return undefined
    }
    throw new DeltaError('database_busy', 'Sessions begin faster than they can be ended')
  }
  const otherOwner = (accountId: string, userId: string) =>
    sql
      .selectFrom('memberships as other')
      .select('other.user_id')
      .where('other.account_id', '=', accountId)
      .where('other.role', '=', 'owner')
      .where('other.user_id', '!=', userId)

  return {
    userByEmail: (email: string) =>
      db.first<UserRow>(sql.selectFrom('users').selectAll().where('email', '=', email).compile()),

    userById: (id: string) => db.first<UserRow>(sql.selectFrom('users').selectAll().where('id', '=', id).compile()),

    async hasOwner(accountId: string): Promise<boolean> {
      const query = sql.selectFrom('memberships').select('user_id').where('account_id', '=', accountId)
      return (await db.first(query.where('role', '=', 'owner').limit(1).compile())) !== undefined
    },

    async rename(userId: string, name: string): Promise<void> {
      await db.run(sql.updateTable('users').set({ name }).where('id', '=', userId).compile())
    },

    /** A user with an account of their own, by a link that is good once. False: it was not. */
    createByLink: (hash: string, user: UserRow, account: Tables['accounts']) =>
      refusingTaken(
        apply([
          useLink(hash, user.created_at),
          insertUser(user),
          insertAccount(account),
          insertMember({ account_id: account.id, user_id: user.id, role: 'owner', created_at: user.created_at }),
          dropLinks(user.email, ['verify']),
        ]),
      ),

    /** The first owner of an account that exists. Whoever else becomes its owner takes the link away. */
    createOwnerByLink: (hash: string, user: UserRow, accountId: string) =>
      refusingTaken(
        apply([
          useLink(hash, user.created_at),
          insertUser(user),
          insertMember({ account_id: accountId, user_id: user.id, role: 'owner', created_at: user.created_at }),
          dropOwnerLinks(),
        ]),
      ),

    /** Joins the account of an invitation; `user` is set where they are new. */
    acceptByLink: (
      hash: string,
      invitation: InvitationRow,
      { userId, user, now, more = [] }: { userId: string; user?: UserRow; now: number; more?: BatchStep[] },
    ) =>
      refusingTaken(
        apply([
          useLink(hash, now),
          once(sql.deleteFrom('invitations').where('id', '=', invitation.id).where('expires_at', '>', now).compile()),
          ...(user ? [insertUser(user)] : []),
          putMember({ account_id: invitation.account_id, user_id: userId, role: invitation.role, created_at: now }),
          ...(isFirstOwner(invitation.account_id, invitation.role) ? [dropOwnerLinks()] : []),
          ...more,
        ]),
      ),

    /** A new password ends every session; by a link to the address, the address is verified too. The sessions, or undefined: the link is over. */
    resetByLink: (
      { hash, userId, passwordHash, now }: { hash: string; userId: string; passwordHash: string; now: number },
      newsOf: NewsOf,
    ) =>
      endAll({ userId, now }, newsOf, {
        before: [
          useLink(hash, now),
          once(sql.updateTable('users').set({ password_hash: passwordHash }).where('id', '=', userId).compile()),
          {
            query: sql
              .updateTable('users')
              .set({ email_verified_at: now })
              .where('id', '=', userId)
              .where('email_verified_at', 'is', null)
              .compile(),
          },
        ],
        after: [
          {
            query: sql
              .deleteFrom('login_links')
              .where('user_id', '=', userId)
              .where('purpose', 'in', ['reset', 'signin'])
              .compile(),
          },
        ],
      }),

    changePassword: (
      {
        userId,
        passwordHash,
        now,
        keptSession,
      }: { userId: string; passwordHash: string; now: number; keptSession: string },
      newsOf: NewsOf,
    ) =>
      endAll({ userId, now, but: keptSession }, newsOf, {
        before: [
          once(sql.updateTable('users').set({ password_hash: passwordHash }).where('id', '=', userId).compile()),
        ],
      }),

    // Links

    async putLink(link: LinkRow, mostOpen: number): Promise<void> {
      const open = sql
        .selectFrom('login_links')
        .select('hash')
        .where('email', '=', link.email)
        .where('purpose', '=', link.purpose)
        .orderBy('created_at', 'desc')
        .orderBy('hash')
        .limit(mostOpen - 1)
      const older = sql
        .deleteFrom('login_links')
        .where('email', '=', link.email)
        .where('purpose', '=', link.purpose)
        .where('hash', 'not in', open)
      await db.batch([{ query: older.compile() }, { query: sql.insertInto('login_links').values(link).compile() }])
    },

    link: (hash: string, now: number) =>
      db.first<LinkRow>(
        sql.selectFrom('login_links').selectAll().where('hash', '=', hash).where('expires_at', '>', now).compile(),
      ),

    /** False: as many codes were tried with it as may be, or it is over. */
    countLinkTry: async (hash: string, most: number, now: number): Promise<boolean> => {
      const query = sql
        .updateTable('login_links')
        .set((one) => ({ tries: one('tries', '+', 1) }))
        .where('hash', '=', hash)
        .where('tries', '<', most)
        .where('expires_at', '>', now)
      return (await db.run(query.compile())).changed === 1
    },

    /** The newest open one of that kind; what was asked for but has no user yet. */
    openLink: (email: string, purpose: LinkPurpose, now: number) =>
      db.first<LinkRow>(
        sql
          .selectFrom('login_links')
          .selectAll()
          .where('email', '=', email)
          .where('purpose', '=', purpose)
          .where('expires_at', '>', now)
          .orderBy('created_at', 'desc')
          .limit(1)
          .compile(),
      ),

    useLink: (hash: string, now: number) => apply([useLink(hash, now)]),

    // Sessions

    /** Beyond `most` of a user the longest unused end. */
    async startSession(
      session: SessionRow,
      refreshHash: string,
      { most, linkHash, passwordHash }: { most: number; linkHash?: string; passwordHash?: string },
    ): Promise<boolean> {
      const newest = sql
        .selectFrom('sessions as kept')
        .select('kept.id')
        .where('kept.user_id', '=', session.user_id)
        .where('kept.ended_at', 'is', null)
        .orderBy('kept.used_at', 'desc')
        .orderBy('kept.id')
        .limit(most - 1)
      const older = sql
        .updateTable('sessions')
        .set({ ended_at: session.created_at })
        .where('user_id', '=', session.user_id)
        .where('ended_at', 'is', null)
        .where('id', 'not in', newest)
      return apply([
        ...(linkHash === undefined ? [] : [useLink(linkHash, session.created_at)]),
        ...(passwordHash === undefined ? [] : [stillHasPassword(session.user_id, passwordHash)]),
        { query: older.compile() },
        { query: sql.insertInto('sessions').values(session).compile() },
        {
          query: sql
            .insertInto('refresh_tokens')
            .values(refreshRow(refreshHash, session.id, session.created_at))
            .compile(),
        },
      ])
    },

    /** A refresh token is used by whoever is first. */
    rotate: ({
      from,
      to,
      sessionId,
      now,
      expiresAt,
    }: {
      from: string
      to: string
      sessionId: string
      now: number
      expiresAt: number
    }) =>
      apply([
        once(
          sql
            .updateTable('refresh_tokens')
            .set({ used_at: now })
            .where('hash', '=', from)
            .where('used_at', 'is', null)
            .compile(),
        ),
        once(
          sql
            .updateTable('sessions')
            .set({ used_at: now, expires_at: expiresAt })
            .where('id', '=', sessionId)
            .where('ended_at', 'is', null)
            .where('expires_at', '>', now)
            .compile(),
        ),
        {
          query: sql
            .insertInto('refresh_tokens')
            .values(refreshRow(to, sessionId, now))
            .compile(),
        },
      ]),

    refreshToken: (hash: string) =>
      db.first<SessionRow & { token_used_at: number | null }>(
        sql
          .selectFrom('refresh_tokens')
          .innerJoin('sessions', 'sessions.id', 'refresh_tokens.session_id')
          .selectAll('sessions')
          .select('refresh_tokens.used_at as token_used_at')
          .where('refresh_tokens.hash', '=', hash)
          .compile(),
      ),

    session: (id: string) =>
      db.first<SessionRow>(sql.selectFrom('sessions').selectAll().where('id', '=', id).compile()),

    /** What a session is worth now in that account: a role, or nothing. */
    async standing(sessionId: string, accountId: string, now: number): Promise<Role | undefined> {
      const query = sql
        .selectFrom('sessions')
        .innerJoin('memberships', 'memberships.user_id', 'sessions.user_id')
        .select('memberships.role')
        .where('sessions.id', '=', sessionId)
        .where('sessions.ended_at', 'is', null)
        .where('sessions.expires_at', '>', now)
        .where('memberships.account_id', '=', accountId)
      return (await db.lookUp<{ role: Role }>(query.compile()))[0]?.role
    },

    /** The same with who it is: for what was made in a session and knows no more of it than its id. */
    async holder(
      sessionId: string,
      accountId: string,
      now: number,
    ): Promise<{ role: Role; userId: string } | undefined> {
      const query = sql
        .selectFrom('sessions')
        .innerJoin('memberships', 'memberships.user_id', 'sessions.user_id')
        .select(['memberships.role', 'sessions.user_id as userId'])
        .where('sessions.id', '=', sessionId)
        .where('sessions.ended_at', 'is', null)
        .where('sessions.expires_at', '>', now)
        .where('memberships.account_id', '=', accountId)
      return (await db.lookUp<{ role: Role; userId: string }>(query.compile()))[0]
    },

    sessionsOf: (userId: string, now: number) =>
      db.all<SessionRow>(
        sql
          .selectFrom('sessions')
          .selectAll()
          .where('user_id', '=', userId)
          .where('ended_at', 'is', null)
          .where('expires_at', '>', now)
          .orderBy('used_at', 'desc')
          .orderBy('id')
          .compile(),
      ),

    /** From where a user has been, as far as it is not forgotten. */
    addressesOf: async (userId: string, most: number): Promise<string[]> => {
      const query = sql.selectFrom('sessions').select('address').distinct().where('user_id', '=', userId).limit(most)
      return (await db.all<{ address: string }>(query.compile())).map(({ address }) => address)
    },

    /** False: it had ended, or is not that user's. */
    endSession: (id: string, userId: string, now: number, news: BatchStep[]) => {
      const query = sql
        .updateTable('sessions')
        .set({ ended_at: now })
        .where('id', '=', id)
        .where('user_id', '=', userId)
      return apply([once(query.where('ended_at', 'is', null).compile()), ...news])
    },

    endOtherSessions: (userId: string, but: string, now: number, newsOf: NewsOf) =>
      endAll({ userId, now, but }, newsOf),

    async switchSession(id: string, accountId: string): Promise<void> {
      await db.run(sql.updateTable('sessions').set({ account_id: accountId }).where('id', '=', id).compile())
    },

    // Accounts and who belongs to them

    accountsOf: (userId: string) =>
      db.all<{ id: string; name: string; role: Role }>(
        sql
          .selectFrom('memberships')
          .innerJoin('accounts', 'accounts.id', 'memberships.account_id')
          .select(['accounts.id', 'accounts.name', 'memberships.role'])
          .where('memberships.user_id', '=', userId)
          .orderBy('memberships.created_at')
          .orderBy('accounts.id')
          .compile(),
      ),

    account: (id: string) =>
      db.first<{ id: string; name: string; created_at: number; members: number }>(
        sql
          .selectFrom('accounts')
          .select(['id', 'name', 'created_at'])
          .select((one) =>
            one
              .selectFrom('memberships')
              .select((count) => count.fn.countAll<number>().as('members'))
              .whereRef('memberships.account_id', '=', 'accounts.id')
              .as('members'),
          )
          .where('id', '=', id)
          .compile() as CompiledQuery<{ id: string; name: string; created_at: number; members: number }>,
      ),

    async renameAccount(id: string, name: string): Promise<void> {
      await db.run(sql.updateTable('accounts').set({ name }).where('id', '=', id).compile())
    },

    members: (accountId: string) =>
      db.all<MemberRow>(
        sql
          .selectFrom('memberships')
          .innerJoin('users', 'users.id', 'memberships.user_id')
          .leftJoin('totp', (join) =>
            join.onRef('totp.user_id', '=', 'users.id').on('totp.confirmed_at', 'is not', null),
          )
          .select(['users.id as user_id', 'users.email', 'users.name', 'memberships.role', 'memberships.created_at'])
          .select(raw<number>`case when totp.user_id is null then 0 else 1 end`.as('totp'))
          .where('memberships.account_id', '=', accountId)
          .orderBy('memberships.created_at')
          .orderBy('users.id')
          .compile(),
      ),

    roleOf: async (accountId: string, userId: string): Promise<Role | undefined> => {
      const query = sql.selectFrom('memberships').select('role').where('account_id', '=', accountId)
      return (await db.first<{ role: Role }>(query.where('user_id', '=', userId).compile()))?.role
    },

    owners: async (accountId: string): Promise<number> => {
      const query = sql.selectFrom('memberships').select('user_id').where('account_id', '=', accountId)
      return (await db.all(query.where('role', '=', 'owner').compile())).length
    },

    /** False: the role is no longer what it was, or nobody else owns the account. */
    changeRole: (
      {
        accountId,
        userId,
        from,
        to,
        mayNotInvite,
      }: {
        accountId: string
        userId: string
        from: Role
        to: Role | undefined
        /** Of what they have invited others to be, this they may no longer. */
        mayNotInvite: readonly Role[]
      },
      more: BatchStep[],
    ) => {
      const keep = from === 'owner' && to !== 'owner'
      const update = sql
        .updateTable('memberships')
        .set({ role: to ?? from })
        .where('account_id', '=', accountId)
        .where('user_id', '=', userId)
        .where('role', '=', from)
      const remove = sql
        .deleteFrom('memberships')
        .where('account_id', '=', accountId)
        .where('user_id', '=', userId)
        .where('role', '=', from)
      const change = to === undefined ? remove.compile() : update.compile()
      // Whoever else owns it is taken hold of first: two owners who leave at the same moment wait for each other.
      const hold = sql
        .updateTable('memberships')
        .set({ role: 'owner' })
        .where('account_id', '=', accountId)
        .where('role', '=', 'owner')
        .where((one) => one.exists(otherOwner(accountId, userId)))
      return apply([
        ...(keep ? [{ query: hold.compile() }] : []),
        once(change),
        ...(keep ? [stillOwned(accountId)] : []),
        ...dropInvitations(accountId, userId, mayNotInvite),
        ...(to !== undefined && isFirstOwner(accountId, to) ? [dropOwnerLinks()] : []),
        ...more,
      ])
    },

    // Invitations

    /** Again to the same address replaces the one of before. Each counts; the one whose day is full is the answer, and nothing was written. */
    async invite<Count extends DayCount>(
      invitation: InvitationRow,
      { day, counts }: { day: number; counts: readonly Count[] },
    ): Promise<Count | undefined> {
      const { account_id, email } = invitation
      const before = sql
        .selectFrom('invitations')
        .select('id')
        .where('account_id', '=', account_id)
        .where('email', '=', email)
      const { applied, failedStep } = await db.batch([
        ...counts.map(({ name, most }) => countUp(name, day, most)),
        { query: sql.deleteFrom('login_links').where('invitation_id', 'in', before).compile() },
        {
          query: sql
            .deleteFrom('invitations')
            .where('account_id', '=', account_id)
            .where('email', '=', email)
            .compile(),
        },
        { query: sql.insertInto('invitations').values(invitation).compile() },
      ])
      return applied ? undefined : counts[failedStep ?? 0]
    },

    invitations: (accountId: string, now: number) =>
      db.all<InvitationRow>(
        sql
          .selectFrom('invitations')
          .selectAll()
          .where('account_id', '=', accountId)
          .where('expires_at', '>', now)
          .orderBy('created_at')
          .orderBy('id')
          .compile(),
      ),

    invitation: (id: string) =>
      db.first<InvitationRow>(sql.selectFrom('invitations').selectAll().where('id', '=', id).compile()),

    invitationTo: (email: string, now: number) =>
      db.first<InvitationRow>(
        sql
          .selectFrom('invitations')
          .selectAll()
          .where('email', '=', email)
          .where('expires_at', '>', now)
          .orderBy('created_at', 'desc')
          .limit(1)
          .compile(),
      ),

    withdraw: (accountId: string, id: string) =>
      apply([
        once(sql.deleteFrom('invitations').where('id', '=', id).where('account_id', '=', accountId).compile()),
        { query: sql.deleteFrom('login_links').where('invitation_id', '=', id).compile() },
      ]),

    // The second factor

    totp: (userId: string) =>
      db.first<TotpRow>(sql.selectFrom('totp').selectAll().where('user_id', '=', userId).compile()),

    /** Not over one that is in use. */
    prepareTotp: async (row: TotpRow): Promise<boolean> => {
      const query = sql
        .insertInto('totp')
        .values(row)
        .onConflict((conflict) =>
          conflict
            .column('user_id')
            .doUpdateSet({ secret: row.secret, last_step: row.last_step })
            .where('totp.confirmed_at', 'is', null),
        )
      return (await db.run(query.compile())).changed === 1
    },

    confirmTotp: (userId: string, { step, now, codes }: { step: number; now: number; codes: string[] }) =>
      apply([
        once(
          sql
            .updateTable('totp')
            .set({ confirmed_at: now, last_step: step })
            .where('user_id', '=', userId)
            .where('confirmed_at', 'is', null)
            .compile(),
        ),
        ...replaceCodes(userId, codes),
      ]),

    replaceRecoveryCodes: (userId: string, codes: string[]) => apply(replaceCodes(userId, codes)),

    /** False: somebody else counted at the same moment. */
    countCode: async (seen: TotpRow, next: { failures: number; nextAt: number }): Promise<boolean> => {
      const query = sql
        .updateTable('totp')
        .set({ failures: next.failures, next_at: next.nextAt })
        .where('user_id', '=', seen.user_id)
        .where('failures', '=', seen.failures)
        .where('next_at', '=', seen.next_at)
      return (await db.run(query.compile())).changed === 1
    },

    /** False: that code, or a later one, was used before. What was tried is forgotten with the right one. */
    useStep: async (userId: string, step: number): Promise<boolean> => {
      const query = sql
        .updateTable('totp')
        .set({ last_step: step, failures: 0, next_at: 0 })
        .where('user_id', '=', userId)
        .where('last_step', '<', step)
      return (await db.run(query.compile())).changed === 1
    },

    useRecoveryCode: (userId: string, hash: string): Promise<boolean> =>
      apply([
        once(sql.deleteFrom('recovery_codes').where('user_id', '=', userId).where('hash', '=', hash).compile()),
        { query: sql.updateTable('totp').set({ failures: 0, next_at: 0 }).where('user_id', '=', userId).compile() },
      ]),

    recoveryCodesLeft: async (userId: string): Promise<number> =>
      (await db.all(sql.selectFrom('recovery_codes').select('hash').where('user_id', '=', userId).compile())).length,

    removeTotp: (userId: string) =>
      apply([
        { query: sql.deleteFrom('recovery_codes').where('user_id', '=', userId).compile() },
        { query: sql.deleteFrom('totp').where('user_id', '=', userId).compile() },
      ]),

    /** What is over, so that nothing grows for ever. */
    async sweep(now: number, countedBefore: number): Promise<void> {
      await db.batch([
        { query: sql.deleteFrom('login_links').where('expires_at', '<=', now).compile() },
        { query: sql.deleteFrom('invitations').where('expires_at', '<=', now).compile() },
        { query: sql.deleteFrom('people_counts').where('day', '<', countedBefore).compile() },
      ])
    },

    /** Sessions stay until no token of theirs could be tried again. How many were forgotten: at most so many. */
    async sweepSessions(now: number, endedBefore: number, most: number): Promise<number> {
      const over = sql
        .selectFrom('sessions')
        .select('id')
        .where((one) => one.or([one('expires_at', '<', now), one('ended_at', '<', endedBefore)]))
        .limit(most)
      const ids = (await db.all<{ id: string }>(over.compile())).map(({ id }) => id)
      if (ids.length === 0) return 0
      // One that is over is never refreshed, so no token comes to it in between.
      await db.batch([
        { query: sql.deleteFrom('refresh_tokens').where('session_id', 'in', ids).compile() },
        { query: sql.deleteFrom('sessions').where('id', 'in', ids).compile() },
      ])
      return ids.length
    },
  }

  function replaceCodes(userId: string, codes: string[]): BatchStep[] {
    return [
      { query: sql.deleteFrom('recovery_codes').where('user_id', '=', userId).compile() },
      {
        query: sql
          .insertInto('recovery_codes')
          .values(codes.map((hash) => ({ user_id: userId, hash })))
          .compile(),
      },
    ]
  }

  /** Changes nothing but counts: without an owner no row fits, and the whole batch is undone. */
  function stillOwned(accountId: string): BatchStep {
    const owned = sql
      .selectFrom('memberships')
      .select('account_id')
      .where('account_id', '=', accountId)
      .where('role', '=', 'owner')
    return once(
      sql
        .updateTable('accounts')
        .set((one) => ({ name: one.ref('name') }))
        .where('id', '=', accountId)
        .where((one) => one.exists(owned))
        .compile(),
    )
  }
}

/** Looks at the sessions of one user while new ones begin. */
const sessionLooks = 10

/** What is to be written together with the end of sessions, by their ids. */
export type NewsOf = (ids: readonly string[]) => BatchStep[]

/** What may be done so often a day, by everybody whom it is counted for. */
export interface DayCount {
  name: string
  most: number
}

const isFirstOwner = (accountId: string, role: Role) => accountId === firstAccountId && role === 'owner'

/** Of two who take the same address at once, the second finds it taken; for them the link is simply over. */
async function refusingTaken(applied: Promise<boolean>): Promise<boolean> {
  try {
    return await applied
  } catch (error) {
    if (error instanceof DeltaError && error.code === 'database_constraint') return false
    throw error
  }
}

function refreshRow(hash: string, sessionId: string, now: number): Tables['refresh_tokens'] {
  return { hash, session_id: sessionId, created_at: now, used_at: null }
}
