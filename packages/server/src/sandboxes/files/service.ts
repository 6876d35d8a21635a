import type { Readable } from 'node:stream'
import type { RoomState } from '../../drivers/driver.ts'
import { GuestError } from '../../guest/client.ts'
import type { Entry, GuestConnection, PathInput, WatchEvent } from '../../guest/client.ts'
import { DeltaError } from '../../kernel/errors.ts'
import type { DoorCaller, SandboxDoor } from '../door.ts'
import type { ServerSentEvent } from '../../kernel/http/event-stream.ts'
import { createArchives } from './archive.ts'
import { endOf, explainLost, isConnectionLost } from '../ended.ts'
import type { Asked } from '../ended.ts'
import { GUEST_ANSWER_MS, inTime, moving, whileMoving } from '../patience.ts'
import { fileRefusal, roomRefusal } from './refusals.ts'
import {
  absolutePath,
  decodeCursor,
  encodeCursor,
  etagListed,
  parseMode,
  parseRange,
  permissionText,
  resolveRange,
  singleEtag,
} from './rules.ts'
import type { ByteRange, RangeWish, SandboxPath } from './rules.ts'
import type { FileEntry } from './schema.ts'

const RANGE_TRIES = 3

export interface FilesDeps {
  door: SandboxDoor
  newExecId(): string
  /** Of the disk that carries the sandboxes' disks. */
  room(): RoomState
  /** @default GUEST_ANSWER_MS */
  answerMs?: number | undefined
}

export interface ReadWish {
  /** False for HEAD. */
  withBody: boolean
  range?: string | undefined
  ifRange?: string | undefined
  ifNoneMatch?: string | undefined
}

export type FileAnswer =
  | { kind: 'unchanged'; entry: Entry }
  | { kind: 'whole'; entry: Entry; body: AsyncIterableIterator<Buffer> | undefined }
  | { kind: 'part'; entry: Entry; range: ByteRange; body: AsyncIterableIterator<Buffer> | undefined }

export interface WriteWish {
  mode?: string | undefined
  owner?: string | undefined
  parents: boolean
  overwrite: boolean
  ifMatch?: string | undefined
  ifNoneMatch?: string | undefined
}

export interface LiveWatch {
  events: AsyncIterator<ServerSentEvent>
  leave(): void
}

export type Files = ReturnType<typeof createFiles>

/** Everything about files in a sandbox. Paths are resolved by the guest, inside; the host only passes bytes on. */
export function createFiles({ door, newExecId, room, answerMs = GUEST_ANSWER_MS }: FilesDeps) {
  /** After the sandbox was found, so that an unknown one stays unknown. */
  const checkRoom = ({ grows }: { grows: boolean }): void => {
    const refused = roomRefusal(room(), { grows })
    if (refused) throw refused
  }
  const archives = createArchives({ door, newExecId, checkRoom, answerMs })

  async function refusing<T>(asked: Asked & { path: SandboxPath | undefined }, result: Promise<T>): Promise<T> {
    try {
      return await result
    } catch (error) {
      throw fileRefusal(await explainLost(door, asked, error), shown(asked.path ?? ''))
    }
  }

  /** For what may be asked twice: a connection that turns out to be gone is opened again, once. */
  async function ask<T>(at: Place, act: Act<T>): Promise<T> {
    const path = checked(at.path)
    const { guest } = await door.open(at.sandboxId, at.caller)
    try {
      return await inTime(answerMs, (signal) => act(guest, path, signal))
    } catch (error) {
      if (!isConnectionLost(error)) throw fileRefusal(error, shown(path))
      const ended = await endOf(door, { ...at, guest })
      if (ended) throw ended
    }
    const again = await door.open(at.sandboxId, at.caller, { wake: false })
    return refusing(
      { ...at, guest: again.guest },
      inTime(answerMs, (signal) => act(again.guest, path, signal)),
    )
  }

  /** For what changes something: after a lost connection nobody knows whether it has. */
  async function change<T>(at: Place, act: Act<T>): Promise<T> {
    const path = checked(at.path)
    const { guest } = await door.open(at.sandboxId, at.caller)
    checkRoom({ grows: false })
    return refusing(
      { ...at, guest },
      inTime(answerMs, (signal) => act(guest, path, signal)),
    )
  }

  /** The same while a body is taken in, which may last. */
  async function changeFrom<T>(at: Place, body: Readable, act: Act<T>): Promise<T> {
    const path = checked(at.path)
    const { guest } = await door.open(at.sandboxId, at.caller)
    checkRoom({ grows: true })
    return refusing(
      { ...at, guest },
      whileMoving(body, answerMs, (signal) => act(guest, path, signal)),
    )
  }

  return {
    async read(at: Place, wish: ReadWish): Promise<FileAnswer> {
      const range = parseRange(wish.range)
      const answer = await ask(at, async (guest, path, signal): Promise<FileAnswer> => {
        if (range !== undefined) return readPart(guest, path, range, { ...wish, signal })
        if (!wish.withBody) {
          const entry = regular(await guest.stat(path, { signal }))
          return isUnchanged(entry, wish) ? { kind: 'unchanged', entry } : { kind: 'whole', entry, body: undefined }
        }
        return readWhole(guest, path, { ...wish, signal })
      })
      if (answer.kind === 'unchanged' || answer.body === undefined) return answer
      return { ...answer, body: moving(answer.body, answerMs) }
    },

    write: (at: Place, body: Readable, wish: WriteWish): Promise<FileEntry> =>
      changeFrom(at, body, async (guest, path, signal) => {
        const mode = wish.mode === undefined ? undefined : checkedMode(wish.mode, 'query.mode')
        const ifMatch = await etagToMatch(guest, path, { header: wish.ifMatch, signal })
        const onlyNew = wish.ifNoneMatch?.trim() === '*'
        try {
          const entry = await guest.writeFrom(path, body, {
            mode,
            modeExplicit: mode !== undefined,
            owner: wish.owner,
            makeParents: wish.parents,
            mustNotExist: onlyNew || !wish.overwrite,
            ifMatch,
            signal,
          })
          return entryShown(entry)
        } catch (error) {
          // What If-None-Match refuses is a failed condition, not a conflict (RFC 9110, 13.1.2).
          const refused = onlyNew && error instanceof GuestError && error.code === 'exists'
          throw refused ? new DeltaError('precondition_failed', 'The file exists already') : error
        }
      }),

    stat: (at: Place, { follow }: { follow: boolean }): Promise<FileEntry> =>
      ask(at, async (guest, path, signal) => entryShown(await guest.stat(path, { follow, signal }))),

    async list(at: Place, { depth, limit, cursor }: { depth: number; limit: number; cursor?: string | undefined }) {
      const after = cursor === undefined ? undefined : decodeCursor(cursor)
      if (cursor !== undefined && after === undefined) {
        throw new DeltaError('invalid_request', 'The request is not valid at query.cursor', {
          cause: 'query.cursor: the nextCursor of the page before, unchanged',
        })
      }
      const { entries, more } = await ask(at, (guest, path, signal) =>
        guest.list(path, { depth, limit, after, signal }),
      )
      const last = entries.at(-1)
      const nextCursor = more && last !== undefined ? encodeCursor(last.pathBytes ?? Buffer.from(last.path)) : null
      return { data: entries.map(entryShown), nextCursor }
    },

    makeDirectory: (
      at: Place,
      { mode, owner, parents }: { mode?: string | number | undefined; owner?: string | undefined; parents: boolean },
    ): Promise<FileEntry> =>
      change(at, async (guest, path, signal) => {
        const bits = mode === undefined ? 0o755 : checkedMode(mode, 'body.mode')
        return entryShown(await guest.mkdir(path, { mode: bits, owner, parents, signal }))
      }),

    move: (at: Place, to: string, { overwrite }: { overwrite: boolean }): Promise<FileEntry> =>
      change(at, async (guest, path, signal) => entryShown(await guest.move(path, checked(to), { overwrite, signal }))),

    remove: (at: Place, { recursive }: { recursive: boolean }): Promise<number> =>
      change(at, (guest, path, signal) => guest.remove(path, { recursive, signal })),

    changeMode: (at: Place, mode: string | number): Promise<FileEntry> =>
      change(at, async (guest, path, signal) =>
        entryShown(await guest.chmod(path, checkedMode(mode, 'body.mode'), { signal })),
      ),

    async watch(at: Place, { recursive }: { recursive: boolean }): Promise<LiveWatch> {
      const abort = new AbortController()
      const { events } = await ask(at, (guest, path, signal) => {
        signal.addEventListener('abort', () => abort.abort(), { once: true })
        return guest.watch(path, { recursive, signal: abort.signal })
      })
      return { events: watchEvents(events), leave: () => abort.abort() }
    },

    /** Refuses what `pack` would refuse at once. */
    checkFolder: (at: Place): Promise<void> =>
      ask(at, async (guest, path, signal) => {
        const { type } = await guest.stat(path, { signal })
        if (type !== 'directory') throw new GuestError('not_a_directory', `It is a ${type}.`)
      }),

    /** The folder's contents as a tar stream. */
    pack: (at: Place) => archives.pack({ ...at, path: checked(at.path) }),

    /** Puts a tar stream's contents into the folder, which is made if it is not there. */
    unpack: async (at: Place, body: Readable): Promise<FileEntry> =>
      entryShown(await archives.unpack({ ...at, path: checked(at.path) }, body)),
  }
}

type Act<T> = (guest: GuestConnection, path: PathInput, signal: AbortSignal) => Promise<T>

type BoundedRead = ReadWish & { signal: AbortSignal }

export interface Place {
  sandboxId: string
  caller: DoorCaller
  path: SandboxPath | undefined
}

function checked(path: SandboxPath | undefined): SandboxPath {
  const result = absolutePath(path)
  if (result.ok) return result.path
  throw new DeltaError(result.code, 'The path can not be used', { cause: result.reason })
}

function shown(path: PathInput): string {
  return path.toString()
}

function checkedMode(mode: string | number, field: string): number {
  const bits = parseMode(mode)
  if (bits !== undefined) return bits
  throw new DeltaError('invalid_request', `The request is not valid at ${field}`, {
    cause: `${field}: octal digits such as 0755, at most 7777`,
  })
}

// ── reading ──────────────────────────────────────────────────────────────────────────────────────────────────────────────────────

async function readWhole(guest: GuestConnection, path: PathInput, wish: BoundedRead): Promise<FileAnswer> {
  const { entry, body } = await guest.read(path, { exact: true, signal: wish.signal })
  if (isUnchanged(entry, wish)) {
    body.cancel()
    return { kind: 'unchanged', entry }
  }
  return { kind: 'whole', entry, body }
}

/** The size decides what a range means, so it is asked first; a file that is replaced between the two questions is asked again. */
async function readPart(
  guest: GuestConnection,
  path: PathInput,
  wanted: RangeWish,
  wish: BoundedRead,
): Promise<FileAnswer> {
  for (let tried = 1; ; tried++) {
    const entry = regular(await guest.stat(path, { signal: wish.signal }))
    if (isUnchanged(entry, wish)) return { kind: 'unchanged', entry }
    if (wish.ifRange !== undefined && wish.ifRange.trim() !== entry.etag) {
      return wish.withBody ? readWhole(guest, path, wish) : { kind: 'whole', entry, body: undefined }
    }
    const range = resolveRange(wanted, entry.size)
    if (range === undefined) {
      throw new DeltaError('range_not_satisfiable', 'No byte of the file lies in this range', {
        context: { sizeBytes: entry.size },
      })
    }
    if (!wish.withBody) return { kind: 'part', entry, range, body: undefined }
    const { from, length } = range
    const read = await guest.read(path, { from, length, exact: true, signal: wish.signal })
    if (read.entry.etag === entry.etag) return { kind: 'part', entry, range, body: read.body }
    read.body.cancel()
    if (tried === RANGE_TRIES) throw new DeltaError('file_busy', 'The file keeps changing while it is read')
  }
}

function regular(entry: Entry): Entry {
  if (entry.type === 'file') return entry
  throw new GuestError(entry.type === 'directory' ? 'is_a_directory' : 'not_a_file', `It is a ${entry.type}.`)
}

function isUnchanged(entry: Entry, { ifNoneMatch }: ReadWish): boolean {
  return ifNoneMatch !== undefined && etagListed(ifNoneMatch, entry.etag, { weak: true })
}

/** The one ETag the guest compares when it puts the file into place. A list is narrowed to what is there now. */
async function etagToMatch(
  guest: GuestConnection,
  path: PathInput,
  { header, signal }: { header: string | undefined; signal: AbortSignal },
): Promise<string | undefined> {
  if (header === undefined) return undefined
  const single = singleEtag(header)
  if (single !== undefined) return single
  const entry = await guest.stat(path, { signal }).catch((error: unknown) => {
    if (error instanceof GuestError && error.code === 'not_found') return undefined
    throw error
  })
  if (entry !== undefined && etagListed(header, entry.etag, { weak: false })) return entry.etag
  throw new DeltaError('precondition_failed', 'The file is none of those named by If-Match')
}

// ── what is shown ────────────────────────────────────────────────────────────────────────────────────────────────────────────────

function entryShown(entry: Entry): FileEntry {
  const { path, type, size, mode, owner, group, uid, gid, target, etag } = entry
  return {
    path,
    name: path.slice(path.lastIndexOf('/') + 1) || '/',
    type,
    size,
    mode,
    permissions: permissionText(mode),
    owner,
    group,
    uid,
    gid,
    modifiedAt: modifiedTime(entry).toISOString(),
    symlinkTarget: target,
    etag,
  }
}

// A file may bear any time; what no Date can hold is shown as the nearest it can.
const lastMs = 8.64e15

export function modifiedTime({ modifiedNanos }: Pick<Entry, 'modifiedNanos'>): Date {
  return new Date(Math.max(-lastMs, Math.min(lastMs, Number(modifiedNanos / 1_000_000n))))
}

async function* watchEvents(events: AsyncIterable<WatchEvent>): AsyncGenerator<ServerSentEvent> {
  yield { event: 'ready', data: {} }
  for await (const { kind, path, isDirectory } of events) {
    yield kind === 'overflow' ? { event: 'overflow', data: {} } : { event: 'change', data: { kind, path, isDirectory } }
  }
}
