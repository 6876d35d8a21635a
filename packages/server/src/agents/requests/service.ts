import type { RecordAudit } from '../../access/audit/service.ts'
import type { KnownCaller } from '../../access/callers/door.ts'
import { askerOf, type Asker, canonical, hashOf, isAsker } from '../../approvals/door.ts'
import type { Approvals, Approved } from '../../approvals/service.ts'
import type { Clock } from '../../kernel/clock.ts'
import type { Database } from '../../kernel/db/database.ts'
import { DeltaError, type ErrorCode } from '../../kernel/errors.ts'
import { createEvents } from '../../kernel/events.ts'
import type { HashBody } from '../../kernel/http/body-hash.ts'
import { pageOf, readCursor } from '../../kernel/http/cursors.ts'
import { isId, newId } from '../../kernel/ids.ts'
import type { Logger } from '../../kernel/log.ts'
import { knownOf } from '../directory.ts'
import { effective, isOver, mayKnow, mayWork, refusalOf } from '../rules.ts'
import { microPerToken, parseTokens } from '../../ledger/door.ts'
import type { AgentRecord, AgentStore } from '../store.ts'
import type { TokensAction } from './approval.ts'
import type { TokenRequestEvents } from './events.ts'
import { createFollowing } from './following.ts'
import { requestLimits } from './limits.ts'
import { type TokenRequestRecord, type TokenRequestState, tokenRequestStates } from './record.ts'
import {
  actionOf,
  deciderOf,
  isOpen,
  isPending,
  mayAsk,
  mayDecide,
  maySee,
  type Member,
  type Ruling,
  sightOf,
  stateOf,
  wayOf,
} from './rules.ts'
import type { RequestTokens, TokenRequestListQuery, TokenRequestView } from './schema.ts'
import { type Changes, createTokenRequestStore } from './store.ts'

/** What is needed of the ledger. Amounts are micro-tokens. */
export interface RequestLedger {
  /** Done once for each key; a refusal is thrown. */
  transfer(wish: {
    accountId: string
    from: string
    to: string
    amount: number
    reason: string
    key: string
    reference?: string | undefined
  }): Promise<unknown>
  balanceOf(accountId: string, purseId: string): Promise<{ granted: number; bought: number; held: number }>
  /** The purse of the account's reserve. */
  reserveOf(accountId: string): string
}

export interface TokenRequestsDeps {
  database: Database
  agents: Pick<AgentStore, 'get' | 'line'>
  approvals: Pick<Approvals, 'askFor' | 'find' | 'withdraw' | 'approve' | 'refuse'>
  ledger: RequestLedger
  record: RecordAudit
  hashBody: HashBody
  clock: Clock
  log: Logger
}

export type TokenRequests = ReturnType<typeof createTokenRequests>

/** Nobody asked: the server did, for an agent that ran out. */
const platform = 'platform'

/**
 * Requests of agents for tokens: the nearest main agent decides first, then a person. Each step is a row before it is taken, and whoever changes the row takes it; what a
 * server left half-way is found by `sweep` and done by the same keys, so once.
 */
export function createTokenRequests({
  database,
  agents,
  approvals,
  ledger,
  record,
  hashBody,
  clock,
  log,
}: TokenRequestsDeps) {
  const store = createTokenRequestStore(database)
  const events = createEvents<TokenRequestEvents>({ log })
  const following = createFollowing({ store, events, clock, view })
  const stopped = new AbortController()
  let loop = Promise.resolve()

  /** `made` is false for the same again. */
  async function ask(
    agentId: string,
    wish: RequestTokens,
    caller: KnownCaller,
    { idempotencyKey }: { idempotencyKey?: string | undefined } = {},
  ): Promise<{ request: TokenRequestView; made: boolean }> {
    const tokens = wholeTokens(wish.tokens)
    const line = isId('agt', agentId) ? await agents.line(agentId) : []
    const known = knownOf(line)
    if (known?.agent.accountId !== caller.accountId || !mayKnow(caller.principal, known)) throw noAgent(agentId)
    if (!mayAsk(caller.principal, agentId)) {
      throw new DeltaError('forbidden', `For ${agentId} asks the agent itself, or who may change it`, {
        context: { right: 'write:agents' },
      })
    }
    const key = idempotencyKey === undefined ? undefined : { key: idempotencyKey, bodyHash: hashBody(wish) }
    const before = key && (await store.withKey(agentId, key.key))
    if (before) return again(before, key)
    if (isOver(known.agent.state)) refuseWork(known.agent)
    const { reason, ttlMs } = wish
    const asked = { tokens, reason, ttlMs, automatic: false, asker: askerOf(caller) }
    const made = await open(line, asked, key)
    if (made) return { request: view(made), made: true }
    const same = key && (await store.withKey(agentId, key.key))
    if (same) return again(same, key)
    const pending = await store.openOf(agentId)
    if (!pending) throw new DeltaError('database_busy', 'Another request of the agent ended at the same moment')
    const isSame =
      pending.tokens === tokens && pending.reason === reason && pending.asker.actorId === caller.actorId && !key
    if (isSame) return { request: view(pending), made: false }
    throw new DeltaError('token_request_pending', `${agentId} waits for ${pending.id} already`, {
      context: { requestId: pending.id, state: pending.state },
    })
  }

  function again(
    { request, bodyHash }: { request: TokenRequestRecord; bodyHash: string | null },
    key: { bodyHash: string },
  ): { request: TokenRequestView; made: boolean } {
    if (bodyHash === key.bodyHash) return { request: view(request), made: false }
    throw new DeltaError('idempotency_conflict', 'This Idempotency-Key was used with another body')
  }

  interface Asked {
    tokens: number
    reason: string
    ttlMs: number
    automatic: boolean
    asker: Asker
  }

  /** Undefined where the agent waits for one, or the key is known. */
  async function open(
    line: readonly AgentRecord[],
    { ttlMs, ...asked }: Asked,
    key?: { key: string; bodyHash: string },
  ): Promise<TokenRequestRecord | undefined> {
    const agent = line.at(-1)!
    const { accountId } = agent
    const now = clock.now()
    if (await lateGone(agent.id, now)) return undefined
    const { windowMs, perAgent } = requestLimits.asked
    if ((await store.countAsked(agent.id, now - windowMs)) >= perAgent) {
      throw new DeltaError('token_request_limit_reached', `${agent.id} asked ${perAgent} times within a day`, {
        context: { limit: perAgent, windowMs },
      })
    }
    const main = deciderOf(membersOf(line))
    const expiresAt = now + ttlMs
    const wanted: TokenRequestRecord = {
      id: newId('trq'),
      accountId,
      agentId: agent.id,
      line: line.map(({ id }) => id),
      ...asked,
      state: main ? 'pending_main' : 'pending_user',
      mainId: main?.id ?? null,
      mainUntil: main ? Math.min(expiresAt, now + requestLimits.mainMs) : null,
      endorsedBy: null,
      source: main ? null : ledger.reserveOf(accountId),
      approvalId: null,
      askedAt: now,
      expiresAt,
      decidedBy: null,
      decidedAt: null,
      refusal: null,
      endedAt: null,
      failureCode: null,
      failureText: null,
      changed: 0,
    }
    if (!(await store.insert(wanted, key))) return undefined
    await told(wanted, 'asked', asked.asker.actorId)
    if (!main) await askPersonSoon(wanted)
    return (await store.get(wanted.id)) ?? wanted
  }

  /** Whether it waits for one still; one whose time is over is none, and makes room. */
  async function lateGone(agentId: string, now: number): Promise<boolean> {
    const before = await store.openOf(agentId)
    if (!before) return false
    if (stateOf(before, now) !== 'expired') return true
    await expire(before)
    return (await store.openOf(agentId)) !== undefined
  }

  /** A person is asked, or when that can not be now, by a later look. */
  async function askPersonSoon(request: TokenRequestRecord): Promise<void> {
    await askPerson(request).catch((error: unknown) => {
      log.warn('token_request_not_asked', { requestId: request.id, error })
    })
  }

  /** Of a request that is `pending_user`. Asking for the same action twice is asking once. */
  async function askPerson(request: TokenRequestRecord): Promise<string> {
    const { accountId, asker, reason, expiresAt } = request
    const wish = { action: actionOf(request), reason, ttlMs: Math.max(1, expiresAt - clock.now()) }
    const { approval } = await approvals.askFor(wish, { accountId, asker })
    await store.attach(request, approval.id)
    changed(request)
    return approval.id
  }

  async function escalate(
    request: TokenRequestRecord,
    { source, ...more }: { source: string } & Changes,
    actorId: string,
  ): Promise<void> {
    if (!(await step(request, 'pending_user', { source, ...more }, actorId))) return
    const now = await store.get(request.id)
    if (now?.state === 'pending_user') await askPersonSoon(now)
  }

  async function step(
    request: TokenRequestRecord,
    to: TokenRequestState,
    changes: Changes,
    actorId: string,
  ): Promise<boolean> {
    const ended = isOpen(to) ? {} : { endedAt: clock.now() }
    if (!(await store.move(request, to, { ...changes, ...ended }))) return false
    await told({ ...request, ...changes, state: to }, to === 'pending_user' ? 'to_person' : to, actorId)
    return true
  }

  function changed({ accountId, id }: TokenRequestRecord): void {
    events.emit('token_request.changed', { accountId, requestId: id })
  }

  async function told(request: TokenRequestRecord, what: string, actorId: string): Promise<void> {
    changed(request)
    const { accountId, id, agentId, tokens, source, failureCode } = request
    const outcome = request.state === 'failed' ? 'failed' : 'done'
    const details = { agentId, tokens, from: source }
    const reason = failureCode === null ? {} : { reason: failureCode }
    await record({ accountId, actorId, action: `token_request.${what}`, target: id, outcome, ...reason, details })
  }

  async function recordFor(id: string, { principal, accountId }: KnownCaller): Promise<TokenRequestRecord> {
    const found = isId('trq', id) ? await store.get(id) : undefined
    if (!found || found.accountId !== accountId || !maySee(principal, found)) throw notFound(id)
    return found
  }

  async function get(id: string, caller: KnownCaller): Promise<TokenRequestView> {
    return view(await recordFor(id, caller))
  }

  async function list(
    { limit, cursor, state, agentId }: TokenRequestListQuery,
    caller: KnownCaller,
  ): Promise<{ data: TokenRequestView[]; nextCursor: string | null }> {
    const { principal, accountId } = caller
    const before = readCursor(cursor, ['trq'])
    const sight = sightOf(principal)
    if (!sight) return { data: [], nextCursor: null }
    const states =
      state === undefined ? undefined : state === 'pending' ? tokenRequestStates.filter(isPending) : [state]
    const filter = { accountId, sight, states, agentId, before, now: clock.now(), limit: limit + 1 }
    const found = await store.list(filter)
    const { items, nextCursor } = pageOf(
      found.map((one) => ({ ...one, createdAt: one.askedAt })),
      limit,
    )
    return { data: items.map(view), nextCursor }
  }

  /** Resolves when the tokens were moved, could not be, or a person was asked. */
  async function approve(id: string, seen: unknown, caller: KnownCaller): Promise<TokenRequestView> {
    const tokens = wholeTokens(seen)
    const request = await recordFor(id, caller)
    const { as, kind } = await deciding(request, caller, tokens)
    if (as === 'user') {
      const { approvalId, action } = await approvalOf(request)
      await approvals.approve(approvalId, hashOf(canonical(action)), caller)
      return fresh(request)
    }
    const { principal, actorId } = caller
    if (principal.kind !== 'agent' || !kind) return fresh(request)
    const { granted, bought } = await ledger.balanceOf(request.accountId, actorId)
    const way = wayOf(request.tokens, { ...kind, rights: principal.rights, free: granted + bought })
    if (way.by === 'main') {
      const decided = { source: actorId, endorsedBy: actorId, decidedBy: actorId, decidedAt: clock.now() }
      if (!(await step(request, 'granting', decided, actorId))) throw await decidedMeanwhile(request)
      await finish({ ...request, ...decided, state: 'granting' })
    } else {
      const source = way.from === 'main' ? actorId : ledger.reserveOf(request.accountId)
      await escalate(request, { source, endorsedBy: actorId }, actorId)
    }
    return fresh(request)
  }

  async function refuse(id: string, reason: string, caller: KnownCaller): Promise<TokenRequestView> {
    const request = await recordFor(id, caller)
    const { as } = await deciding(request, caller)
    if (as === 'user' && request.state === 'pending_user') {
      const { approvalId } = await approvalOf(request)
      await approvals.refuse(approvalId, reason, caller)
      await settle(request.id)
      return fresh(request)
    }
    const decided = { decidedBy: caller.actorId, decidedAt: clock.now(), refusal: reason }
    if (!(await step(request, 'refused', decided, caller.actorId))) throw await decidedMeanwhile(request)
    return fresh(request)
  }

  /** By whoever asked. */
  async function cancel(id: string, caller: KnownCaller): Promise<TokenRequestView> {
    const request = await recordFor(id, caller)
    // Of an agent whatever its token came from.
    const isOwn = request.asker.actorId === caller.actorId && caller.principal.kind === 'agent'
    if (!isOwn && !isAsker(caller, request.asker)) {
      throw new DeltaError('forbidden', `Only ${request.asker.actorId} takes back what it asked for`, {
        context: { right: 'request' },
      })
    }
    if (request.state === 'canceled') return view(request)
    const now = clock.now()
    const state = stateOf(request, now)
    if (!isPending(state)) throw refusedBy(request, { ok: false, reason: 'decided', state })
    if (!(await close(request, 'canceled', caller.actorId))) throw await decidedMeanwhile(request)
    return fresh(request)
  }

  /** Ends what waits, and what a person was asked. */
  async function close(request: TokenRequestRecord, to: 'canceled' | 'unneeded' | 'expired', actorId: string) {
    if (!(await step(request, to, {}, actorId))) return false
    const approvalId = request.approvalId ?? (await store.get(request.id))?.approvalId
    if (approvalId) await approvals.withdraw(approvalId, platform)
    return true
  }

  async function deciding(request: TokenRequestRecord, caller: KnownCaller, tokens?: number) {
    const { principal } = caller
    const line = principal.kind === 'agent' ? await agents.line(request.agentId) : []
    const kind = principal.kind === 'agent' ? membersOf(line).find(({ id }) => id === principal.agentId) : undefined
    const ruling = mayDecide(request, { caller, kind: kind?.kind, tokens, now: clock.now() })
    if (!ruling.ok) throw refusedBy(request, ruling)
    return { as: ruling.as, kind }
  }

  /** What a person decides on, also in place of the main agent: then from the reserve, since the main agent did not give its own. */
  async function approvalOf(request: TokenRequestRecord) {
    if (request.state === 'pending_main') {
      await step(request, 'pending_user', { source: ledger.reserveOf(request.accountId) }, platform)
    }
    const now = await store.get(request.id)
    if (now?.state !== 'pending_user') throw await decidedMeanwhile(request)
    return { approvalId: now.approvalId ?? (await askPerson(now)), action: actionOf(now) }
  }

  async function decidedMeanwhile({ id }: TokenRequestRecord): Promise<DeltaError> {
    const now = await store.get(id)
    if (!now) return notFound(id)
    return refusedBy(now, { ok: false, reason: 'decided', state: stateOf(now, clock.now()) })
  }

  async function fresh(request: TokenRequestRecord): Promise<TokenRequestView> {
    return view((await store.get(request.id)) ?? request)
  }

  /** What a person approved, against the balances of this moment. May be repeated: the ledger moves tokens once for each approval. */
  async function grant(action: TokensAction, approved: Approved): Promise<void> {
    const request = await store.get(action.requestId)
    if (request?.accountId !== approved.accountId) throw notFound(action.requestId)
    if (canonical(actionOf(request)) !== canonical(action)) {
      throw new DeltaError('approval_action_changed', `${request.id} is for something else by now`)
    }
    const isSame = request.approvalId === null || request.approvalId === approved.id
    if (request.state === 'granted' && isSame) return
    if (request.state === 'pending_user' && isSame) {
      const decided = { approvalId: approved.id, decidedBy: approved.decidedBy, decidedAt: clock.now() }
      if (!(await step(request, 'granting', decided, approved.decidedBy))) throw await decidedMeanwhile(request)
      return move({ ...request, ...decided, state: 'granting' }, approved.id)
    }
    if (request.state !== 'granting' || request.approvalId !== approved.id) throw await decidedMeanwhile(request)
    return move(request, approved.id)
  }

  /** Of a request that is `granting`. A refusal ends it; of any other failure nobody knows how far it came, so it is tried again. */
  async function move(request: TokenRequestRecord, key: string): Promise<void> {
    try {
      await transfer(request, key)
    } catch (error) {
      if (isRefusal(error)) {
        const failure = { failureCode: error.code, failureText: error.message }
        await step(request, 'failed', failure, platform)
      }
      throw error
    }
    await step(request, 'granted', {}, request.decidedBy ?? platform)
  }

  async function transfer({ id, accountId, agentId, source, tokens }: TokenRequestRecord, key: string): Promise<void> {
    const agent = await agents.get(agentId)
    if (!agent) throw noAgent(agentId)
    if (isOver(agent.state)) refuseWork(agent)
    const wish = { accountId, from: source!, to: agentId, amount: tokens * microPerToken, reason: 'Asked for', key }
    await ledger.transfer({ ...wish, reference: id })
  }

  /** What a main agent gave. If it has not enough any more a person is asked for what the reserve has. */
  async function finish(request: TokenRequestRecord): Promise<void> {
    try {
      await transfer(request, request.id)
    } catch (error) {
      if (!isRefusal(error)) throw error
      const agent = await agents.get(request.agentId)
      if (agent && !isOver(agent.state)) {
        const source = ledger.reserveOf(request.accountId)
        await escalate(request, { source, decidedBy: null, decidedAt: null }, platform)
        return
      }
      await step(request, 'failed', { failureCode: error.code, failureText: error.message }, platform)
      return
    }
    await step(request, 'granted', {}, request.decidedBy ?? platform)
  }

  /** The request ends as its approval has. */
  async function settle(id: string): Promise<void> {
    const request = await store.get(id)
    if (!request || !isOpen(request.state) || request.approvalId === null) return
    const approval = await approvals.find(request.approvalId)
    if (!approval) return
    const { decidedBy, decidedAt, refusal, failureCode, failureText } = approval
    const by = decidedBy ?? platform
    switch (approval.state) {
      case 'refused':
        return void (await step(request, 'refused', { decidedBy, decidedAt, refusal }, by))
      case 'canceled':
        return void (await step(request, 'canceled', { decidedBy, decidedAt }, by))
      case 'expired':
        return void (await step(request, 'expired', {}, platform))
      case 'failed':
        return void (await step(request, 'failed', { decidedBy, decidedAt, failureCode, failureText }, platform))
      case 'executed':
        return void (await step(request, 'granted', { decidedBy, decidedAt }, by))
    }
  }

  async function expire(request: TokenRequestRecord): Promise<void> {
    // What was approved in time is done, also when that takes longer.
    if (request.approvalId !== null && (await approvals.find(request.approvalId))?.state === 'approved') return
    await close(request, 'expired', platform)
  }

  /** For an agent that ran out at `since`: undefined where it waits for tokens already, or somebody said no to it today. */
  async function askAutomatically(
    agent: AgentRecord,
    { tokens, reason, since }: { tokens: number; reason: string; since: number },
  ) {
    if (await store.wasRefused(agent.id, Math.max(since, clock.now() - requestLimits.automaticTtlMs))) return undefined
    const line = await agents.line(agent.id)
    const asker = { actorId: platform, userId: null, ties: [platform], line: `${platform}/${agent.id}`, root: platform }
    return open(line, { tokens, reason, ttlMs: requestLimits.automaticTtlMs, automatic: true, asker })
  }

  /** An agent has tokens again: what the server asked for it is needed no more. What somebody asked for stands. */
  async function tokensCame(agentId: string): Promise<void> {
    const request = await store.openOf(agentId)
    if (request?.automatic && isPending(request.state)) await close(request, 'unneeded', platform)
  }

  /** It gets no tokens any more. */
  async function agentEnded(agentId: string): Promise<void> {
    const request = await store.openOf(agentId)
    if (request && isPending(request.state)) await close(request, 'canceled', platform)
  }

  /** A main agent that can not decide keeps nobody waiting. */
  async function mainHalted(mainId: string): Promise<void> {
    for (const request of await store.waitingFor(mainId)) await pass(request)
  }

  function pass(request: TokenRequestRecord): Promise<void> {
    return escalate(request, { source: ledger.reserveOf(request.accountId) }, platform)
  }

  async function sweep(): Promise<void> {
    const now = clock.now()
    const each = async (found: readonly TokenRequestRecord[], work: (one: TokenRequestRecord) => Promise<unknown>) => {
      for (const one of found) {
        await work(one).catch((error: unknown) => log.error('token_request_not_mended', { requestId: one.id, error }))
      }
    }
    await each(await store.due(now), expire)
    await each(await store.unanswered(now), pass)
    await each(await store.unasked(now), askPersonSoon)
    await each(await store.halfGranted(now - requestLimits.grantingMs), finish)
    for (let after = ''; ;) {
      const page = await store.unsettled(after)
      await each(page, ({ id }) => settle(id))
      after = page.at(-1)?.id ?? ''
      if (page.length < requestLimits.swept) return
    }
  }

  async function keepUp(): Promise<void> {
    let tidyAt = 0
    while (!stopped.signal.aborted) {
      try {
        await sweep()
        if (clock.monotonic() >= tidyAt) {
          tidyAt = clock.monotonic() + requestLimits.tidyMs
          await store.forget(clock.now() - requestLimits.keptMs)
        }
      } catch (error) {
        // A database that is away is asked again the next time.
        log.warn('token_requests_not_swept', { error })
      }
      await clock.sleep(requestLimits.sweepMs, stopped.signal).catch(() => undefined)
    }
  }

  function view(request: TokenRequestRecord): TokenRequestView {
    const { id, agentId, tokens, reason, automatic, asker, mainId, endorsedBy, source, approvalId } = request
    const { decidedBy, refusal, failureCode, failureText, accountId } = request
    return {
      id,
      agentId,
      tokens,
      reason,
      automatic,
      state: stateOf(request, clock.now()),
      askedBy: asker.actorId,
      mainAgent: mainId,
      mainUntil: orNull(request.mainUntil),
      endorsedBy,
      from: source === ledger.reserveOf(accountId) ? 'reserve' : source,
      approvalId,
      askedAt: iso(request.askedAt),
      expiresAt: iso(request.expiresAt),
      decidedBy,
      decidedAt: orNull(request.decidedAt),
      refusal,
      endedAt: orNull(request.endedAt),
      failure: failureCode === null ? null : { code: failureCode, message: failureText ?? '' },
    }
  }

  return {
    ask,
    get,
    /** For features above, which ask by themselves who may see it. */
    async find(id: string): Promise<TokenRequestView | undefined> {
      const found = await store.get(id)
      return found && view(found)
    },
    list,
    approve,
    refuse,
    cancel,
    grant,
    askAutomatically,
    tokensCame,
    agentEnded,
    mainHalted,
    events,
    sweep,
    follow: (caller: KnownCaller, from?: number) => following.follow(caller, from),

    /** An approval changed: if a request waits for it, that changes too. */
    async approvalChanged(approvalId: string): Promise<void> {
      const request = await store.ofApproval(approvalId)
      if (request) await settle(request.id)
    },

    /** Goes on with what an earlier server left half-way. */
    start(): void {
      loop = keepUp()
    },

    async stop(): Promise<void> {
      stopped.abort(new Error('The server is stopping'))
      following.stop()
      await loop
    },
  }
}

function wholeTokens(wished: unknown): number {
  return parseTokens(wished, { field: 'tokens' }) / microPerToken
}

/** Each with what is left of its rights after all above it. */
function membersOf(line: readonly AgentRecord[]): Member[] {
  return line.map(({ id, kind, state, confirmAbove }, at) => {
    const rights = effective(line.slice(0, at + 1).map((one) => one.rights))
    return { id, kind, state, confirmAbove, rights }
  })
}

function refuseWork(agent: AgentRecord): never {
  const verdict = mayWork(agent, { computer: false })
  throw verdict.ok ? noAgent(agent.id) : refusalOf(verdict)
}

/** The ledger, or a rule, said no: saying it again changes nothing. */
function isRefusal(error: unknown): error is DeltaError {
  return error instanceof DeltaError && error.status < 500
}

function refusedBy({ id }: TokenRequestRecord, ruling: Exclude<Ruling, { ok: true }>): DeltaError {
  const refusal = (code: ErrorCode, message: string, context?: Record<string, unknown>) =>
    new DeltaError(code, message, context && { context })
  switch (ruling.reason) {
    case 'lacks_right':
      return refusal('forbidden', 'To decide on this needs the right approve:tokens, or of a main agent allocate', {
        right: 'approve:tokens',
      })
    case 'not_main':
      return refusal('forbidden', 'Of agents a main agent above the one that asks decides', { right: 'allocate' })
    case 'own':
      return refusal('approval_own_request', 'Nobody decides on their own request')
    case 'expired':
      return refusal('token_request_expired', `Nobody decided on ${id} in time`)
    case 'changed':
      return refusal('token_request_changed', `${id} is for another number of tokens`)
    case 'decided':
      return refusal('token_request_decided', `${id} is ${ruling.state} already`, { state: ruling.state })
  }
}

function notFound(id: string): DeltaError {
  return new DeltaError('token_request_not_found', `There is no token request ${id.slice(0, 64)}`)
}

function noAgent(id: string): DeltaError {
  return new DeltaError('agent_not_found', `There is no agent ${id.slice(0, 64)}`)
}

const iso = (at: number) => new Date(at).toISOString()
const orNull = (at: number | null) => (at === null ? null : iso(at))
