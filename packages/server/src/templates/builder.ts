import { createHash } from 'node:crypto'
import { posix } from 'node:path'
import { DeltaError } from '../kernel/errors.ts'
import type { BoxOptions, BuildBox, OpenBox, Placed } from './box.ts'
import { contentOf, contextLimits } from './context/context.ts'
import type { BuildContext, Found, Item } from './context/context.ts'
import type { BuildDisks, DiskBase, DiskCaller } from './disks.ts'
import { emptyConfig, evaluate, initialState } from './dockerfile/evaluate.ts'
import type { Action, CopyAction, ImageConfig, RunAction, StageState } from './dockerfile/evaluate.ts'
import { dockerfileError, shown } from './dockerfile/parse.ts'
import type { Instruction } from './dockerfile/parse.ts'
import type { BuildPlan, Stage, StageBase } from './dockerfile/plan.ts'
import type { BuildLog } from './build-log.ts'
import type { BuildSettings } from './schema.ts'

/** What a stage stands on. */
export interface Base {
  disk: DiskBase
  config: ImageConfig
  /** Of its content: equal ones have the same files. */
  identity: string
}

export interface StepCache {
  find(key: string): Promise<string | undefined>
  put(key: string, snapshotId: string): Promise<void>
}

export interface BuildDeps {
  disks: BuildDisks
  openBox: OpenBox
  cache: StepCache
  /** What FROM or COPY --from names that is no stage. */
  resolveBase: (name: string) => Promise<Base>
  download: (url: URL, signal: AbortSignal) => AsyncIterable<Uint8Array>
  /** Keeps a stream in a file, to be read more than once. */
  keep: (chunks: AsyncIterable<Uint8Array>, limitBytes: number) => Promise<{ path: string; size: number }>
  /** What an archive holds; undefined for every other file. */
  unpack: (item: Item) => Promise<Item[] | undefined>
}

export interface BuildOptions {
  templateId: string
  /** Names of its disks: this and a number. */
  diskPrefix: string
  caller: DiskCaller
  settings: BuildSettings
  noCache: boolean
  signal: AbortSignal
  log: BuildLog
}

export interface Built {
  /** Of the target stage. */
  snapshotId: string
  config: ImageConfig
  steps: { run: number; cached: number }
}

interface StageResult {
  disk: DiskBase
  config: ImageConfig
  key: string
  /** Whose sandbox is still there to copy from. */
  box: BuildBox | undefined
}

const mostInlineBytes = 1024 * 1024
/** One file that ADD fetches. */
const mostDownloadBytes = 1024 ** 3

/** Builds the stages in order, each step in a sandbox of its stage, with a snapshot after each. */
export async function buildPlan(
  deps: BuildDeps,
  plan: BuildPlan,
  context: BuildContext | undefined,
  options: BuildOptions,
): Promise<Built> {
  const builder = createBuilder(deps, plan, context, options)
  try {
    return await builder.build()
  } finally {
    await builder.end()
  }
}

function createBuilder(deps: BuildDeps, plan: BuildPlan, context: BuildContext | undefined, options: BuildOptions) {
  const { disks, cache } = deps
  const { caller, log, signal } = options
  const results = new Map<number, StageResult>()
  const named = new Map<string, Promise<StageResult>>()
  const boxes: BuildBox[] = []
  const counts = { run: 0, cached: 0 }
  let diskCount = 0

  async function openDisk(base: DiskBase): Promise<string> {
    diskCount += 1
    return disks.open(`${options.diskPrefix}.${diskCount}`, base, caller)
  }

  async function openBoxOn(workspaceId: string): Promise<BuildBox> {
    const { settings, templateId } = options
    const wish: BoxOptions = { caller, settings, metadata: { 'delta.build': templateId }, signal }
    const box = await deps.openBox(workspaceId, wish)
    boxes.push(box)
    return box
  }

  function namedBase(name: string): Promise<StageResult> {
    const known = named.get(name)
    if (known) return known
    const resolving = deps
      .resolveBase(name)
      .then(({ disk, config, identity }): StageResult => ({ disk, config, key: hashOf(identity), box: undefined }))
    named.set(name, resolving)
    return resolving
  }

  function resultOf(base: StageBase, line: number): Promise<StageResult> {
    if (base.kind === 'named') {
      return namedBase(base.name).catch((cause: unknown) => {
        signal.throwIfAborted()
        throw atLine(cause, line)
      })
    }
    return Promise.resolve(results.get(base.index)!)
  }

  /** The stage's files, of which something is copied. */
  async function boxOf(result: StageResult): Promise<BuildBox> {
    result.box ??= await openBoxOn(await openDisk(result.disk))
    return result.box
  }

  async function buildStage(stage: Stage, position: string): Promise<StageResult> {
    log.add('step', `${position}FROM ${stage.base.kind === 'named' ? stage.base.name : `stage ${stage.base.index}`}`)
    const base = await resultOf(stage.base, stage.line)
    let state = initialState(base.config)
    let { key, disk } = base
    let own: { workspaceId: string; box: BuildBox } | undefined
    for (const [index, instruction] of stage.instructions.entries()) {
      signal.throwIfAborted()
      const step = evaluate(instruction, state, plan)
      const text = `${position}${index + 1}/${stage.instructions.length} ${instruction.name} ${instruction.text}`.slice(
        0,
        1_000,
      )
      if (step.note) log.add('note', `Line ${instruction.line}: ${step.note}`)
      if (step.action.kind === 'none') {
        log.add('step', text)
        state = step.state
        continue
      }
      const material = await materialOf(step.action, stage, instruction)
      key = hashOf(JSON.stringify([key, keyOf(step.action, state), material.digest]))
      const cached = options.noCache || own ? undefined : await cache.find(key)
      if (cached !== undefined) {
        counts.cached += 1
        log.add('step', `${text} (cached)`)
        disk = { snapshotId: cached }
      } else {
        counts.run += 1
        log.add('step', text)
        own ??= await openOwn(disk)
        await perform(step.action, { box: own.box, found: material.found, state, instruction })
        const snapshotId = await disks.snapshot(own.workspaceId, text.slice(0, 200), caller)
        await cache.put(key, snapshotId)
        disk = { snapshotId }
      }
      state = step.state
    }
    return { disk, config: state.config, key, box: own?.box }
  }

  async function openOwn(disk: DiskBase): Promise<{ workspaceId: string; box: BuildBox }> {
    const workspaceId = await openDisk(disk)
    return { workspaceId, box: await openBoxOn(workspaceId) }
  }

  /** What goes into a copy, and what stands for it in the key. */
  async function materialOf(
    action: Action,
    stage: Stage,
    instruction: Instruction,
  ): Promise<{ digest: string; found: Found[] | undefined }> {
    if (action.kind !== 'copy') return { digest: '', found: undefined }
    if (action.from !== undefined) {
      // The files of a stage are what its key says.
      const source = await resultOf(stage.sources.get(action.from)!, instruction.line)
      return { digest: source.key, found: undefined }
    }
    const found: Found[] = []
    const take = newAmount(instruction.line)
    for (const source of action.sources) {
      signal.throwIfAborted()
      const of = await foundAs(source, instruction.line)
      take(of)
      found.push(...of)
    }
    const digests = context ? await context.digest(found) : await digestOf(found)
    return { digest: digests, found }
  }

  async function foundAs({ kind, value, content }: CopyAction['sources'][number], line: number): Promise<Found[]> {
    if (kind === 'inline') return [inlineFile(value, content ?? '')]
    return kind === 'url' ? [await fetched(value, line)] : inContext(value, line)
  }

  function inContext(pattern: string, line: number): Found[] {
    if (!context)
      throw dockerfileError(line, `${shown(pattern)} cannot be copied: no files were sent with the Dockerfile`)
    const found = context.find(pattern)
    if (found.length === 0)
      throw dockerfileError(line, `there is no ${shown(pattern)} among the files sent (.dockerignore counts)`)
    return found
  }

  async function fetched(address: string, line: number): Promise<Found> {
    const url = URL.parse(address)
    if (!url || url.username !== '') throw dockerfileError(line, `${shown(address)} is no address to fetch`)
    log.add('note', `Fetching ${url.href.slice(0, 300)}`)
    const { path, size } = await deps.keep(deps.download(url, signal), mostDownloadBytes).catch((cause: unknown) => {
      signal.throwIfAborted()
      throw atLine(cause, line)
    })
    const name = posix.basename(url.pathname) || 'index.html'
    const item: Item = {
      type: 'file',
      path: name,
      mode: 0o600,
      modifiedSeconds: 0,
      size,
      target: '',
      open: () => contentOf(path, 0, size),
    }
    // As with other builders, an archive from the web stays one.
    return { kind: 'file', name, items: [item], isRemote: true }
  }

  interface Performing {
    box: BuildBox
    found: Found[] | undefined
    state: StageState
    instruction: Instruction
  }

  async function perform(action: Action, { box, found, state, instruction }: Performing): Promise<void> {
    if (action.kind === 'run') return runStep(action, { box, state, instruction })
    if (action.kind === 'makeFolder') {
      if (await box.isFolder(action.path)) return
      const item: Item = {
        type: 'directory',
        path: '',
        mode: 0o755,
        modifiedSeconds: 0,
        size: 0,
        target: '',
        open: nothing,
      }
      return box.place([{ item, path: action.path, mode: 0o755, owner: action.owner }])
    }
    if (action.kind === 'copy') await copyStep(action, { box, found, instruction })
  }

  async function runStep(
    action: RunAction,
    { box, state, instruction }: { box: BuildBox; state: StageState; instruction: Instruction },
  ): Promise<void> {
    // What ENV sets counts more than an ARG of the same name.
    const env = { ...action.env, ...state.config.env }
    const { argv, user, cwd } = action
    const {
      exitCode,
      signal: killedBy,
      timedOut,
      oomKilled,
    } = await box.run({ argv, env, user, cwd, timeoutMs: options.settings.stepTimeoutMs }, (stream, text) =>
      log.add(stream, text),
    )
    if (exitCode === 0) return
    const how = timedOut
      ? `took longer than ${options.settings.stepTimeoutMs} ms`
      : oomKilled
        ? `needed more than the ${options.settings.memoryMb} MB of memory of the build`
        : exitCode === null
          ? `was ended by ${killedBy}`
          : `ended with ${exitCode}`
    throw new DeltaError('template_build_failed', `Dockerfile line ${instruction.line}: the command ${how}`, {
      cause: `RUN ${instruction.text}`.slice(0, 500),
      context: { line: instruction.line, exitCode },
    })
  }

  async function copyStep(action: CopyAction, { box, found, instruction }: Omit<Performing, 'state'>): Promise<void> {
    const sources = found ?? (await foundInStage(action, instruction))
    const many = action.intoFolder || sources.length > 1 || (await box.isFolder(action.dest))
    const placed: Placed[] = []
    for (const source of sources) placed.push(...(await placedOf(source, action, { many })))
    await box.place(placed)
  }

  async function foundInStage(action: CopyAction, instruction: Instruction): Promise<Found[]> {
    const stage = plan.stages.find(({ instructions }) => instructions.includes(instruction))!
    const box = await boxOf(await resultOf(stage.sources.get(action.from!)!, instruction.line))
    const all: Found[] = []
    for (const { value } of action.sources) {
      const found = await box.find(value)
      if (found.length === 0)
        throw dockerfileError(instruction.line, `there is no ${shown(value)} in ${shown(action.from!)}`)
      all.push(...found)
    }
    return all
  }

  async function placedOf(source: Found, action: CopyAction, { many }: { many: boolean }): Promise<Placed[]> {
    const { dest, owner, mode } = action
    const at = (item: Item, path: string): Placed => ({ item, path, mode: mode ?? item.mode, owner })
    if (source.kind === 'folder') {
      const root: Item = {
        type: 'directory',
        path: '',
        mode: 0o755,
        modifiedSeconds: 0,
        size: 0,
        target: '',
        open: nothing,
      }
      const isThere = source.items.length > 0 ? [] : [at(root, dest)]
      return [...isThere, ...source.items.map((item) => at(item, posix.join(dest, item.path)))]
    }
    const [item] = source.items
    if (!item) return []
    const unpacked = action.unpacks && !source.isRemote && item.type === 'file' ? await deps.unpack(item) : undefined
    if (unpacked) return unpacked.map((each) => at(each, posix.join(dest, each.path)))
    return [at(item, many ? posix.join(dest, source.name) : dest)]
  }

  return {
    async build(): Promise<Built> {
      for (const [index, stage] of plan.stages.entries()) {
        const position =
          plan.stages.length === 1 ? '' : `[${stage.name ?? stage.index} ${index + 1}/${plan.stages.length}] `
        results.set(stage.index, await buildStage(stage, position))
      }
      const target = results.get(plan.stages.at(-1)!.index)!
      signal.throwIfAborted()
      // A snapshot of its own, so that the template stands when others' caches go.
      const workspaceId = await openDisk(target.disk)
      const snapshotId = await disks.snapshot(workspaceId, `Template ${options.templateId}`, caller)
      return { snapshotId, config: target.config, steps: counts }
    },
    async end(): Promise<void> {
      const ended = await Promise.allSettled(boxes.map((box) => box.end()))
      const failed = ended.find((result) => result.status === 'rejected')
      if (failed) log.add('note', 'A sandbox of the build could not be ended; it ends by its timeout')
    },
  }
}

/** All that decides what a step makes: variables too, for a command. */
function keyOf(action: Action, { config }: StageState): unknown {
  if (action.kind === 'run') return [action, sorted(config.env)]
  if (action.kind !== 'copy') return action
  return { ...action, sources: action.sources.map(({ kind, value }) => [kind, value]) }
}

function sorted(env: Record<string, string>): [string, string][] {
  return Object.entries(env).toSorted(([a], [b]) => (a < b ? -1 : 1))
}

/** Sources may be named many times over: what one COPY holds is no more than all of a context. */
function newAmount(line: number): (found: readonly Found[]) => void {
  const { entries, bytes } = contextLimits
  let [items, size] = [0, 0]
  return (found) => {
    for (const each of found) {
      items += each.items.length
      for (const item of each.items) size += item.size
    }
    if (items > entries || size > bytes) {
      throw dockerfileError(line, `it copies more than ${entries} entries or ${bytes} bytes`)
    }
  }
}

function inlineFile(name: string, content: string): Found {
  const bytes = Buffer.from(content)
  if (bytes.length > mostInlineBytes) throw new DeltaError('dockerfile_invalid', `The heredoc ${name} is too long`)
  return fileOf(name, bytes, 0o644)
}

function fileOf(name: string, bytes: Buffer, mode: number): Found {
  const item: Item = {
    type: 'file',
    path: name,
    mode,
    modifiedSeconds: 0,
    size: bytes.length,
    target: '',
    open: () => once(bytes),
  }
  return { kind: 'file', name, items: [item] }
}

async function digestOf(found: readonly Found[]): Promise<string> {
  const hash = createHash('sha256')
  for (const { items } of found) {
    for (const { path, mode, open } of items) {
      hash.update(JSON.stringify([path, mode]))
      for await (const chunk of open()) hash.update(chunk)
    }
  }
  return hash.digest('hex')
}

async function* once(bytes: Uint8Array): AsyncGenerator<Uint8Array> {
  yield bytes
}

async function* nothing(): AsyncGenerator<Uint8Array> {}

function hashOf(text: string): string {
  return createHash('sha256').update(text).digest('hex')
}

function atLine(cause: unknown, line: number): unknown {
  if (!(cause instanceof DeltaError) || cause.code === 'dockerfile_invalid') return cause
  const why = typeof cause.cause === 'string' ? `${cause.message}: ${cause.cause}` : cause.message
  return new DeltaError(cause.code, `Dockerfile line ${line}: ${cause.message}`, {
    cause: why,
    context: { ...cause.context, line },
  })
}

export const scratchBase: Base = { disk: { template: 'scratch' }, config: emptyConfig, identity: 'scratch' }
