import type { KnownCaller } from '../access/callers/door.ts'
import type { Clock } from '../kernel/clock.ts'
import { DeltaError } from '../kernel/errors.ts'
import { badCursor, textOfCursor, writeCursor } from '../kernel/http/cursors.ts'
import { newId } from '../kernel/ids.ts'
import type { PlanName } from '../kernel/settings.ts'
import { mayTransfer, type Sight, sightOf, type TransferRuling } from './allocation.ts'
import { microPerToken, shownTokens } from './amounts.ts'
import { csvLine } from './csv.ts'
import { createFollowing } from './following.ts'
import { forecast } from './forecast.ts'
import type { Done } from './operations.ts'
import { boundsOf } from './periods.ts'
import type { Plan } from './plans.ts'
import { readingLimits } from './reading-limits.ts'
import { type LedgerReading, type UsagePlace, usageOrder } from './reading.ts'
import {
  type ForecastView,
  type GrantRequest,
  type HoldListQuery,
  type HoldView,
  type LedgerView,
  type PlanView,
  type RatesView,
  type RefundRequest,
  type TransferListQuery,
  type TransferRequest,
  type TransferView,
  type UsageGroup,
  type UsageQuery,
  type UsageView,
  type WrittenView,
} from './schema.ts'
import type { Ledger } from './service.ts'
import { parseTokens } from './tokens.ts'
import { forecastView, holdView, iso, purseIdOf, purseViews, transferView, usageView } from './views.ts'

export interface LedgerApiDeps {
  ledger: Pick<Ledger, 'apply' | 'ensure' | 'planOf' | 'setPlan' | 'rates' | 'events'>
  reading: LedgerReading
  /** Rejects where there is no such account. */
  requireAccount(accountId: string): Promise<void>
  clock: Clock
}

interface Page<Item> {
  data: Item[]
  nextCursor: string | null
}

const nothing = { data: [], nextCursor: null }

export type LedgerApi = ReturnType<typeof createLedgerApi>

/** The ledger as people, keys and agents see it and move tokens in it. What it writes, the ledger itself decides. */
export function createLedgerApi({ ledger, reading, requireAccount, clock }: LedgerApiDeps) {
  const following = createFollowing({
    reading,
    clock,
    view: transferView,
    onChanged: (listener) => ledger.events.on('ledger.changed', ({ accountId }) => listener(accountId)),
  })

  /** With the account's rows in place, and in the month of now. */
  async function sightFor({ principal }: KnownCaller): Promise<Sight> {
    const sight = sightOf(principal)
    await ledger.ensure(sight.accountId)
    return sight
  }

  /** Narrowed to a purse that somebody names; undefined where there is none within sight. */
  async function sightOfPurse(caller: KnownCaller, party: string | undefined): Promise<Sight | undefined> {
    const sight = await sightFor(caller)
    if (party === undefined) return sight
    const below = purseIdOf(sight.accountId, party)
    return (await reading.isSeen(sight, below)) ? { ...sight, below } : undefined
  }

  async function tree(
    { purseId: party, archived = false }: { purseId?: string | undefined; archived?: boolean | undefined },
    caller: KnownCaller,
  ): Promise<LedgerView> {
    const sight = await sightOfPurse(caller, party)
    if (!sight) throw purseNotFound(party ?? '')
    const { accountId } = sight
    const rows = await reading.purses(sight, { archived })
    const shown = rows.slice(0, readingLimits.purses)
    const period = await reading.period(accountId)
    const total = { granted: 0, bought: 0, held: 0, used: 0 }
    for (const row of shown) {
      total.granted += row.granted
      total.bought += row.bought
      total.held += row.held
      total.used += row.used
    }
    const owed = caller.principal.kind === 'agent' ? undefined : await reading.owed(accountId)
    return {
      accountId,
      period,
      endsAt: iso(boundsOf(period).until),
      total: {
        granted: shownTokens(total.granted),
        bought: shownTokens(total.bought),
        held: shownTokens(total.held),
        used: shownTokens(total.used),
      },
      owed: owed === undefined ? null : shownTokens(owed),
      purses: purseViews(accountId, shown),
      whole: rows.length === shown.length,
    }
  }

  async function transfers(
    { limit, cursor, purseId, ...filter }: TransferListQuery,
    caller: KnownCaller,
  ): Promise<Page<TransferView>> {
    const before = cursor === undefined ? undefined : readSeq(cursor)
    const sight = await sightOfPurse(caller, purseId)
    if (!sight) return nothing
    const { rows, next } = await reading.transfers(sight, { ...filter, limit, before })
    return { data: rows.map(transferView), nextCursor: next === undefined ? null : writeCursor(`${next}`) }
  }

  async function holds({ limit, cursor, state, purseId }: HoldListQuery, caller: KnownCaller): Promise<Page<HoldView>> {
    const before = cursor === undefined ? undefined : readSeq(cursor)
    const sight = await sightOfPurse(caller, purseId)
    if (!sight) return nothing
    const { rows, next } = await reading.holds(sight, { state, before, limit })
    return { data: rows.map(holdView), nextCursor: next === undefined ? null : writeCursor(`${next}`) }
  }

  async function spanOf({ from, to }: UsageQuery, accountId: string) {
    const span = { from: hourOf(from ?? boundsOf(await reading.period(accountId)).from), to: to ?? clock.now() + 1 }
    if (span.to - span.from > readingLimits.usageMs) {
      throw new DeltaError('invalid_request', 'The request is not valid at query.from', {
        cause: `query.from: at most ${readingLimits.usageMs / 86_400_000} days before query.to`,
      })
    }
    return span
  }

  async function usage(
    { limit, cursor, groupBy, ...filter }: UsageQuery,
    caller: KnownCaller,
  ): Promise<Page<UsageView>> {
    const sight = await sightFor(caller)
    const groups = groupsOf(groupBy)
    const after = cursor === undefined ? undefined : readPlace(cursor, groups)
    const wish = { ...filter, ...(await spanOf({ limit, groupBy, ...filter }, sight.accountId)), groups, after }
    const found = await reading.usage(sight, { ...wish, limit: limit + 1 })
    const rows = found.slice(0, limit)
    const last = rows.at(-1)
    const nextCursor = found.length > limit && last ? writePlace(last.place, groups) : null
    return { data: rows.map((row) => usageView(groups, row)), nextCursor }
  }

  /** All of it, a part at a time. */
  async function usageTable(query: UsageQuery, caller: KnownCaller): Promise<AsyncIterable<string>> {
    const sight = await sightFor(caller)
    const groups = groupsOf(query.groupBy)
    // What would be refused is refused before the first line.
    const span = await spanOf(query, sight.accountId)
    const limit = readingLimits.csvPageRows
    return (async function* () {
      yield csvLine(['from', 'agent', 'task', 'sandbox', 'kind', 'meter', 'quantity', 'tokens', 'estimated'])
      let after: UsagePlace | undefined
      for (let rows = 0; rows < readingLimits.csvRows;) {
        const found = await reading.usage(sight, { ...query, ...span, groups, after, limit })
        for (const row of found) {
          const { from, agentId, taskId, sandboxId, kind, meter, quantity, tokens, estimated } = usageView(groups, row)
          yield csvLine([from, agentId, taskId, sandboxId, kind, meter, quantity, tokens, estimated])
        }
        rows += found.length
        after = found.at(-1)?.place
        if (found.length < limit) return
      }
    })()
  }

  async function foresee(caller: KnownCaller): Promise<ForecastView> {
    const sight = await sightFor(caller)
    const period = await reading.period(sight.accountId)
    const now = clock.now()
    const { from, until } = boundsOf(period)
    const span = { from, to: until }
    const to = { now, endsAt: span.to }
    const [total, available, spenders] = await Promise.all([
      reading.spent(sight, span),
      reading.available(sight),
      reading.spenders(sight, span),
    ])
    return {
      period,
      at: iso(now),
      endsAt: iso(span.to),
      total: forecastView(forecast({ ...total, available }, to)),
      agents: spenders.map(({ agentId, ...one }) => ({ agentId, ...forecastView(forecast(one, to)) })),
    }
  }

  async function transfer(wish: TransferRequest, key: string | undefined, caller: KnownCaller): Promise<WrittenView> {
    const amount = parseTokens(wish.tokens, { field: 'tokens' })
    const sight = await sightFor(caller)
    const { accountId } = sight
    const [from, to] = [purseIdOf(accountId, wish.from), purseIdOf(accountId, wish.to)]
    const seen = await Promise.all([reading.isSeen(sight, from), reading.isSeen(sight, to)])
    const ruling = mayTransfer(caller.principal, {
      tokens: amount / microPerToken,
      fromReserve: wish.from === 'reserve',
      withinSight: seen.every(Boolean),
    })
    if (!ruling.ok) throw transferRefused(ruling, seen[0] ? wish.to : wish.from)
    return written(
      await ledger.apply({
        type: 'transfer',
        accountId,
        at: clock.now(),
        from,
        to,
        amount,
        reason: wish.reason,
        key: keyOf('transfer', caller, key),
      }),
    )
  }

  async function grant(wish: GrantRequest, key: string | undefined, caller: KnownCaller): Promise<WrittenView> {
    const amount = parseTokens(wish.tokens, { field: 'tokens' })
    const accountId = await accountOf(wish, caller)
    const { sort, reason } = wish
    return written(
      await ledger.apply({
        type: 'grant',
        accountId,
        at: clock.now(),
        sort,
        amount,
        reason,
        key: keyOf('grant', caller, key),
      }),
    )
  }

  async function refund(wish: RefundRequest, key: string | undefined, caller: KnownCaller): Promise<WrittenView> {
    const accountId = await accountOf(wish, caller)
    const { holdId, reason } = wish
    const amount = Math.round(wish.tokens * microPerToken)
    return written(
      await ledger.apply({
        type: 'refund',
        accountId,
        at: clock.now(),
        holdId,
        amount,
        reason,
        key: keyOf('refund', caller, key),
      }),
    )
  }

  /** The operator's acts may be about any account. */
  async function accountOf({ accountId }: { accountId?: string | undefined }, caller: KnownCaller): Promise<string> {
    if (accountId !== undefined && accountId !== caller.accountId) await requireAccount(accountId)
    const id = accountId ?? caller.accountId
    await ledger.ensure(id)
    return id
  }

  return {
    tree,
    transfers,
    holds,
    usage,
    usageTable,
    forecast: foresee,
    transfer,
    grant,
    refund,

    async follow(caller: KnownCaller, from?: number) {
      return following.follow(await sightFor(caller), caller.actorId, from)
    },

    rates(): RatesView {
      const { version, tokenUsd, meters } = ledger.rates
      const data = Object.entries(meters).map(([meter, { unit, perMillion }]) => ({
        meter,
        unit,
        perMillion: shownTokens(perMillion),
      }))
      return { version, tokenUsd, data }
    },

    async plan({ accountId }: KnownCaller): Promise<PlanView> {
      return planView(await ledger.planOf(accountId))
    },

    async setPlan(wish: { plan: PlanName; accountId?: string | undefined }, caller: KnownCaller): Promise<PlanView> {
      const accountId = await accountOf(wish, caller)
      await ledger.setPlan(accountId, wish.plan)
      return planView(await ledger.planOf(accountId))
    },

    stop: following.stop,
  }
}

/** Somebody's key is no other's, and a transfer's none of a grant. */
function keyOf(what: string, { actorId }: KnownCaller, key: string | undefined): string {
  return `${what}:${actorId}:${key ?? newId('req')}`
}

function written({ seq, amount, repeated }: Done): WrittenView {
  return { seq, tokens: shownTokens(amount), repeated: repeated === true }
}

function planView({ name, agents, sandboxHours, grant }: Plan): PlanView {
  return { plan: name, agents, sandboxHours, grantTokens: shownTokens(grant) }
}

function transferRefused(ruling: Exclude<TransferRuling, { ok: true }>, party: string): DeltaError {
  switch (ruling.reason) {
    case 'hidden':
      return purseNotFound(party)
    case 'needs_person':
      return new DeltaError('forbidden', 'Only a person gives tokens of the reserve: ask for them', {
        context: { right: 'write:billing' },
      })
    case 'lacks_right':
      return new DeltaError('forbidden', `That needs the right ${ruling.right}`, { context: { right: ruling.right } })
  }
}

function purseNotFound(party: string): DeltaError {
  return new DeltaError('purse_not_found', `There is no purse ${party}`)
}

const hourMs = 3_600_000

function hourOf(at: number): number {
  return at - (at % hourMs)
}

function readSeq(cursor: string): number {
  const text = textOfCursor(cursor)
  if (!/^[1-9][0-9]{0,15}$/.test(text)) throw badCursor()
  return Number(text)
}

function groupsOf(groupBy: readonly UsageGroup[] | undefined): UsageGroup[] {
  return usageOrder.filter((group) => (groupBy ?? ['meter']).includes(group))
}

function writePlace(place: UsagePlace, groups: readonly UsageGroup[]): string {
  return writeCursor(JSON.stringify([groups.join(','), ...place]))
}

/** Of this list grouped like that. */
function readPlace(cursor: string, groups: readonly UsageGroup[]): UsagePlace {
  const [of, ...place] = parsed(textOfCursor(cursor))
  const fits = groups.every((group, at) => {
    const value = place[at]
    return group === 'hour' || group === 'day' ? Number.isSafeInteger(value) : typeof value === 'string'
  })
  if (of !== groups.join(',') || place.length !== groups.length || !fits) throw badCursor()
  return place as UsagePlace
}

function parsed(text: string): unknown[] {
  try {
    const value: unknown = JSON.parse(text)
    return Array.isArray(value) ? value : []
  } catch {
    return []
  }
}
