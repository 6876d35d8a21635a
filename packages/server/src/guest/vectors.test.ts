import { readFileSync } from 'node:fs'
import { expect, test } from 'vitest'
import {
  createFrameDecoder,
  createReader,
  createWriter,
  encodeCredit,
  encodeDataHeader,
  encodeFrame,
  frameTypes,
  fromGuest,
  fromHost,
  readSafeU64,
  WireError,
} from './codec.ts'
import { guestErrorFrom, guestErrorNames } from './errors.ts'
import {
  egressVias,
  ops,
  readEgress,
  readEntry,
  readExecs,
  readExit,
  readHello,
  readMetrics,
  readMore,
  readOpenedExec,
  readRemoved,
  readWatchEvent,
  writeAttach,
  writeBare,
  writeChmod,
  writeClock,
  writeDial,
  writeExec,
  writeForget,
  writeHello,
  writeList,
  writeMemory,
  writeMkdir,
  writeMove,
  writePathFlag,
  writeRead,
  writeSignal,
  writeWrite,
} from './messages.ts'
import { readRecords } from './call.ts'
import type { Frame, Reader, Writer } from './codec.ts'
import type { Entry } from './messages.ts'

/* oxlint-disable typescript/no-explicit-any -- the vectors' fields are as their README says, one shape an op */
interface Vector {
  name: string
  direction: 'to_guest' | 'to_host'
  hex: string
  ok: boolean
  error?: string
  frame?: any
}

const vectors: Vector[] = JSON.parse(readFileSync(new URL('../../../guest/vectors/wire.json', import.meta.url), 'utf8'))

function decode(vector: Vector): Frame[] {
  const maxPayload = vector.direction === 'to_guest' ? fromHost : fromGuest
  return createFrameDecoder({ maxPayload }).push(Buffer.from(vector.hex, 'hex'))
}

const path = (hex: string): Buffer => Buffer.from(hex, 'hex')

/** How the host writes each OPEN, from the vector's fields. */
const openWriters: Record<string, (frame: any) => Writer> = {
  EXEC: (f) =>
    writeExec(
      {
        execId: f.execId,
        argv: f.argv.map(path),
        env: Object.fromEntries(f.env.map((item: string) => path(item).toString().split(/=(.*)/s).slice(0, 2))),
        cwd: f.cwd,
        user: f.user,
        timeoutMs: Number(f.timeoutMs),
        // The vectors name a size without a PTY too, which the host never sends; it is put back below.
        ...(f.flags & 1 && { pty: { cols: f.cols, rows: f.rows } }),
        keepStdin: (f.flags & 2) !== 0,
        from: Number(f.from),
        stdin: path(f.stdin),
        tag: f.tag,
        ...(f.script !== null && { script: path(f.script) }),
      },
      (f.flags & 4) !== 0,
    ),
  ATTACH: (f) => writeAttach(f.execId, BigInt(f.from), f.stdin === 1),
  EXECS: () => writeBare(ops.execs),
  SIGNAL: (f) => writeSignal(f.execId, f.signal, f.scope === 1 ? 'session' : 'process'),
  FORGET: (f) => writeForget(f.execId),
  STAT: (f) => writePathFlag(ops.stat, path(f.path), f.follow === 1),
  LIST: (f) => writeList(path(f.path), f.depth, path(f.after), f.limit),
  READ: (f) =>
    writeRead(path(f.path), Number(f.from), f.length === '18446744073709551615' ? undefined : Number(f.length)),
  WRITE: (f) =>
    writeWrite(path(f.path), {
      mode: f.mode % 0x8000_0000,
      modeExplicit: f.mode >= 0x8000_0000,
      owner: f.owner,
      makeParents: (f.flags & 1) !== 0,
      mustNotExist: (f.flags & 2) !== 0,
      fsync: (f.flags & 4) !== 0,
      ifMatch: f.ifMatch ?? undefined,
    }),
  MKDIR: (f) => writeMkdir(path(f.path), f.mode, f.owner, f.parents === 1),
  MOVE: (f) => writeMove(path(f.from), path(f.to), f.overwrite === 1),
  REMOVE: (f) => writePathFlag(ops.remove, path(f.path), f.recursive === 1),
  CHMOD: (f) => writeChmod(path(f.path), f.mode),
  WATCH: (f) => writePathFlag(ops.watch, path(f.path), f.recursive === 1),
  DIAL: (f) => writeDial(f.port),
  METRICS: () => writeBare(ops.metrics),
  SYNC: () => writeBare(ops.sync),
  CLOCK: (f) => writeClock(BigInt(f.unixNanos)),
  MEMORY: (f) => writeMemory(f.limitMb),
}

/** How the host writes each other frame. */
function encode(frame: any): Buffer {
  switch (frame.type) {
    case 'HELLO':
      return writeHello(path(frame.token)).frame(frameTypes.hello, 0)
    case 'OPEN':
      return openWriters[frame.op]!(frame).frame(frameTypes.open, frame.channel)
    case 'DATA': {
      const raw = path(frame.raw)
      return Buffer.concat([encodeDataHeader(frame.channel, frame.stream, Number(frame.offset), raw.length), raw])
    }
    case 'CREDIT':
      return encodeCredit(frame.channel, frame.bytes)
    case 'OPENED':
      return encodeFrame(frameTypes.opened, frame.channel)
    case 'END':
      return encodeFrame(frameTypes.end, frame.channel)
    case 'CANCEL':
      return encodeFrame(frameTypes.cancel, frame.channel)
    case 'CLOSE':
      return createWriter().u16(frame.code).str(frame.message).frame(frameTypes.close, frame.channel)
    case 'PING':
      return createWriter()
        .u64(BigInt(frame.number))
        .raw(path(frame.later ?? ''))
        .frame(frameTypes.ping, 0)
    case 'CONTROL': {
      const writer = createWriter().u8(frame.kind)
      if (frame.kind === 1) writer.u8(frame.signal)
      if (frame.kind === 2) writer.u16(frame.cols).u16(frame.rows)
      return writer.frame(frameTypes.control, frame.channel)
    }
    default:
      throw new Error(`the host writes no ${frame.type}`)
  }
}

const rawEntry = (entry: Entry): unknown => ({
  path: (entry.pathBytes ?? Buffer.from(entry.path)).toString('hex'),
  type: ['file', 'directory', 'symlink', 'other'].indexOf(entry.type) + 1,
  size: String(entry.size),
  mode: entry.mode,
  uid: entry.uid,
  gid: entry.gid,
  owner: entry.owner,
  group: entry.group,
  modifiedNanos: String(entry.modifiedNanos),
  inode: String(entry.inode),
  target: entry.target === null ? null : (entry.targetBytes ?? Buffer.from(entry.target)).toString('hex'),
})

const kinds = ['exited', 'signalled', 'unknown', 'running']
const flagBits = (state: { timedOut: boolean; oomKilled: boolean }): number =>
  (state.timedOut ? 1 : 0) + (state.oomKilled ? 2 : 0)
const readExitFields = (reader: Reader): object => {
  const exit = readExit(reader)
  return {
    kind: kinds.indexOf(exit.kind),
    value: exit.value,
    flags: flagBits(exit),
    outputBytes: String(exit.outputBytes),
    durationMs: String(exit.durationMs),
    ...(exit.kind === 'running' && { pid: reader.u32('pid') }),
  }
}
const readEntryField = (reader: Reader): object => ({ entry: rawEntry(readEntry(reader)) })
const nothing = (): object => ({})

/** How the host reads the fields of CLOSE, by op. */
const closeReaders: Record<string, (reader: Reader) => object> = {
  EXEC: readExitFields,
  ATTACH: readExitFields,
  EXECS: (reader) => ({
    execs: readExecs(reader).map(({ timedOut, oomKilled, kind, ...info }) => ({
      ...info,
      kind: kinds.indexOf(kind),
      flags: flagBits({ timedOut, oomKilled }),
      startedUnixMs: String(info.startedUnixMs),
      durationMs: String(info.durationMs),
      outputBytes: String(info.outputBytes),
      start: String(info.start),
      argv: info.argv.map((argument) => Buffer.from(argument).toString('hex')),
      pty: info.pty ? 1 : 0,
    })),
  }),
  STAT: readEntryField,
  WRITE: readEntryField,
  MKDIR: readEntryField,
  MOVE: readEntryField,
  CHMOD: readEntryField,
  LIST: (reader) => ({ more: readMore(reader) ? 1 : 0 }),
  REMOVE: (reader) => ({ removed: String(readRemoved(reader)) }),
  METRICS(reader) {
    const { load1, processes, ...counts } = readMetrics(reader)
    const asText = Object.fromEntries(Object.entries(counts).map(([name, value]) => [name, String(value)]))
    return { ...asText, processes, load1Centi: Math.round(load1 * 100) }
  },
}

function egressFields(reader: Reader): object {
  const { via, ...target } = readEgress(reader)
  return { ...target, via: egressVias.indexOf(via) + 1 }
}

/** The fields of a frame from a guest, read as the client reads them. */
function read(frame: Frame, op: string | undefined): object {
  const reader = createReader(frame.payload)
  switch (frame.type) {
    case frameTypes.hello: {
      const { bootId, features } = readHello(reader)
      return { magic: Buffer.from('DELTA1').toString('hex'), version: 1, bootId, features: String(features), token: '' }
    }
    case frameTypes.open:
      return { opCode: reader.u8('op'), ...egressFields(reader) }
    case frameTypes.opened: {
      if (op === 'READ') return { entry: rawEntry(readEntry(reader)) }
      if (op !== 'EXEC' && op !== 'ATTACH') return {}
      const { pid, known, start } = readOpenedExec(reader)
      return { pid, known: known ? 1 : 0, start: String(start) }
    }
    case frameTypes.data: {
      // As the link does it: without a header there is no DATA.
      if (frame.payload.length < 9) throw new WireError('truncated', 'DATA')
      const raw = frame.payload.subarray(9)
      return { stream: frame.payload[0], offset: String(readSafeU64(frame.payload, 1)), raw: raw.toString('hex') }
    }
    case frameTypes.credit:
      return { bytes: reader.u32('bytes') }
    case frameTypes.close: {
      const code = reader.u16('code')
      const message = reader.text('message').text
      return { code, message, ...(code === 0 && (closeReaders[op!] ?? nothing)(reader)) }
    }
    case frameTypes.ping:
    case frameTypes.pong:
      return { number: String(reader.u64('number')) }
    default:
      return {}
  }
}

function faultOf(act: () => unknown): string | undefined {
  try {
    act()
    return undefined
  } catch (error) {
    return (error as WireError).fault
  }
}

const rawOf = (name: string): Buffer => path(vectors.find((vector) => vector.name === name)!.frame.raw)

const good = vectors.filter((vector) => vector.ok)
const toGuest = good.filter((vector) => vector.direction === 'to_guest')
const toHost = good.filter((vector) => vector.direction === 'to_host')
const bad = vectors.filter((vector) => !vector.ok)

test('there are vectors of every kind', () => {
  expect(toGuest.length).toBeGreaterThan(30)
  expect(toHost.length).toBeGreaterThan(40)
  expect(bad.length).toBeGreaterThan(50)
})

test.each(toGuest)('$name: the host writes it byte for byte', (vector) => {
  const encoded = encode(vector.frame)
  if (vector.frame.op === 'EXEC' && (vector.frame.flags & 1) === 0) {
    const size = Buffer.alloc(4)
    size.writeUInt16LE(vector.frame.cols)
    size.writeUInt16LE(vector.frame.rows, 2)
    size.copy(encoded, vector.hex.indexOf(size.toString('hex')) / 2)
  }
  expect(encoded.toString('hex')).toBe(vector.hex)
})

test.each(toHost)('$name: the host reads what the guest wrote', (vector) => {
  const [frame, ...more] = decode(vector)
  expect(more).toEqual([])
  expect(frameTypes[vector.frame.type.toLowerCase() as keyof typeof frameTypes]).toBe(frame!.type)
  const { type: _type, op, channel, ...fields } = vector.frame
  expect(frame!.channel).toBe(channel)
  expect(read(frame!, op)).toEqual(fields)
})

test.each(bad)('$name: $error', (vector) => {
  if (vector.error === 'incomplete') return expect(decode(vector)).toEqual([])
  const framing = faultOf(() => decode(vector))
  if (framing) return expect(framing).toBe(vector.error)
  // What is wrong inside a payload for the guest is the guest's to find: the host never reads those.
  if (vector.direction === 'to_guest') return expect(decode(vector)).toHaveLength(1)
  expect(faultOf(() => read(decode(vector)[0]!, vector.frame?.op))).toBe(vector.error)
})

test('records of entries and of watch events are read', () => {
  const entries = readRecords(rawOf('data of entries'), readEntry)
  expect(entries.map((entry) => entry.type)).toEqual(['file', 'symlink'])
  expect(entries[0]!.etag).toBe('"deadbeef01-5-17979cfe3d85cd15"')
  expect(entries[1]!.pathBytes).toEqual(
    Buffer.concat([Buffer.from('/workspace/'), Buffer.from([0xff, 0xfe]), Buffer.from('-not-utf8')]),
  )
  const events = readRecords(rawOf('data of watch events'), readWatchEvent)
  expect(events.map((event) => event.kind)).toEqual(['create', 'write', 'rename', 'overflow'])
  expect(events[0]).toEqual({ kind: 'create', path: '/w/new', isDirectory: true })
})

test('every error number has its name', () => {
  const closes = toHost.filter((vector) => vector.name.startsWith('close with error'))
  expect(closes.map((vector) => guestErrorFrom(vector.frame.code, 'x').code)).toEqual([...guestErrorNames])
})
