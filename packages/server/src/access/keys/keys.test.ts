import { describe, expect, test } from 'vitest'
import { manualClock } from '../../kernel/clock.ts'
import { rawQuery } from '../../kernel/db/compile.ts'
import type { Database } from '../../kernel/db/database.ts'
import { migrate } from '../../kernel/db/migrate.ts'
import { testDatabases } from '../../kernel/db/testing.ts'
import { DeltaError } from '../../kernel/errors.ts'
import { silentLogger } from '../../kernel/log.ts'
import { createCallerDoor } from '../authenticate.ts'
import type { KnownCaller } from '../door.ts'
import { accessMigrations } from '../migrations.ts'
import { peopleMigrations } from '../people/migrations.ts'
import type { KeyPrincipal, Role, UserPrincipal } from '../principal.ts'
import { openRevocations } from '../revocations.ts'
import { right, rightNames } from '../rights.ts'
import { testCaller, testKeyPrincipal } from '../testing.ts'
import { keyMigrations } from './migrations.ts'
import { createKeyReader } from './reader.ts'
import { createKeySchema, rotateKeySchema } from './schema.ts'
import { createKeys, type MadeKey } from './service.ts'
import { createKeyStore } from './store.ts'
import { keyHash, newKeyText } from './text.ts'

const minute = 60_000
const person = (userId: string, role: Role, accountId = 'acc_a'): UserPrincipal => ({
  kind: 'user',
  accountId,
  userId,
  sessionId: `ses_${userId}`,
  role,
  secondFactor: false,
})
const owner = testCaller(person('usr_owner', 'owner'))
const member = testCaller(person('usr_member', 'member'))
const viewer = testCaller(person('usr_viewer', 'viewer'))
const stranger = testCaller(person('usr_stranger', 'owner', 'acc_b'))

const wish = (rights: string[], more: object = {}) => createKeySchema.parse({ name: 'ci', rights, ...more })

async function refusal(promise: Promise<unknown>): Promise<string> {
  const error: unknown = await promise.then(
    () => undefined,
    (cause: unknown) => cause,
  )
  return error instanceof DeltaError ? error.code : `no refusal: ${String(error)}`
}

/** The member has an account of their own beside. */
const elsewhere = person('usr_member', 'owner', 'acc_b')

/** Whose keys they are, with their roles. */
async function addPeople(database: Database): Promise<void> {
  const principals = [owner, member, viewer, stranger].map(({ principal }) => principal as UserPrincipal)
  const people = [...principals, elsewhere]
  const texts = [
    ...['acc_a', 'acc_b'].map((id) => `insert into accounts (id, name, created_at) values ('${id}', '', 1)`),
    ...principals.map(
      ({ userId: id }) => `insert into users (id, email, name, created_at) values ('${id}', '${id}', '', 1)`,
    ),
    ...people.map(
      ({ accountId, userId, role }) =>
        `insert into memberships (account_id, user_id, role, created_at) values ('${accountId}', '${userId}', '${role}', 1)`,
    ),
  ]
  await database.batch(texts.map((text) => ({ query: rawQuery(text) })))
}

testDatabases('keys', (open) => {
  async function start() {
    const clock = manualClock(1_789_000_000_000)
    const database = await open([...accessMigrations, ...peopleMigrations, ...keyMigrations])
    await addPeople(database)
    const setRole = async (userId: string, role: Role | undefined) => {
      const change = role === undefined ? 'delete from memberships' : `update memberships set role = '${role}'`
      await database.run(rawQuery(`${change} where account_id = 'acc_a' and user_id = '${userId}'`))
    }
    const secondFactors = new Set<string>()
    const store = createKeyStore(database)
    /** As one server of several on the same database. */
    const serve = async () => {
      const revocations = await openRevocations({ database, clock, log: silentLogger })
      const { reader, stop } = createKeyReader({ store, revocations, clock, log: silentLogger })
      const door = createCallerDoor({ readers: [reader], revocations, clock })
      const hasSecondFactor = (userId: string) => Promise.resolve(secondFactors.has(userId))
      const keys = createKeys({ store, revocations, hasSecondFactor, clock })
      const as = async (key: string) => door.authenticate({ authorization: `Bearer ${key}` })
      return { keys, door, as, stop, revocations }
    }
    return { clock, database, store, setRole, secondFactors, serve, ...(await serve()) }
  }

  describe('making', () => {
    test('a key opens what it says, and its text is in no row', async () => {
      const { keys, as, database } = await start()
      const made = await keys.create(wish(['read:sandboxes', 'egress:*.example.com'], { sandboxes: ['sbx_a'] }), owner)
      expect(made).toMatchObject({
        name: 'ci',
        state: 'active',
        madeBy: 'usr_owner',
        userId: 'usr_owner',
        hint: made.key.slice(0, 7),
      })
      const caller = await as(made.key)
      expect(caller).toMatchObject({ accountId: 'acc_a', actorId: made.id })
      expect(caller!.principal).toMatchObject({
        kind: 'key',
        role: 'owner',
        rights: ['read:sandboxes', 'egress:*.example.com'],
        sandboxes: ['sbx_a'],
      })
      const rows = await database.all(
        database.of<{ api_keys: object }>().sql.selectFrom('api_keys').selectAll().compile(),
      )
      expect(JSON.stringify(rows)).not.toContain(made.key.slice(8))
    })

    test('whatever is no such key is nobody, and without a good checksum the database is not asked', async () => {
      const { keys, as, database } = await start()
      const { key } = await keys.create(wish(['read:sandboxes']), owner)
      const before = database.counts.operations
      for (const other of [
        `${key.slice(0, -1)}${key.endsWith('0') ? '1' : '0'}`,
        key.slice(0, -1),
        'dk_',
        `${key}${key}`,
      ]) {
        expect(await as(other)).toBeNull()
      }
      expect(database.counts.operations).toBe(before)
      expect(await as(`dk_${'0'.repeat(43)}3xMPgs`)).toBeNull()
    })

    test('nobody makes a key wider than themselves', async () => {
      const { keys } = await start()
      expect(await refusal(keys.create(wish(['write:members']), member))).toBe('forbidden')
      expect(await refusal(keys.create(wish(['read:operations']), stranger))).toBe('forbidden')
      const scoped = testCaller(testKeyPrincipal({ accountId: 'acc_a', sandboxes: ['sbx_a'] }))
      expect(await refusal(keys.create(wish(['read:files']), scoped))).toBe('forbidden')
      expect(await refusal(keys.create(wish(['read:files'], { sandboxes: ['sbx_a', 'sbx_b'] }), scoped))).toBe(
        'forbidden',
      )
    })

    test('a key that approves is made and rotated only in a session that showed the second factor there is', async () => {
      const { keys, secondFactors } = await start()
      const before = await keys.create(wish(['approve:egress']), owner)
      secondFactors.add('usr_owner')
      const shown = testCaller({ ...person('usr_owner', 'owner'), secondFactor: true })
      expect(await refusal(keys.create(wish(['read:*', 'approve:egress']), owner))).toBe(
        'approval_second_factor_required',
      )
      expect(await refusal(keys.rotate(before.id, 0, owner))).toBe('approval_second_factor_required')
      await keys.create(wish(['read:*', 'write:*', 'request']), owner)
      await keys.create(wish(['approve:egress']), shown)
      await keys.rotate(before.id, 0, shown)
    })

    test('a key makes narrower keys that end with it and no later, and none that approves', async () => {
      const { keys, as, clock } = await start()
      const parent = await keys.create(wish(['read:*', 'write:keys', 'approve:*'], { ttlMs: 10 * minute }), owner)
      const caller = (await as(parent.key))!
      expect(await refusal(keys.create(wish(['write:sandboxes'], { ttlMs: minute }), caller))).toBe('forbidden')
      expect(await refusal(keys.create(wish(['approve:*'], { ttlMs: minute }), caller))).toBe('forbidden')
      expect(await refusal(keys.create(wish(['read:files']), caller))).toBe('forbidden')
      expect(await refusal(keys.create(wish(['read:files'], { ttlMs: 11 * minute }), caller))).toBe('forbidden')
      const child = await keys.create(wish(['read:files', 'write:keys'], { ttlMs: minute }), caller)
      const grandchild = await keys.create(wish(['read:files'], { ttlMs: minute }), (await as(child.key))!)
      expect(await as(grandchild.key)).not.toBeNull()
      await keys.revoke(parent.id, owner)
      for (const { key } of [parent, child, grandchild]) expect(await as(key)).toBeNull()
      await clock.advance(minute)
    })

    test('a key that ended between its check and the making makes nothing', async () => {
      const { keys, as, store } = await start()
      const parent = await keys.create(wish(['read:*', 'write:keys']), owner)
      const caller = (await as(parent.key))!
      await keys.revoke(parent.id, owner)
      expect(await refusal(keys.create(wish(['read:files']), caller))).toBe('unauthorized')
      expect(await store.countActive('acc_a', 0)).toBe(0)
    })

    test.each([
      { rights: [] },
      { rights: ['read:nothing'] },
      { rights: ['read:sandboxes'], role: 'owner' },
      { rights: ['read:sandboxes'], accountId: 'acc_b' },
      { rights: ['read:sandboxes'], userId: 'usr_owner' },
      { rights: ['read:sandboxes'], id: 'key_default' },
      { rights: ['read:sandboxes'], hash: 'x' },
      { rights: ['read:sandboxes'], name: 'a\u202Eb' },
      { rights: ['read:sandboxes'], name: '\u0000' },
      { rights: ['read:sandboxes'], name: ' ' },
      { rights: ['read:sandboxes'], sandboxes: ['sbx_a%'] },
      { rights: ['read:sandboxes'], ttlMs: 1 },
      { rights: ['read:sandboxes'], ttlMs: minute, expiresAt: '2099-01-01T00:00:00Z' },
      { rights: Array.from({ length: 65 }, () => 'read:sandboxes') },
    ])('%j makes none', (body) => {
      expect(createKeySchema.safeParse({ name: 'ci', ...body }).success).toBe(false)
    })

    test('an end in the past makes none', async () => {
      const { keys } = await start()
      expect(await refusal(keys.create(wish(['read:sandboxes'], { expiresAt: '2001-01-01T00:00:00Z' }), owner))).toBe(
        'invalid_request',
      )
    })
  })

  test('a key from before the table was in the order of hashes is found by its text, by the one before, and by its id', async () => {
    const before = [...accessMigrations, ...peopleMigrations, ...keyMigrations.slice(0, 1)]
    const database = await open(before)
    await addPeople(database)
    const made = Array.from({ length: 100 }, (_, at) => ({ id: `key_${at}`, now: newKeyText(), old: newKeyText() }))
    await database.batch(
      made.map(({ id, now, old }, at) => {
        const previous = at % 2 === 0 ? 'null' : `'${keyHash(old)}'`
        return {
          query: rawQuery(
            `insert into api_keys (id, account_id, user_id, made_by, ancestors, name, hint, hash, previous_hash, rights, created_at)
             values ('${id}', 'acc_a', 'usr_owner', 'usr_owner', '[]', 'ci', '', '${keyHash(now)}', ${previous}, '[]', 1)`,
          ),
        }
      }),
    )
    const all = [...before, ...keyMigrations.slice(1)]
    await migrate(database.of(), { migrations: all, log: silentLogger })
    const store = createKeyStore(database)
    for (const [at, { id, now, old }] of made.entries()) {
      expect(await store.byHash(keyHash(now))).toMatchObject({ id, hash: keyHash(now), role: 'owner' })
      expect((await store.byHash(keyHash(old)))?.id).toBe(at % 2 === 0 ? undefined : id)
      expect((await store.byId(id))?.hash).toBe(keyHash(now))
    }
  })

  test('of hashes that begin alike each finds its own key or none', async () => {
    const { store, keys } = await start()
    const { id, key } = await keys.create(wish(['read:sandboxes']), owner)
    const own = keyHash(key)
    const alike = `${own.slice(0, 13)}${'0'.repeat(51)}`
    expect(await store.byHash(alike)).toBeUndefined()
    const record = (await store.byHash(own))!
    await expect(store.insert({ ...record, id: 'key_alike', hash: alike })).rejects.toMatchObject({
      code: 'database_constraint',
    })
    expect(await store.byHash(own)).toMatchObject({ id })
  })

  describe('who sees which', () => {
    test('owners all of the account, members their own, strangers none, and all in the same words', async () => {
      const { keys } = await start()
      const ofOwner = await keys.create(wish(['read:sandboxes']), owner)
      const ofMember = await keys.create(wish(['read:sandboxes']), member)
      const ids = async (caller: KnownCaller) =>
        (await keys.list(caller, { limit: 10, state: 'active' })).data.map(({ id }) => id).toSorted()
      expect(await ids(owner)).toEqual([ofOwner.id, ofMember.id].toSorted())
      expect(await ids(member)).toEqual([ofMember.id])
      expect(await ids(stranger)).toEqual([])
      expect(await ids(viewer)).toEqual([])
      const words = async (id: string, caller: KnownCaller) =>
        keys.get(id, caller).catch((error: DeltaError) => error.message.replace(id, 'ID'))
      const unused = await words('key_aaaaaaaaaaaaaaaaaaaa', member)
      expect(await words(ofOwner.id, member)).toBe(unused)
      expect(await words(ofOwner.id, stranger)).toBe(unused)
      expect(await words('key_default', member)).toBe(unused)
      // One after the other: a rejection that nobody waits for yet is an error of its own.
      const acts = [
        () => keys.rotate(ofOwner.id, 0, member),
        () => keys.revoke(ofOwner.id, member),
        () => keys.revoke(ofOwner.id, stranger),
      ]
      for (const act of acts) {
        expect(await refusal(act())).toBe('key_not_found')
      }
    })

    test('a list goes on where its page ended', async () => {
      const { keys, clock } = await start()
      for (let count = 0; count < 5; count++) {
        await keys.create(wish(['read:sandboxes']), owner)
        await clock.advance(1)
      }
      const first = await keys.list(owner, { limit: 3, state: 'active' })
      const second = await keys.list(owner, { limit: 3, state: 'active', cursor: first.nextCursor! })
      expect(new Set([...first.data, ...second.data].map(({ id }) => id)).size).toBe(5)
      expect(second.nextCursor).toBeNull()
      expect(await refusal(keys.list(owner, { limit: 3, state: 'active', cursor: 'x' }))).toBe('invalid_request')
    })
  })

  describe('ends', () => {
    const opened = async (made: MadeKey, { as, door }: Awaited<ReturnType<typeof start>>) => {
      const ended: string[] = []
      door.hold((await as(made.key))!, (reason) => ended.push(reason))
      return ended
    }

    test('revoking ends at once what is open, and is no error twice', async () => {
      const started = await start()
      const { keys, as } = started
      const made = await keys.create(wish(['read:sandboxes']), owner)
      const ended = await opened(made, started)
      await keys.revoke(made.id, owner)
      expect(ended).toEqual(['revoked'])
      expect(await as(made.key)).toBeNull()
      await keys.revoke(made.id, owner)
      expect(await keys.get(made.id, owner)).toMatchObject({ state: 'revoked' })
    })

    test('all keys of a person in one account end, and stay ended if they come back', async () => {
      const started = await start()
      const { keys, as, store, clock, revocations } = started
      const made = await keys.create(wish(['write:keys', 'read:sandboxes']), member)
      const child = await keys.create(wish(['read:sandboxes']), (await as(made.key))!)
      const theirs = await keys.create(wish(['read:sandboxes']), testCaller(elsewhere))
      const other = await keys.create(wish(['read:sandboxes']), owner)
      const ended = await opened(child, started)
      await store.batch([
        store.endOfPersonStep('usr_member', 'acc_a', clock.now()),
        ...revocations.steps(['usr_member']),
      ])
      revocations.heard(['usr_member'])
      expect(ended).toEqual(['revoked'])
      for (const { key } of [made, child]) expect(await as(key)).toBeNull()
      for (const { key } of [theirs, other]) expect(await as(key)).not.toBeNull()
    })

    test('what was looked up before and is used after is over', async () => {
      const { keys, as, door } = await start()
      const made = await keys.create(wish(['read:sandboxes']), owner)
      const caller = (await as(made.key))!
      expect(door.isOver(caller)).toBe(false)
      await keys.revoke(made.id, owner)
      expect(door.isOver(caller)).toBe(true)
      expect(await new Promise((resolve) => door.hold(caller, resolve))).toBe('revoked')
    })

    test('an expiry ends it and what is open', async () => {
      const started = await start()
      const { keys, as, clock } = started
      const made = await keys.create(wish(['read:sandboxes'], { ttlMs: minute }), owner)
      const ended = await opened(made, started)
      await clock.advance(minute - 1)
      expect(await as(made.key)).not.toBeNull()
      await clock.advance(1_000)
      expect(ended).toEqual(['expired'])
      expect(await as(made.key)).toBeNull()
      expect(await keys.get(made.id, owner)).toMatchObject({ state: 'expired' })
      expect(await refusal(keys.rotate(made.id, 0, owner))).toBe('key_ended')
    })

    test('another server hears of a revocation within a second', async () => {
      const started = await start()
      const { keys, serve, clock, database } = started
      if (database.kind !== 'postgres') return
      const other = await serve()
      const made = await keys.create(wish(['read:sandboxes']), owner)
      const ended: string[] = []
      other.door.hold((await other.as(made.key))!, (reason) => ended.push(reason))
      await keys.revoke(made.id, owner)
      await clock.advance(800)
      await expect.poll(() => ended).toEqual(['revoked'])
      expect(await other.as(made.key)).toBeNull()
      other.revocations.stop()
    })

    test('one that was written is seen by the next look, whatever is still on its way', async () => {
      const { keys, store, serve, database } = await start()
      const made = await Promise.all(Array.from({ length: 20 }, () => keys.create(wish(['read:sandboxes']), owner)))
      for (const { id, key } of made) {
        // Of a server that has not heard of it: only what is written tells.
        const other = await serve()
        expect(await other.as(key)).toMatchObject({ actorId: id })
        const others = made.map((one) => store.batch([store.usedStep(one.id, 1)]))
        await store.batch([store.revokeStep([id], 1)])
        const [another, ...more] = [await serve(), ...others]
        expect(await another.as(key)).toBeNull()
        expect((await store.byId(id))!.revokedAt).toBe(1)
        await Promise.all(more)
        for (const one of [other, another]) {
          await one.stop()
          one.revocations.stop()
        }
      }
      expect(database.counts.waiting).toBe(0)
    })

    test('a key has its person’s role as it is now', async () => {
      const { keys, as, setRole, revocations } = await start()
      const made = await keys.create(wish(['write:sandboxes']), member)
      const roleOf = async () => ((await as(made.key))?.principal as KeyPrincipal | undefined)?.role
      expect(await roleOf()).toBe('member')
      await setRole('usr_member', 'viewer')
      await revocations.revoke(['usr_member'])
      expect(await roleOf()).toBe('viewer')
      await setRole('usr_member', undefined)
      await revocations.revoke(['usr_member'])
      expect(await as(made.key)).toBeNull()
    })
  })

  describe('rotating', () => {
    test('changes the text and nothing else; the old one goes on for the overlap, and so does what it opened', async () => {
      const { keys, as, door, clock } = await start()
      const made = await keys.create(wish(['read:sandboxes'], { sandboxes: ['sbx_a'] }), owner)
      const ended: string[] = []
      door.hold((await as(made.key))!, (reason) => ended.push(`old ${reason}`))
      const next = await keys.rotate(made.id, 10_000, owner)
      expect(next).toMatchObject({
        id: made.id,
        rights: made.rights,
        sandboxes: made.sandboxes,
        expiresAt: made.expiresAt,
      })
      expect(next.key).not.toBe(made.key)
      door.hold((await as(next.key))!, (reason) => ended.push(`new ${reason}`))
      await clock.advance(9_000)
      expect(await as(made.key)).not.toBeNull()
      expect(ended).toEqual([])
      await clock.advance(2_000)
      expect(await as(made.key)).toBeNull()
      expect(await as(next.key)).not.toBeNull()
      expect(ended).toEqual(['old expired'])
    })

    test('without an overlap the old text ends at once, and a text is never good two rotations later', async () => {
      const { keys, as, door } = await start()
      const first = await keys.create(wish(['read:sandboxes']), owner)
      const ended: string[] = []
      door.hold((await as(first.key))!, (reason) => ended.push(reason))
      const second = await keys.rotate(first.id, 0, owner)
      expect(ended).toEqual(['revoked'])
      expect(await as(first.key)).toBeNull()
      const third = await keys.rotate(first.id, 10 * minute, owner)
      expect(await as(second.key)).not.toBeNull()
      const fourth = await keys.rotate(first.id, 10 * minute, owner)
      expect(await as(second.key)).toBeNull()
      expect(await as(third.key)).not.toBeNull()
      expect(await as(fourth.key)).not.toBeNull()
    })

    test('whoever could not have made a key does not get its text', async () => {
      const { keys, as } = await start()
      const strong = await keys.create(wish(['read:*', 'write:*', 'approve:*']), owner)
      const weak = await keys.create(wish(['write:keys', 'read:keys']), owner)
      expect(await refusal(keys.rotate(strong.id, 0, (await as(weak.key))!))).toBe('forbidden')
      const admin = testCaller(person('usr_admin', 'admin'))
      expect(await refusal(keys.rotate(weak.id, 0, admin))).toBe('forbidden')
      // To itself it may give a new text, which raises nothing.
      const own = await keys.rotate(weak.id, 0, (await as(weak.key))!)
      expect(own.rights.toSorted()).toEqual(['read:keys', 'write:keys'])
    })

    test('a key gives a new text to itself and to those made with it, no others', async () => {
      const { keys, as } = await start()
      const own = ['write:keys', 'read:sandboxes']
      const parent = await keys.create(wish(own), member)
      const short = await keys.create(wish(own, { ttlMs: 10 * minute }), member)
      expect(await refusal(keys.rotate(parent.id, 0, (await as(short.key))!))).toBe('forbidden')
      const child = await keys.create(wish(own), (await as(parent.key))!)
      expect(await refusal(keys.rotate(parent.id, 0, (await as(child.key))!))).toBe('forbidden')
      const grandchild = await keys.create(wish(own), (await as(child.key))!)
      for (const { id } of [grandchild, child]) {
        expect((await keys.rotate(id, 0, (await as(parent.key))!)).id).toBe(id)
      }
    })

    test('the text of before goes on during the overlap, and gets nobody what lasts longer', async () => {
      const { keys, as, clock } = await start()
      const rights = ['write:keys', 'read:sandboxes']
      const made = await keys.create(wish(rights), owner)
      const child = await keys.create(wish(rights), (await as(made.key))!)
      const next = await keys.rotate(made.id, 10 * minute, owner)
      const old = (await as(made.key))!
      for (const id of [made.id, child.id]) expect(await refusal(keys.rotate(id, 0, old))).toBe('forbidden')
      expect(await refusal(keys.create(wish(rights), old))).toBe('forbidden')
      expect(await refusal(keys.create(wish(rights, { ttlMs: 11 * minute }), old))).toBe('forbidden')
      const short = await keys.create(wish(rights, { ttlMs: 10 * minute }), old)
      expect(await as(short.key)).not.toBeNull()
      const present = (await as(next.key))!
      for (const id of [child.id, made.id]) expect((await keys.rotate(id, 0, present)).id).toBe(id)
      await clock.advance(10 * minute)
      expect([await as(made.key), await as(short.key)]).toEqual([null, null])
    })

    test('nobody gets a key by rotating it while its person is away', async () => {
      const { keys, setRole } = await start()
      const made = await keys.create(wish(['write:account', 'approve']), owner)
      await setRole('usr_owner', undefined)
      const admin = testCaller(person('usr_admin', 'admin'))
      for (const caller of [admin, testCaller(person('usr_second', 'owner'))]) {
        expect(await refusal(keys.rotate(made.id, 0, caller))).toBe('forbidden')
      }
    })

    test.each([
      { rights: ['write:*'] },
      { overlapMs: -1 },
      { overlapMs: 8 * 24 * 60 * minute },
      { expiresAt: '2099-01-01T00:00:00Z' },
    ])('nothing else may be asked for: %j', (body) => expect(rotateKeySchema.safeParse(body).success).toBe(false))
  })

  test('the last use is written at most once a minute, whatever the number of requests', async () => {
    const { keys, as, clock, database, stop } = await start()
    const made = await keys.create(wish(['read:sandboxes']), owner)
    await as(made.key)
    const before = database.counts.operations
    for (let count = 0; count < 100; count++) await as(made.key)
    expect(database.counts.operations).toBe(before)
    await clock.advance(minute)
    await expect.poll(async () => (await keys.get(made.id, owner)).lastUsedAt).not.toBeNull()
    await clock.advance(5_000)
    await as(made.key)
    await stop()
    expect(Date.parse((await keys.get(made.id, owner)).lastUsedAt!)).toBe(clock.now())
  })

  test('every right of the table can be given', () => {
    expect(wish([...rightNames]).rights).toEqual(rightNames.map(right))
  })
})
