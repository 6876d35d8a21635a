import type { RecordAudit } from '../access/audit/service.ts'
import type { KnownCaller } from '../access/callers/door.ts'
import type { Clock } from '../kernel/clock.ts'
import type { Database } from '../kernel/db/database.ts'
import { DeltaError } from '../kernel/errors.ts'
import { createEvents } from '../kernel/events.ts'
import { pageOf, readCursor } from '../kernel/http/cursors.ts'
import { isId, newId } from '../kernel/ids.ts'
import type { Logger } from '../kernel/log.ts'
import { createTurns } from '../kernel/turns.ts'
import type { ApprovalEvents } from './events.ts'
import { createExecution } from './execution.ts'
import { createFollowing } from './following.ts'
import type { Action, ApprovalKind } from './kinds.ts'
import { approvalLimits } from './limits.ts'
import type { ApprovalRecord, ApprovalState } from './record.ts'
import {
  aboveOf,
  askerOf,
  canonical,
  hashOf,
  hasRight,
  isAsker,
  lineOf,
  type Looker,
  mayDecide,
  maySee,
  readAction,
  type Ruling,
  stateOf,
} from './rules.ts'
import type { ApprovalListQuery, ApprovalView } from './schema.ts'
import { createApprovalStore, type Sight } from './store.ts'

export type { Action, ApprovalKind, Approved } from './kinds.ts'

export interface ApprovalsDeps {
  database: Database
  kinds: readonly ApprovalKind[]
  /** Whether a person has a second factor now; the session of who approves must then have shown it. */
  hasSecondFactor(userId: string): Promise<boolean>
  /** Whether whoever asked could ask for it now: people leave, keys and tokens are revoked. */
  mayStillAsk(asked: Asked): Promise<boolean>
  record: RecordAudit
  clock: Clock
  log: Logger
}

/** Who asks, where the feature that asks for them keeps that. */
export type AskedBy = Pick<ApprovalRecord, 'accountId' | 'asker'>

/** What `mayStillAsk` is asked about. */
export type Asked = Pick<ApprovalRecord, 'accountId' | 'sandboxId' | 'asker'>

export interface Asking {
  action: Action
  reason: string
  ttlMs: number
  sandboxId?: string
}

export type Approvals = ReturnType<typeof createApprovals>

/** One mechanism below everything that needs a person: what is asked for is kept word by word, somebody else approves just that, and it is done once. */
export function createApprovals({
  database,
  hasSecondFactor,
  mayStillAsk,
  record,
  clock,
  log,
  ...deps
}: ApprovalsDeps) {
  const store = createApprovalStore(database)
  const kinds = new Map(deps.kinds.map((one) => [one.kind, one]))
  const events = createEvents<ApprovalEvents>({ log })
  const onChanged = ({ accountId, id }: ApprovalRecord) =>
    events.emit('approval.changed', { accountId, approvalId: id })
  const execution = createExecution({ store, kinds, record, clock, log, onChanged })
  const following = createFollowing({ store, events, clock, view })
  const asking = createTurns('requests of account')
  const stopped = new AbortController()
  let loop = Promise.resolve()

  /** `made` is false where the same actor asks for the same already. */
  async function ask(wish: Asking, caller: KnownCaller): Promise<{ approval: ApprovalView; made: boolean }> {
    return askFor(wish, { accountId: caller.accountId, asker: askerOf(caller) })
  }

  /** The same for somebody who asked before, through a feature of its own. */
  async function askFor(wish: Asking, by: AskedBy): Promise<{ approval: ApprovalView; made: boolean }> {
    const kind = kinds.get(wish.action.kind)
    if (!kind) throw new DeltaError('not_supported', `This server knows no approvals of the kind ${wish.action.kind}`)
    // Nobody is asked to decide on what can not be told.
    kind.describe(wish.action)
    const action = canonical(wish.action)
    if (action.length > approvalLimits.actionChars) {
      throw new DeltaError('invalid_request', `An action has at most ${approvalLimits.actionChars} characters`)
    }
    // One after the other, so that the limits hold.
    return asking.take(by.accountId, () => insert(wish, action, by))
  }

  async function insert(wish: Asking, action: string, { accountId, asker }: AskedBy) {
    const now = clock.now()
    const asked = {
      id: newId('apr'),
      accountId,
      kind: wish.action.kind,
      action,
      actionHash: hashOf(action),
      state: 'pending' as const,
      asker,
      reason: wish.reason,
      sandboxId: wish.sandboxId ?? null,
      askedAt: now,
      expiresAt: now + wish.ttlMs,
      decidedBy: null,
      decidedAt: null,
      refusal: null,
      begunAt: null,
      tries: 0,
      leaseUntil: null,
      endedAt: null,
      failureCode: null,
      failureText: null,
    }
    const before = await sameNow(asked, now)
    if (before) return { approval: view(before), made: false }
    await refuseMany(asked, now)
    if (!(await store.insert(asked))) {
      const same = await sameNow(asked, now)
      if (same) return { approval: view(same), made: false }
      throw new DeltaError('database_busy', 'The same was asked for and decided on at the same moment')
    }
    onChanged({ ...asked, changed: 0 })
    return { approval: view({ ...asked, changed: 0 }), made: true }
  }

  /** One whose time is over is none, and makes room. */
  async function sameNow(asked: Pick<ApprovalRecord, 'accountId' | 'asker' | 'actionHash'>, now: number) {
    const same = await store.same(asked)
    if (!same || stateOf(same, now) === 'pending') return same
    await expire(same)
    return undefined
  }

  /** Bounded by the person too: an agent that makes others could else fill the account with requests of theirs. */
  async function refuseMany({ accountId, asker }: Pick<ApprovalRecord, 'accountId' | 'asker'>, now: number) {
    const { actorId, line, root } = asker
    const { pending, asked } = approvalLimits
    const requester = { scope: 'requester', who: actorId, of: { accountId, line } }
    const person = { scope: 'root', who: root, of: { accountId, root } }
    const groups = [
      { ...requester, waiting: pending.perRequester, within: asked.perRequester },
      // What their programs ask does not keep a person from asking.
      ...(line === root ? [] : [{ ...person, waiting: pending.perRoot, within: asked.perRoot }]),
      {
        scope: 'account',
        who: 'The account',
        of: { accountId },
        waiting: pending.perAccount,
        within: asked.perAccount,
      },
    ]
    for (const { scope, who, of, waiting, within } of groups) {
      if ((await store.countPending(of, now)) >= waiting) {
        throw new DeltaError('approval_limit_reached', `${who} has ${waiting} requests that wait`, {
          context: { limit: waiting, of: scope },
        })
      }
      if ((await store.countAsked(of, now - asked.windowMs)) >= within) {
        throw new DeltaError('approval_limit_reached', `${who} asked ${within} times within a day`, {
          context: { limit: within, of: scope, windowMs: asked.windowMs },
        })
      }
    }
  }

  async function recordFor(id: string, looker: Looker): Promise<ApprovalRecord> {
    const found = isId('apr', id) ? await store.get(id) : undefined
    if (!found || !maySee(looker, found)) throw notFound(id)
    return found
  }

  async function get(id: string, caller: KnownCaller): Promise<ApprovalView> {
    return view(await recordFor(id, caller))
  }

  async function list(
    { limit, cursor, ...filter }: ApprovalListQuery,
    caller: KnownCaller,
  ): Promise<{ data: ApprovalView[]; nextCursor: string | null }> {
    const before = readCursor(cursor, ['apr'])
    const sight = sightOf(caller, kinds.keys())
    const found = await store.list({ ...filter, sight, before, now: clock.now(), limit: limit + 1 })
    const placed = found.map((approval) => ({ ...approval, createdAt: approval.askedAt }))
    const { items, nextCursor } = pageOf(placed, limit)
    return { data: items.map(view), nextCursor }
  }

  /** Resolves when it was done, or could not be. */
  async function approve(id: string, actionHash: string, caller: KnownCaller): Promise<ApprovalView> {
    const { approval, now } = await deciding(id, caller, actionHash)
    const decided = { decidedBy: caller.actorId, decidedAt: now, leaseUntil: now + approvalLimits.leaseMs }
    await decide(approval, 'approved', decided, caller)
    await execution.run({ ...approval, state: 'approved', ...decided })
    return view((await store.get(id)) ?? approval)
  }

  async function refuse(id: string, reason: string, caller: KnownCaller): Promise<ApprovalView> {
    const { approval, now } = await deciding(id, caller)
    const decided = { decidedBy: caller.actorId, decidedAt: now, endedAt: now, refusal: reason }
    await decide(approval, 'refused', decided, caller)
    return view({ ...approval, state: 'refused', ...decided })
  }

  /** By whoever asked, or the person behind the key that did. */
  async function cancel(id: string, caller: KnownCaller): Promise<ApprovalView> {
    const approval = await recordFor(id, caller)
    const now = clock.now()
    if (!isAsker(caller, approval.asker)) {
      throw new DeltaError(
        'forbidden',
        `Only ${approval.asker.actorId} takes back what it asked for; you may refuse it`,
        {
          context: { right: 'request' },
        },
      )
    }
    if (approval.state === 'canceled') return view(approval)
    const state = stateOf(approval, now)
    if (state !== 'pending') throw refusedBy(approval, { ok: false, reason: 'decided', state })
    const decided = { decidedBy: caller.actorId, decidedAt: now, endedAt: now }
    await decide(approval, 'canceled', decided, caller)
    return view({ ...approval, state: 'canceled', ...decided })
  }

  /** What may be decided on now, by this caller. */
  async function deciding(id: string, caller: KnownCaller, actionHash?: string) {
    const { principal } = caller
    const approval = await recordFor(id, caller)
    const facts = {
      hasSecondFactor: principal.kind === 'user' && (await hasSecondFactor(principal.userId)),
      mayStillAsk: await mayStillAsk(approval),
    }
    const now = clock.now()
    const ruling = mayDecide(approval, { looker: caller, ...facts, actionHash, now })
    if (!ruling.ok) throw refusedBy(approval, ruling)
    return { approval, now }
  }

  async function decide(
    approval: ApprovalRecord,
    to: ApprovalState,
    changes: Parameters<typeof store.move>[2],
    { actorId }: KnownCaller,
  ): Promise<void> {
    if (!(await store.move(approval, to, changes))) {
      const state = (await store.get(approval.id))?.state ?? 'expired'
      throw refusedBy(approval, { ok: false, reason: 'decided', state })
    }
    onChanged(approval)
    await tell(approval, `approval.${to}`, actorId)
  }

  /** What was asked with it, or with what was made with it, is taken back: tokens have no row that would tell later. */
  async function tokenRevoked(id: string): Promise<void> {
    try {
      for (const approval of await store.pendingWith(id)) await cancelBy(approval, 'platform')
    } catch (error) {
      log.error('approvals_not_canceled', { tokenId: id, error })
    }
  }

  async function cancelBy(approval: ApprovalRecord, actorId: string): Promise<void> {
    const now = clock.now()
    const decided = { decidedBy: actorId, decidedAt: now, endedAt: now }
    if (!(await store.move(approval, 'canceled', decided))) return
    onChanged(approval)
    await tell(approval, 'approval.canceled', actorId)
  }

  /** For the feature that asked: it is not needed any more. What was decided on stays so. */
  async function withdraw(id: string, actorId: string): Promise<void> {
    const approval = await store.get(id)
    if (approval && stateOf(approval, clock.now()) === 'pending') await cancelBy(approval, actorId)
  }

  function tell({ accountId, id, kind, actionHash, asker }: ApprovalRecord, action: string, actorId: string) {
    const details = { kind, actionHash, askedBy: asker.actorId }
    return record({ accountId, actorId, action, target: id, outcome: 'done', details })
  }

  async function expire(approval: ApprovalRecord): Promise<void> {
    if (!(await store.move(approval, 'expired', { endedAt: approval.expiresAt }))) return
    onChanged(approval)
    await tell(approval, 'approval.expired', 'platform')
  }

  async function sweep(): Promise<void> {
    for (const approval of await store.due(clock.now())) await expire(approval)
    for (const approval of await store.leftBehind(clock.now())) {
      await execution.run(approval).catch((error: unknown) => {
        log.error('approval_not_done', { approvalId: approval.id, error })
      })
    }
  }

  async function keepUp(): Promise<void> {
    let tidyAt = 0
    while (!stopped.signal.aborted) {
      try {
        await sweep()
        if (clock.monotonic() >= tidyAt) {
          tidyAt = clock.monotonic() + approvalLimits.tidyMs
          await store.forget(clock.now() - approvalLimits.keptMs)
        }
      } catch (error) {
        // A database that is away is asked again the next time.
        log.warn('approvals_not_swept', { error })
      }
      await clock.sleep(approvalLimits.sweepMs, stopped.signal).catch(() => undefined)
    }
  }

  function view(approval: ApprovalRecord): ApprovalView {
    const { id, kind, actionHash, reason, asker, sandboxId, decidedBy, refusal, failureCode } = approval
    const action = readAction(approval.action)
    return {
      id,
      kind,
      state: stateOf(approval, clock.now()),
      description:
        kinds.get(kind)?.describe(action) ?? `Something of the kind ${kind}, which this server does not know`,
      action,
      actionHash,
      reason,
      askedBy: asker.actorId,
      askedThrough: aboveOf(asker),
      sandboxId,
      askedAt: iso(approval.askedAt),
      expiresAt: iso(approval.expiresAt),
      decidedBy,
      decidedAt: orNull(approval.decidedAt),
      refusal,
      endedAt: orNull(approval.endedAt),
      failure: failureCode === null ? null : { code: failureCode, message: approval.failureText ?? '' },
    }
  }

  return {
    ask,
    askFor,
    get,
    /** For the feature that asked. */
    find: (id: string): Promise<ApprovalRecord | undefined> => store.get(id),
    list,
    approve,
    refuse,
    cancel,
    withdraw,
    tokenRevoked,
    events,
    follow: (caller: KnownCaller, from?: number) => following.follow(caller, from),

    /** Goes on with what an earlier server was approved to do. */
    async start(): Promise<void> {
      if (database.kind === 'sqlite') await store.endLeases(clock.now())
      loop = keepUp()
    },

    async stop(): Promise<void> {
      stopped.abort(new Error('The server is stopping'))
      following.stop()
      await execution.stop()
      await loop
    },
  }
}

function sightOf(caller: KnownCaller, kinds: Iterable<string>): Sight {
  const { accountId, principal } = caller
  const sandboxes = principal.kind === 'user' ? undefined : (principal.sandboxes ?? (principal.agents && []))
  return {
    accountId,
    line: lineOf(caller),
    userId: principal.kind === 'user' ? principal.userId : undefined,
    // With a sandbox that is theirs, since what is about none is not theirs if they are limited to some.
    kinds: [...kinds].filter((kind) => hasRight(principal, { accountId, kind, sandboxId: sandboxes?.[0] ?? null })),
    sandboxes,
  }
}

function refusedBy(
  { id, kind, state: kept, asker }: ApprovalRecord,
  ruling: Exclude<Ruling, { ok: true }>,
): DeltaError {
  switch (ruling.reason) {
    case 'hidden':
      return notFound(id)
    case 'lacks_right': {
      const right = `approve:${kind}`
      return new DeltaError('forbidden', `To decide on this needs the right ${right}`, { context: { right } })
    }
    case 'own':
      return new DeltaError('approval_own_request', 'Nobody decides on their own request')
    case 'expired':
      return new DeltaError('approval_expired', `Nobody decided on ${id} in time`, { context: { state: 'expired' } })
    case 'changed':
      return new DeltaError('approval_action_changed', `The hash is not that of what ${id} would do`)
    case 'gone':
      return new DeltaError('approval_requester_gone', `${asker.actorId} may not ask for this any more`)
    case 'second_factor':
      return new DeltaError('approval_second_factor_required', 'This session did not show the second factor')
    case 'decided': {
      const state = ruling.state === 'pending' ? kept : ruling.state
      return new DeltaError('approval_decided', `${id} is ${state} already`, { context: { state } })
    }
  }
}

function notFound(id: string): DeltaError {
  return new DeltaError('approval_not_found', `There is no approval ${id}`)
}

const iso = (at: number) => new Date(at).toISOString()
const orNull = (at: number | null) => (at === null ? null : iso(at))
