import { posix } from 'node:path'
import { GuestError } from '../guest/client.ts'
import type { Entry, GuestConnection } from '../guest/client.ts'
import { DeltaError } from '../kernel/errors.ts'
import type { DoorCaller, SandboxDoor } from '../sandboxes/door.ts'
import { createSandboxSchema } from '../sandboxes/schema.ts'
import type { Sandboxes } from '../sandboxes/service.ts'
import type { Execs } from '../sandboxes/execs/service.ts'
import type { Found, Item } from './context/context.ts'
import { hasWildcard, newEffort, patternOf } from './context/match.ts'
import type { BuildSettings } from './schema.ts'

export interface RunWish {
  argv: string[]
  env: Record<string, string>
  user: string
  cwd: string
  timeoutMs: number
}

export interface RunResult {
  exitCode: number | null
  signal: string | null
  timedOut: boolean
  oomKilled: boolean
}

/** Something to be put at a path. */
export interface Placed {
  item: Item
  path: string
  mode: number
  owner: string
}

/** A sandbox that a build works in. */
export interface BuildBox {
  run(wish: RunWish, onOutput: (stream: 'stdout' | 'stderr', text: string) => void): Promise<RunResult>
  place(all: AsyncIterable<Placed> | Iterable<Placed>): Promise<void>
  isFolder(path: string): Promise<boolean>
  /** What a path or pattern stands for in its file system, as in a context. */
  find(pattern: string): Promise<Found[]>
  /** The sandbox and its processes are gone when it resolves; the disk stays. */
  end(): Promise<void>
}

export interface BoxOptions {
  caller: DoorCaller
  settings: BuildSettings
  /** Labels of the sandbox, so that its owner knows what it is for. */
  metadata: Record<string, string>
  signal: AbortSignal
}

export type OpenBox = (workspaceId: string, options: BoxOptions) => Promise<BuildBox>

export interface BoxDeps {
  sandboxes: Pick<Sandboxes, 'create' | 'kill'>
  execs: Pick<Execs, 'stream'>
  door: SandboxDoor
  newExecId: () => string
}

/** One stage's sandbox lives no longer. */
const boxMs = 6 * 3_600_000
const placeMs = 3_600_000
const listPage = 1_000
const listDepth = 128
const mostFound = 500_000
const complaintChars = 2_000
const SIGKILL = 9

export function createBoxes({ sandboxes, execs, door, newExecId }: BoxDeps): OpenBox {
  return async (workspaceId, { caller, settings, metadata, signal }) => {
    signal.throwIfAborted()
    const { network, cpu, memoryMb } = settings
    const wish = {
      workspace: workspaceId,
      timeoutMs: boxMs,
      onTimeout: 'kill',
      autoResume: false,
      network,
      cpu,
      memoryMb,
      processes: 4_096,
      metadata,
    }
    const { id } = await sandboxes.create(createSandboxSchema.parse(wish), caller)
    let ending: Promise<void> | undefined
    const end = () => (ending ??= sandboxes.kill(id, caller))
    // Whatever runs in it ends with the build.
    const onAbort = () => void end().catch(() => {})
    signal.addEventListener('abort', onAbort, { once: true })
    if (signal.aborted) onAbort()

    /** What the sandbox's end makes of a call is of no account where the build was canceled. */
    async function within<T>(work: (guest: GuestConnection) => Promise<T>): Promise<T> {
      try {
        signal.throwIfAborted()
        return await work((await door.open(id, caller)).guest)
      } catch (error) {
        signal.throwIfAborted()
        throw error
      }
    }

    return {
      async end() {
        signal.removeEventListener('abort', onAbort)
        await end()
      },
      run: (run, onOutput) => within(() => runIn(execs, { sandboxId: id, caller }, run, onOutput)),
      place: (all) => within((guest) => placeIn(guest, newExecId(), all)),
      isFolder: (path) =>
        within(async (guest) => {
          const entry = await statOf(guest, path)
          return entry?.type === 'directory'
        }),
      find: (pattern) => within((guest) => findIn(guest, pattern)),
    }
  }
}

async function runIn(
  execs: BoxDeps['execs'],
  { sandboxId, caller }: { sandboxId: string; caller: DoorCaller },
  { argv, env, user, cwd, timeoutMs }: RunWish,
  onOutput: (stream: 'stdout' | 'stderr', text: string) => void,
): Promise<RunResult> {
  const options = { stdinOpen: false, background: false, encoding: 'utf8', stream: true } as const
  const { events } = await execs.stream(sandboxId, caller, { cmd: argv, env, user, cwd, timeoutMs, ...options })
  for (let step = await events.next(); step.done !== true; step = await events.next()) {
    const { event, data } = step.value
    if (event === 'stdout' || event === 'stderr') onOutput(event, (data as { data: string }).data)
    else if (event === 'exit') {
      const { exitCode, signal, timedOut, oomKilled, state } = data as RunResult & { state: string }
      if (state === 'unknown')
        throw new DeltaError('sandbox_ended', 'The sandbox of the build ended while a command ran')
      return { exitCode, signal, timedOut, oomKilled }
    }
  }
  throw new DeltaError('sandbox_ended', 'The sandbox of the build ended while a command ran')
}

/** By the guest's own program, which is there in every sandbox: what it reads is described in packages/guest/src/guest/place.rs. */
async function placeIn(
  guest: GuestConnection,
  execId: string,
  all: AsyncIterable<Placed> | Iterable<Placed>,
): Promise<void> {
  const request = {
    execId,
    argv: ['/.delta/guest', 'place'],
    env: {},
    cwd: '/',
    user: '0:0',
    timeoutMs: placeMs,
    keepStdin: true,
  }
  const exec = await guest.exec(request)
  let complaint = ''
  const ended = exec.consume(({ bytes }) => {
    complaint = (complaint + bytes.toString('utf8')).slice(0, complaintChars)
  })
  let isOver = false
  ended.then(
    () => (isOver = true),
    () => (isOver = true),
  )
  try {
    for await (const chunk of encoded(all)) {
      // It has said why it wants no more.
      if (isOver) break
      await Promise.race([exec.writeStdin(chunk), ended])
    }
    exec.closeStdin()
    const exit = await ended
    if (exit.kind === 'exited' && exit.value === 0 && !exit.timedOut) return
    const isFull = /No space left on device|Disk quota exceeded/.test(complaint)
    const why = complaint.replace(/^delta-guest: /, '').trim() || 'the files could not be put there'
    throw new DeltaError(isFull ? 'disk_full' : 'template_build_failed', 'The files could not be copied', {
      cause: why,
    })
  } finally {
    if (!isOver) guest.signal(execId, SIGKILL, 'session').catch(() => {})
    guest.forget(execId).catch(() => {})
  }
}

const kinds = { directory: 1, file: 2, symlink: 3 } as const
const modeExplicit = 2 ** 31
const mostChunkBytes = 256 * 1024

async function* encoded(all: AsyncIterable<Placed> | Iterable<Placed>): AsyncGenerator<Buffer> {
  for await (const { item, path, mode, owner } of all) {
    const target = item.type === 'symlink' ? Buffer.from(item.target) : undefined
    const size = target?.length ?? (item.type === 'file' ? item.size : 0)
    yield entryHead({
      kind: kinds[item.type],
      path,
      mode: item.type === 'directory' ? mode + modeExplicit : mode,
      owner,
      size,
      seconds: item.modifiedSeconds,
    })
    if (target) yield target
    if (item.type !== 'file') continue
    let sent = 0
    for await (const chunk of item.open()) {
      sent += chunk.length
      for (let at = 0; at < chunk.length; at += mostChunkBytes)
        yield Buffer.from(chunk.subarray(at, at + mostChunkBytes))
    }
    if (sent !== size) throw new DeltaError('template_build_failed', `${path} changed while it was copied`)
  }
  yield Buffer.from([0])
}

interface EntryHead {
  kind: number
  path: string
  mode: number
  owner: string
  size: number
  seconds: number
}

function entryHead({ kind, path, mode, owner, size, seconds }: EntryHead): Buffer {
  const text = (value: string): Buffer[] => {
    const bytes = Buffer.from(value)
    const length = Buffer.alloc(4)
    length.writeUInt32LE(bytes.length)
    return [length, bytes]
  }
  const numbers = Buffer.alloc(4)
  numbers.writeUInt32LE(mode)
  const last = Buffer.alloc(16)
  last.writeBigInt64LE(BigInt(seconds), 0)
  last.writeBigUInt64LE(BigInt(size), 8)
  return Buffer.concat([Buffer.from([kind]), ...text(path), numbers, ...text(owner), last])
}

async function statOf(guest: GuestConnection, path: string, { follow = true } = {}): Promise<Entry | undefined> {
  try {
    return await guest.stat(path, { follow })
  } catch (error) {
    if (error instanceof GuestError && (error.code === 'not_found' || error.code === 'not_a_directory'))
      return undefined
    throw error
  }
}

async function findIn(guest: GuestConnection, pattern: string): Promise<Found[]> {
  const path = posix.normalize(`/${pattern}`).replace(/(.)\/$/, '$1')
  const entry = await statOf(guest, path)
  if (entry) return [await foundAt(guest, path, entry)]
  if (!hasWildcard(path)) return []
  // Everything below the last folder that is named without a wildcard.
  const parts = path.split('/')
  const first = parts.findIndex((part) => hasWildcard(part))
  const root = parts.slice(0, first).join('/') || '/'
  const fits = patternOf(path, { effort: newEffort() })
  const found: Found[] = []
  if ((await statOf(guest, root))?.type !== 'directory') return []
  for await (const each of below(guest, root, parts.length - first)) {
    if (fits?.test(each.path)) found.push(await foundAt(guest, each.path, each))
  }
  return found
}

async function foundAt(guest: GuestConnection, path: string, entry: Entry): Promise<Found> {
  const name = posix.basename(path)
  if (entry.type !== 'directory')
    return { kind: 'file', name, items: [itemOf(guest, { ...entry, path }, name)].flatMap((item) => item ?? []) }
  const items: Item[] = []
  for await (const each of below(guest, path, listDepth)) {
    const item = itemOf(guest, each, each.path.slice(path === '/' ? 1 : path.length + 1))
    if (item) items.push(item)
  }
  return { kind: 'folder', name, items }
}

async function* below(guest: GuestConnection, folder: string, depth: number): AsyncGenerator<Entry> {
  let after: string | Buffer | undefined
  let count = 0
  for (;;) {
    const { entries, more } = await guest.list(folder, {
      depth,
      limit: listPage,
      ...(after !== undefined && { after }),
    })
    for (const entry of entries) {
      count += 1
      if (count > mostFound)
        throw new DeltaError('template_build_failed', `${folder} holds more than ${mostFound} files to copy`)
      yield entry
    }
    const last = entries.at(-1)
    if (!more || !last) return
    after = last.pathBytes ?? last.path
  }
}

/** Sockets, pipes and devices stay behind. */
function itemOf(guest: GuestConnection, entry: Entry, path: string): Item | undefined {
  const { type, mode, size } = entry
  if (type === 'other') return undefined
  const modifiedSeconds = Number(entry.modifiedNanos / 1_000_000_000n)
  const from = entry.pathBytes ?? entry.path
  return { type, path, mode, modifiedSeconds, size, target: entry.target ?? '', open: () => readFile(guest, from) }
}

async function* readFile(guest: GuestConnection, path: string | Buffer): AsyncGenerator<Uint8Array> {
  const { body } = await guest.read(path, { exact: true })
  yield* body
}
