import { afterEach, expect, test, vi } from 'vitest'
import type { ExecOutput } from '../guest/client.ts'
import { DeltaError } from '../kernel/errors.ts'
import { createHeldBytes } from '../kernel/held-bytes.ts'
import type { HeldAccount } from '../kernel/held-bytes.ts'
import type { ExecSummary } from '../sandboxes/execs/schema.ts'
import type { AttachedExec } from '../sandboxes/execs/service.ts'
import { createHub } from './hub.ts'
import { terminalLimits } from './schema.ts'
import type { Notice } from './schema.ts'
import type { ViewerSocket } from './viewer.ts'

const { viewerQueueBytes, windowBytes, paceBytes, outputFrameBytes, viewersPerTerminal } = terminalLimits
const mib = 1024 * 1024

/** Everything that can happen without the test has happened. */
async function settled(): Promise<void> {
  for (let turn = 0; turn < 5; turn++) await new Promise((resolve) => setImmediate(resolve))
}

/** A program that writes when the test says so, as fast as it is let. */
function program({
  history = Buffer.alloc(0),
  historyStart = 0,
  held = createHeldBytes().account(),
}: { history?: Buffer; historyStart?: number; held?: HeldAccount } = {}) {
  let onOutput: ((chunk: ExecOutput) => void | Promise<void>) | undefined
  const end = Promise.withResolvers<ExecSummary>()
  let at = history.length
  const sizes: [number, number][] = []
  let written = ''
  const attached: AttachedExec & { detached: boolean } = {
    pid: 7,
    held,
    detached: false,
    consume(listener) {
      onOutput = listener
      return end.promise
    },
    async write(bytes) {
      written += bytes.toString()
    },
    resize: (cols, rows) => void sizes.push([cols, rows]),
    detach() {
      attached.detached = true
    },
  }
  return {
    attached,
    sizes,
    get written() {
      return written
    },
    /** Resolves when it may write on; 'held' while it may not. */
    say(bytes: Buffer, skipped = 0): void | Promise<void> {
      at += skipped
      const offset = at
      at += bytes.length
      return onOutput!({ stream: 'stdout', offset, bytes, ...(skipped > 0 && { gap: skipped }) })
    },
    exit: (fields: Partial<ExecSummary> = {}) => end.resolve({ ...summary, outputBytes: at, ...fields }),
    fail: (error: unknown) => end.reject(error),
    async openHistory(from: number): Promise<AttachedExec> {
      const first = Math.max(from, historyStart)
      return {
        ...attached,
        async consume(listener) {
          await listener({ stream: 'stdout', offset: first, bytes: history.subarray(first) })
          return summary
        },
      }
    },
  }
}

const summary: ExecSummary = {
  id: 'exe_1',
  pid: 7,
  state: 'exited',
  exitCode: 0,
  signal: null,
  timedOut: false,
  oomKilled: false,
  durationMs: 1,
  outputBytes: 0,
  tag: null,
}

/** A socket that takes what the test lets it take. */
function viewer({ reads = true } = {}) {
  const waiting: { bytes: Buffer; onTaken: () => void }[] = []
  const parts: Buffer[] = []
  const notices: Notice[] = []
  let closed: number | undefined
  let stalled = !reads
  let most = 0
  const queued = (): number => waiting.reduce((sum, { bytes }) => sum + bytes.length, 0)
  const take = (): void => {
    for (let item = waiting.shift(); item; item = waiting.shift()) {
      parts.push(item.bytes)
      item.onTaken()
      if (stalled) return
    }
  }
  const socket: ViewerSocket = {
    get queuedBytes() {
      return queued()
    },
    sendBytes(bytes, onTaken) {
      waiting.push({ bytes, onTaken })
      most = Math.max(most, queued())
      if (!stalled) queueMicrotask(take)
    },
    send: (notice) => void notices.push(notice),
    close: (code) => void (closed ??= code),
  }
  return {
    socket,
    notices,
    get bytes() {
      return Buffer.concat(parts)
    },
    get mostQueued() {
      return most
    },
    get closed() {
      return closed
    },
    read() {
      stalled = false
      take()
    },
  }
}

function open(from = 0, source = program()) {
  let empty = false
  const hub = createHub({
    terminalId: 'exe_1',
    attached: source.attached,
    from,
    size: { cols: 80, rows: 24 },
    openHistory: source.openHistory,
    onSize: () => {},
    onEmpty: () => (empty = true),
  })
  const join = (one: ReturnType<typeof viewer>, options: Partial<Parameters<typeof hub.join>[1]> = {}) =>
    hub.join(one.socket, { from, end: from, readOnly: false, aheadBytes: undefined, ...options })
  return { hub, join, source, isEmpty: () => empty }
}

const pattern = (bytes: number) => Buffer.alloc(bytes, '0123456789abcdef')

/** Says so much in pieces of the size the wire has; waits where it is held, but not for ever. Returns what was said. */
async function flood(source: ReturnType<typeof program>, bytes: number): Promise<number> {
  for (let said = 0; said < bytes; said += 64 * 1024) {
    const held = source.say(pattern(64 * 1024))
    if (held && !(await Promise.race([held.then(() => true), settled().then(() => false)]))) return said + 64 * 1024
  }
  return bytes
}

test('everybody gets everything that is said, in order', async () => {
  const { join, source } = open()
  const viewers = [viewer(), viewer(), viewer()]
  for (const one of viewers) join(one)
  await flood(source, 4 * mib)
  await settled()
  for (const one of viewers) expect(one.bytes.equals(pattern(4 * mib))).toBe(true)
})

test('a viewer that does not read holds up nobody, and hears what it missed when it reads again', async () => {
  const { join, source } = open()
  const [fast, stalled] = [viewer(), viewer({ reads: false })]
  join(fast)
  join(stalled)
  expect(await flood(source, 20 * mib)).toBe(20 * mib)
  await settled()
  expect(fast.bytes.length).toBe(20 * mib)
  expect(stalled.mostQueued).toBeLessThan(viewerQueueBytes + outputFrameBytes + 1)
  stalled.read()
  await settled()
  const gap = stalled.notices.find((notice) => notice.type === 'gap')!
  expect(gap.bytes + stalled.bytes.length).toBe(20 * mib)
  expect(stalled.bytes.subarray(-16).equals(pattern(16))).toBe(true)
})

test('the program is held back when nobody reads, and goes on when one does', async () => {
  const { join, source } = open()
  const [one, other] = [viewer({ reads: false }), viewer({ reads: false })]
  join(one)
  join(other)
  expect(await flood(source, 20 * mib)).toBeLessThan(viewerQueueBytes + paceBytes + 2 * outputFrameBytes)
  one.read()
  await settled()
  expect(await flood(source, 5 * mib)).toBe(5 * mib)
})

test('the program is let go when the viewer that held it leaves', async () => {
  const { join, source } = open()
  const [one, other] = [viewer({ reads: false }), viewer({ reads: false })]
  const leaving = [join(one), join(other)]
  await flood(source, 2 * mib)
  const held = source.say(pattern(10))
  expect(held).toBeInstanceOf(Promise)
  for (const { leave } of leaving) leave()
  await held
  expect(source.attached.detached).toBe(true)
})

test('when the last viewer leaves, the channel is given back; the program is not ended', () => {
  const { hub, join, source, isEmpty } = open()
  const [first, second] = [join(viewer()), join(viewer())]
  first.leave()
  expect([source.attached.detached, isEmpty(), hub.closed]).toEqual([false, false, false])
  second.leave()
  second.leave()
  expect([source.attached.detached, isEmpty(), hub.closed]).toEqual([true, true, true])
})

test('what was said before comes from the window, and what is older from the sandbox', async () => {
  const history = pattern(windowBytes)
  const source = program({ history })
  const { join } = open(history.length, source)
  join(viewer())
  await flood(source, mib / 2)
  const late = viewer()
  join(late, { from: 3 })
  await settled()
  await settled()
  expect(late.notices.map(({ type }) => type)).toEqual(['ready'])
  expect(late.bytes.equals(pattern(windowBytes + mib / 2).subarray(3))).toBe(true)
})

test('what the sandbox no longer keeps is told as a gap', async () => {
  const source = program({ history: pattern(1000), historyStart: 600 })
  const { join } = open(1000, source)
  const late = viewer()
  join(late, { from: 100 })
  await settled()
  await source.say(Buffer.from('new'))
  await settled()
  expect(late.notices.filter(({ type }) => type === 'gap')).toEqual([{ type: 'gap', bytes: 500, offset: 600 }])
  expect(late.bytes.toString()).toBe(`${pattern(1000).subarray(600).toString()}new`)
})

test('a viewer that confirms is sent no more than it asked for ahead', async () => {
  const { join, source } = open()
  const careful = viewer()
  const { taken } = join(careful, { aheadBytes: 64 * 1024 })
  await flood(source, mib)
  await settled()
  expect(careful.bytes.length).toBeLessThanOrEqual(64 * 1024 + outputFrameBytes)
  for (let before = -1; before < careful.bytes.length;) {
    before = careful.bytes.length
    taken(before)
    await settled()
  }
  expect(careful.bytes.length).toBeGreaterThanOrEqual(paceBytes)
  // To confirm what was never sent gives no more room.
  taken(2 ** 50)
  await flood(source, mib)
  await settled()
  expect(careful.bytes.length).toBeLessThan(mib)
})

test('after all of its output each viewer hears how it ended, the slow one later', async () => {
  const { join, source } = open()
  const [fast, slow] = [viewer(), viewer({ reads: false })]
  join(fast)
  join(slow)
  await flood(source, mib / 2)
  source.exit({ exitCode: 4 })
  await settled()
  expect([fast.closed, slow.closed]).toEqual([1000, undefined])
  expect(fast.notices.at(-1)).toMatchObject({ type: 'exit', exitCode: 4, offset: mib / 2 })
  slow.read()
  await settled()
  expect([slow.closed, slow.bytes.length]).toEqual([1000, mib / 2])
})

test('a sandbox that fails is told to all, with the error', async () => {
  const { hub, join, source } = open()
  const [one, other] = [viewer(), viewer()]
  join(one)
  join(other)
  source.fail(new DeltaError('guest_protocol_error', 'It lies'))
  await settled()
  for (const { notices, closed } of [one, other]) {
    expect(closed).toBe(1011)
    expect(notices.at(-1)).toMatchObject({ type: 'error', status: 502, error: { code: 'guest_protocol_error' } })
  }
  expect(hub.ended).toBe(true)
})

test('of many sizes at once the program gets the first and the last, before what is typed next', async () => {
  const { join, source } = open()
  const [one, other] = [viewer(), viewer()]
  const { resize, write } = join(one)
  join(other)
  for (let cols = 1; cols <= 100; cols++) resize({ cols, rows: 5 })
  void write(Buffer.from('x'))
  expect(source.sizes).toEqual([
    [1, 5],
    [100, 5],
  ])
  await expect.poll(() => other.notices.at(-1)).toEqual({ type: 'resized', cols: 100, rows: 5 })
  expect(one.notices.filter(({ type }) => type === 'resized')).toEqual([])
})

test('who only watches can neither type nor resize', () => {
  const { join, source } = open()
  const { write, resize } = join(viewer(), { readOnly: true })
  expect(() => write(Buffer.from('x'))).toThrow(/only watches/)
  expect(() => resize({ cols: 1, rows: 1 })).toThrow(/only watches/)
  expect([source.written, source.sizes]).toEqual(['', []])
})

test('one viewer too many is refused, and the others stay', () => {
  const { hub, join } = open()
  for (let i = 0; i < viewersPerTerminal; i++) join(viewer())
  expect(() => join(viewer())).toThrow(/watch this terminal already/)
  expect(hub.viewers).toBe(viewersPerTerminal)
})

afterEach(() => void vi.useRealTimers())

/** Timers go when the test says so; what is settled by turns of the event loop goes on. */
const holdTimers = () => vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] })

test('a viewer that resizes without end tells the others so a few times a second, also where it types in between', async () => {
  holdTimers()
  const { join } = open()
  const [one, other] = [viewer(), viewer()]
  const { resize, write } = join(one)
  join(other)
  const resized = () => other.notices.filter(({ type }) => type === 'resized')
  for (let cols = 1; cols <= 10_000; cols++) {
    resize({ cols: (cols % 500) + 1, rows: 5 })
    if (cols % 2 === 0) void write(Buffer.from('x'))
  }
  expect(resized().length).toBe(1)
  await vi.advanceTimersByTimeAsync(terminalLimits.resizedEveryMs)
  expect(resized().slice(1)).toEqual([{ type: 'resized', cols: 1, rows: 5 }])
})

test('a lone viewer that never confirms holds the program for a minute, then it is one that fell behind', async () => {
  holdTimers()
  const { hub, join, source } = open()
  const careful = viewer()
  const { taken } = join(careful, { aheadBytes: 64 * 1024 })
  const said = await flood(source, 2 * mib)
  expect(said).toBeLessThan(mib)
  await vi.advanceTimersByTimeAsync(terminalLimits.unconfirmedMs - 1)
  expect(await flood(source, mib)).toBeLessThan(mib)
  await vi.advanceTimersByTimeAsync(1)
  expect(await flood(source, 3 * mib)).toBe(3 * mib)
  expect(careful.bytes.length).toBeLessThanOrEqual(64 * 1024)
  expect(hub.viewers).toBe(1)
  taken(careful.bytes.length)
  await settled()
  const gap = careful.notices.find(({ type }) => type === 'gap')
  expect(gap).toMatchObject({ type: 'gap' })
  // It is waited for again.
  expect(await flood(source, 3 * mib)).toBeLessThan(3 * mib)
})

test('a viewer that confirms now and then is waited for', async () => {
  holdTimers()
  const { join, source } = open()
  const careful = viewer()
  const { taken } = join(careful, { aheadBytes: 64 * 1024 })
  await flood(source, mib)
  for (let minutes = 0; minutes < 3; minutes++) {
    await vi.advanceTimersByTimeAsync(terminalLimits.unconfirmedMs - 1)
    taken(careful.bytes.length)
    await settled()
  }
  expect(careful.notices.filter(({ type }) => type === 'gap')).toEqual([])
})

test('windows and queues of viewers come from the memory of the sandbox, and go back with the last viewer', async () => {
  const held = createHeldBytes({ bytes: 2 * mib, guaranteedBytes: 0 })
  const source = program({ held: held.account() })
  const { join } = open(0, source)
  const fast = viewer()
  const slow = [viewer({ reads: false }), viewer({ reads: false }), viewer({ reads: false })]
  const watching = [fast, ...slow].map((one) => join(one))
  expect(await flood(source, 5 * mib)).toBe(5 * mib)
  await settled()
  expect(fast.bytes.length).toBe(5 * mib)
  const queued = slow.reduce((sum, { mostQueued }) => sum + mostQueued, 0)
  expect(queued).toBeLessThanOrEqual(held.bytes)
  expect(held.bytes).toBeLessThanOrEqual(mib)
  for (const { leave } of watching) leave()
  expect(held.bytes).toBe(0)
})

test('the fastest viewer misses nothing where the window can not grow', async () => {
  const account = createHeldBytes({ bytes: 128 * 1024, guaranteedBytes: 0 }).account()
  const { join, source } = open(0, program({ held: account }))
  const one = viewer()
  join(one)
  for (let said = 0; said < mib; said += 64 * 1024) await source.say(pattern(64 * 1024))
  await settled()
  expect(one.bytes.equals(pattern(mib))).toBe(true)
  expect(account.bytes).toBeLessThanOrEqual(64 * 1024)
})

test('a viewer for whom there is no memory is refused', () => {
  const { join } = open(0, program({ held: createHeldBytes({ bytes: 80 * 1024, guaranteedBytes: 0 }).account() }))
  join(viewer())
  expect(() => join(viewer())).toThrow('holds as much as it may')
})
