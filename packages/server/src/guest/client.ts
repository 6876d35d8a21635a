import { call } from './call.ts'
import { openDialChannel } from './dial-channel.ts'
import { dialPort, egressRequest } from './dial.ts'
import { GuestError } from './errors.ts'
import { openExec } from './exec.ts'
import { listEntries, openWatch, openWrite, readFile, readFileStream, writeFileFrom } from './files.ts'
import { createLink } from './link.ts'
import {
  ops,
  readEntry,
  readExecs,
  readMetrics,
  readRemoved,
  readStarted,
  writeAttach,
  writeBare,
  writeChmod,
  writeClock,
  writeExec,
  writeForget,
  writeMemory,
  writeMkdir,
  writeMove,
  writePathFlag,
  writeSignal,
} from './messages.ts'
import type { Duplex, Readable } from 'node:stream'
import type { HeldAccount } from '../kernel/held-bytes.ts'
import type { CallOptions } from './call.ts'
import type { DialChannel, DialListener } from './dial-channel.ts'
import type { EgressRequest } from './dial.ts'
import type { ExecStream } from './exec.ts'
import type { FileRead, FileWrite, ListOptions, ListPage, ReadOptions, Watch } from './files.ts'
import type { GuestLog, Link } from './link.ts'
import type { Entry, ExecInfo, ExecRequest, GuestMetrics, Hello, PathInput, WriteOptions } from './messages.ts'

export { GuestError } from './errors.ts'
export type { Bridge, BridgeEnd } from './bridge.ts'
export type { CallOptions } from './call.ts'
export type { DialChannel, DialListener } from './dial-channel.ts'
export type { EgressRequest } from './dial.ts'
export type { GuestErrorCode, GuestErrorName } from './errors.ts'
export type { ExecOutput, ExecStream } from './exec.ts'
export type { FileRead, FileWrite, ListOptions, ListPage, ReadOptions, Watch } from './files.ts'
export type { GuestLog } from './link.ts'
export type {
  Entry,
  ExecExit,
  ExecInfo,
  ExecRequest,
  GuestMetrics,
  PathInput,
  WatchEvent,
  WriteOptions,
} from './messages.ts'

const defaultHelloTimeoutMs = 10_000

export interface ConnectOptions {
  log?: GuestLog | undefined
  /** How long the guest may take to say HELLO. @default 10000 */
  helloTimeoutMs?: number | undefined
  /** Only on TCP. */
  token?: Buffer | undefined
  signal?: AbortSignal | undefined
  /** As `onEgress`, from the first frame on: a guest one comes back to may want connections at once. */
  onEgress?: ((request: EgressRequest) => void) | undefined
  /** Where the memory for bytes that wait comes from. @default as much as all sandboxes may hold together */
  held?: HeldAccount | undefined
  /** @default performance.now */
  monotonic?: (() => number) | undefined
}

/**
 * A guest at the other end of one stream. Every call rejects with `GuestError`: the protocol's codes, `connection_lost` when the
 * connection ended first, `protocol_error` when the guest broke the protocol. No call has a timeout of its own: pass a `signal`.
 */
export interface GuestConnection {
  /** Random per life of the guest, in hex: another one means that every exec is gone. */
  readonly bootId: string
  readonly features: bigint
  /** Memory for bytes of this sandbox that wait for somebody. */
  readonly held: HeldAccount
  /** Resolves when the connection has ended, for whatever reason. */
  readonly closed: Promise<void>
  /** Channels that are open, both sides' together. */
  readonly channels: number
  /** Why it ended. */
  readonly error: GuestError | undefined
  exec(request: ExecRequest, options?: CallOptions): Promise<ExecStream>
  /** In the background: resolves as soon as the process has started. */
  start(request: ExecRequest, options?: CallOptions): Promise<{ pid: number; known: boolean }>
  /** `from`: the offset the caller has the output up to. `stdin`: whether this channel may write it. */
  attach(
    execId: string,
    options?: CallOptions & { from?: number | undefined; stdin?: boolean | undefined },
  ): Promise<ExecStream>
  /** Newest first. */
  execs(options?: CallOptions): Promise<ExecInfo[]>
  signal(execId: string, signal: number, scope: 'process' | 'session', options?: CallOptions): Promise<void>
  /** Drops the output and status of an exec that has ended. */
  forget(execId: string, options?: CallOptions): Promise<void>
  /** @default follow symlinks */
  stat(path: PathInput, options?: CallOptions & { follow?: boolean | undefined }): Promise<Entry>
  list(path: PathInput, options?: ListOptions): Promise<ListPage>
  read(path: PathInput, options?: ReadOptions): Promise<FileRead>
  readStream(path: PathInput, options?: ReadOptions): Promise<{ entry: Entry; stream: Readable }>
  write(path: PathInput, options?: WriteOptions & CallOptions): Promise<FileWrite>
  writeFrom(path: PathInput, source: Readable, options?: WriteOptions & CallOptions): Promise<Entry>
  mkdir(
    path: PathInput,
    options?: CallOptions & { mode?: number | undefined; owner?: string | undefined; parents?: boolean | undefined },
  ): Promise<Entry>
  move(from: PathInput, to: PathInput, options?: CallOptions & { overwrite?: boolean | undefined }): Promise<Entry>
  remove(path: PathInput, options?: CallOptions & { recursive?: boolean | undefined }): Promise<number>
  chmod(path: PathInput, mode: number, options?: CallOptions): Promise<Entry>
  watch(path: PathInput, options?: CallOptions & { recursive?: boolean | undefined }): Promise<Watch>
  /** A connection to a port inside, on its loopback. */
  dial(port: number, options?: CallOptions): Promise<Duplex>
  /** The same without a stream around it: no buffer, no promise, and what it costs is a frame each way. */
  dialChannel(port: number, listener: DialListener): DialChannel
  metrics(options?: CallOptions): Promise<GuestMetrics>
  /** Everything written inside is on the disk when it resolves. */
  sync(options?: CallOptions): Promise<void>
  clock(unixNanos: bigint, options?: CallOptions): Promise<void>
  /** Tells the guest of a memory limit that was changed after it had started: the output it keeps follows it. */
  setMemory(limitMb: number, options?: CallOptions): Promise<void>
  /** Without a handler every connection to the outside is refused. */
  onEgress(handler: ((request: EgressRequest) => void) | undefined): void
  /** Milliseconds there and back. Rejects with `timed_out`; the connection stays. */
  ping(timeoutMs: number): Promise<number>
  close(): void
}

/** Says HELLO on a stream that is already connected and takes it over: it is destroyed when the connection ends. */
export async function connectGuest(stream: Duplex, options: ConnectOptions = {}): Promise<GuestConnection> {
  const { log, token, held, monotonic, signal, helloTimeoutMs = defaultHelloTimeoutMs } = options
  const link = createLink(stream, { log, token, held, monotonic })
  listenForEgress(link, options.onEgress)
  const timer = setTimeout(() => {
    link.close(new GuestError('timed_out', `The guest did not say HELLO within ${helloTimeoutMs} ms.`))
  }, helloTimeoutMs)
  const onAbort = (): void => link.close(new GuestError('canceled', 'Connecting was canceled.'))
  if (signal?.aborted) onAbort()
  signal?.addEventListener('abort', onAbort, { once: true })
  let hello
  try {
    hello = await link.hello
  } finally {
    clearTimeout(timer)
    signal?.removeEventListener('abort', onAbort)
  }

  return createConnection(link, hello)
}

function createConnection(link: Link, hello: Hello): GuestConnection {
  return {
    bootId: hello.bootId,
    features: hello.features,
    held: link.held,
    closed: link.closed,
    get channels() {
      return link.channels
    },
    get error() {
      return link.error
    },
    exec: async (request, { signal } = {}) => openExec(link, writeExec(request, true), request.from ?? 0, signal),
    start: async (request, options = {}) => call(link, writeExec(request, false), readStarted, options),
    attach: async (execId, { from = 0, stdin = false, signal } = {}) =>
      openExec(link, writeAttach(execId, from, stdin), from, signal),
    execs: (options) => call(link, writeBare(ops.execs), readExecs, options),
    signal: async (execId, number, scope, options) =>
      call(link, writeSignal(execId, number, scope), readNothing, options),
    forget: async (execId, options) => call(link, writeForget(execId), readNothing, options),
    stat: async (path, { follow = true, signal } = {}) =>
      call(link, writePathFlag(ops.stat, path, follow), readEntry, { signal }),
    list: (path, options) => listEntries(link, path, options),
    read: (path, options) => readFile(link, path, options),
    readStream: (path, options) => readFileStream(link, path, options),
    write: (path, options) => openWrite(link, path, options),
    writeFrom: (path, source, options) => writeFileFrom(link, path, source, options),
    mkdir: async (path, { mode = 0o755, owner = '', parents = false, signal } = {}) =>
      call(link, writeMkdir(path, mode, owner, parents), readEntry, { signal }),
    move: async (from, to, { overwrite = false, signal } = {}) =>
      call(link, writeMove(from, to, overwrite), readEntry, { signal }),
    remove: async (path, { recursive = false, signal } = {}) =>
      call(link, writePathFlag(ops.remove, path, recursive), readRemoved, { signal }),
    chmod: async (path, mode, options) => call(link, writeChmod(path, mode), readEntry, options),
    watch: (path, options) => openWatch(link, path, options),
    dial: (port, options) => dialPort(link, port, options),
    dialChannel: (port, listener) => openDialChannel(link, port, listener),
    metrics: (options) => call(link, writeBare(ops.metrics), readMetrics, options),
    sync: (options) => call(link, writeBare(ops.sync), readNothing, options),
    clock: async (unixNanos, options) => call(link, writeClock(unixNanos), readNothing, options),
    setMemory: async (limitMb, options) => call(link, writeMemory(limitMb), readNothing, options),
    onEgress: (handler) => listenForEgress(link, handler),
    async ping(timeoutMs) {
      const started = performance.now()
      const { answer, forget } = link.ping()
      const late = Promise.withResolvers<never>()
      const timer = setTimeout(
        () => late.reject(new GuestError('timed_out', `The guest did not answer within ${timeoutMs} ms.`)),
        timeoutMs,
      )
      try {
        await Promise.race([answer, late.promise])
      } finally {
        clearTimeout(timer)
        forget()
      }
      return performance.now() - started
    },
    close() {
      link.close(new GuestError('connection_lost', 'The connection was closed here.'))
    },
  }
}

function listenForEgress(link: Link, handler: ((request: EgressRequest) => void) | undefined): void {
  if (!handler) return link.onGuestOpen(undefined)
  link.onGuestOpen((open) => {
    if (open.op !== ops.egress) return open.refuse('not_supported', `This host knows no operation ${open.op}.`)
    handler(egressRequest(link, open))
  })
}

function readNothing(): void {}
