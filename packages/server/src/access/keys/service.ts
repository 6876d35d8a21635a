import type { Clock } from '../../kernel/clock.ts'
import { DeltaError } from '../../kernel/errors.ts'
import { pageOf, readCursor } from '../../kernel/http/cursors.ts'
import { isId, newId } from '../../kernel/ids.ts'
import { defaultKeyId } from '../api-key.ts'
import type { KnownCaller } from '../door.ts'
import { type Granting, mayGrant } from '../policy.ts'
import type { Principal } from '../principal.ts'
import { endingAt, type Revocations } from '../revocations.ts'
import { type Right, withheldFrom } from '../rights.ts'
import { textTie } from './reader.ts'
import { grantOf, type KeyState, mayReach, maySee, mayTakeOver, stateOf } from './rules.ts'
import { type CreateKey, keyLimits, type KeyView } from './schema.ts'
import type { FoundKey, KeyRecord } from './record.ts'
import type { KeyStore } from './store.ts'
import { keyHash, newKeyText } from './text.ts'

export interface KeysDeps {
  store: KeyStore
  revocations: Pick<Revocations, 'steps' | 'heard'>
  /** Whether a person has a second factor now; their session must have shown it to get a key that approves. */
  hasSecondFactor(userId: string): Promise<boolean>
  clock: Clock
}

export interface KeyPage {
  limit: number
  cursor?: string | undefined
  state: 'active' | 'all'
}

export interface MadeKey extends KeyView {
  key: string
}

export type Keys = ReturnType<typeof createKeys>

const hintChars = 7
/** A chain of keys made with keys is no longer: nobody needs it, and each one's ancestors are with it. */
const mostAncestors = 8

export function createKeys({ store, revocations, hasSecondFactor, clock }: KeysDeps) {
  async function recordOf(id: string, { accountId, principal }: KnownCaller): Promise<FoundKey> {
    const found = isId('key', id) ? await store.get(id) : undefined
    if (!found || found.accountId !== accountId || !maySee(principal, found)) throw noKey(id)
    return found
  }

  async function create(wish: CreateKey, caller: KnownCaller): Promise<MadeKey> {
    const { principal, accountId } = caller
    const now = clock.now()
    const { name, rights, agents, sandboxes } = wish
    const maker = await makerOf(caller)
    refuseWider(mayGrant(principal, { rights, agents, sandboxes }), caller)
    await refuseWithoutFactor(principal, rights)
    const expiresAt = endOf(wish, now)
    if (maker.expiresAt !== null && (expiresAt === null || expiresAt > maker.expiresAt)) {
      throw new DeltaError('forbidden', 'A key made with a key ends no later than that one', {
        context: { expiresAt: new Date(maker.expiresAt).toISOString() },
      })
    }
    if ((await store.countActive(accountId, now)) >= keyLimits.perAccount) {
      throw new DeltaError('key_limit_reached', `The account has ${keyLimits.perAccount} keys`)
    }
    const key = newKeyText()
    const record: KeyRecord = {
      id: newId('key'),
      accountId,
      userId: principal.kind === 'agent' ? null : (principal.userId ?? null),
      madeBy: caller.actorId,
      ancestors: maker.ancestors,
      name,
      hint: key.slice(0, hintChars),
      hash: keyHash(key),
      previousHash: null,
      previousUntil: null,
      rights: [...new Set(rights)],
      agents: agents ?? null,
      sandboxes: sandboxes ?? null,
      createdAt: now,
      expiresAt,
      rotatedAt: null,
      revokedAt: null,
      lastUsedAt: null,
    }
    await store.insert(record)
    // What it was made with may have been revoked in between, when this one was not there to be found.
    const made =
      principal.kind === 'key' && principal.keyId !== defaultKeyId ? await store.get(principal.keyId) : undefined
    if (made?.revokedAt != null) {
      await revokeIds([record.id])
      throw new DeltaError('unauthorized', 'The API key was revoked')
    }
    return { ...view(record, now), key }
  }

  /** A key that approves stands for a person who does, so it is no way around what their session lacks. */
  async function refuseWithoutFactor(principal: Principal, rights: readonly Right[]): Promise<void> {
    if (principal.kind !== 'user' || principal.secondFactor) return
    if (!rights.some((one) => withheldFrom(one) === 'programs') || !(await hasSecondFactor(principal.userId))) return
    throw new DeltaError('approval_second_factor_required', 'This session did not show the second factor')
  }

  async function makerOf(caller: KnownCaller): Promise<{ ancestors: readonly string[]; expiresAt: number | null }> {
    const { principal } = caller
    if (principal.kind !== 'key') return { ancestors: [], expiresAt: null }
    const record = await store.get(principal.keyId)
    const ancestors = [...(record?.ancestors ?? []), principal.keyId]
    if (ancestors.length > mostAncestors) {
      throw new DeltaError('forbidden', `A chain of keys made with keys has at most ${mostAncestors}`, {
        context: { right: 'write:keys' },
      })
    }
    // That of the text it came with, which may end before the key.
    return { ancestors, expiresAt: caller.expiresAt ?? record?.expiresAt ?? null }
  }

  /** The text of before a rotation goes on for a while so that the new one can be handed out. Who has found it gets no new one by it. */
  async function refuseOldText({ principal, ties }: KnownCaller, record: KeyRecord): Promise<void> {
    if (principal.kind !== 'key' || principal.keyId === defaultKeyId) return
    const own = principal.keyId === record.id ? record : await store.get(principal.keyId)
    if (own && ties.includes(textTie(own.id, own.hash))) return
    throw notRotated('The text of a key from before its last rotation rotates nothing')
  }

  async function list(
    caller: KnownCaller,
    { limit, cursor, state }: KeyPage,
  ): Promise<{ data: KeyView[]; nextCursor: string | null }> {
    const { principal, accountId } = caller
    const now = clock.now()
    const seesAll = principal.kind !== 'agent' && (principal.role === 'owner' || principal.role === 'admin')
    const own = principal.kind === 'agent' ? undefined : principal.userId
    if (!seesAll && own === undefined) return { data: [], nextCursor: null }
    const found = await store.list({
      accountId,
      userId: seesAll ? undefined : own,
      activeAt: state === 'active' ? now : undefined,
      limit: limit + 1,
      before: readCursor(cursor, ['key']),
    })
    const { items, nextCursor } = pageOf(found, limit)
    return { data: items.map((record) => view(record, now)), nextCursor }
  }

  async function get(id: string, caller: KnownCaller): Promise<KeyView> {
    return view(await recordOf(id, caller), clock.now())
  }

  /** The same key under another text: nothing of what it may is in the request, so nothing can be raised. */
  async function rotate(id: string, overlapMs: number, caller: KnownCaller): Promise<MadeKey> {
    const record = await recordOf(id, caller)
    const now = clock.now()
    refuseEnded(id, stateOf(record, now))
    const { role } = record
    if (role === undefined) throw notRotated('The person of this key does not belong to the account any more')
    if (!mayReach(caller.principal, record))
      throw notRotated('A key rotates itself and the keys made with it, no others')
    await refuseOldText(caller, record)
    const granting = mayTakeOver(caller.principal, record, role)
    if (!granting.ok && 'role' in granting) {
      throw notRotated(`Only the role ${granting.role} may rotate this key`)
    }
    refuseWider(granting, caller)
    await refuseWithoutFactor(caller.principal, grantOf(record).rights)
    const key = newKeyText()
    const next = { hash: keyHash(key), hint: key.slice(0, hintChars), previousUntil: now + overlapMs, rotatedAt: now }
    const old = textTie(id, record.hash)
    // The text from before the last rotation is given up in any case.
    const ended = [overlapMs === 0 ? old : endingAt(old, next.previousUntil)]
    if (record.previousHash !== null) ended.push(textTie(id, record.previousHash))
    const { applied } = await store.batch([store.rotateStep(record, next), ...revocations.steps(ended)])
    if (!applied) throw new DeltaError('key_ended', `Key ${id} was rotated or revoked at the same moment`)
    revocations.heard(ended)
    return { ...view({ ...record, ...next, previousHash: record.hash }, now), key }
  }

  /** With all keys that were made with it. Once more is no error. */
  async function revoke(id: string, caller: KnownCaller): Promise<void> {
    await recordOf(id, caller)
    await revokeIds([id], caller.accountId)
  }

  async function revokeIds(ids: readonly string[], accountId?: string): Promise<void> {
    const all = new Set(ids)
    if (accountId !== undefined)
      for (const id of ids) for (const one of await store.withDescendants(id, accountId)) all.add(one)
    const ended = [...all]
    for (let at = 0; at < ended.length; at += revokedAtOnce) {
      const some = ended.slice(at, at + revokedAtOnce)
      await store.batch([store.revokeStep(some, clock.now()), ...revocations.steps(some)])
      revocations.heard(some)
    }
  }

  return { create, list, get, rotate, revoke }
}

const revokedAtOnce = 500

function endOf({ expiresAt, ttlMs }: CreateKey, now: number): number | null {
  const end = ttlMs !== undefined ? now + ttlMs : expiresAt === undefined ? null : Date.parse(expiresAt)
  if (end !== null && end <= now) {
    throw new DeltaError('invalid_request', 'The request is not valid at body.expiresAt', {
      cause: 'body.expiresAt: lies in the past',
    })
  }
  return end
}

function refuseWider(granting: Granting, { actorId }: KnownCaller): void {
  if (granting.ok) return
  if ('scope' in granting) {
    throw new DeltaError('forbidden', `${actorId} is limited to some ${granting.scope}, so what it makes must be too`, {
      context: { scope: granting.scope },
    })
  }
  throw new DeltaError('forbidden', `${actorId} may not hand on the right ${granting.right}`, {
    context: { right: granting.right },
  })
}

function refuseEnded(id: string, state: KeyState): void {
  if (state !== 'active') throw new DeltaError('key_ended', `Key ${id} is ${state}`)
}

function notRotated(why: string): DeltaError {
  return new DeltaError('forbidden', why, { context: { right: 'write:keys' } })
}

function noKey(id: string): DeltaError {
  return new DeltaError('key_not_found', `There is no key ${id}`)
}

function view(record: KeyRecord, now: number): KeyView {
  const previousGoodUntil = record.previousUntil !== null && record.previousUntil > now ? record.previousUntil : null
  return {
    id: record.id,
    name: record.name,
    hint: record.hint,
    state: stateOf(record, now),
    rights: [...grantOf(record).rights],
    agents: record.agents && [...record.agents],
    sandboxes: record.sandboxes && [...record.sandboxes],
    madeBy: record.madeBy,
    userId: record.userId,
    createdAt: iso(record.createdAt),
    expiresAt: orNull(record.expiresAt),
    rotatedAt: orNull(record.rotatedAt),
    previousGoodUntil: orNull(previousGoodUntil),
    revokedAt: orNull(record.revokedAt),
    lastUsedAt: orNull(record.lastUsedAt),
  }
}

const iso = (at: number) => new Date(at).toISOString()
const orNull = (at: number | null) => (at === null ? null : iso(at))
