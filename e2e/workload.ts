import { randomBytes } from 'node:crypto'
import { setTimeout as sleep } from 'node:timers/promises'
import { Delta, DeltaApiError, DeltaConnectionError, type Sandbox } from '@delta-agents/sdk'
import { expect } from 'vitest'

/** Numbers that are the same for the same seed (mulberry32). */
export function seeded(seed: number) {
  let state = seed >>> 0
  function unit(): number {
    state = (state + 0x6d2b79f5) >>> 0
    let mixed = Math.imul(state ^ (state >>> 15), state | 1)
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32
  }
  const below = (end: number) => Math.floor(unit() * end)
  return {
    below,
    between: (from: number, to: number) => from + below(to - from),
    chance: (share: number) => unit() < share,
    pick: <T>(from: readonly T[]): T => from[below(from.length)]!,
  }
}
export type Random = ReturnType<typeof seeded>

type Rest = 'running' | 'paused' | 'stopped' | 'killed'

export interface Counter {
  execId: string
  pid: number
  path: string
  /** Lines seen in its file; there can never be fewer. */
  seen: number
}

/** A sandbox as the answers said it is; what a server that was killed must still know. */
export interface Kept {
  sandbox: Sandbox
  state: Rest
  metadata: Record<string, string>
  files: Map<string, Buffer>
  /** Lines appended by commands that answered. */
  appended: number[]
  /** Lines of commands that were given up before the answer: there once or not at all. */
  perhapsAppended: number[]
  counters: Counter[]
}

/** A sandbox left to its timeout. */
export interface ShortLived {
  sandbox: Sandbox
  dueAt: number
  becomes: 'killed' | 'stopped' | 'paused'
}

const giveUpMs = 60_000
const mostSandboxes = 2
const mostShortLived = 2
export const appendedPath = '/workspace/appended'

export const counted = (last: number) => Array.from({ length: last }, (_, index) => `${index + 1}\n`).join('')

/** What a crash explains; everything else is an answer. */
function isPassing(error: unknown): boolean {
  if (error instanceof DeltaApiError)
    return [429, 502, 503, 504].includes(error.status) || error.code === 'idempotency_in_progress'
  return error instanceof DeltaConnectionError || error instanceof TypeError
}

/** Asks again until it is answered, as a client does that needs to know. */
export async function persist<T>(call: () => Promise<T>): Promise<T> {
  const deadline = performance.now() + giveUpMs
  for (;;) {
    try {
      return await call()
    } catch (error) {
      if (!isPassing(error) || performance.now() > deadline) throw error
      await sleep(40)
    }
  }
}

export const unknown: unique symbol = Symbol('unknown')

/** Gives up at the first sign of a crash; what became of the request is then not known. */
export async function once<T>(call: () => Promise<T>): Promise<T | typeof unknown> {
  try {
    return await call()
  } catch (error) {
    if (isPassing(error)) return unknown
    throw error
  }
}

/**
 * One client with sandboxes of its own, which does one thing after the other until it may rest. Since nobody else touches them, what the answers
 * said is exactly what must be there.
 */
export function createClient({ url, key, random, name }: { url: string; key: string; random: Random; name: string }) {
  // No repeating inside the SDK: the client here decides, and knows, what was repeated.
  const delta = new Delta({ url, apiKey: key, maxRetries: 0 })
  const all: Kept[] = []
  const shortLived: ShortLived[] = []
  let number = 0
  const turn = { over: true, making: false }

  const patient = () => random.chance(0.7)
  const living = () => all.filter(({ state }) => state !== 'killed')

  async function create(): Promise<void> {
    const metadata = { key: `${name}-${(number += 1)}` }
    const options = { idempotencyKey: metadata.key, metadata, timeoutMs: 3_600_000, memoryMb: 128, diskMb: 256 }
    const asked = () => delta.sandboxes.create(options)
    let sandbox = patient() ? await persist(asked) : await once(asked)
    if (sandbox !== unknown && random.chance(0.3)) expect((await persist(asked)).id, 'the same key').toBe(sandbox.id)
    if (sandbox === unknown) {
      const [found, ...more] = await persist(() => delta.sandboxes.list({ metadata }).all())
      expect(more, 'sandboxes made twice').toEqual([])
      if (found === undefined) return
      const state = await settled(found)
      if (state === 'failed') return
      expect(state, 'a create that nobody waited for').toBe('running')
      sandbox = found
    }
    expect(sandbox.state).toBe('running')
    all.push({
      sandbox,
      state: 'running',
      metadata,
      files: new Map(),
      appended: [],
      perhapsAppended: [],
      counters: [],
    })
  }

  async function createShortLived(): Promise<void> {
    const idempotencyKey = `${name}-short-${(number += 1)}`
    const [onTimeout, becomes] = random.pick([
      ['kill', 'killed'],
      ['stop', 'stopped'],
      ['pause', 'paused'],
    ] as const)
    const options = { idempotencyKey, metadata: { key: idempotencyKey }, timeoutMs: random.between(200, 2_000) }
    const sandbox = await persist(() => delta.sandboxes.create({ ...options, onTimeout, memoryMb: 128 }))
    const { endAt } = sandbox.info
    shortLived.push({ sandbox, becomes, dueAt: endAt === null ? Date.now() : Date.parse(endAt) })
  }

  /** The state once nothing is under way any more. */
  async function settled(sandbox: Sandbox): Promise<string> {
    const deadline = performance.now() + giveUpMs
    for (;;) {
      const { state } = await persist(() => sandbox.refresh())
      if (!['creating', 'starting', 'stopping'].includes(state)) return state
      if (performance.now() > deadline) throw new Error(`${sandbox.id} stays ${state}`)
      await sleep(40)
    }
  }

  async function change(kept: Kept, act: () => Promise<unknown>, to: Rest): Promise<void> {
    const from = kept.state
    if (patient()) {
      await persist(act)
      kept.state = to
    } else if ((await once(act)) === unknown) {
      const state = await settled(kept.sandbox)
      expect([from, to], `what ${kept.sandbox.id} may be`).toContain(state)
      kept.state = state as Rest
      if (state !== 'killed') await wake(kept)
      // It may have been stopped and started in between, and then runs without them.
      if (from === 'stopped' || to === 'stopped') kept.counters = []
    } else kept.state = to
    if (kept.state === 'stopped' || kept.state === 'killed') kept.counters = []
  }

  /** A row that a crash left behind may be read for a moment before it is mended; a command is served only afterwards. */
  async function wake(kept: Kept): Promise<void> {
    expect(await persist(() => kept.sandbox.commands.run(['/bin/true']))).toMatchObject({ exitCode: 0 })
    kept.state = 'running'
  }

  async function write(kept: Kept): Promise<void> {
    const path = `/workspace/file-${random.below(3)}`
    const content = randomBytes(random.pick([0, 1, 4_096, 70_000, 1_500_000]))
    const asked = () => kept.sandbox.files.write(path, content)
    const answer = patient() ? await persist(asked) : await once(asked)
    if (answer === unknown) {
      const there = await persist(() => readIfThere(kept.sandbox, path))
      const before = kept.files.get(path)
      expect(there?.equals(content) || there?.equals(before ?? content) || (!there && !before), `${path} torn`).toBe(
        true,
      )
      if (there) kept.files.set(path, there)
    } else kept.files.set(path, content)
    kept.state = 'running'
  }

  async function append(kept: Kept): Promise<void> {
    const line = (number += 1)
    const idempotencyKey = `${name}-append-${line}`
    const asked = () =>
      kept.sandbox.commands.run(['/bin/sh', '-c', `echo ${line} >> ${appendedPath}`], { idempotencyKey })
    const answer = patient() ? await persist(asked) : await once(asked)
    if (answer === unknown) {
      kept.perhapsAppended.push(line)
      await wake(kept)
    } else {
      expect(answer).toMatchObject({ exitCode: 0 })
      kept.appended.push(line)
      kept.state = 'running'
    }
  }

  async function count(kept: Kept): Promise<void> {
    const path = `/workspace/count-${(number += 1)}`
    const cmd = `i=0; while :; do i=$((i+1)); echo $i; echo $i >> ${path}; sleep 0.05; done`
    const options = { idempotencyKey: `${name}-${path}` }
    const { id, pid } = await persist(() => kept.sandbox.commands.start(['/bin/bash', '-c', cmd], options))
    kept.counters.push({ execId: id, pid, path, seen: 0 })
    kept.state = 'running'
  }

  async function patch(kept: Kept): Promise<void> {
    const metadata = { ...kept.metadata, note: String((number += 1)) }
    const asked = () => kept.sandbox.update({ metadata })
    const answer = patient() ? await persist(asked) : await once(asked)
    if (answer !== unknown) kept.metadata = metadata
    else {
      const { metadata: there } = await persist(() => kept.sandbox.refresh())
      expect([kept.metadata, metadata]).toContainEqual(there)
      kept.metadata = there
    }
  }

  async function making(act: () => Promise<void>): Promise<void> {
    turn.making = true
    await act().finally(() => (turn.making = false))
  }

  async function step(): Promise<void> {
    const mine = living()
    if (shortLived.length < mostShortLived && random.chance(0.1)) return making(createShortLived)
    if (mine.length === 0 || (mine.length < mostSandboxes && random.chance(0.4))) return making(create)
    const kept = random.pick(mine)
    const { sandbox, state } = kept
    const dice = random.below(100)
    if (dice < 20) return write(kept)
    if (dice < 40) return append(kept)
    if (dice < 50) return patch(kept)
    if (dice < 60) return kept.counters.length === 0 ? count(kept) : append(kept)
    if (dice < 70) return making(() => change(kept, () => sandbox.kill(), 'killed'))
    if (state === 'stopped') return change(kept, () => sandbox.start(), 'running')
    if (state === 'paused') return change(kept, () => sandbox.resume(), 'running')
    return dice < 85 ? change(kept, () => sandbox.pause(), 'paused') : change(kept, () => sandbox.stop(), 'stopped')
  }

  /** Works until `rest` is called; resolves when the last request has been answered or given up. */
  async function work(): Promise<void> {
    turn.over = false
    while (!turn.over) {
      await step()
      await sleep(random.below(15))
    }
  }

  return {
    name,
    delta,
    all,
    living,
    shortLived,
    work /** Whether it waits for a sandbox to be made or to go. */,
    isMaking: () => turn.making,
    rest: () => void (turn.over = true),
  }
}
export type Client = ReturnType<typeof createClient>

export async function readIfThere(sandbox: Sandbox, path: string): Promise<Buffer | undefined> {
  try {
    return Buffer.from(await sandbox.files.read(path))
  } catch (error) {
    if (error instanceof DeltaApiError && error.code === 'file_not_found') return undefined
    throw error
  }
}
