import { get } from 'node:http'
import { startAnthropicPeer } from '../packages/server/src/models/testing/anthropic-peer.ts'
import { callTool, type PeerRequest, say, type ScriptedPeer } from '../packages/server/src/models/testing/peer.ts'
import { type Client, timed } from './client.ts'
import { type Figure, figure, percentile } from './figures.ts'
import { cpuNanos, residentBytes } from './process-tree.ts'
import type { Bench, Target } from './run.ts'

const steps = 200
const stepBarMs = 5
/** No model answers in less; meanwhile the disk of the step before is kept. */
const modelMs = 60
/** It speaks in that time, as models do: each of some dozen events of an answer comes so long after the one before. */
const pieceMs = 3
const viewers = 100
const viewerRounds = 4
const viewerSteps = 60
const viewerBar = 1.1
const crowd = 1_000
const crowdSteps = 3
/** What has not finished by then is lost. */
const crowdMs = 180_000
const waiting = 10_000
const waitingBarMb = 50
const restMs = 30_000
const calling = 200
const conversationBytes = 64 * 1024
const callBarMb = 1
const mb = 2 ** 20

interface Task {
  id: string
  state: string
  message: string | null
}

interface Opened {
  target: Target
  peer: ScriptedPeer
  client: Client
}

async function open({ platform }: Bench): Promise<Opened> {
  const peer = await startAnthropicPeer({ kept: 10 })
  const env = {
    ANTHROPIC_API_KEY: peer.key,
    ANTHROPIC_BASE_URL: peer.url,
    DELTA_MODEL: 'anthropic/claude-sonnet-4-5',
    DELTA_GRANT_TOKENS: '100000000',
  }
  const target = await platform({ runtime: 'crun', anew: true, env })
  return { target, peer, client: target.client }
}

async function makeAgent(client: Client, name: string): Promise<string> {
  const { id } = await client.call<{ id: string }>('POST', '/v1/agents', { name, tokenBudget: 1_000_000 })
  await client.call('POST', `/v1/agents/${id}/exec`, { cmd: ['/bin/true'] })
  return id
}

async function give(client: Client, agent: string, wish: object = {}): Promise<string> {
  return (await client.call<Task>('POST', '/v1/tasks', { agent, text: 'Go on.', maxSteps: 2_000, ...wish })).id
}

async function ended(client: Client, id: string): Promise<void> {
  for (;;) {
    const { state, message } = await client.call<Task>('GET', `/v1/tasks/${id}`)
    if (state === 'finished') return
    if (state === 'failed' || state === 'canceled') throw new Error(`${id} is ${state}: ${message}`)
    await new Promise((resolve) => setTimeout(resolve, 50))
  }
}

/** From the end of each answer of the model to its next question, in ms: a step but for the model. */
function gaps(peer: ScriptedPeer, count: number, reply: (request: PeerRequest) => ReturnType<typeof say>): number[] {
  const found: number[] = []
  let before: PeerRequest | undefined
  peer.otherwise(async (request) => {
    if (request.replies > 0 && before?.answeredAt !== undefined) found.push(request.receivedAt - before.answeredAt)
    before = request
    const said = request.replies < count ? reply(request) : say('Done.')
    await new Promise((resolve) => setTimeout(resolve, modelMs / 2))
    return said
  })
  return found
}

/** Not the same again and again, which would end the task. */
const callNumbered = ({ replies }: PeerRequest) => ({
  ...callTool('run_terminal', { command: `true ${replies}` }),
  pieceMs,
})

async function stepTime({ client, peer }: Opened): Promise<Figure> {
  const agent = await makeAgent(client, 'Steps')
  const command: number[] = []
  const found = gaps(peer, steps, callNumbered)
  const id = await give(client, agent)
  await ended(client, id)
  for (let round = 0; round < steps; round++) {
    // As long after the last one as in a task: of programs that have just run everything is still warm.
    await new Promise((resolve) => setTimeout(resolve, modelMs))
    command.push(await timed(() => client.call('POST', `/v1/agents/${agent}/exec`, { cmd: 'true' })))
  }
  const own = percentile(command, 50)
  return figure({
    name: 'task, a step’s own time: all but the model and the command',
    unit: 'ms',
    samples: found.map((gap) => Math.max(0, gap - own)),
    rival: { name: 'the same command through REST', samples: command },
    bar: `p50 ≤ ${stepBarMs} ms`,
    holds: ({ p50 }) => p50 <= stepBarMs,
  })
}

async function watched({ client, peer, target }: Opened): Promise<Figure> {
  const agent = await makeAgent(client, 'Watched')
  const samples: Record<'alone' | 'watched', number[]> = { alone: [], watched: [] }
  for (let round = 0; round < viewerRounds; round++) {
    for (const way of ['alone', 'watched'] as const) {
      const found = gaps(peer, viewerSteps, callNumbered)
      const id = await give(client, agent)
      const streams = way === 'watched' ? Array.from({ length: viewers }, () => view(target, id)) : []
      await ended(client, id)
      const seen = await Promise.all(streams)
      if (seen.some(({ last, chars }) => last !== 'end' || chars !== seen[0]!.chars))
        throw new Error(`Not every viewer saw everything: ${JSON.stringify(seen)}`)
      samples[way].push(...found)
    }
  }
  return figure({
    name: `task, a step with ${viewers} viewers`,
    unit: 'ms',
    samples: samples.watched,
    rival: { name: 'with none', samples: samples.alone },
    bar: `p50 ≤ ${viewerBar} × with none`,
    holds: ({ ratio }) => ratio !== null && ratio <= viewerBar,
  })
}

/** How much it was sent, and the name of what came last. It reads in the process that measures: no more than it must. */
function view({ client }: Target, id: string): Promise<{ chars: number; last: string | undefined }> {
  const { hostname, port, key } = client
  const headers = { authorization: `Bearer ${key}` }
  const { promise, resolve, reject } = Promise.withResolvers<{ chars: number; last: string | undefined }>()
  const asked = get({ hostname, port, path: `/v1/tasks/${id}/events`, headers, agent: false }, (answer) => {
    let chars = 0
    let tail = ''
    answer.setEncoding('latin1')
    answer.on('data', (text: string) => {
      chars += text.length
      tail = (tail + text).slice(-2_000)
    })
    answer.on('end', () =>
      resolve({ chars, last: Array.from(tail.matchAll(/^event: (\w+)$/gm), ([, name]) => name).at(-1) }),
    )
    answer.on('error', reject)
  })
  asked.on('error', reject)
  return promise
}

async function manyAtOnce({ client, peer }: Opened): Promise<Figure> {
  const agent = await makeAgent(client, 'Crowd')
  const asked = new Map<string, number>()
  peer.otherwise(({ body, replies }) => {
    const name = /Task \d+/.exec(JSON.stringify((body['messages'] as unknown[])[0]))?.[0] ?? ''
    asked.set(name, (asked.get(name) ?? 0) + 1)
    return replies < crowdSteps - 1 ? callTool('list_files', { path: `/tmp`, depth: replies + 1 }) : say('Done.')
  })
  const startedAt = performance.now()
  const names = Array.from({ length: crowd }, (_, number) => `Task ${number}`)
  const ids = await Promise.all(names.map((text) => give(client, agent, { text })))
  let finished = 0
  for (const id of ids) if (await finishes(client, id, startedAt + crowdMs)) finished += 1
  const seconds = (performance.now() - startedAt) / 1000
  return figure({
    name: `tasks, ${crowd.toLocaleString('en')} at once, each of ${crowdSteps} steps`,
    unit: 'tasks/s',
    samples: [finished / seconds],
    bar: 'none is lost, none asked twice',
    holds: () => finished === crowd && names.every((name) => asked.get(name) === crowdSteps),
  })
}

async function finishes(client: Client, id: string, untilMs: number): Promise<boolean> {
  for (;;) {
    const { state } = await client.call<Task>('GET', `/v1/tasks/${id}`)
    if (state === 'finished') return true
    if (state === 'failed' || state === 'canceled' || performance.now() > untilMs) return false
    await new Promise((resolve) => setTimeout(resolve, 50))
  }
}

/** Memory of the server once it has given back what it can. */
async function settledBytes({ serverPid }: Target): Promise<number> {
  let least = Infinity
  for (let round = 0; round < 10; round++) {
    await new Promise((resolve) => setTimeout(resolve, 1_000))
    least = Math.min(least, residentBytes(serverPid()))
  }
  return least
}

async function manyWaiting({ client, peer, target }: Opened): Promise<Figure[]> {
  const agent = await makeAgent(client, 'Waiting')
  peer.otherwise(() => callTool('ask_user', { question: 'Shall I?' }))
  // What the first few need once, such as the provider's own code, is no task's.
  for (let round = 0; round < 200; round++) await give(client, agent)
  const before = await settledBytes(target)
  const idle = await processorShare(target)
  const work = async () => {
    for (let left = waiting / 50; left > 0; left--) await give(client, agent)
  }
  await Promise.all(Array.from({ length: 50 }, work))
  while (!(await rests(client))) await new Promise((resolve) => setTimeout(resolve, 500))
  const after = await settledBytes(target)
  const busy = await processorShare(target)
  return [
    figure({
      name: `tasks, ${waiting.toLocaleString('en')} that wait, memory`,
      unit: 'MB',
      samples: [(after - before) / mb],
      bar: `≤ ${waitingBarMb} MB`,
      holds: ({ p50 }) => p50 <= waitingBarMb,
    }),
    figure({
      name: `tasks, ${waiting.toLocaleString('en')} that wait, processor`,
      unit: '% of a core',
      samples: [busy],
      rival: { name: 'with 200', samples: [idle] },
      bar: 'within 0.2 of with 200',
      holds: () => busy - idle <= 0.2,
    }),
  ]
}

async function rests(client: Client): Promise<boolean> {
  return /^delta_tasks_working 0$/m.test(await client.page('/metrics'))
}

async function processorShare({ serverPid }: Target): Promise<number> {
  const pid = serverPid()
  const from = cpuNanos(pid)
  await new Promise((resolve) => setTimeout(resolve, restMs))
  return ((cpuNanos(pid) - from) / (restMs * 1e6)) * 100
}

async function manyCalling({ client, peer, target }: Opened): Promise<Figure> {
  const agent = await makeAgent(client, 'Calling')
  peer.otherwise(say('Done.'))
  // What the first one needs once, such as the provider's own code, is no call's.
  await ended(client, await give(client, agent))
  const waits = { count: 0 }
  let letGo = () => {}
  const go = new Promise<void>((resolve) => (letGo = resolve))
  peer.otherwise(async () => {
    waits.count += 1
    await go
    return say('Done.')
  })
  const before = await settledBytes(target)
  const text = 'All work and no play makes a dull task. '.repeat(conversationBytes / 40)
  const ids = await Promise.all(Array.from({ length: calling }, () => give(client, agent, { text })))
  while (waits.count < calling) await new Promise((resolve) => setTimeout(resolve, 100))
  const after = await settledBytes(target)
  letGo()
  for (const id of ids) await ended(client, id)
  return figure({
    name: `tasks, ${calling} in a call of the model at ${conversationBytes / 1024} KB, memory of each`,
    unit: 'MB',
    samples: [(after - before) / mb / calling],
    bar: `≤ ${callBarMb} MB`,
    holds: ({ p50 }) => p50 <= callBarMb,
  })
}

/** Each on a platform of its own, with a model that says what is scripted. */
const onItsOwn = (measure: (opened: Opened) => Promise<Figure[]>) => async (bench: Bench) => {
  const opened = await open(bench)
  try {
    return await measure(opened)
  } finally {
    await opened.peer.close()
  }
}

export const taskSteps = onItsOwn(async (opened) => [await stepTime(opened)])
export const tasksWatched = onItsOwn(async (opened) => [await watched(opened)])
export const tasksAtOnce = onItsOwn(async (opened) => [await manyAtOnce(opened)])
export const tasksCalling = onItsOwn(async (opened) => [await manyCalling(opened)])
export const tasksWaiting = onItsOwn(manyWaiting)
