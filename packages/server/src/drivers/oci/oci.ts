import { closeSync, constants, openSync } from 'node:fs'
import { connect as connectSocket, type Socket } from 'node:net'
import type { Duplex } from 'node:stream'
import type { Reader, Writer } from '../../guest/codec.ts'
import { DeltaError, type ErrorCode } from '../../kernel/errors.ts'
import { connectInPlace } from '../../kernel/in-place.ts'
import type { Logger } from '../../kernel/log.ts'
import { deathCauses, roomStates } from '../driver.ts'
import type {
  Box,
  BoxSpec,
  BoxState,
  BoxStatus,
  BoxUse,
  DeathCause,
  Driver,
  Finding,
  Room,
  TemplateStatus,
} from '../driver.ts'
import { createHelperCalls, HelperRefusal } from './calls.ts'
import { connectStream, readChanges, readStream, sendStream } from './streams.ts'

// The numbers of docs/helper-protocol.md.
const requests = {
  info: 1,
  create: 2,
  end: 3,
  freeze: 4,
  thaw: 5,
  stats: 6,
  list: 7,
  dropUpper: 8,
  templates: 9,
  buildTemplate: 10,
  doctor: 11,
  usage: 12,
  limits: 13,
  snapshot: 14,
  makeUpper: 15,
  dropSnapshot: 16,
  disks: 17,
  pack: 18,
  apply: 19,
  changes: 20,
  read: 21,
  makeVolume: 22,
  dropVolume: 23,
  measure: 24,
} as const
const news = { boxDied: 100, shutdown: 101, room: 102 } as const
const boxStates: Record<number, BoxState> = { 1: 'running', 2: 'frozen' }
/** The number of a dead box whose cause is the first of `deathCauses`. */
const firstDead = 3

const shortMs = 30_000
/** Boxes measured by one call: their ids fit into a request, and the answer keeps nobody waiting. */
const measuredAtOnce = 128
/** Making and ending a box take milliseconds; under a flood of them on a slow disk, seconds. */
const boxMs = 60_000
/** A template fetches packages over whatever network there is. */
const buildMs = 2 * 60 * 60_000
/** A stream waits until one of the helper's few is free, and each takes minutes where it is long. */
const streamMs = 10 * 60_000
/** How long a guest may take to listen: gVisor makes its socket itself, after it was started. */
const connectMs = 5_000
const connectRetryMs = { first: 1, most: 50 }
/** Names, states and sentences in answers. */
const maxTextBytes = 16 * 1024
/** A unix socket's address holds 108 bytes with its end. */
const maxSocketPathBytes = 107
/** The helper gives each box a range of this many. */
const uidsPerBox = 65_536
/** gVisor answers system calls itself. */
const ownKernelRuntimes = ['runsc']
const unknownBytes = 0xffff_ffff_ffff_ffffn
/** O_PATH: names the folder without needing the right to list it. */
const openPath = 0o10000000

export type ShutdownMode = 'stop' | 'leave'

export interface OciDriver extends Driver {
  /** The helper wants this process to end: with its sandboxes, or leaving them running. Returns the function that stops listening. */
  onShutdown(listener: (mode: ShutdownMode) => void): () => void
  /** Resolves when the helper is gone; nothing works any more and the process should end. */
  readonly closed: Promise<void>
}

/**
 * Boxes made by the privileged helper with an OCI runtime. `wireDir` is where the guests' sockets lie. Its path may be of any length: an
 * address that would be too long is reached through `/proc/self/fd` of the open folder.
 */
export function createOciDriver(deps: { helper: Duplex; wireDir: string; log: Logger }): OciDriver {
  const { helper, wireDir, log } = deps
  const deathListeners = new Set<(boxId: string, cause: DeathCause) => void>()
  const shutdownListeners = new Set<(mode: ShutdownMode) => void>()
  /** Where each box listens, as far as this process was told; `list` tells the rest. */
  const wires = new Map<string, string>()
  let wireFolder: number | undefined
  let room: Room = { state: 'fine' }

  const calls = createHelperCalls({
    helper,
    log,
    onNews(type, reader) {
      if (type === news.boxDied) {
        const boxId = reader.str('boxId', maxTextBytes)
        const cause = deathCauses[reader.u8('cause')] ?? 'guest_died'
        wires.delete(boxId)
        for (const listener of Array.from(deathListeners)) listener(boxId, cause)
      } else if (type === news.shutdown) {
        const mode = reader.u8('mode') === 1 ? 'stop' : 'leave'
        for (const listener of Array.from(shutdownListeners)) listener(mode)
      } else if (type === news.room) {
        const before = room.state
        room = readRoom(reader)
        if (room.state !== before) log[room.state === 'fine' ? 'info' : 'error']('pool_room', { ...room })
      }
    },
  })
  void calls.closed.then(() => {
    if (wireFolder !== undefined) closeSync(wireFolder)
  })

  const refusalOf = async (error: unknown, spec: BoxSpec): Promise<unknown> => {
    if (!(error instanceof HelperRefusal)) return error
    if (error.code === 'not_found') return missingPart(error, spec, await driver.templates())
    if (room.state === 'read_only' || (error.code === 'io' && (await driver.usage()).readOnly)) {
      return new DeltaError('pool_read_only', 'The storage pool has turned read-only', { cause: error.message })
    }
    if (error.code === 'not_supported' && spec.runtime !== undefined) {
      return new DeltaError('runtime_not_available', `The runtime ${spec.runtime} is not available`, {
        cause: error.message,
      })
    }
    return explain(error, 'The sandbox could not be made')
  }

  const simple = <Answer>(
    what: string,
    request: { type: number; timeoutMs?: number; text?: string; read?: (reader: Reader) => Answer },
  ): Promise<Answer> =>
    calls
      .call({
        type: request.type,
        timeoutMs: request.timeoutMs ?? shortMs,
        ...(request.text !== undefined && { write: (writer) => writer.str(request.text!) }),
        read: request.read ?? (() => undefined as Answer),
      })
      .catch((error: unknown) => {
        throw explain(error, what)
      })

  /** A request about disks. */
  const onDisk = async <Answer = undefined>(what: string, request: DiskRequest<Answer>): Promise<Answer> => {
    const { type, timeoutMs = boxMs, write = () => undefined, read = () => undefined as Answer, codes } = request
    try {
      return await calls.call({ type, timeoutMs, write, read })
    } catch (error) {
      throw await diskRefusal(error, what, codes)
    }
  }

  const diskRefusal = async (
    error: unknown,
    what: string,
    codes: Partial<Record<string, ErrorCode>> = {},
  ): Promise<unknown> => {
    if (!(error instanceof HelperRefusal)) return error
    if (error.code === 'io' && (room.state === 'read_only' || (await driver.usage()).readOnly)) {
      return new DeltaError('pool_read_only', 'The storage pool has turned read-only', { cause: error.message })
    }
    const code = codes[error.code] ?? diskCodes[error.code]
    return code ? new DeltaError(code, what, { cause: error.message }) : explain(error, what)
  }

  /** Asks for a stream and connects to it. */
  const openStream = async (what: string, request: StreamRequest): Promise<Socket> => {
    const { passing = false } = request
    const wirePath = await onDisk(what, { ...request, timeoutMs: streamMs, read: readWirePath })
    const open = ({ path }: { path: string }): Socket => connectStream({ path, passing })
    return openSocket(addressAt(wirePath), undefined, open).catch((cause: unknown) => {
      throw new DeltaError('driver_failed', what, { cause })
    })
  }

  /** The bytes of a stream that the helper sends. */
  async function* received(what: string, request: StreamRequest): AsyncGenerator<Uint8Array> {
    try {
      yield* readStream(await openStream(what, request))
    } catch (error) {
      throw await diskRefusal(error, what, request.codes)
    }
  }

  const addressOf = async (boxId: string): Promise<string> => {
    if (!wires.has(boxId)) await driver.list()
    const wirePath = wires.get(boxId)
    if (!wirePath) throw new DeltaError('guest_unreachable', `The box ${boxId} is not there`)
    return addressAt(wirePath)
  }

  const addressAt = (wirePath: string): string => {
    const path = `${wireDir}/${wirePath}`
    if (Buffer.byteLength(path) <= maxSocketPathBytes) return path
    wireFolder ??= openSync(wireDir, openPath | constants.O_DIRECTORY)
    return `/proc/self/fd/${wireFolder}/${wirePath}`
  }

  const driver: OciDriver = {
    name: 'oci',
    closed: calls.closed,

    info: () =>
      simple('The privileged helper could not describe itself', {
        type: requests.info,
        read(reader) {
          const version = text(reader, 'version')
          const runtime = text(reader, 'runtime')
          const runtimeVersion = text(reader, 'runtimeVersion')
          const cgroup = text(reader, 'cgroup')
          const pool = text(reader, 'pool')
          reader.u32('uidBase')
          reader.u32('uidCount')
          const templates = texts(reader, 'templates')
          const warnings = texts(reader, 'warnings')
          const kernel = text(reader, 'kernel')
          log.debug('helper_info', { version, runtime, runtimeVersion, cgroup, pool, kernel })
          return { name: 'oci', runtime, runtimeVersion, cgroup, pool, kernel, ownKernelRuntimes, templates, warnings }
        },
      }),

    async create(spec) {
      try {
        const box = await calls.call({
          type: requests.create,
          timeoutMs: boxMs,
          write: (writer) =>
            writer
              .str(spec.boxId)
              .str(spec.upperId)
              .u8(spec.fresh ? 1 : 0)
              .str(spec.template)
              .str(spec.runtime ?? '')
              .u32(spec.cpuMilli)
              .u32(spec.memoryMb)
              .u32(spec.diskMb)
              .u32(spec.processes)
              .str(spec.hostname)
              .list(spec.volumes ?? [], (item, { volumeId, path, readOnly }) =>
                item
                  .str(volumeId)
                  .str(path)
                  .u8(readOnly ? 1 : 0),
              ),
          read: (reader) => readBox(reader, spec.boxId),
        })
        wires.set(spec.boxId, box.wirePath)
        return { boxId: box.boxId, pid: box.pid, uids: box.uids, timings: box.timings }
      } catch (error) {
        throw await refusalOf(error, spec)
      }
    },

    async end(boxId, { keepUpper }) {
      wires.delete(boxId)
      await calls
        .call({
          type: requests.end,
          timeoutMs: boxMs,
          write: (writer) => writer.str(boxId).u8(keepUpper ? 1 : 0),
          read: () => undefined,
        })
        .catch((error: unknown) => {
          throw explain(error, 'The sandbox could not be ended')
        })
    },

    freeze: (boxId) => simple('The sandbox could not be paused', { type: requests.freeze, text: boxId }),
    thaw: (boxId) => simple('The sandbox could not be resumed', { type: requests.thaw, text: boxId }),

    async setLimits(boxId, { cpuMilli, memoryMb, diskMb, processes }) {
      await calls
        .call({
          type: requests.limits,
          timeoutMs: shortMs,
          write: (writer) => writer.str(boxId).u32(cpuMilli).u32(memoryMb).u32(diskMb).u32(processes),
          read: () => undefined,
        })
        .catch((error: unknown) => {
          throw explain(error, 'The limits of the sandbox could not be changed')
        })
    },

    stats: (boxId) =>
      simple('The sandbox could not be measured', {
        type: requests.stats,
        text: boxId,
        read: (reader) => ({
          cpuMicros: reader.size('cpuMicros'),
          memoryBytes: reader.size('memoryBytes'),
          memoryPeakBytes: reader.size('memoryPeakBytes'),
          memoryLimitBytes: reader.size('memoryLimitBytes'),
          oomKills: reader.size('oomKills'),
          processes: reader.u32('processes'),
          diskBytes: knownBytes(reader.u64('diskBytes')),
          diskLimitBytes: reader.size('diskLimitBytes'),
        }),
      }),

    async measure(boxIds) {
      const measured = new Map<string, BoxUse>()
      for (let from = 0; from < boxIds.length; from += measuredAtOnce) {
        const asked = boxIds.slice(from, from + measuredAtOnce)
        const answer = calls.call({
          type: requests.measure,
          timeoutMs: shortMs,
          write: (writer) => writer.list(asked, (item, boxId) => item.str(boxId)),
          read: (reader) =>
            reader.list('boxes', 20, (item) => {
              const boxId = item.str('boxId', maxTextBytes)
              return { boxId, cpuMicros: item.size('cpuMicros'), memoryBytes: item.size('memoryBytes') }
            }),
        })
        const found = await answer.catch((error: unknown) => {
          throw explain(error, 'The sandboxes could not be measured')
        })
        for (const { boxId, ...use } of found) measured.set(boxId, use)
      }
      return measured
    },

    async list() {
      const { boxes, upperIds } = await simple('The sandboxes could not be listed', {
        type: requests.list,
        read: (reader) => ({
          boxes: reader.list('boxes', 21, readBoxStatus),
          upperIds: texts(reader, 'upperIds'),
        }),
      })
      for (const { status, wirePath } of boxes) {
        if (status.state === 'dead') wires.delete(status.boxId)
        else wires.set(status.boxId, wirePath)
      }
      return { boxes: boxes.map(({ status }) => status), upperIds }
    },

    dropUpper: (upperId) => simple('The disk could not be removed', { type: requests.dropUpper, text: upperId }),

    snapshot: (upperId, snapshotId) =>
      onDisk('The snapshot could not be taken', {
        type: requests.snapshot,
        timeoutMs: streamMs,
        write: (writer) => writer.str(upperId).str(snapshotId),
        read: (reader) => ({
          flushMicros: reader.size('flushMicros'),
          frozenMicros: reader.size('frozenMicros'),
          bytes: knownBytes(reader.u64('bytes')),
        }),
      }),

    makeUpper: ({ upperId, from, diskMb, empty = false }) =>
      onDisk('The disk could not be made', {
        type: requests.makeUpper,
        timeoutMs: streamMs,
        write: (writer) =>
          writer
            .str(upperId)
            .str(from)
            .u32(diskMb)
            .u8(empty ? 1 : 0),
      }),

    dropSnapshot: (snapshotId) =>
      onDisk('The snapshot could not be removed', {
        type: requests.dropSnapshot,
        write: (writer) => writer.str(snapshotId),
      }),

    disks: () =>
      onDisk('The disks could not be listed', {
        type: requests.disks,
        read: (reader) => ({
          snapshots: reader.list('snapshots', 8, (item) => ({
            snapshotId: text(item, 'snapshotId'),
            template: text(item, 'template'),
          })),
          volumeIds: texts(reader, 'volumeIds'),
        }),
      }),

    pack: ({ source, parent = '' }) =>
      received('The snapshot could not be packed', {
        type: requests.pack,
        write: (writer) => writer.str(source).str(parent),
        passing: true,
      }),

    async apply({ upperId, maxBytes, maxEntries }, tar) {
      const what = 'The layer could not be unpacked'
      const codes = { invalid: 'layer_invalid', limit: 'layer_too_large' } as const
      const write = (writer: Writer) => writer.str(upperId).u64(maxBytes).u64(maxEntries)
      const socket = await openStream(what, { type: requests.apply, write })
      try {
        return await sendStream(socket, tar)
      } catch (error) {
        throw await diskRefusal(error, what, codes)
      }
    },

    changes: ({ snapshotId, parent = '' }) =>
      readChanges(
        received('The snapshots could not be compared', {
          type: requests.changes,
          write: (writer) => writer.str(snapshotId).str(parent),
        }),
      ),

    readFile: ({ snapshotId, path }) =>
      received('The file could not be read', {
        type: requests.read,
        write: (writer) => writer.str(snapshotId).str(path),
        codes: { not_found: 'file_not_found', invalid: 'not_a_file' },
      }),

    makeVolume: ({ volumeId, diskMb }) =>
      onDisk('The volume could not be made', {
        type: requests.makeVolume,
        write: (writer) => writer.str(volumeId).u32(diskMb),
      }),

    dropVolume: (volumeId) =>
      onDisk('The volume could not be removed', {
        type: requests.dropVolume,
        write: (writer) => writer.str(volumeId),
      }),

    async connect(boxId, { signal } = {}) {
      const endsAt = performance.now() + connectMs
      for (let pauseMs = connectRetryMs.first; ; pauseMs = Math.min(pauseMs * 2, connectRetryMs.most)) {
        signal?.throwIfAborted()
        const address = await addressOf(boxId)
        try {
          return await openSocket(address, signal, connectInPlace)
        } catch (cause) {
          signal?.throwIfAborted()
          const { code = '' } = cause as NodeJS.ErrnoException
          if (outOfFiles.has(code)) {
            throw new DeltaError('capacity_exhausted', 'The server has no descriptor left for another connection', {
              cause,
            })
          }
          const waits = notListening.has(code)
          if (!waits || performance.now() + pauseMs > endsAt) {
            throw new DeltaError('guest_unreachable', `The box ${boxId} does not accept connections`, { cause })
          }
        }
        await new Promise((resolve) => setTimeout(resolve, pauseMs))
        // News of its death has removed the address: without this the next round would ask the helper again and again.
        if (!wires.has(boxId)) throw new DeltaError('guest_unreachable', `The box ${boxId} has ended`)
      }
    },

    templates: () =>
      simple('The templates could not be listed', {
        type: requests.templates,
        read: (reader) => reader.list('templates', 12, readTemplate),
      }),

    async buildTemplate(name) {
      try {
        await calls.call({
          type: requests.buildTemplate,
          timeoutMs: buildMs,
          write: (writer) => writer.str(name),
          read: () => undefined,
        })
      } catch (error) {
        if (!(error instanceof HelperRefusal)) throw error
        const code = buildCodes[error.code] ?? 'template_build_failed'
        throw new DeltaError(code, `The template ${name} could not be built`, { cause: error.message })
      }
    },

    doctor: () =>
      simple('The machine could not be examined', {
        type: requests.doctor,
        timeoutMs: boxMs,
        read: (reader) => reader.list('findings', 16, readFinding),
      }),

    usage: () =>
      simple('The pool could not be measured', {
        type: requests.usage,
        read: (reader) => ({
          totalBytes: reader.size('poolTotal'),
          usedBytes: reader.size('poolUsed'),
          backingFreeBytes: reader.size('backingFree'),
          reserveBytes: reader.size('reserveBytes'),
          readOnly: reader.flag('readOnly'),
        }),
      }),

    room: () => room,

    onDeath(listener) {
      deathListeners.add(listener)
      return () => void deathListeners.delete(listener)
    },

    onShutdown(listener) {
      shutdownListeners.add(listener)
      return () => void shutdownListeners.delete(listener)
    },

    async close() {
      calls.close()
      await calls.closed
    },
  }
  return driver
}

/** Not yet listening, or (EAGAIN) its queue of connections is full for a moment. */
const notListening = new Set(['ENOENT', 'ECONNREFUSED', 'EAGAIN'])

const buildCodes: Record<string, ErrorCode> = { not_found: 'template_not_found', no_space: 'disk_full' }

interface DiskRequest<Answer = undefined> {
  type: number
  timeoutMs?: number
  write?: (writer: Writer) => void
  read?: (reader: Reader) => Answer
  codes?: Partial<Record<string, ErrorCode>>
}

/** `passing`: what was read may be written over when more is asked for. @default false */
type StreamRequest = DiskRequest & { passing?: boolean }

/** Of this process, or of the whole machine. */
const outOfFiles: ReadonlySet<string> = new Set(['EMFILE', 'ENFILE'])

const diskCodes: Partial<Record<string, ErrorCode>> = {
  not_found: 'disk_not_found',
  exists: 'disk_exists',
  busy: 'disk_in_use',
}

const refusalCodes: Record<string, ErrorCode> = {
  no_space: 'disk_full',
  limit: 'capacity_exhausted',
  invalid: 'invalid_request',
  timed_out: 'driver_timed_out',
  not_supported: 'not_supported',
  canceled: 'canceled',
}

function explain(error: unknown, what: string): unknown {
  if (!(error instanceof HelperRefusal)) return error
  return new DeltaError(refusalCodes[error.code] ?? 'driver_failed', what, { cause: error.message })
}

/** `not_found` of CREATE may mean the template or the disk. */
function missingPart(error: HelperRefusal, spec: BoxSpec, templates: TemplateStatus[]): DeltaError {
  const template = templates.find(({ name }) => name === spec.template)
  const cause = error.message
  if (!template) return new DeltaError('template_not_found', `There is no template ${spec.template}`, { cause })
  if (template.state !== 'ready') {
    return new DeltaError('template_not_ready', `The template ${spec.template} is ${template.state}`, { cause })
  }
  return new DeltaError('driver_failed', 'Something the sandbox is made of is missing', { cause })
}

function text(reader: Reader, what: string): string {
  return reader.str(what, maxTextBytes)
}

function texts(reader: Reader, what: string): string[] {
  return reader.list(what, 4, (item) => item.str(what, maxTextBytes))
}

function knownBytes(bytes: bigint): number | null {
  return bytes === unknownBytes ? null : Number(bytes)
}

function readBox(reader: Reader, boxId: string): Required<Box> & { wirePath: string } {
  const pid = reader.u32('pid')
  const uids = { first: reader.u32('uidFirst'), count: uidsPerBox }
  const wirePath = readWirePath(reader)
  const timings = reader.list('timings', 8, (item) => ({ phase: text(item, 'phase'), micros: item.u32('micros') }))
  return { boxId, pid, uids, wirePath, timings }
}

function readBoxStatus(reader: Reader): { status: BoxStatus; wirePath: string } {
  const boxId = text(reader, 'boxId')
  const upperId = text(reader, 'upperId')
  const number = reader.u8('state')
  const state = boxStates[number] ?? 'dead'
  const cause = deathCauses[number - firstDead]
  reader.u32('pid')
  const wirePath = readWirePath(reader)
  const template = text(reader, 'template')
  return { status: { boxId, upperId, state, template, ...(cause && { cause }) }, wirePath }
}

/** The helper is trusted; that a path stays within the folder costs nothing to see to. */
function readWirePath(reader: Reader): string {
  const path = text(reader, 'wirePath')
  if (path.startsWith('/') || path.split('/').includes('..') || path.includes('\0')) {
    throw new DeltaError('driver_failed', 'The privileged helper named a socket outside of its folder')
  }
  return path
}

function readTemplate(reader: Reader): TemplateStatus {
  const name = text(reader, 'name')
  const state = text(reader, 'state')
  const known = ['ready', 'missing', 'building', 'failed'] as const
  return { name, state: known.find((each) => each === state) ?? 'failed', detail: text(reader, 'detail') }
}

function readRoom(reader: Reader): Room {
  const state = roomStates[reader.u8('room')] ?? 'low'
  return { state, freeBytes: reader.size('backingFree'), reserveBytes: reader.size('reserveBytes') }
}

function readFinding(reader: Reader): Finding {
  const name = text(reader, 'name')
  const status = text(reader, 'status')
  const known = ['ok', 'warn', 'fail'] as const
  return {
    name,
    status: known.find((each) => each === status) ?? 'fail',
    found: text(reader, 'found'),
    meaning: text(reader, 'meaning'),
  }
}

function openSocket(
  path: string,
  signal: AbortSignal | undefined,
  open: (options: { path: string }) => Socket = connectSocket,
): Promise<Socket> {
  return new Promise((resolve, reject) => {
    const socket = open({ path })
    const settle = (finish: () => void): void => {
      signal?.removeEventListener('abort', onAbort)
      socket.removeListener('error', onError)
      finish()
    }
    const onAbort = (): void =>
      settle(() => {
        socket.destroy()
        reject(signal!.reason as Error)
      })
    const onError = (error: Error): void => settle(() => reject(error))
    signal?.addEventListener('abort', onAbort, { once: true })
    socket.once('error', onError)
    socket.once('connect', () => settle(() => resolve(socket)))
  })
}
