import type { Readable } from 'node:stream'
import { GuestError } from '../../guest/client.ts'
import type { Entry, ExecExit, ExecOutput, ExecRequest, ExecStream, GuestConnection } from '../../guest/client.ts'
import { DeltaError } from '../../kernel/errors.ts'
import type { DoorCaller, SandboxDoor } from '../door.ts'
import { explainLost } from '../ended.ts'
import { pour } from '../execs/pour.ts'
import { environmentOf, INTERNAL_TAG } from '../execs/rules.ts'
import { inTime, moving, whileMoving } from '../patience.ts'
import { fileRefusal } from './refusals.ts'
import type { SandboxPath } from './rules.ts'

const SIGKILL = 9
/** What an error message may hold of what tar says. */
const COMPLAINT_BYTES = 2_000
const LONGEST_MS = 3_600_000

export interface ArchiveDeps {
  door: SandboxDoor
  newExecId(): string
  checkRoom(change: { grows: boolean }): void
  /** How long the sandbox may let an archive wait. */
  answerMs: number
}

interface ArchivePlace {
  sandboxId: string
  caller: DoorCaller
  path: SandboxPath
}

/** Folders as tar streams, made and read by `tar` inside the sandbox, so that no archive of an enemy's making is ever parsed on the host. */
export function createArchives({ door, newExecId, checkRoom, answerMs }: ArchiveDeps) {
  return {
    /** Resolves when tar has begun, so that what it refuses at once is an error and not a broken download. */
    async pack(at: ArchivePlace): Promise<AsyncIterableIterator<Buffer>> {
      const { path: folder } = at
      const { guest } = await door.open(at.sandboxId, at.caller)
      try {
        const entry = await inTime(answerMs, (signal) => guest.stat(folder, { signal }))
        if (entry.type !== 'directory') throw new GuestError('not_a_directory', `It is a ${entry.type}.`)
        // As root, since a download reads what a file download would.
        const request = tarRequest(newExecId(), {
          user: 'root',
          arguments: ['-C', folder, '-cf', '-', '.'],
          keepStdin: false,
        })
        const tar = await inTime(answerMs, (signal) => startTar(guest, request, signal))
        return await begun(moving(tarOutput(guest, tar, request.execId), answerMs))
      } catch (error) {
        throw fileRefusal(await explainLost(door, { ...at, guest }, error), folder.toString())
      }
    },

    async unpack(at: ArchivePlace, body: Readable): Promise<Entry> {
      const { path: folder } = at
      const { guest } = await door.open(at.sandboxId, at.caller)
      checkRoom({ grows: true })
      try {
        await inTime(answerMs, (signal) => makeFolder(guest, folder, signal))
        const { tar, execId } = await inTime(answerMs, (signal) => startUnpacking(guest, folder, newExecId, signal))
        await whileMoving(body, answerMs, (signal) => feed(guest, { tar, execId, body, signal }))
        return await inTime(answerMs, (signal) => guest.stat(folder, { signal }))
      } catch (error) {
        throw fileRefusal(await explainLost(door, { ...at, guest }, error), folder.toString())
      }
    },
  }
}

async function makeFolder(guest: GuestConnection, folder: SandboxPath, signal: AbortSignal): Promise<void> {
  try {
    await guest.mkdir(folder, { parents: true, signal })
  } catch (error) {
    const isOther = error instanceof GuestError && error.code === 'exists'
    throw isOther ? new GuestError('not_a_directory', 'There is something else at this path.') : error
  }
}

interface TarWish {
  user: string
  arguments: SandboxPath[]
  keepStdin: boolean
}

function tarRequest(execId: string, { user, arguments: rest, keepStdin }: TarWish): ExecRequest {
  const env = { ...environmentOf(user, { sandbox: {}, pty: false }), LC_ALL: 'C' }
  return { execId, argv: ['tar', ...rest], env, cwd: '/', user, timeoutMs: LONGEST_MS, keepStdin, tag: INTERNAL_TAG }
}

async function startTar(guest: GuestConnection, request: ExecRequest, signal: AbortSignal): Promise<ExecStream> {
  try {
    return await guest.exec(request, { signal })
  } catch (error) {
    if (!(error instanceof GuestError) || (error.code !== 'not_found' && error.code !== 'not_executable')) throw error
    throw new DeltaError('not_supported', 'There is no tar in this sandbox', { cause: 'tar is not installed inside' })
  }
}

/** As `user`, like everything that is put into a sandbox; as root where the template has no such user. */
async function startUnpacking(
  guest: GuestConnection,
  folder: SandboxPath,
  newExecId: () => string,
  signal: AbortSignal,
): Promise<{ tar: ExecStream; execId: string }> {
  const begin = async (user: string) => {
    const request = tarRequest(newExecId(), {
      user,
      arguments: ['-C', folder, '--no-same-owner', '-xf', '-'],
      keepStdin: true,
    })
    return { tar: await startTar(guest, request, signal), execId: request.execId }
  }
  try {
    return await begin('user')
  } catch (error) {
    if (error instanceof GuestError && error.code === 'unknown_user') return begin('root')
    throw error
  }
}

/** The archive. Ends only when tar has ended well; a reader that leaves ends tar. */
function tarOutput(guest: GuestConnection, tar: ExecStream, execId: string): AsyncIterableIterator<Buffer> {
  const output = tar.output
  let complaint = ''
  let expected = 0
  let over = false

  async function next(): Promise<IteratorResult<Buffer, undefined>> {
    for (;;) {
      const step = await output.next()
      if (over) return { done: true, value: undefined }
      if (step.done === true) break
      const chunk: ExecOutput = step.value
      if (chunk.offset !== expected) throw new DeltaError('file_io_failed', 'A part of the archive was lost on its way')
      expected = chunk.offset + chunk.bytes.length
      if (chunk.stream === 'stdout') return { done: false, value: chunk.bytes }
      complaint = (complaint + chunk.bytes.toString('latin1')).slice(0, COMPLAINT_BYTES)
    }
    over = true
    const exit = await tar.exit
    forget(guest, execId)
    // 1 is GNU tar's word for files that changed while they were read: the archive is whole.
    if (exit.kind !== 'exited' || exit.timedOut || exit.value > 1) throw tarFailure('pack', exit, complaint)
    return { done: true, value: undefined }
  }

  function leave(): void {
    if (over) return
    over = true
    end(guest, tar, execId)
  }

  return {
    async next() {
      if (over) return { done: true, value: undefined }
      try {
        return await next()
      } catch (error) {
        leave()
        throw error
      }
    },
    return() {
      leave()
      return Promise.resolve({ done: true, value: undefined })
    },
    [Symbol.asyncIterator]() {
      return this
    },
  }
}

/** The same sequence, after its first chunk has come. */
async function begun(body: AsyncIterableIterator<Buffer>): Promise<AsyncIterableIterator<Buffer>> {
  let first: IteratorResult<Buffer> | undefined = await body.next()
  const all: AsyncIterableIterator<Buffer> = {
    next() {
      if (first === undefined) return body.next()
      const step = first
      first = undefined
      return Promise.resolve(step)
    },
    return: () => body.return!(),
    [Symbol.asyncIterator]: () => all,
  }
  return all
}

interface Feeding {
  tar: ExecStream
  execId: string
  body: Readable
  signal: AbortSignal
}

async function feed(guest: GuestConnection, { tar, execId, body, signal }: Feeding): Promise<void> {
  let complaint = ''
  const ended = tar.consume(({ stream, bytes }) => {
    if (stream === 'stderr') complaint = (complaint + bytes.toString('latin1')).slice(0, COMPLAINT_BYTES)
  })
  ended.catch(() => {})
  const onAbort = () => tar.detach()
  signal.addEventListener('abort', onAbort, { once: true })
  try {
    // tar may end before the body does: at a fault, or at the archive's own end with padding behind it.
    if (await pour(body, tar.writeStdin, tar.exit)) tar.closeStdin()
    else body.resume()
    const exit = await ended
    forget(guest, execId)
    if (exit.kind !== 'exited' || exit.timedOut || exit.value !== 0) throw tarFailure('unpack', exit, complaint)
  } catch (error) {
    end(guest, tar, execId)
    throw error
  } finally {
    signal.removeEventListener('abort', onAbort)
  }
}

function tarFailure(act: 'pack' | 'unpack', exit: ExecExit, complaint: string): DeltaError {
  const how = exit.kind === 'exited' ? `tar ended with ${exit.value}` : `tar was ended by signal ${exit.value}`
  const options = { cause: complaint.trim() || how }
  if (exit.timedOut) return new DeltaError('guest_timed_out', 'The archive took too long', options)
  if (/No space left on device|Disk quota exceeded/.test(complaint)) {
    return new DeltaError('disk_full', 'The disk of the sandbox is full; a part of the archive was unpacked', options)
  }
  if (/Permission denied|Operation not permitted|Read-only file system/.test(complaint)) {
    return new DeltaError('permission_denied', `The sandbox does not permit to ${act} all of it`, options)
  }
  if (act === 'unpack' && exit.kind === 'exited')
    return new DeltaError('archive_invalid', 'The archive could not be unpacked', options)
  return new DeltaError('file_io_failed', `The folder could not be ${act}ed`, options)
}

/** Unlike an exec's, the process has no purpose without the request. */
function end(guest: GuestConnection, tar: ExecStream, execId: string): void {
  tar.detach()
  guest.signal(execId, SIGKILL, 'session').then(
    () => forget(guest, execId),
    () => {},
  )
}

/** Its record is of no use to anybody; where the guest is gone, so is the record. */
function forget(guest: GuestConnection, execId: string): void {
  guest.forget(execId).catch(() => {})
}
