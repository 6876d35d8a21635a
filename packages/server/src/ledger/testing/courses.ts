import type { Operation, UsageLine } from '../operations.ts'

const at = Date.UTC(2026, 10, 23, 12)

/** What the courses act on: an agent who has both sorts and an allocation, one whose allocation is more than will be left, and the agent's task. */
export interface Cast {
  accountId: string
  reserve: string
  agent: string
  other: string
  task: string
  /** A name of this course's own. */
  own(name: string): string
}

export type Course = (cast: Cast) => Operation[]

const lines = (cost: number): UsageLine[] => [{ meter: 'model_output', quantity: cost, cost }]
const owner = 'srv_1'
const purpose = { kind: 'model' }

function wordsOf({ accountId, own }: Cast) {
  const base = { accountId, at }
  const holdId = own('hld')
  return {
    hold: (payer: string, amount: number, atLeast = amount): Operation => ({
      ...base,
      type: 'hold',
      holdId,
      payer,
      amount,
      atLeast,
      purpose,
      owner,
    }),
    sent: (observed?: number): Operation => ({
      ...base,
      type: 'sent',
      holdId,
      ...(observed === undefined ? {} : { observed }),
    }),
    commit: (cost: number, excess: 'refuse' | 'absorb' = 'refuse'): Operation => ({
      ...base,
      type: 'commit',
      holdId,
      lines: lines(cost),
      rates: '1',
      excess,
    }),
    release: (): Operation => ({ ...base, type: 'release', holdId }),
    settle: (): Operation => ({ ...base, type: 'settle', holdId }),
    refund: (amount: number, key: string): Operation => ({
      ...base,
      type: 'refund',
      holdId,
      amount,
      reason: 'mended',
      key: own(key),
    }),
    transfer: (from: string, to: string, amount: number, key: string): Operation => ({
      ...base,
      type: 'transfer',
      from,
      to,
      amount,
      reason: 'wish',
      key: own(key),
    }),
    grant: (sort: 'granted' | 'bought', amount: number): Operation => ({
      ...base,
      type: 'grant',
      sort,
      amount,
      reason: 'trial',
      key: own('grant'),
    }),
    open: (purseId: string, parentId: string, monthly: number): Operation => ({
      ...base,
      type: 'open_purse',
      purseId,
      kind: 'task',
      parentId,
      monthly,
    }),
    change: (purseId: string, monthly: number): Operation => ({ ...base, type: 'change_purse', purseId, monthly }),
    archive: (purseId: string): Operation => ({ ...base, type: 'archive', purseId }),
    charge: (payer: string, cost: number): Operation => ({
      ...base,
      type: 'charge',
      payer,
      lines: lines(cost),
      rates: '1',
      purpose,
      key: own('charge'),
    }),
    payOwed: (): Operation => ({ ...base, type: 'pay_owed', key: own('pay') }),
  }
}

/** Amounts lie on both sides of what is granted (30) and of all there is (50) with the agent. */
export const courses: Record<string, Course> = {
  'a hold of both sorts that is committed whole': (cast) => {
    const { hold, sent, commit } = wordsOf(cast)
    return [hold(cast.agent, 40), sent(), commit(40)]
  },
  'a hold that is committed in part': (cast) => {
    const { hold, sent, commit } = wordsOf(cast)
    return [hold(cast.agent, 45), sent(), commit(7)]
  },
  'a hold of what there is, whose cost is more': (cast) => {
    const { hold, sent, commit } = wordsOf(cast)
    return [hold(cast.agent, 60, 20), sent(3), commit(70), commit(70, 'absorb')]
  },
  'a hold that is released': (cast) => {
    const { hold, release } = wordsOf(cast)
    return [hold(cast.agent, 50), release(), release()]
  },
  'a hold that is sent and can not be released': (cast) => {
    const { hold, sent, release, commit } = wordsOf(cast)
    return [hold(cast.agent, 20), sent(), release(), commit(0)]
  },
  'a hold whose owner died before it was sent': (cast) => {
    const { hold, settle } = wordsOf(cast)
    return [hold(cast.agent, 35), settle(), settle()]
  },
  'a hold whose owner died after it was sent': (cast) => {
    const { hold, sent, settle } = wordsOf(cast)
    return [hold(cast.agent, 35), sent(32), settle()]
  },
  'a hold whose cost is not known': (cast) => {
    const { hold, sent, settle } = wordsOf(cast)
    return [hold(cast.agent, 35), sent(), settle()]
  },
  'a late commit of what was settled': (cast) => {
    const { hold, sent, settle, commit, refund } = wordsOf(cast)
    return [hold(cast.agent, 40), sent(38), settle(), commit(25), refund(25, 'all'), refund(1, 'more')]
  },
  'a late commit of what was settled and given back in part': (cast) => {
    const { hold, sent, settle, commit, refund } = wordsOf(cast)
    return [hold(cast.agent, 40), sent(), settle(), refund(15, 'part'), commit(20), refund(20, 'all')]
  },
  'a late commit of more than is left of it': (cast) => {
    const { hold, sent, settle, commit, refund } = wordsOf(cast)
    return [
      hold(cast.agent, 40),
      sent(),
      settle(),
      refund(15, 'part'),
      commit(47, 'absorb'),
      refund(26, 'more'),
      refund(25, 'all'),
    ]
  },
  'a hold that is given back': (cast) => {
    const { hold, commit, refund } = wordsOf(cast)
    return [hold(cast.agent, 40), commit(35), refund(20, 'one'), refund(16, 'two'), refund(15, 'three')]
  },
  'a transfer there and back': (cast) => {
    const { transfer } = wordsOf(cast)
    return [transfer(cast.agent, cast.other, 33, 'there'), transfer(cast.other, cast.agent, 4, 'back')]
  },
  'a transfer that is asked for twice': (cast) => {
    const { transfer } = wordsOf(cast)
    return [
      transfer(cast.reserve, cast.agent, 10, 'key'),
      transfer(cast.reserve, cast.agent, 10, 'key'),
      transfer(cast.reserve, cast.agent, 11, 'key'),
    ]
  },
  'a grant': (cast) => {
    const { grant, transfer } = wordsOf(cast)
    return [grant('granted', 25), transfer(cast.reserve, cast.other, 60, 'on')]
  },
  'an archive while a hold is open that is committed': (cast) => {
    const { hold, archive, sent, commit } = wordsOf(cast)
    return [hold(cast.task, 9), archive(cast.task), sent(), commit(5)]
  },
  'an archive while a hold is open that is released': (cast) => {
    const { hold, archive, release } = wordsOf(cast)
    return [hold(cast.task, 12), archive(cast.task), release()]
  },
  'an archive from the leaves up': (cast) => {
    const { archive, transfer } = wordsOf(cast)
    return [archive(cast.agent), archive(cast.task), archive(cast.agent), transfer(cast.reserve, cast.agent, 1, 'late')]
  },
  'a purse that is opened, changed and archived': (cast) => {
    const { open, change, archive } = wordsOf(cast)
    const purse = cast.own('tsk')
    return [open(purse, cast.agent, 12), change(purse, 40), archive(purse)]
  },
  'a charge beyond what there is, and its payment': (cast) => {
    const { charge, hold, grant, payOwed } = wordsOf(cast)
    return [charge(cast.other, 30), hold(cast.agent, 1), grant('bought', 5), payOwed()]
  },
}

/** An account, and who lives on it: the agent has 30 granted and 20 bought, the other 10 and 3, the task 7 and 5; the reserve keeps 53 and 32. */
export function beginningOf({ accountId, reserve, agent, other, task, own }: Cast): Operation[] {
  const base = { accountId, at }
  const move = (to: string, amount: number, key: string): Operation => ({
    ...base,
    type: 'transfer',
    from: reserve,
    to,
    amount,
    reason: 'budget',
    key: own(key),
  })
  return [
    { ...base, type: 'open_account', grantTokens: 0, period: monthOf(0), plan: 'free' },
    { ...base, type: 'grant', sort: 'bought', amount: 60, reason: 'bought', key: own('bought') },
    { ...base, type: 'open_purse', purseId: agent, kind: 'agent', parentId: reserve, monthly: 25 },
    { ...base, type: 'open_purse', purseId: other, kind: 'agent', parentId: reserve, monthly: 200 },
    { ...base, type: 'open_purse', purseId: task, kind: 'task', parentId: agent, monthly: 0 },
    move(agent, 20, 'b1'),
    move(other, 3, 'b2'),
    move(task, 5, 'b3'),
    { ...base, type: 'grant', sort: 'granted', amount: 100, reason: 'plan', key: own('granted') },
    move(agent, 30, 'g1'),
    move(other, 10, 'g2'),
    move(task, 7, 'g3'),
  ]
}

/** The month so many after the one in which all begin. */
export const monthOf = (after: number) => new Date(Date.UTC(2026, 10 + after)).toISOString().slice(0, 7)

export function rollOver({ accountId }: Cast, after: number): Operation {
  return { type: 'roll_over', accountId, at, period: monthOf(after), grantTokens: 100 }
}

/** Every order of both in which each keeps its own. */
export function interleavingsOf<Item>(one: readonly Item[], other: readonly Item[]): Item[][] {
  const [first, ...rest] = one
  const [otherFirst, ...otherRest] = other
  if (first === undefined || otherFirst === undefined) return [[...one, ...other]]
  return [
    ...interleavingsOf(rest, other).map((tail) => [first, ...tail]),
    ...interleavingsOf(one, otherRest).map((tail) => [otherFirst, ...tail]),
  ]
}
