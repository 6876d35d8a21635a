import { isRight, knownCallerOf, type KnownCaller, type Principal, type Revocations } from '../access/callers/door.ts'
import type { Clock } from '../kernel/clock.ts'
import type { Database } from '../kernel/db/database.ts'
import { DeltaError } from '../kernel/errors.ts'
import { createEvents, type Events } from '../kernel/events.ts'
import type { Caller } from '../kernel/http/api.ts'
import type { HashBody } from '../kernel/http/body-hash.ts'
import { pageOf, readCursor } from '../kernel/http/cursors.ts'
import { newId } from '../kernel/ids.ts'
import { parseTokens, microPerToken, shownTokens } from '../ledger/door.ts'
import type { Logger } from '../kernel/log.ts'
import { type ComputerDeps, createComputer } from './computer.ts'
import { type Directory, type Known, knownOf } from './directory.ts'
import type { AgentEvents } from './events.ts'
import { type AgentLedger, createPurses } from './purses.ts'
import {
  effective,
  grantedRights,
  isOver,
  mayAllocate,
  mayChange,
  mayKnow,
  mayMoveBelow,
  mayPlace,
  mayStandBelow,
  mayWork,
  refusalOf,
  type Standing,
  type Verdict,
} from './rules.ts'
import {
  type Agent,
  agentLimits,
  type AgentListQuery,
  type AgentNode,
  type AgentState,
  type CreateAgent,
  type GiveTokens,
  type PatchAgent,
} from './schema.ts'
import type { AgentRecord } from './store.ts'

export interface AgentsDeps {
  database: Database
  /** `createDirectory`'s: tokens of agents ask the same. */
  directory: Directory
  ledger: AgentLedger
  revocations: Pick<Revocations, 'steps' | 'heard'>
  sandboxes: ComputerDeps['sandboxes']
  workspaces: ComputerDeps['workspaces']
  hashBody: HashBody
  clock: Clock
  log: Logger
}

export type Agents = ReturnType<typeof createAgents>

/** Sandboxes that are brought in order at once at a start. */
const mendedAtOnce = 4
/** Agents that one query asks for. */
const agentsAtOnce = 100
const purgeEveryMs = 3_600_000
/** A row that nobody has touched for so long is not being worked on any more, on no server. */
const leftAfterMs = 60_000
/** How often it is looked for such rows. */
const finishEveryMs = 30_000
const mayBeEnded: readonly AgentState[] = ['active', 'paused', 'suspended']

/** Agents: who they are, what they may, what they have, and the computer of each. */
export function createAgents(deps: AgentsDeps) {
  const { database, directory, ledger, revocations, sandboxes, workspaces, hashBody, clock, log } = deps
  const { store } = directory
  const purses = createPurses({ ledger, clock })
  const computer = createComputer({ directory, sandboxes, workspaces, log })
  const events: Events<AgentEvents> = createEvents({ log })
  /** Agents whose making is under way here. */
  const finishing = new Set<string>()
  let purgedMs = -Infinity
  const resting = new AbortController()
  let mending: Promise<void> = Promise.resolve()
  let tidying: Promise<void> = Promise.resolve()

  /** As it is on disk, if the caller may know of it. What is not theirs looks as if it had never been. */
  async function knownTo(caller: Caller, id: string): Promise<Known> {
    const found = knownOf(isAgentId(id) ? await store.line(id) : [])
    if (found?.agent.accountId !== caller.accountId || !isSeen(caller, found)) throw notFound(id)
    return found
  }

  async function create(
    wish: CreateAgent,
    caller: KnownCaller,
    { idempotencyKey }: { idempotencyKey?: string | undefined } = {},
  ): Promise<Agent> {
    const { accountId, principal } = caller
    const budget = tokensOf(wish, 'tokenBudget') ?? 0
    const monthly = tokensOf(wish, 'monthlyTokens') ?? 0
    const threshold = tokensOf(wish, 'confirmAboveTokens')
    // Of each actor’s own: whoever else has the key and the body learns nothing of what was made by them.
    const request =
      idempotencyKey === undefined
        ? undefined
        : { key: `${caller.actorId} ${idempotencyKey}`, bodyHash: hashBody(wish) }
    const earlier = request && (await madeBefore(caller, request))
    if (earlier) return earlier
    forgetOldRequests()
    const parentId = wish.parentAgent ?? wish.parent
    const parent = parentId === undefined ? undefined : await knownTo(caller, parentId)
    const kind = wish.kind ?? (parent ? 'bot' : 'main')
    check(mayPlace(principal, parent))
    check(mayStandBelow(kind, parent && standingOf(parent)))
    check(mayAllocate(principal, shownTokens(budget), parent ? 'agent' : 'reserve'))
    check(mayAllocate(principal, shownTokens(monthly), 'reserve'))
    check(maySetThreshold(principal, threshold))
    const channel = kind === 'main' ? null : (wish.channel ?? 'api')
    const granted = grantedRights(wish.rights, { kind, channel, principal, parent: parent?.rights })
    if (!granted.ok) throw notGranted(granted.right, kind)
    const now = clock.now()
    const record: AgentRecord = {
      id: newId('agt'),
      accountId,
      name: wish.name,
      kind,
      parentId: parentId ?? null,
      state: 'creating',
      task: wish.task ?? null,
      channel,
      template: wish.template ?? 'host',
      memoryMb: wish.memoryMb ?? agentLimits.memoryMb.default,
      rights: granted.rights,
      budget,
      monthly,
      confirmAbove: threshold ?? agentLimits.confirmAboveTokens * microPerToken,
      workspaceId: null,
      sandboxId: null,
      version: 1,
      createdAt: now,
      changedAt: now,
    }
    const line = [...(parent?.line ?? []), record.id]
    const limit = await purses.mostAgents(accountId)
    const inserted = await store.insert(record, { line, limit, ...(request && { request }) })
    if (inserted === 'full') {
      throw new DeltaError('plan_limit_reached', `The account’s plan allows ${limit} agents at once`, {
        context: { limit },
      })
    }
    if (inserted === 'known') {
      // Somebody with the same key was quicker.
      const other = await madeBefore(caller, request!)
      if (other) return other
      throw new DeltaError('idempotency_in_progress', 'The first request with this key is still being worked on')
    }
    return finish(record)
  }

  /**
   * The row says what is to be done before anything is: purse and budget by keys of its own, so that whoever comes upon the row after a crash does the rest, or takes it back
   * where the ledger refuses.
   */
  async function finish(record: AgentRecord): Promise<Agent> {
    finishing.add(record.id)
    try {
      await purses.open(record)
    } catch (error) {
      // What the ledger refuses will not be. Of any other failure nobody knows how far it came: the next try does, or the next start.
      if (error instanceof DeltaError && error.status < 500) await undo(record)
      throw error
    } finally {
      finishing.delete(record.id)
    }
    const made = await move(record, 'active')
    if (!made) return madeElsewhere(record)
    await refuseOrphan(made)
    events.emit('agent.created', { accountId: record.accountId, agentId: record.id })
    return viewOf(knownOf(await store.line(record.id))!)
  }

  /** Another server took its row for left, and did the rest. */
  async function madeElsewhere({ id }: AgentRecord): Promise<Agent> {
    const known = knownOf(await store.line(id))
    if (!known) throw new DeltaError('agent_state_conflict', `${id} was changed by something else`)
    refuseOver(known)
    return viewOf(known)
  }

  /** Whoever ended one above it while it was made did not see it: so it ends too, with its tokens where they came from. */
  async function refuseOrphan(made: AgentRecord): Promise<void> {
    const above = (await store.line(made.id)).slice(0, -1).find(({ state }) => isOver(state))
    if (!above) return
    await endOne(made, 'platform')
    check(mayWork(above, { computer: false }))
  }

  async function undo(record: AgentRecord): Promise<void> {
    const undoing = record.state === 'undoing' ? record : await move(record, 'undoing')
    if (!undoing) return
    await purses.close(undoing)
    await store.remove(undoing)
  }

  async function move(before: AgentRecord, state: AgentState): Promise<AgentRecord | undefined> {
    const after = { ...before, state, version: before.version + 1, changedAt: clock.now() }
    return (await store.update(before, after)) ? after : undefined
  }

  async function madeBefore(
    caller: KnownCaller,
    { key, bodyHash }: { key: string; bodyHash: string },
  ): Promise<Agent | undefined> {
    const saved = await store.savedRequest(caller.accountId, key)
    if (!saved) return undefined
    if (saved.bodyHash !== bodyHash) {
      throw new DeltaError('idempotency_conflict', 'This Idempotency-Key was used with another body')
    }
    const found = knownOf(await store.line(saved.agentId))
    if (found && !isSeen(caller, found)) throw notFound(found.agent.id)
    if (found) return viewOf(found)
    const record = await store.get(saved.agentId)
    // Of the first request only the beginning was done, and nobody is at it any more.
    if (record?.state === 'creating' && !finishing.has(record.id)) return finish(record)
    throw new DeltaError('idempotency_in_progress', 'The first request with this key is still being worked on')
  }

  function forgetOldRequests(): void {
    if (clock.monotonic() - purgedMs < purgeEveryMs) return
    purgedMs = clock.monotonic()
    store
      .purge(clock.now() - agentLimits.requestMs)
      .catch((error: unknown) => log.warn('agent_requests_not_purged', { error }))
  }

  async function get(id: string, caller: Caller): Promise<Agent> {
    const known = await knownTo(caller, id)
    return { ...viewOf(known), balance: await purses.balanceOf(known.agent) }
  }

  async function list(caller: Caller, { state, kind, parentAgent, limit, cursor }: AgentListQuery) {
    const before = readCursor(cursor, ['agt'])
    const { accountId, only } = caller
    const filter = { accountId, only, below: belowOf(caller), state, kind, parentId: parentAgent, before }
    const { items, nextCursor } = pageOf(await store.list({ ...filter, limit: limit + 1 }), limit)
    const lines = await store.lines(items.map(({ id }) => id))
    return { data: items.map(({ id }) => viewOf(knownOf(lines.get(id)!)!)), nextCursor }
  }

  /** Of what the caller may know. An agent whose parent is not among it stands at the top. */
  async function tree(caller: Caller): Promise<{ data: AgentNode[]; complete: boolean }> {
    const { accountId, only } = caller
    const found = await store.list({ accountId, only, below: belowOf(caller), limit: agentLimits.tree + 1 })
    const shown = found.slice(0, agentLimits.tree)
    const nodes = new Map(shown.map((agent) => [agent.id, nodeOf(agent)]))
    const data: AgentNode[] = []
    for (const { id, parentId } of shown.toReversed()) {
      const siblings = (parentId === null ? undefined : nodes.get(parentId)?.children) ?? data
      siblings.push(nodes.get(id)!)
    }
    return { data, complete: found.length === shown.length }
  }

  /** Reads, asks and writes, again where something else wrote in between. `news`: whether what it may or whether it may changes. */
  async function change(
    id: string,
    caller: Caller,
    changed: (known: Known) => AgentRecord | undefined,
    { news = false } = {},
  ): Promise<Known> {
    for (let tries = 1; ; tries += 1) {
      const known = await knownTo(caller, id)
      const after = changed(known)
      if (!after) return known
      const written = { ...after, version: known.agent.version + 1, changedAt: clock.now() }
      if (await store.update(known.agent, written, news ? revocations.steps([id]) : [])) {
        // Whoever acts by it looks again: tokens, open streams and what is remembered, also on other servers.
        if (news) revocations.heard([id])
        directory.changed(id)
        return knownOf(await store.line(id))!
      }
      if (tries >= agentLimits.tries) {
        throw new DeltaError('agent_state_conflict', `${id} was changed by something else at the same moment`)
      }
    }
  }

  async function patch(id: string, wish: PatchAgent, caller: KnownCaller): Promise<Agent> {
    const { principal } = caller
    const monthly = tokensOf(wish, 'monthlyTokens')
    const confirmAbove = tokensOf(wish, 'confirmAboveTokens')
    const before = await knownTo(caller, id)
    check(mayChange(principal, standingOf(before)))
    if (wish.parentAgent !== undefined) {
      const parent = await knownTo(caller, wish.parentAgent)
      check(mayMoveBelow(standingOf(before), parent.agent.id, parent.line))
    }
    check(mayAllocate(principal, shownTokens(monthly ?? 0), 'reserve'))
    check(maySetThreshold(principal, confirmAbove))
    refuseOver(before)
    if (before.agent.kind === 'messenger' && wish.memoryMb !== undefined) {
      check(mayWork(before.agent, { computer: true }))
    }
    const above = await aboveOf(before)
    const rights = wish.rights && grantedOf(wish.rights, before, { principal, above })
    // First where money is: what is shown follows, and asking again does it again.
    if (monthly !== undefined && monthly !== before.agent.monthly) await purses.setMonthly(before.agent, monthly)
    const after = await change(
      id,
      caller,
      (known) => {
        refuseOver(known)
        const { agent } = known
        return {
          ...agent,
          name: wish.name ?? agent.name,
          task: wish.task ?? agent.task,
          memoryMb: wish.memoryMb ?? agent.memoryMb,
          rights: rights ?? agent.rights,
          monthly: monthly ?? agent.monthly,
          confirmAbove: confirmAbove ?? agent.confirmAbove,
        }
      },
      { news: rights !== undefined },
    )
    if (rights) await boundAll(id)
    return viewOf(after)
  }

  async function aboveOf({ line }: Known): Promise<readonly AgentRecord[]> {
    const parentId = line.at(-2)
    return parentId === undefined ? [] : store.line(parentId)
  }

  /** Sandboxes of it and of all below it reach no more than these may by now. */
  async function boundAll(id: string): Promise<void> {
    const living = (await store.living(id)).filter(({ sandboxId }) => sandboxId !== null)
    const lines = await store.lines(living.map((agent) => agent.id))
    for (const agent of living) {
      const known = knownOf(lines.get(agent.id)!)
      if (known) await computer.bound(agent, known.rights)
    }
  }

  async function pause(id: string, caller: KnownCaller): Promise<Agent> {
    return halt(id, caller, 'paused')
  }

  /** Its computer stands still and it gets no work: by somebody's word, or because its tokens are at an end. */
  async function halt(id: string, caller: Caller, state: 'paused' | 'suspended'): Promise<Agent> {
    const known = await change(
      id,
      caller,
      (before) => {
        if ('principal' in caller) check(mayChange(knownCallerOf(caller).principal, standingOf(before)))
        refuseOver(before)
        const { agent } = before
        // One that a person paused stays so, whatever becomes of its tokens.
        const isHalted = agent.state === state || (state === 'suspended' && agent.state === 'paused')
        return isHalted ? undefined : { ...agent, state }
      },
      { news: true },
    )
    await computer.freeze(known.agent)
    if (known.agent.state === state) events.emit('agent.halted', { ...named(known), state })
    return viewOf(known)
  }

  async function resume(id: string, caller: KnownCaller): Promise<Agent> {
    const known = await knownTo(caller, id)
    check(mayChange(caller.principal, standingOf(known)))
    if (known.agent.state === 'suspended') check(mayWork(known.agent, { computer: false }))
    return goOn(known, caller)
  }

  /** The computer first: after a crash in between it is an agent at rest with a computer that runs, which the next start brings to rest. */
  async function goOn(known: Known, caller: Caller): Promise<Agent> {
    refuseOver(known)
    await computer.thaw(known.agent)
    const after = await change(
      known.agent.id,
      caller,
      (before) => {
        refuseOver(before)
        return before.agent.state === 'active' ? undefined : { ...before.agent, state: 'active' }
      },
      { news: true },
    )
    events.emit('agent.resumed', named(after))
    return viewOf(after)
  }

  /**
   * Ends it with all below it, the deepest first. Each is at an end when its computer has stopped, nothing more is held in its name, and its balance is its parent's or the
   * reserve's again: where something is still held, that is later.
   */
  async function archive(id: string, caller: KnownCaller): Promise<Agent> {
    const known = await knownTo(caller, id)
    check(mayChange(caller.principal, standingOf(known)))
    const isThere = ({ state }: AgentRecord) => mayBeEnded.includes(state)
    // Again for those that were there only when these were looked at; whoever is made from then on sees that it is over.
    for (let living = await store.living(id); living.length > 0; living = (await store.living(id)).filter(isThere)) {
      for (const agent of living) await endOne(agent, caller.actorId)
    }
    return viewOf(knownOf(await store.line(id))!)
  }

  async function endOne({ id, accountId }: AgentRecord, actorId: string): Promise<void> {
    const marked = await change(
      id,
      { accountId, actorId },
      ({ agent: before }) => (isOver(before.state) ? undefined : { ...before, state: 'archiving' }),
      { news: true },
    ).catch((error: unknown) => {
      // One that is just being made ends itself when it is.
      if (error instanceof DeltaError && error.code === 'agent_not_found') return undefined
      throw error
    })
    if (!marked) return
    events.emit('agent.ending', { accountId, agentId: id })
    await advance(id)
  }

  /** The next step of one that is being archived, as far as that goes now; may be repeated. */
  async function advance(id: string): Promise<void> {
    const agent = await store.get(id)
    if (agent?.state !== 'archiving' || (await store.hasLivingChild(id))) return
    await computer.end(agent)
    if (!(await purses.close(agent))) return
    for (let tries = 1; tries <= agentLimits.tries; tries += 1) {
      const now = await store.get(id)
      if (now?.state !== 'archiving') return
      if (await move(now, 'archived')) break
    }
    directory.changed(id)
    events.emit('agent.archived', { accountId: agent.accountId, agentId: id })
    if (agent.parentId !== null) await advance(agent.parentId)
  }

  async function giveTokens(
    id: string,
    { tokens: wished, from }: GiveTokens,
    caller: KnownCaller,
    { idempotencyKey = newId('req') }: { idempotencyKey?: string | undefined } = {},
  ): Promise<Agent> {
    const amount = parseTokens(wished, { field: 'tokens' })
    const tokens = shownTokens(amount)
    const known = await knownTo(caller, id)
    const { agent } = known
    refuseOver(known)
    const source = from ?? (agent.parentId === null ? 'reserve' : 'parent')
    const isReserve = source === 'reserve' || agent.parentId === null
    check(mayChange(caller.principal, standingOf(known)))
    check(mayAllocate(caller.principal, tokens, isReserve ? 'reserve' : 'agent'))
    await purses.give(agent, {
      amount,
      from: source,
      reason: `Given by ${caller.actorId}`,
      key: `given ${caller.actorId} ${idempotencyKey}`,
    })
    events.emit('agent.given', { ...named(known), tokens })
    return get(id, caller)
  }

  /** The sandbox that requests about its computer go to. */
  async function computerOf(id: string, caller: Caller): Promise<string> {
    const found = await directory.find(id, caller.accountId)
    if (!found || !isSeen(caller, found)) throw notFound(id)
    check(mayWork(found.agent, { computer: true }))
    return computer.open(found)
  }

  /** Finishes or takes back what a crash left half-way. `mended` resolves when computers are as their agents say, for which no request need wait. */
  async function start(): Promise<{ mended: Promise<void> }> {
    // Where there are other servers, what was begun just now may be theirs.
    await finishLeft(database.kind === 'sqlite' ? undefined : clock.now() - leftAfterMs)
    mending = mend()
    tidying = keepFinishing()
    return { mended: mending }
  }

  /** Makes what was begun and left, by a crash or because the ledger could not be asked, or takes it back where the ledger refuses. */
  async function finishLeft(untouchedSince: number | undefined): Promise<void> {
    for (const record of await store.inStates(['creating', 'undoing'], { untouchedSince })) {
      if (resting.signal.aborted) return
      if (finishing.has(record.id)) continue
      const work = record.state === 'creating' ? finish(record) : undo(record)
      await work.then(
        () => log.info('agent_finished', { agentId: record.id }),
        (error: unknown) => log.warn('agent_not_made', { agentId: record.id, error }),
      )
    }
  }

  async function keepFinishing(): Promise<void> {
    while (!resting.signal.aborted) {
      await clock.sleep(finishEveryMs, resting.signal).catch(() => undefined)
      if (resting.signal.aborted) return
      await finishLeft(clock.now() - leftAfterMs).catch((error: unknown) => log.warn('agents_not_finished', { error }))
    }
  }

  async function mend(): Promise<void> {
    const failed = (error: unknown) => log.warn('agents_not_mended', { error })
    await Promise.all([bringToRest().catch(failed), boundLiving().catch(failed)])
  }

  /** Whoever was narrowed just before a crash has a computer that does not know of it. */
  async function boundLiving(): Promise<void> {
    const computers = await sandboxes.ofAgents()
    for (let from = 0; from < computers.length; from += agentsAtOnce) {
      const part = computers.slice(from, from + agentsAtOnce)
      const lines = await store.lines(Array.from(new Set(part.map(({ agentId }) => agentId))))
      for (const { agentId, sandboxId } of part) {
        if (resting.signal.aborted) return
        const known = knownOf(lines.get(agentId) ?? [])
        if (known?.agent.sandboxId !== sandboxId) continue
        await computer
          .bound(known.agent, known.rights)
          .catch((error: unknown) => log.warn('agent_network_not_bounded', { agentId, sandboxId, error }))
      }
    }
  }

  async function bringToRest(): Promise<void> {
    const waiting = await store.inStates(['paused', 'suspended', 'archiving'])
    const work = async (): Promise<void> => {
      for (let next = waiting.shift(); next && !resting.signal.aborted; next = waiting.shift()) {
        const { id, state } = next
        await (state === 'archiving' ? advance(id) : computer.freeze(next)).catch((error: unknown) =>
          log.warn('agent_not_mended', { agentId: id, error }),
        )
      }
    }
    await Promise.all(Array.from({ length: mendedAtOnce }, work))
  }

  async function stop(): Promise<void> {
    resting.abort()
    await Promise.all([mending, tidying])
  }

  return {
    create,
    get,
    list,
    tree,
    patch,
    pause,
    resume,
    archive,
    giveTokens,
    computerOf,
    start,
    stop,
    events,
    /** Its balance has gone to its parent: the last hold has settled. */
    purseArchived: (agentId: string) =>
      void advance(agentId).catch((error: unknown) => log.warn('agent_not_archived', { agentId, error })),
    /** For what watches over tokens: it stands still until `wake`. */
    suspend: (agentId: string, accountId: string) => halt(agentId, { accountId, actorId: 'platform' }, 'suspended'),
    /** It goes on where it stood, unless a person paused it. */
    async wake(agentId: string, accountId: string): Promise<Agent> {
      const caller = { accountId, actorId: 'platform' }
      const known = await knownTo(caller, agentId)
      return known.agent.state === 'suspended' ? goOn(known, caller) : viewOf(known)
    },
  }
}

function check(verdict: Verdict): void {
  if (!verdict.ok) throw refusalOf(verdict)
}

function standingOf({ agent, line }: Known): Standing {
  return { id: agent.id, kind: agent.kind, state: agent.state, line }
}

function named({ agent }: Known): { accountId: string; agentId: string } {
  return { accountId: agent.accountId, agentId: agent.id }
}

function refuseOver({ agent }: Known): void {
  if (isOver(agent.state)) check(mayWork(agent, { computer: false }))
}

/** Up to there tokens go without a person asked, so it is set by those who could give so many themselves. */
function maySetThreshold(principal: Principal, amount: number | undefined): Verdict {
  return mayAllocate(principal, shownTokens(amount ?? 0), 'reserve')
}

type Amounts = Partial<Record<'tokenBudget' | 'monthlyTokens' | 'confirmAboveTokens', unknown>>

/** Micro-tokens; undefined where it is not said. */
function tokensOf(wish: Amounts, field: keyof Amounts): number | undefined {
  return wish[field] === undefined ? undefined : parseTokens(wish[field], { field, least: 0 })
}

function grantedOf(
  wished: NonNullable<PatchAgent['rights']>,
  { agent: { kind, channel } }: Known,
  { principal, above }: { principal: Principal; above: readonly AgentRecord[] },
) {
  const parent = above.length === 0 ? undefined : effective(above.map(({ rights }) => rights))
  const granted = grantedRights(wished.filter(isRight), { kind, channel, principal, parent })
  if (!granted.ok) throw notGranted(granted.right, kind)
  return granted.rights
}

function notGranted(right: string, kind: string): DeltaError {
  return new DeltaError(
    'forbidden',
    `A ${kind} can not have the right ${right} here: its parent and whoever asks must have it too`,
    {
      context: { right },
    },
  )
}

/** People and keys know of all of the account, and without a principal it is the server itself. */
function isSeen(caller: Caller, known: Pick<Known, 'line'>): boolean {
  return !('principal' in caller) || mayKnow(knownCallerOf(caller).principal, known)
}

function belowOf(caller: Caller): string | undefined {
  const { principal } = knownCallerOf(caller)
  return principal.kind === 'agent' ? principal.agentId : undefined
}

const isAgentId = (id: string) => /^agt_[a-z0-9]{1,40}$/.test(id)

function notFound(id: string): DeltaError {
  return new DeltaError('agent_not_found', `There is no agent ${id.slice(0, 64)}`)
}

function viewOf({ agent, line, rights }: Known): Agent {
  return {
    id: agent.id,
    name: agent.name,
    kind: agent.kind,
    parentAgent: agent.parentId,
    depth: line.length,
    state: agent.state as Agent['state'],
    task: agent.task,
    channel: agent.channel,
    template: agent.template,
    memoryMb: agent.memoryMb,
    monthlyTokens: shownTokens(agent.monthly),
    confirmAboveTokens: shownTokens(agent.confirmAbove),
    rights: [...agent.rights],
    effectiveRights: [...rights],
    workspaceId: agent.workspaceId,
    sandboxId: agent.sandboxId,
    createdAt: new Date(agent.createdAt).toISOString(),
  }
}

function nodeOf({ id, name, kind, state, channel, createdAt }: AgentRecord): AgentNode {
  const at = new Date(createdAt).toISOString()
  return { id, name, kind, state: state as AgentNode['state'], channel, createdAt: at, children: [] }
}
