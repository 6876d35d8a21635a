import { createWriter, WireError } from './codec.ts'
import { GuestError } from './errors.ts'
import type { RawText, Reader, Writer } from './codec.ts'

export const ops = {
  exec: 1,
  attach: 2,
  execs: 3,
  signal: 4,
  forget: 5,
  stat: 10,
  list: 11,
  read: 12,
  write: 13,
  mkdir: 14,
  move: 15,
  remove: 16,
  chmod: 17,
  watch: 18,
  dial: 20,
  egress: 21,
  metrics: 30,
  sync: 31,
  clock: 32,
  memory: 33,
} as const

const maxPathBytes = 4096
const maxNameBytes = 256
const maxExecIdBytes = 64
const maxExecs = 256
const modeIsExplicit = 0x8000_0000
const toTheEnd = 0xffff_ffff_ffff_ffffn
const magic = 'DELTA1'
const version = 1
const bootIdBytes = 16
const maxHostBytes = 255
const nothing = Buffer.alloc(0)

/** What a guest says of itself first. */
export interface Hello {
  /** In hex. */
  bootId: string
  features: bigint
}

/** A path of the sandbox. A Buffer where its bytes are no valid UTF-8. */
export type PathInput = string | Buffer

export interface ExecRequest {
  /** Chosen by the caller, 1–64 of [A-Za-z0-9_-]. A known one re-attaches; nothing is started twice. */
  execId: string
  /** A Buffer where an argument is not text. */
  argv: readonly (string | Buffer)[]
  /** The whole environment. */
  env: Readonly<Record<string, string>>
  cwd: string
  user: string
  /** 0 = none. */
  timeoutMs: number
  pty?: { cols: number; rows: number } | undefined
  keepStdin: boolean
  stdin?: Buffer | undefined
  /** Output offset to go on from, if the id is known. */
  from?: number | undefined
  tag?: string | undefined
  /** Replaces the argument `\0script` of argv by the path of a memory file with these bytes. */
  script?: Buffer | undefined
}

export interface ExecExit {
  kind: 'exited' | 'signalled' | 'unknown'
  /** Exit code or signal number. */
  value: number
  timedOut: boolean
  oomKilled: boolean
  /** All it produced, whether or not it was delivered here. */
  outputBytes: number
  durationMs: number
}

export interface ExecInfo {
  execId: string
  pid: number
  kind: 'exited' | 'signalled' | 'unknown' | 'running'
  value: number
  timedOut: boolean
  oomKilled: boolean
  startedUnixMs: number
  durationMs: number
  outputBytes: number
  /** Oldest output offset kept. */
  start: number
  argv: string[]
  cwd: string
  user: string
  tag: string
  pty: boolean
}

export interface Entry {
  path: string
  /** Only where the path is not valid UTF-8, so that `path` cannot name it again. */
  pathBytes?: Buffer
  type: 'file' | 'directory' | 'symlink' | 'other'
  /** Cut to 2⁵³−1. */
  size: number
  /** Permission bits with setuid, setgid and sticky. */
  mode: number
  uid: number
  gid: number
  owner: string
  group: string
  modifiedNanos: bigint
  inode: bigint
  target: string | null
  targetBytes?: Buffer
  etag: string
}

export interface WatchEvent {
  /** `overflow`: events were lost, look again. */
  kind: 'create' | 'write' | 'remove' | 'rename' | 'chmod' | 'overflow'
  path: string
  pathBytes?: Buffer
  isDirectory: boolean
}

export interface GuestMetrics {
  uptimeMs: number
  memUsedBytes: number
  memTotalBytes: number
  processes: number
  diskUsedBytes: number
  diskTotalBytes: number
  load1: number
  cpuUserMs: number
  cpuSystemMs: number
}

/** How a connection to the outside came to the guest, in the order of their numbers: CONNECT, a plain proxy request, redirected TCP. */
export const egressVias = ['connect', 'http', 'tcp'] as const

/** Where code inside wants to connect to. */
export interface EgressTarget {
  /** A name, or a literal address; IPv6 without brackets. */
  host: string
  port: number
  via: (typeof egressVias)[number]
}

export interface WriteOptions {
  /** @default 0o644 */
  mode?: number | undefined
  /** True: an existing file gets `mode` too, else it keeps its own. */
  modeExplicit?: boolean | undefined
  /** User name or `uid:gid`; empty = `user`, or root where there is none. */
  owner?: string | undefined
  makeParents?: boolean | undefined
  mustNotExist?: boolean | undefined
  /** Costs a disk flush: the answer comes when the file would survive a power cut. */
  fsync?: boolean | undefined
  /** ETag the existing file must have. */
  ifMatch?: string | undefined
}

// ── requests ─────────────────────────────────────────────────────────────────────────────────────────────────────────────────────

const flags = { pty: 1, keepStdin: 2, attach: 4 }

/** Fields of OPEN EXEC after the op. */
export function writeExec(request: ExecRequest, attach: boolean): Writer {
  if (request.argv.length === 0) throw new GuestError('invalid', 'An exec needs at least one argument.')
  const environment = Object.entries(request.env)
  for (const [name, value] of environment) {
    if (name === '' || name.includes('=') || hasNul(name) || hasNul(value)) {
      throw new GuestError(
        'invalid',
        `The environment variable ${JSON.stringify(name.slice(0, 100))} has a name or value no program can get.`,
      )
    }
  }
  const scriptArgument = request.script ? '\0script' : undefined
  for (const argument of request.argv) {
    if ((typeof argument === 'string' ? hasNul(argument) : argument.includes(0)) && argument !== scriptArgument)
      throw new GuestError('invalid', 'An argument holds a NUL character.')
  }
  for (const text of [request.cwd, request.user]) {
    if (hasNul(text)) throw new GuestError('invalid', 'The folder or user holds a NUL character.')
  }
  const chosen = (request.pty ? flags.pty : 0) | (request.keepStdin ? flags.keepStdin : 0) | (attach ? flags.attach : 0)
  return createWriter(512 + (request.stdin?.length ?? 0) + (request.script?.length ?? 0))
    .u8(ops.exec)
    .str(checkedExecId(request.execId))
    .u8(chosen)
    .list(request.argv, writeBytes)
    .list(environment, writeVariable)
    .str(request.cwd)
    .str(request.user)
    .u64(request.timeoutMs)
    .u16(request.pty?.cols ?? 0)
    .u16(request.pty?.rows ?? 0)
    .u64(request.from ?? 0)
    .bytes(request.stdin ?? nothing)
    .str(request.tag ?? '')
    .opt(request.script, (writer, script) => writer.bytes(script))
}

export function writeAttach(execId: string, from: number | bigint, stdin: boolean): Writer {
  return createWriter()
    .u8(ops.attach)
    .str(checkedExecId(execId))
    .u64(from)
    .u8(stdin ? 1 : 0)
}

export function writeSignal(execId: string, signal: number, scope: 'process' | 'session'): Writer {
  return createWriter()
    .u8(ops.signal)
    .str(checkedExecId(execId))
    .u8(signal)
    .u8(scope === 'session' ? 1 : 0)
}

export function writeForget(execId: string): Writer {
  return createWriter().u8(ops.forget).str(checkedExecId(execId))
}

/** An op without fields. */
export function writeBare(op: number): Writer {
  return createWriter(8).u8(op)
}

export function writeDial(port: number): Writer {
  return createWriter(8).u8(ops.dial).u16(port)
}

export function writeMemory(limitMb: number): Writer {
  return createWriter(8).u8(ops.memory).u32(limitMb)
}

export function writeClock(unixNanos: bigint): Writer {
  return createWriter(16).u8(ops.clock).u64(unixNanos)
}

/** STAT, REMOVE and WATCH: a path and one choice. */
export function writePathFlag(op: number, path: PathInput, flag: boolean): Writer {
  return writePath(op, path).u8(flag ? 1 : 0)
}

/** `after` empty: from the start. */
export function writeList(path: PathInput, depth: number, after: PathInput, limit: number): Writer {
  return writePath(ops.list, path)
    .u32(depth)
    .bytes(after.length === 0 ? '' : checkedPath(after))
    .u32(limit)
}

export function writeRead(path: PathInput, from: number, length: number | undefined): Writer {
  return writePath(ops.read, path)
    .u64(from)
    .u64(length ?? toTheEnd)
}

export function writeMkdir(path: PathInput, mode: number, owner: string, parents: boolean): Writer {
  return writePath(ops.mkdir, path)
    .u32(mode & 0o7777)
    .str(owner)
    .u8(parents ? 1 : 0)
}

export function writeMove(from: PathInput, to: PathInput, overwrite: boolean): Writer {
  return writePath(ops.move, from)
    .bytes(checkedPath(to))
    .u8(overwrite ? 1 : 0)
}

export function writeChmod(path: PathInput, mode: number): Writer {
  return writePath(ops.chmod, path).u32(mode & 0o7777)
}

/** The host's own: it has no life of which a guest needs to know, hence the zeros. */
/** A feature both sides name: channels start with 16 KiB of credit towards the host instead of 1 MiB. */
export const startsSmall = 1n

export function writeHello(token: Buffer = nothing, features = 0n): Writer {
  return createWriter().str(magic).u32(version).bytes(Buffer.alloc(bootIdBytes)).u64(features).bytes(token)
}

export function writeWrite(path: PathInput, options: WriteOptions): Writer {
  const mode = (options.mode ?? 0o644) & 0o7777
  const chosen = (options.makeParents ? 1 : 0) | (options.mustNotExist ? 2 : 0) | (options.fsync ? 4 : 0)
  return writePath(ops.write, path)
    .u32(options.modeExplicit ? mode + modeIsExplicit : mode)
    .str(options.owner ?? '')
    .u8(chosen)
    .opt(options.ifMatch, (writer, etag) => writer.str(etag))
}

/** An OPEN whose first field is a path. */
export function writePath(op: number, path: PathInput): Writer {
  return createWriter().u8(op).bytes(checkedPath(path))
}

export function checkedExecId(execId: string): string {
  if (!/^[A-Za-z0-9_-]{1,64}$/.test(execId)) throw new GuestError('invalid', 'An exec id is 1 to 64 of [A-Za-z0-9_-].')
  return execId
}

/** The guest checks paths too; what is refused here would make no sense of its answer. */
export function checkedPath(path: PathInput): PathInput {
  const bytes = typeof path === 'string' ? Buffer.byteLength(path) : path.length
  if (bytes > maxPathBytes) throw new GuestError('name_too_long', `A path has at most ${maxPathBytes} bytes.`)
  const absolute = typeof path === 'string' ? path.startsWith('/') : path[0] === 0x2f
  if (!absolute) throw new GuestError('invalid', 'A path must be absolute.')
  if (typeof path === 'string' ? hasNul(path) : path.includes(0))
    throw new GuestError('invalid', 'A path holds a NUL character.')
  return path
}

function hasNul(text: string): boolean {
  return text.includes('\0')
}

function writeBytes(writer: Writer, value: string | Buffer): void {
  writer.bytes(value)
}

function writeVariable(writer: Writer, [name, value]: [string, string]): void {
  writer.str(`${name}=${value}`)
}

// ── answers ──────────────────────────────────────────────────────────────────────────────────────────────────────────────────────

const kinds = ['exited', 'signalled', 'unknown', 'running'] as const
const entryTypes = ['file', 'directory', 'symlink', 'other'] as const
const watchKinds = ['create', 'write', 'remove', 'rename', 'chmod', 'overflow'] as const

function named<T>(names: readonly T[], number: number, what: string): T {
  const name = names[number]
  if (name === undefined) throw new WireError('bad_value', `${what} is ${number}`)
  return name
}

export function readHello(reader: Reader): Hello {
  const said = reader.bytes('magic', magic.length).toString('latin1')
  if (said !== magic) throw new WireError('bad_value', `HELLO does not say ${magic}`)
  const spoken = reader.u32('version')
  if (spoken !== version) throw new WireError('bad_value', `the guest speaks version ${spoken}, not ${version}`)
  const bootId = reader.bytes('bootId', bootIdBytes)
  if (bootId.length !== bootIdBytes) throw new WireError('bad_value', `bootId is not ${bootIdBytes} bytes`)
  const features = reader.u64('features')
  reader.bytes('token')
  return { bootId: bootId.toString('hex'), features }
}

/** After the op. */
export function readEgress(reader: Reader): EgressTarget {
  const host = reader.str('host', maxHostBytes)
  const port = reader.u16('port')
  const number = reader.u8('via')
  const via = egressVias[number - 1]
  if (!via) throw new WireError('bad_value', `via ${number}`)
  return { host, port, via }
}

export function readOpenedExec(reader: Reader): { pid: number; known: boolean; start: number } {
  return { pid: reader.u32('pid'), known: reader.flag('known'), start: reader.count('start') }
}

export function readMore(reader: Reader): boolean {
  return reader.flag('more')
}

export function readRemoved(reader: Reader): number {
  return reader.count('removed')
}

/** `running` only where the caller asked for the background. */
export function readExit(reader: Reader): Omit<ExecExit, 'kind'> & { kind: ExecInfo['kind'] } {
  const kind = named(kinds, reader.u8('exit kind'), 'exit kind')
  const value = reader.u8('exit value')
  const bits = reader.u8('exit flags')
  const outputBytes = reader.count('outputBytes')
  const durationMs = reader.count('durationMs')
  return { kind, value, timedOut: (bits & 1) !== 0, oomKilled: (bits & 2) !== 0, outputBytes, durationMs }
}

/** The CLOSE of an exec in the background. Its exit says no more than that it runs, or how a known one ended. */
export function readStarted(reader: Reader): { pid: number; known: boolean } {
  readExit(reader)
  const pid = reader.u32('pid')
  return { pid, known: reader.remaining > 0 && reader.flag('known') }
}

export function readExecs(reader: Reader): ExecInfo[] {
  return reader.list('execs', 60, readExecInfo, maxExecs)
}

function readExecInfo(reader: Reader): ExecInfo {
  const execId = reader.str('execId', maxExecIdBytes)
  const pid = reader.u32('pid')
  const kind = named(kinds, reader.u8('exec kind'), 'exec kind')
  const value = reader.u8('exec value')
  const bits = reader.u8('exec flags')
  return {
    execId,
    pid,
    kind,
    value,
    timedOut: (bits & 1) !== 0,
    oomKilled: (bits & 2) !== 0,
    startedUnixMs: reader.count('startedUnixMs'),
    durationMs: reader.count('durationMs'),
    outputBytes: reader.count('outputBytes'),
    start: reader.count('start'),
    argv: reader.list('argv', 4, readArgument),
    cwd: reader.str('cwd'),
    user: reader.str('user'),
    tag: reader.str('tag'),
    pty: reader.flag('pty'),
  }
}

function readArgument(reader: Reader): string {
  return reader.text('argument').text
}

export function readEntry(reader: Reader): Entry {
  const path = reader.text('path', maxPathBytes)
  const type = named(entryTypes, reader.u8('entry type') - 1, 'entry type less 1')
  const exactSize = reader.u64('size')
  const mode = reader.u32('mode') & 0o7777
  const uid = reader.u32('uid')
  const gid = reader.u32('gid')
  const owner = reader.str('owner', maxNameBytes)
  const group = reader.str('group', maxNameBytes)
  const modifiedNanos = reader.i64('modifiedNanos')
  const inode = reader.u64('inode')
  const target = reader.opt('target', readTarget)
  return {
    ...asPath(path),
    type,
    size: exactSize > BigInt(Number.MAX_SAFE_INTEGER) ? Number.MAX_SAFE_INTEGER : Number(exactSize),
    mode,
    uid,
    gid,
    owner,
    group,
    modifiedNanos,
    inode,
    target: target ? target.text : null,
    ...(target?.raw && { targetBytes: target.raw }),
    etag: `"${inode.toString(16)}-${exactSize.toString(16)}-${BigInt.asUintN(64, modifiedNanos).toString(16)}"`,
  }
}

function readTarget(reader: Reader): RawText {
  return reader.text('target', maxPathBytes)
}

function asPath({ text, raw }: RawText): { path: string; pathBytes?: Buffer } {
  return raw ? { path: text, pathBytes: raw } : { path: text }
}

export function readWatchEvent(reader: Reader): WatchEvent {
  const kind = named(watchKinds, reader.u8('watch kind') - 1, 'watch kind less 1')
  return { kind, ...asPath(reader.text('path', maxPathBytes)), isDirectory: reader.flag('isDirectory') }
}

export function readMetrics(reader: Reader): GuestMetrics {
  return {
    uptimeMs: reader.count('uptimeMs'),
    memUsedBytes: reader.size('memUsedBytes'),
    memTotalBytes: reader.size('memTotalBytes'),
    processes: reader.u32('processes'),
    diskUsedBytes: reader.size('diskUsedBytes'),
    diskTotalBytes: reader.size('diskTotalBytes'),
    load1: reader.u32('load1Centi') / 100,
    cpuUserMs: reader.count('cpuUserMs'),
    cpuSystemMs: reader.count('cpuSystemMs'),
  }
}
