import type { Clock } from '../kernel/clock.ts'
import type { Database } from '../kernel/db/database.ts'
import { DeltaError } from '../kernel/errors.ts'
import { createEvents } from '../kernel/events.ts'
import type { Events } from '../kernel/events.ts'
import { newOrderedId } from '../kernel/ids.ts'
import type { Logger } from '../kernel/log.ts'
import type { Metrics } from '../kernel/metrics.ts'
import { shownTokens } from './amounts.ts'
import { isPurse, ownIds, reserveId, sideId } from './book.ts'
import type { Account } from './book.ts'
import type { LedgerEvents } from './events.ts'
import { ledgerLimits } from './limits.ts'
import type {
  Answer,
  Archive,
  ChangePurse,
  Charge,
  Commit,
  Done,
  Grant,
  MeterKind,
  OpenPurse,
  Operation,
  Period,
  Purpose,
  PurseKind,
  Refund,
  Refusal,
  RefusalReason,
  Transfer,
  UsageLine,
} from './operations.ts'
import { boundsOf, periodOf } from './periods.ts'
import { planNamed } from './plans.ts'
import type { Plan, PlanName } from './plans.ts'
import { ledgerProgramUrl } from './program-url.ts'
import { priceOf } from './rate-card.ts'
import type { RateCard } from './rate-card.ts'
import { createLedgerStore } from './store.ts'

export interface LedgerDeps {
  database: Database
  clock: Clock
  log: Logger
  rates: RateCard
  /** Micro-tokens of every plan's monthly grant. */
  grant: number
  /** With which plan an account begins. */
  planAtStart: (accountId: string) => PlanName
  /** The life of this process, `srv_…`: whose holds are settled when it is over. */
  incarnation: string
}

/** What there is of one purse, in micro-tokens. */
export interface Balance {
  purseId: string
  kind: PurseKind
  parentId: string | null
  state: Account['state']
  granted: number
  bought: number
  held: number
  /** Paid by it since it was made, less what was given back. */
  used: number
  /** Of the reserve: what the account could not pay. */
  owed: number
  /** Renewed each month. */
  monthly: number
  createdAt: number
}

export interface HoldWish {
  accountId: string
  /** A purse. @default the account's reserve */
  payer?: string | undefined
  amount: number
  atLeast?: number | undefined
  purpose: Purpose
  /** @default a new one */
  holdId?: string | undefined
}

/** An operation as its callers name it: when is now. */
export type Wish<Kind extends Operation> = Omit<Kind, 'type' | 'at'>

export interface Ledger {
  /** Decided and durable when it resolves; a refusal is thrown as a `DeltaError` of its own code. No operation of a new month is decided before the account's roll-over. */
  apply(operation: Operation): Promise<Done>
  /** Opens the account with its plan's grant where it has no ledger yet, and rolls it over where a new month has begun. Costs nothing once it was asked in a month. */
  ensure(accountId: string): Promise<void>
  /** Opens the account where needed. */
  hold(wish: HoldWish): Promise<{ holdId: string; amount: number }>
  sent(holdId: string, accountId: string, observed?: number): Promise<void>
  commit(
    holdId: string,
    accountId: string,
    lines: readonly UsageLine[],
    options?: Pick<Commit, 'estimated' | 'excess'>,
  ): Promise<Done>
  release(holdId: string, accountId: string): Promise<void>
  charge(wish: Omit<Wish<Charge>, 'rates'>): Promise<Done>
  openPurse(wish: Wish<OpenPurse>): Promise<Done>
  changePurse(wish: Wish<ChangePurse>): Promise<Done>
  transfer(wish: Wish<Transfer>): Promise<Done>
  archive(wish: Wish<Archive>): Promise<Done>
  grant(wish: Wish<Grant>): Promise<Done>
  refund(wish: Wish<Refund>): Promise<Done>
  /** Throws `purse_not_found`. */
  balanceOf(accountId: string, purseId: string): Promise<Balance>
  /** What model calls of a task have cost that were begun since then, or will have cost when they are settled. Only for what was begun just now: it looks among the account's last holds. */
  spentSince(accountId: string, taskId: string, since: number): Promise<number>
  /** Whether something was done under that key already. */
  wasDone(accountId: string, key: string): Promise<boolean>
  /** Micro-tokens by the rate card, rounded up once; throws `meter_not_priced`. */
  price(meter: MeterKind, quantity: number): number
  /** A price's line. */
  line(meter: MeterKind, quantity: number): UsageLine
  /** How much is to be held for what may cost `amount`: more where such a cost has gone beyond its hold. */
  bound(meter: MeterKind, amount: number): number
  rates: RateCard
  planOf(accountId: string): Promise<Plan>
  setPlan(accountId: string, plan: PlanName): Promise<void>
  reserveOf(accountId: string): string
  events: Events<LedgerEvents>
  metrics(metrics: Metrics): void
  /** Settles the holds of owners that are dead, and begins to look for them and for months that are over. */
  start(): Promise<void>
  stop(): Promise<void>
}

/** The one door to tokens. */
export function createLedger(deps: LedgerDeps): Ledger {
  const { database, clock, log, rates, grant, planAtStart, incarnation } = deps
  const store = createLedgerStore(database)
  const decideAndWrite = database.program<Operation, Answer>(ledgerProgramUrl)
  const events = createEvents<LedgerEvents>({ log })
  const counts = { operations: 0, refusals: 0, absorbed: 0 }
  const bounds = createBounds()
  const news = createNews(events)
  const now = () => ({ at: clock.now() })

  /** Decides without looking at the month. */
  const decided = async (operation: Operation): Promise<Done> => {
    counts.operations += 1
    const answer = await decideAndWrite(operation)
    if (!answer.ok) {
      counts.refusals += 1
      if (operation.type === 'hold' && answer.reason === 'balance_too_low') {
        const { accountId, payer, amount } = operation
        events.emit('purse.low', { accountId, purseId: payer, wanted: amount, available: answer.available ?? 0 })
      }
      throw errorOf(operation, answer)
    }
    if (!answer.repeated) tell(operation, answer)
    return answer
  }

  const tell = (operation: Operation, answer: Done) => {
    const { accountId } = operation
    if (answer.seq > 0) news.changed(accountId, answer.seq)
    if (operation.type === 'commit' && answer.unpaid) {
      counts.absorbed += answer.unpaid
      log.warn('ledger_absorbed', { accountId, holdId: operation.holdId, amount: answer.unpaid })
      bounds.raise(operation.lines, answer)
    }
    for (const purseId of answer.filled ?? []) events.emit('purse.filled', { accountId, purseId })
    if (answer.archived !== undefined) events.emit('purse.archived', { accountId, purseId: answer.archived })
    if (operation.type === 'roll_over') {
      const { unrenewed = [] } = answer
      if (unrenewed.length > 0) log.warn('ledger_not_renewed', { accountId, purses: unrenewed.length })
      events.emit('period.rolled', { accountId, period: operation.period, unrenewed })
    }
  }

  const months = createMonths({ store, decided, planAtStart, grant })

  const apply = async (operation: Operation): Promise<Done> => {
    const isMonths = operation.type === 'open_account' || operation.type === 'roll_over'
    if (!isMonths && !months.isAt(operation.accountId, operation.at))
      await months.rollOver(operation.accountId, operation.at)
    return decided(operation)
  }

  const ensure = async (accountId: string): Promise<void> => {
    const { at } = now()
    if (!months.isAt(accountId, at)) await months.open(accountId, at)
  }
  /** Of an account that is there, by its first operation of any kind. */
  const opened = async (operation: Operation): Promise<Done> => {
    await ensure(operation.accountId)
    return apply(operation)
  }
  const sweeps = createSweeps({ store, apply: decided, months, deps })

  return {
    apply,
    ensure,
    async hold({ accountId, payer = reserveId(accountId), holdId, ...wish }) {
      const at = clock.now()
      const id = holdId ?? newOrderedId('hld', at)
      if (!months.isAt(accountId, at)) await months.open(accountId, at)
      try {
        const wished = { type: 'hold', accountId, payer, holdId: id, owner: incarnation, at, ...wish } as const
        const { amount } = await decided(wished)
        return { holdId: id, amount }
      } catch (error) {
        // By an id of their own they ask for it again.
        if (holdId === undefined && isInDoubt(error)) sweeps.giveBack(id, accountId)
        throw error
      }
    },
    async sent(holdId, accountId, observed) {
      await apply({ type: 'sent', holdId, accountId, observed, ...now() })
    },
    commit: (holdId, accountId, lines, options) =>
      apply({ type: 'commit', holdId, accountId, lines, rates: rates.version, ...now(), ...options }),
    async release(holdId, accountId) {
      await apply({ type: 'release', holdId, accountId, ...now() })
    },
    charge: (wish) => opened({ type: 'charge', rates: rates.version, ...now(), ...wish }),
    async openPurse(wish) {
      await ensure(wish.accountId)
      // To count those that live takes the longer the more there are; most accounts never had so many.
      const { purses } = (await store.tenant(wish.accountId))!
      if (purses >= ledgerLimits.livingPurses && (await store.living(wish.accountId, mostRows)) >= mostRows)
        throw tooManyPurses()
      return apply({ type: 'open_purse', ...now(), ...wish })
    },
    changePurse: (wish) => opened({ type: 'change_purse', ...now(), ...wish }),
    transfer: (wish) => opened({ type: 'transfer', ...now(), ...wish }),
    archive: (wish) => opened({ type: 'archive', ...now(), ...wish }),
    grant: (wish) => opened({ type: 'grant', ...now(), ...wish }),
    refund: (wish) => opened({ type: 'refund', ...now(), ...wish }),
    async balanceOf(accountId, purseId) {
      await ensure(accountId)
      const [row, owed] = await Promise.all([
        store.account(accountId, purseId),
        store.account(accountId, sideId(accountId, 'owed')),
      ])
      if (!row || !isPurse(row))
        throw new DeltaError('purse_not_found', `There is no balance of ${purseId}`, { context: { purseId } })
      return balanceFrom(row, owed)
    },
    spentSince: (accountId, taskId, since) => store.spentSince(accountId, taskId, since),
    wasDone: (accountId, key) => store.wasDone(accountId, key),
    price: (meter, quantity) => priceOf(rates, meter, quantity),
    line: (meter, quantity) => ({ meter, quantity, cost: priceOf(rates, meter, quantity) }),
    bound: bounds.of,
    rates,
    async planOf(accountId) {
      const tenant = await store.tenant(accountId)
      return planNamed(tenant?.plan ?? planAtStart(accountId), grant)
    },
    async setPlan(accountId, plan) {
      await ensure(accountId)
      await store.setPlan(accountId, plan)
    },
    reserveOf: reserveId,
    events,
    metrics(metrics) {
      metrics.counterFrom('delta_ledger_operations_total', 'Operations of the ledger', () => counts.operations)
      metrics.counterFrom('delta_ledger_refusals_total', 'Of these, refused', () => counts.refusals)
      metrics.counterFrom(
        'delta_ledger_absorbed_micro_tokens_total',
        'Cost beyond its hold, which the platform bears',
        () => counts.absorbed,
      )
      metrics.gauge('delta_ledger_bound_factor', 'How much more than its price is held for a meter', bounds.shown)
    },
    start: sweeps.start,
    async stop() {
      await sweeps.stop()
      news.flush()
    },
  }
}

/** The connection broke before the answer: it may have been written. */
function isInDoubt(error: unknown): boolean {
  return error instanceof DeltaError && error.code === 'database_unavailable'
}

/** Not what was asked for, but what it was asked of. */
function isOfDatabase(error: unknown): boolean {
  return error instanceof DeltaError && error.status >= 500
}

/** The sides and the reserve are rows too. */
const mostRows = ledgerLimits.livingPurses + ownIds('').length

function tooManyPurses(): DeltaError {
  return new DeltaError('purse_limit_reached', `The account has ${ledgerLimits.livingPurses} agents and tasks`, {
    context: { limit: ledgerLimits.livingPurses },
  })
}

const words: Record<RefusalReason, (operation: Operation) => string> = {
  amount_invalid: ({ type }) => `An amount of this ${wordOf(type)} is not a whole number of micro-tokens`,
  ledger_account_not_found: ({ accountId }) => `The account ${accountId} has no ledger`,
  purse_not_found: () => 'There is no such balance in this account',
  purse_exists: () => 'There is a balance of this id already',
  purse_archived: () => 'The balance is archived or about to be',
  purse_has_children: () => 'There are agents or tasks below it',
  transfer_to_itself: () => 'Tokens can not be moved from a balance to itself',
  balance_too_low: () => 'The balance is too low',
  account_owes: () => 'The account owes tokens',
  hold_not_found: () => 'There is no such hold in this account',
  hold_conflict: () => 'This hold was made for something else',
  hold_over: () => 'The hold is over',
  hold_sent: () => 'What was held for has been sent',
  commit_above_hold: () => 'More was used than was held',
  refund_above_cost: () => 'More would be given back than was paid',
  key_conflict: () => 'This key was used for something else',
  ledger_full: () => 'The ledger can not count as many tokens',
}

function wordOf(type: Operation['type']): string {
  return type.replaceAll('_', ' ')
}

function errorOf(operation: Operation, { reason, available }: Refusal): DeltaError {
  const { accountId } = operation
  const named = {
    ...('payer' in operation && { purseId: operation.payer }),
    ...('purseId' in operation && { purseId: operation.purseId }),
    ...('from' in operation && { purseId: operation.from, to: operation.to }),
    ...('holdId' in operation && { holdId: operation.holdId }),
    ...('amount' in operation && Number.isFinite(operation.amount) && { wanted: shownTokens(operation.amount) }),
  }
  return new DeltaError(reason, words[reason](operation), {
    // Callers see it as it is, so its amounts are tokens.
    context: { accountId, ...named, ...(available !== undefined && { available: shownTokens(available) }) },
  })
}

function balanceFrom(row: Account, owed: Account | undefined): Balance {
  const { id, kind, parentId, state, granted, bought, held, used, monthly, createdAt } = row
  const owing = kind === 'reserve' && owed ? 0 - (owed.granted + owed.bought) : 0
  return {
    purseId: id,
    kind: kind as PurseKind,
    parentId,
    state,
    granted,
    bought,
    held,
    used,
    owed: owing,
    monthly,
    createdAt,
  }
}

/** Of many operations at once, one piece of news for each account. */
function createNews(events: Events<LedgerEvents>) {
  const changed = new Map<string, number[]>()
  const flush = () => {
    const all = [...changed]
    changed.clear()
    for (const [accountId, seqs] of all) events.emit('ledger.changed', { accountId, seqs })
  }
  return {
    flush,
    changed(accountId: string, seq: number) {
      if (changed.size === 0) setImmediate(flush)
      const seqs = changed.get(accountId)
      if (seqs) seqs.push(seq)
      else changed.set(accountId, [seq])
    },
  }
}

/** By how much the bound of a meter was too low. */
function createBounds() {
  const factors = new Map<MeterKind, number>()
  return {
    raise(lines: readonly UsageLine[], { amount, unpaid = 0 }: Done) {
      const factor = Math.min(ledgerLimits.boundFactor, (amount + unpaid) / Math.max(1, amount))
      for (const { meter } of lines) {
        if (factors.size >= ledgerLimits.boundMeters && !factors.has(meter)) continue
        factors.set(meter, Math.max(factor, factors.get(meter) ?? 1))
      }
    },
    of: (meter: MeterKind, amount: number) => Math.ceil(amount * (factors.get(meter) ?? 1)),
    shown: () => [...factors].map(([meter, value]) => ({ labels: { meter }, value })),
  }
}

interface MonthsDeps {
  store: ReturnType<typeof createLedgerStore>
  decided(operation: Operation): Promise<Done>
  planAtStart: LedgerDeps['planAtStart']
  grant: number
}

type Months = ReturnType<typeof createMonths>

/** Which accounts have come to the present month: each is asked for once in it, and all that is done meanwhile waits for the one roll-over. */
function createMonths({ store, decided, planAtStart, grant }: MonthsDeps) {
  /** At least so far; the oldest go first. */
  const reached = new Map<string, Period>()
  const rolling = new Map<string, Promise<void>>()
  let month = { from: 0, until: 0, period: '' }
  const at = (ms: number): Period => {
    if (ms < month.from || ms >= month.until) {
      const period = periodOf(ms)
      month = { ...boundsOf(period), period }
    }
    return month.period
  }
  const note = (accountId: string, period: Period) => {
    if (reached.size >= ledgerLimits.accountsKnown) reached.delete(reached.keys().next().value!)
    reached.set(accountId, period)
  }
  const once = (what: string, ms: number, work: () => Promise<void>): Promise<void> => {
    const key = `${what} ${at(ms)}`
    const under = rolling.get(key)
    if (under) return under
    const begun = work().finally(() => rolling.delete(key))
    rolling.set(key, begun)
    return begun
  }
  const roll = async (accountId: string, ms: number, plan: string): Promise<void> => {
    const period = at(ms)
    const { grant: grantTokens } = planNamed(plan, grant)
    await decided({ type: 'roll_over', accountId, at: ms, period, grantTokens })
    note(accountId, period)
  }
  return {
    isAt: (accountId: string, ms: number) => (reached.get(accountId) ?? '') >= at(ms),
    period: at,
    /** Of an account without a ledger nothing is done. */
    rollOver: (accountId: string, ms: number) =>
      once(accountId, ms, async () => {
        const tenant = await store.tenant(accountId)
        if (!tenant) return
        if (tenant.period >= at(ms)) note(accountId, tenant.period)
        else await roll(accountId, ms, tenant.plan)
      }),
    // Not the same as to roll it over, which may be under way already and makes none.
    open: (accountId: string, ms: number) =>
      once(`open ${accountId}`, ms, async () => {
        const tenant = await store.tenant(accountId)
        if (tenant && tenant.period >= at(ms)) return note(accountId, tenant.period)
        if (tenant) return roll(accountId, ms, tenant.plan)
        const { name, grant: grantTokens } = planNamed(planAtStart(accountId), grant)
        const period = at(ms)
        await decided({ type: 'open_account', accountId, at: ms, period, grantTokens, plan: name })
        // Another server may have opened it in the month before.
        await roll(accountId, ms, name)
      }),
  }
}

interface SweepDeps {
  store: ReturnType<typeof createLedgerStore>
  apply(operation: Operation): Promise<Done>
  months: Months
  deps: LedgerDeps
}

/** What nobody asks for: holds whose owner has died, and months that are over for accounts that nobody uses. */
function createSweeps({ store, apply, months, deps: { database, clock, log, incarnation } }: SweepDeps) {
  const isShared = database.kind === 'postgres'
  const stopping = new AbortController()
  const loops: Promise<void>[] = []
  const doubtful = new Map<string, string>()

  const settleOrphans = async (): Promise<void> => {
    for (;;) {
      const silentMs = isShared ? { silentMs: ledgerLimits.ownerDeadMs } : {}
      const orphans = await store.orphans({ owner: incarnation, ...silentMs })
      if (orphans.length === 0) return
      let [holds, amount] = [0, 0]
      const settling = orphans.map(({ id, accountId }) =>
        ofOne(accountId, async () => {
          amount += (await apply({ type: 'settle', holdId: id, accountId, at: clock.now() })).amount
          holds += 1
        }),
      )
      await Promise.all(settling)
      if (holds === 0) return
      log.warn('ledger_holds_settled', { holds, amount })
    }
  }
  const rollMonths = async (): Promise<void> => {
    for (;;) {
      const at = clock.now()
      const behind = await store.behind(months.period(at))
      let rolled = 0
      const roll = (accountId: string) =>
        ofOne(accountId, async () => {
          await months.rollOver(accountId, at)
          rolled += 1
        })
      while (behind.length > 0 && !stopping.signal.aborted)
        await Promise.all(behind.splice(0, ledgerLimits.rolledAtOnce).map(roll))
      if (rolled === 0 || stopping.signal.aborted) return
    }
  }
  /** An account whose rows are at fault keeps no other, and no server, from going on. */
  const ofOne = async (accountId: string, work: () => Promise<void>): Promise<void> => {
    try {
      await work()
    } catch (error) {
      if (isOfDatabase(error)) throw error
      log.error('ledger_account_at_fault', { accountId, error })
    }
  }
  const giveBackDoubtful = async (): Promise<void> => {
    for (const [holdId, accountId] of doubtful) {
      try {
        await apply({ type: 'release', holdId, accountId, at: clock.now() })
      } catch (error) {
        // Any other refusal says that there is none, or that it is over.
        if (isOfDatabase(error)) throw error
      }
      doubtful.delete(holdId)
    }
  }
  /** What fails is tried again the next time: a server that does not start would help nobody. */
  const guarded = async (work: () => Promise<void>): Promise<void> => {
    try {
      await work()
    } catch (error) {
      if (!stopping.signal.aborted) log.error('ledger_sweep_failed', { error })
    }
  }
  const every = async (durationMs: number, work: () => Promise<void>, isWanted = () => true): Promise<void> => {
    while (!stopping.signal.aborted && isWanted()) {
      await guarded(work)
      await clock.sleep(durationMs, stopping.signal).catch(() => {})
    }
  }
  return {
    /** A hold of which nobody knows whether it was made, and which nobody will use. Bounded: beyond that it is released when this process is over. */
    giveBack(holdId: string, accountId: string) {
      if (doubtful.size >= ledgerLimits.holdsInDoubt) return
      doubtful.set(holdId, accountId)
      if (doubtful.size > 1) return
      loops.push(every(ledgerLimits.heartbeatMs, giveBackDoubtful, () => doubtful.size > 0))
    },
    async start() {
      if (isShared) await store.heard(incarnation)
      await guarded(settleOrphans)
      // Each account is rolled over before it is used: nobody has to wait for all of them.
      loops.push(every(ledgerLimits.monthsMs, rollMonths))
      if (!isShared) return
      const beat = async () => {
        await store.heard(incarnation)
        await settleOrphans()
        await store.forgetOwners(ledgerLimits.ownerDeadMs * 10)
      }
      loops.push(every(ledgerLimits.heartbeatMs, beat))
    },
    async stop() {
      stopping.abort()
      await Promise.all(loops)
    },
  }
}
