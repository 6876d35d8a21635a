import { strict as assert } from 'node:assert'
import { rawQuery } from '../packages/server/src/kernel/db/compile.ts'
import { openDatabase } from '../packages/server/src/kernel/db/open.ts'
import { silentLogger } from '../packages/server/src/kernel/log.ts'
import { allMigrations } from '../packages/server/src/migrations.ts'
import { type Spender, type Spenders, wordsOf } from './task-spenders.ts'

const microPerToken = 1_000_000

interface Purse {
  id: string
  kind: string
  granted: number
  bought: number
  held: number
  used: number
}

interface Hold {
  task_id: string | null
  payer: string
  state: string
  amount: number
  cost: number
  absorbed: number
}

interface Books {
  purses: Purse[]
  holds: Hold[]
  transfers: { seq: number; debit: string; credit: string; amount: number; kind: string }[]
  usage: number
  tasks: {
    id: string
    state: string
    reason: string | null
    message: string | null
    last_event: number
    settled: number
    cost: number
  }[]
  events: { task_id: string; seq: number; kind: string }[]
  steps: { task_id: string; step: number; state: string }[]
  replies: { task_id: string; seq: number; parts: string }[]
}

/** All that was written down, of a server that has stopped. */
export async function readBooks({ path, url }: { path: string; url: string | undefined }): Promise<Books> {
  const database = await openDatabase({
    path,
    ...(url !== undefined && { url }),
    log: silentLogger,
    migrations: allMigrations,
  })
  try {
    const all = <Row>(text: string) => database.all<Row>(rawQuery(text))
    const [used] = await all<{ cost: number }>('select coalesce(sum(cost), 0) as cost from ledger_usage')
    return {
      purses: await all('select id, kind, granted, bought, held, used from ledger_accounts_whole'),
      holds: await all('select task_id, payer, state, granted + bought as amount, cost, absorbed from ledger_holds'),
      transfers: await all('select seq, debit, credit, amount, kind from ledger_transfers order by seq'),
      usage: used!.cost,
      tasks: await all('select id, state, reason, message, last_event, settled, cost from tasks'),
      events: await all('select task_id, seq, kind from task_events order by task_id, seq'),
      steps: await all('select task_id, step, state from task_steps order by task_id, step'),
      replies: await all(
        `select task_id, seq, parts from task_messages where role = 'assistant' order by task_id, seq`,
      ),
    }
  } finally {
    await database.close()
  }
}

export interface Found {
  finished: number
  canceled: number
  unknownHolds: number
  timesOut: number
}

/** Whether it is as if nothing had been killed, but for what that has cost. Throws where it is not. */
export function judgeBooks(books: Books, { all }: Pick<Spenders, 'all'>, { kills }: { kills: number }): Found {
  judgeLedger(books)
  assert.deepEqual(
    books.tasks.map(({ id }) => id).toSorted(),
    all.map(({ taskId }) => taskId).toSorted(),
    'Each has one task',
  )
  for (const spender of all) {
    judgeTask(books, spender, kills)
    judgeSpent(books, spender)
  }
  const inState = (state: string) => books.tasks.filter((task) => task.state === state).length
  return {
    finished: inState('finished'),
    canceled: inState('canceled'),
    unknownHolds: books.holds.filter(({ state }) => state === 'unknown').length,
    timesOut: sum(all.map(({ timesOut }) => timesOut)),
  }
}

function judgeLedger({ purses, holds, transfers, usage }: Books): void {
  const totalOf = ({ granted, bought }: Purse) => granted + bought
  assert.equal(sum(purses.map(totalOf)), 0, 'All rows together are nothing')
  for (const { id, kind, granted, bought, held } of purses) {
    assert.equal(held, 0, `Nothing is held for ${id} any more`)
    if (!['reserve', 'agent', 'task', 'hold'].includes(kind)) continue
    assert.ok(granted >= 0 && bought >= 0, `${id} has less than nothing`)
  }
  for (const { state, amount, cost, absorbed } of holds) {
    assert.notEqual(state, 'open', 'No hold is left open')
    if (state === 'unknown') assert.ok(cost > 0, 'A call that was cut is paid for')
    assert.ok(cost <= amount && absorbed === 0, `A hold of ${amount} came to ${cost} and ${absorbed} more`)
  }
  const moved = new Map<string, number>()
  for (const { debit, credit, amount } of transfers) {
    moved.set(debit, (moved.get(debit) ?? 0) - amount)
    moved.set(credit, (moved.get(credit) ?? 0) + amount)
  }
  for (const purse of purses)
    assert.equal(moved.get(purse.id) ?? 0, totalOf(purse), `The journal says the same of ${purse.id}`)
  assert.deepEqual(
    transfers.map(({ seq }) => seq),
    transfers.map((_, index) => index + 1),
    'The journal has no gap',
  )
  const charged = sum(transfers.filter(({ kind }) => kind === 'charge' || kind === 'owe').map(({ amount }) => amount))
  assert.equal(usage, sum(holds.map(({ cost }) => cost)) + charged, 'What was used is what was paid')
}

/** It has ended once, and has asked nothing again whose answer it had. */
function judgeTask(books: Books, { name, taskId, replies, questions, whenOut }: Spender, kills: number): void {
  const of = <Row extends { task_id: string | null }>(rows: Row[]) => rows.filter(({ task_id: id }) => id === taskId)
  const task = books.tasks.find(({ id }) => id === taskId)!
  const say = (text: string) => `${name}, ${taskId}, ${task.state} (${task.message}): ${text}`
  assert.equal(task.settled, 1, say('its purse is closed'))
  const events = of(books.events)
  assert.deepEqual(
    events.map(({ seq }) => seq),
    events.map((_, index) => index + 1),
    say('events without a gap'),
  )
  assert.equal(events.length, task.last_event, say('it knows its last event'))
  assert.deepEqual(
    events.flatMap(({ kind, seq }) => (kind === 'end' ? [seq] : [])),
    [events.length],
    say('it has ended once, at last'),
  )

  const steps = of(books.steps)
  assert.deepEqual(
    steps.map(({ step }) => step),
    steps.map((_, index) => index),
    say('steps without a gap'),
  )
  const said = of(books.replies).map(({ parts }) => (JSON.parse(parts) as { text?: string }[])[0]?.text)
  assert.deepEqual(
    said,
    said.map((_, reply) => wordsOf(name, reply)),
    say('each reply once, in order'),
  )
  // The first is that of the disk before it began.
  const answered = steps.slice(1).filter(({ state }) => state === 'done' || state === 'acting')
  assert.equal(answered.length, said.length, say('a step for each reply'))
  if (task.state === 'finished') assert.ok(said.length >= replies, say(`only ${said.length} of ${replies} replies`))
  else if (task.state === 'canceled') assert.equal(whenOut, 'is canceled', say('nobody has canceled it'))
  // As its rule says, of one whose server died at each of its tries.
  else assert.match(`${task.reason}: ${task.message}`, /^internal: The server died in each of its last/, say('failed'))

  assert.deepEqual(
    questions,
    questions.toSorted((a, b) => a - b),
    say(`asked what was answered: ${questions.join(' ')}`),
  )
  let cuts = 0
  let reply = 0
  for (const { state } of steps.slice(1)) {
    if (state === 'cut' || state === 'calling') cuts += 1
    else {
      const times = questions.filter((one) => one === reply).length
      assert.ok(times >= 1 && times <= 1 + cuts, say(`reply ${reply} was asked for ${times} times, ${cuts} were cut`))
      reply += 1
      cuts = 0
    }
  }
  const holds = of(books.holds)
  const paid = holds.filter(({ state }) => state === 'committed').length
  const unknown = holds.filter(({ state }) => state === 'unknown').length
  const counts = say(`${questions.length} questions, ${said.length} replies, ${paid} calls paid, ${unknown} unknown`)
  assert.ok(paid <= questions.length && questions.length <= paid + unknown, counts)
  // Each kill has cost it one call at most.
  assert.ok(said.length <= paid && paid + unknown - said.length <= kills, counts)
  assert.ok(task.cost <= sum(holds.map(({ cost }) => cost)), say('it says it has cost more than it has'))
}

/** No more than what it was given, by whoever counts. */
function judgeSpent({ purses, holds, transfers }: Books, { name, agentId, taskId, given, budget }: Spender): void {
  const came = (to: string, from: (id: string) => boolean) =>
    sum(transfers.filter(({ credit, debit }) => credit === to && from(debit)).map(({ amount }) => amount))
  const isOwn = (id: string) => id === agentId || id === taskId
  const isGift = (id: string) => !isOwn(id) && purses.some((purse) => purse.id === id && purse.kind === 'reserve')
  assert.equal(came(agentId, isGift), given * microPerToken, `${name} was given what its person gave, once each`)
  if (budget !== undefined) {
    assert.equal(
      came(taskId, (id) => id === agentId),
      budget * microPerToken,
      `The task of ${name} was given its budget`,
    )
  }
  const most = { [agentId]: given, [taskId]: budget ?? 0 }
  let spent = 0
  for (const { id, used, granted, bought } of purses.filter(({ id: one }) => isOwn(one))) {
    const cost = sum(holds.filter(({ payer }) => payer === id).map((hold) => hold.cost))
    assert.equal(used, cost, `What ${id} has used is what its holds have cost`)
    assert.ok(used <= most[id]! * microPerToken, `${id} has used ${used} of ${most[id]} tokens`)
    spent += used + granted + bought
  }
  assert.equal(spent, given * microPerToken, `What ${name} has used and what is left is what it was given`)
}

function sum(amounts: readonly number[]): number {
  return amounts.reduce((total, one) => total + one, 0)
}
