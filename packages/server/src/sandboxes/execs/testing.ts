import { duplexPair } from 'node:stream'
import { connectGuest } from '../../guest/client.ts'
import type { GuestConnection } from '../../guest/client.ts'
import { createReader as readerOf, createWriter, frameTypes } from '../../guest/codec.ts'
import type { Reader, Writer } from '../../guest/codec.ts'
import { ops } from '../../guest/messages.ts'
import { createPeer } from '../../guest/testing/peer.ts'
import type { Peer } from '../../guest/testing/peer.ts'
import { DeltaError } from '../../kernel/errors.ts'
import type { OpenSandbox, SandboxDoor } from '../door.ts'

/** A process of the model guest. What it does is up to the test. */
export interface ModelExec {
  readonly id: string
  readonly argv: string[]
  readonly env: string[]
  readonly cwd: string
  readonly user: string
  readonly timeoutMs: number
  readonly pty: boolean
  readonly keepStdin: boolean
  readonly stdin: string
  readonly stdinEnded: boolean
  readonly tag: string
  readonly script: string | undefined
  readonly signals: { signal: number; scope: number }[]
  readonly sizes: { cols: number; rows: number }[]
  /** How many channels look at it. */
  readonly viewers: number
  say(stream: 'stdout' | 'stderr', text: string | Buffer): void
  /** As when nobody read for long: output up to here is no longer kept. */
  forgetUpTo(offset: number): void
  exit(kind: 'exited' | 'signalled', value: number, flags?: { timedOut?: boolean; oomKilled?: boolean }): void
}

type Fields = {
  -readonly [Key in keyof ModelExec]: ModelExec[Key]
}

interface Channel {
  peer: Peer
  number: number
  writable: boolean
}

interface Kept extends Omit<Fields, 'say' | 'forgetUpTo' | 'exit' | 'viewers'> {
  handle: ModelExec
  output: { stream: 'stdout' | 'stderr'; offset: number; bytes: Buffer }[]
  total: number
  start: number
  ended: { kind: number; value: number; flags: number } | undefined
  channels: Set<Channel>
}

/** One operation the test answers by itself. */
export interface Asked {
  op: number
  reader: Reader
  peer: Peer
  channel: number
}

export interface ModelGuest {
  readonly door: SandboxDoor
  readonly execs: Map<string, ModelExec>
  /** How often a connection was opened, and how often an EXEC arrived. */
  readonly counts: { connections: number; opens: number; execs: number; oomQuestions: number }
  /** What happens when a process is started. @default nothing: it runs until the test ends it */
  onStart: (exec: ModelExec) => void
  /** Looks at each operation first; true: it has been answered, or shall not be. */
  onAsked: (asked: Asked) => boolean
  /** Hears of the credit that viewers give. */
  onCredit: (bytes: number) => void
  /** Whether processes read what is written to them; if not, their senders get no credit. */
  takesStdin: boolean
  /** What the door says of memory. */
  oomKills: number
  sandbox: OpenSandbox
  /** Ends the connection; the guest lives on. */
  lose(): void
  /** Ends this life of the guest: another one answers next. */
  reboot(): void
  /** From now on the door refuses with this. */
  refuse: DeltaError | undefined
}

const kinds = { exited: 0, signalled: 1 }
const unknownExec = 15

/** A guest in memory that speaks the real wire and keeps execs as the protocol says, so that only processes are played. */
export function createModelGuest(): ModelGuest {
  const kept = new Map<string, Kept>()
  const execs = new Map<string, ModelExec>()
  const counts = { connections: 0, opens: 0, execs: 0, oomQuestions: 0 }
  let boot = 1
  let pids = 6
  let connecting: Promise<GuestConnection> | undefined
  let stream: ReturnType<typeof duplexPair>[0] | undefined

  async function connect(): Promise<GuestConnection> {
    counts.connections += 1
    const [hostSide, guestSide] = duplexPair()
    stream = hostSide
    const peer = createPeer(guestSide)
    peer.send('hello', 0, createWriter().str('DELTA1').u32(1).bytes(Buffer.alloc(16, boot)).u64(0).str(''))
    void serve(peer)
    const guest = await connectGuest(hostSide)
    void guest.closed.then(() => {
      for (const { channels } of kept.values())
        for (const channel of channels) if (channel.peer === peer) channels.delete(channel)
      if (stream === hostSide) connecting = undefined
    })
    return guest
  }

  async function serve(peer: Peer): Promise<void> {
    for (;;) {
      const frame = await peer.next()
      if (frame.type === frameTypes.open)
        answer(peer, await Promise.resolve({ ...frame, payload: Buffer.from(frame.payload) }))
      else onChannel(peer, frame)
    }
  }

  function answer(peer: Peer, { channel, payload }: { channel: number; payload: Buffer }): void {
    counts.opens += 1
    const reader = readerOf(payload)
    const op = reader.u8('op')
    if (model.onAsked({ op, reader, peer, channel })) return
    if (op === ops.exec) return start(peer, channel, reader)
    if (op === ops.attach) return attach(peer, channel, reader)
    if (op === ops.execs)
      return peer.close(channel, 0, '', (writer) => writer.list([...kept.values()].toReversed(), writeInfo))
    if (op === ops.signal) return signal(peer, channel, reader)
    if (op === ops.forget) return peer.close(channel)
    throw new Error(`the model guest knows no op ${op}`)
  }

  function start(peer: Peer, number: number, reader: Reader): void {
    counts.execs += 1
    const id = reader.str('execId')
    const flags = reader.u8('flags')
    const known = kept.has(id)
    const fields = readExecFields(reader)
    if (!known) remember({ id, flags, ...fields })
    const one = kept.get(id)!
    if ((flags & 4) === 0) {
      peer.close(number, 0, '', (writer) =>
        writer
          .u8(3)
          .u8(0)
          .u8(0)
          .u64(0)
          .u64(0)
          .u32(pidOf(one))
          .u8(known ? 1 : 0),
      )
    } else {
      show(one, { peer, number, writable: true }, { from: fields.from, known })
    }
    if (!known) model.onStart(one.handle)
  }

  function attach(peer: Peer, number: number, reader: Reader): void {
    const one = kept.get(reader.str('execId'))
    const from = Number(reader.u64('from'))
    const writable = reader.flag('stdin')
    if (one === undefined) return peer.close(number, unknownExec, 'No such exec.')
    show(one, { peer, number, writable }, { from, known: true })
  }

  function show(one: Kept, channel: Channel, { from, known }: { from: number; known: boolean }): void {
    const { peer, number } = channel
    peer.send(
      'opened',
      number,
      createWriter()
        .u32(pidOf(one))
        .u8(known ? 1 : 0)
        .u64(one.start),
    )
    for (const { stream: name, offset, bytes } of one.output) {
      const end = offset + bytes.length
      const first = Math.max(offset, from, one.start)
      if (end > first) peer.data(number, name === 'stdout' ? 1 : 2, first, bytes.subarray(first - offset))
    }
    one.channels.add(channel)
    if (one.ended !== undefined) close(one, channel)
  }

  function close(one: Kept, channel: Channel): void {
    const { kind, value, flags } = one.ended!
    one.channels.delete(channel)
    channel.peer.close(channel.number, 0, '', (writer) => writer.u8(kind).u8(value).u8(flags).u64(one.total).u64(5))
  }

  function signal(peer: Peer, channel: number, reader: Reader): void {
    const one = kept.get(reader.str('execId'))
    const number = reader.u8('signal')
    const scope = reader.u8('scope')
    if (one === undefined) return peer.close(channel, unknownExec, 'No such exec.')
    one.signals.push({ signal: number, scope })
    peer.close(channel)
  }

  function onChannel(peer: Peer, frame: { type: number; channel: number; payload: Buffer }): void {
    for (const one of kept.values()) {
      for (const channel of one.channels) {
        if (channel.peer !== peer || channel.number !== frame.channel) continue
        if (frame.type === frameTypes.data) one.stdin += frame.payload.subarray(9).toString()
        if (frame.type === frameTypes.credit) model.onCredit(readerOf(frame.payload).u32('credit'))
        if (frame.type === frameTypes.data && model.takesStdin)
          peer.send('credit', frame.channel, createWriter().u32(frame.payload.length - 9))
        if (frame.type === frameTypes.end) one.stdinEnded = true
        if (frame.type === frameTypes.cancel) {
          one.channels.delete(channel)
          peer.close(frame.channel, 18, 'canceled')
        }
        if (frame.type === frameTypes.control) {
          const reader = readerOf(frame.payload)
          if (reader.u8('kind') === 2) one.sizes.push({ cols: reader.u16('cols'), rows: reader.u16('rows') })
        }
      }
    }
  }

  function remember({ id, flags, ...fields }: { id: string; flags: number } & ReturnType<typeof readExecFields>): void {
    const one: Kept = {
      id,
      ...fields,
      pty: (flags & 1) !== 0,
      keepStdin: (flags & 2) !== 0,
      stdinEnded: (flags & 2) === 0,
      signals: [],
      sizes: [],
      output: [],
      total: 0,
      start: 0,
      ended: undefined,
      channels: new Set(),
      handle: undefined as never,
    }
    one.handle = handleOf(one)
    kept.set(id, one)
    execs.set(id, one.handle)
    pids += 1
  }

  function handleOf(one: Kept): ModelExec {
    const acts = {
      get viewers() {
        return one.channels.size
      },
      say(name: 'stdout' | 'stderr', text: string | Buffer) {
        const bytes = Buffer.from(text as string)
        one.output.push({ stream: name, offset: one.total, bytes })
        for (const { peer, number } of one.channels) peer.data(number, name === 'stdout' ? 1 : 2, one.total, bytes)
        one.total += bytes.length
      },
      forgetUpTo(offset: number) {
        one.start = offset
      },
      exit(kind: 'exited' | 'signalled', value: number, { timedOut = false, oomKilled = false } = {}) {
        one.ended = { kind: kinds[kind], value, flags: (timedOut ? 1 : 0) | (oomKilled ? 2 : 0) }
        for (const channel of one.channels) close(one, channel)
      },
    }
    return new Proxy(acts, {
      get: (target, name) => Reflect.get(name in target ? target : one, name),
    }) as unknown as ModelExec
  }

  const pidOf = (one: Kept): number => [...kept.values()].indexOf(one) + 7

  const model: ModelGuest = {
    execs,
    counts,
    onStart: () => {},
    onAsked: () => false,
    onCredit: () => {},
    takesStdin: true,
    oomKills: 0,
    sandbox: { id: 'sbx_model', env: { FROM: 'sandbox' }, template: 'host', memoryMb: 512 },
    refuse: undefined,
    lose: () => void stream?.destroy(),
    reboot() {
      boot += 1
      kept.clear()
      stream?.destroy()
    },
    door: {
      async open() {
        if (model.refuse !== undefined) throw model.refuse
        connecting ??= connect()
        return { guest: await connecting, sandbox: model.sandbox }
      },
      async oomKills() {
        counts.oomQuestions += 1
        return model.oomKills
      },
    },
  }
  return model
}

function readExecFields(reader: Reader) {
  const argv = reader.list('argv', 4, (item) => item.str('argument'))
  const env = reader.list('env', 4, (item) => item.str('variable'))
  const cwd = reader.str('cwd')
  const user = reader.str('user')
  const timeoutMs = Number(reader.u64('timeoutMs'))
  reader.u16('cols')
  reader.u16('rows')
  const from = Number(reader.u64('from'))
  const stdin = reader.str('stdin')
  const tag = reader.str('tag')
  const script = reader.opt('script', (item) => item.str('script'))
  return { argv, env, cwd, user, timeoutMs, from, stdin, tag, script }
}

function writeInfo(
  writer: Writer,
  one: { id: string; argv: string[]; cwd: string; user: string; tag: string; pty: boolean } & Pick<
    Kept,
    'ended' | 'total' | 'start'
  >,
): void {
  writer
    .str(one.id)
    .u32(7)
    .u8(one.ended?.kind ?? 3)
    .u8(one.ended?.value ?? 0)
    .u8(one.ended?.flags ?? 0)
  writer.u64(1_700_000_000_000).u64(5).u64(one.total).u64(one.start)
  writer.list(one.argv, (each, text) => void each.str(text))
  writer
    .str(one.cwd)
    .str(one.user)
    .str(one.tag)
    .u8(one.pty ? 1 : 0)
}
