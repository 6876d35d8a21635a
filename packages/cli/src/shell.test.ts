import { afterAll, beforeAll, expect, test } from 'vitest'
import { openTestGuest, testUser } from '../../server/src/sandboxes/execs/testing-guest.ts'
import { startTerminalServer, testKey } from '../../server/src/terminal/testing.ts'
import { Terminals } from '../../sdk/src/terminals.ts'
import { createTransport } from '../../sdk/src/transport.ts'
import { parseDetachKeys } from './detach-keys.ts'
import type { Io } from './io.ts'
import { shell } from './shell.ts'
import type { ShellSettings } from './shell.ts'

// A terminal of the tests' own making, in front of the server and a real guest.

let guest: Awaited<ReturnType<typeof openTestGuest>>
let server: Awaited<ReturnType<typeof startTerminalServer>>
beforeAll(async () => {
  guest = await openTestGuest()
  server = await startTerminalServer(guest.door)
})
afterAll(async () => {
  await server.close()
  await guest.close()
})

/** A person at a terminal: types, looks, changes the size. */
function person({ isTTY = true }: { isTTY?: boolean } = {}) {
  const typed: Buffer[] = []
  const raw: boolean[] = []
  const resizers: (() => void)[] = []
  const signals = new Map<string, () => void>()
  const looking = new Set<() => void>()
  let wake: (() => void) | undefined
  const desk = { left: false }
  let screen = ''
  let said = ''
  const io: Io = {
    env: { TERM: 'xterm' },
    stdin: {
      isTTY,
      async *[Symbol.asyncIterator]() {
        while (!desk.left) {
          const bytes = typed.shift()
          if (bytes) yield bytes
          else await new Promise<void>((resolve) => (wake = resolve))
        }
      },
    },
    stdinHasData: false,
    setRaw: (on) => void raw.push(on),
    stdout: {
      isTTY,
      columns: 90,
      rows: 20,
      write(data) {
        screen += Buffer.from(data as string).toString()
        for (const look of looking) look()
        return true
      },
      once: () => {},
    },
    stderr: { write: (data) => (said += String(data)) !== '', once: () => {} },
    onSignal(signal, listener) {
      signals.set(signal, listener)
      return () => signals.delete(signal)
    },
    onResize(listener) {
      resizers.push(listener)
      return () => resizers.splice(0)
    },
    onClosedOutput() {},
  }
  return {
    io,
    raw,
    signals,
    get said() {
      return said
    },
    get screen() {
      return screen
    },
    type(text: string) {
      typed.push(Buffer.from(text))
      wake?.()
    },
    leaveDesk() {
      desk.left = true
      wake?.()
    },
    resize(columns: number, rows: number) {
      Object.assign(io.stdout, { columns, rows })
      for (const resized of resizers) resized()
    },
    sees: (pattern: RegExp) =>
      new Promise<void>((resolve) => {
        const look = (): void => {
          if (!pattern.test(screen)) return
          looking.delete(look)
          resolve()
        }
        looking.add(look)
        look()
      }),
  }
}

const sandbox = () => ({
  id: 'sbx_test',
  terminal: new Terminals(
    createTransport({ url: `http://127.0.0.1:${server.port}`, apiKey: testKey }),
    '/v1/sandboxes/sbx_test',
  ),
})
const settings = (more: Partial<ShellSettings> = {}): ShellSettings => ({
  command: ['/bin/sh', '-i'],
  user: testUser,
  cwd: guest.folder,
  env: { PS1: '$ ', ENV: '' },
  detachKeys: parseDetachKeys('ctrl-p,ctrl-q'),
  ...more,
})
const running = async () => (await sandbox().terminal.list()).filter(({ state }) => state === 'running')

test('what is typed runs in the sandbox, and the exit code is passed on', async () => {
  const { io, raw, type, sees } = person()
  const ended = shell(io, sandbox(), settings())
  type('echo $((6 * 7)) $TERM $(stty size)\r')
  await sees(/42 xterm 20 90\r\n/)
  type('exit 9\r')
  expect(await ended).toEqual({ exitCode: 9, detached: false })
  expect(raw).toEqual([true, false])
})

test('Ctrl-C is a key like any other; a death by signal is 128 + its number', async () => {
  const { io, raw, type, sees } = person()
  const ended = shell(io, sandbox(), settings({ command: ['/bin/sh', '-c', 'echo up; exec sleep 100'] }))
  await sees(/up/)
  type('\x03')
  expect(await ended).toEqual({ exitCode: 130, detached: false })
  expect(raw).toEqual([true, false])
})

test('another size of the window is another size of the terminal', async () => {
  const { io, type, sees, resize } = person()
  const ended = shell(io, sandbox(), settings())
  await sees(/\$ /)
  resize(133, 44)
  type('stty size\r')
  await sees(/44 133\r\n/)
  type('exit\r')
  await ended
})

test('the detach keys leave it running, and one comes back to it', async () => {
  const first = person()
  const left = shell(first.io, sandbox(), settings())
  first.type('var=kept\r')
  await first.sees(/kept\r\n/)
  first.type('\x10')
  first.type('\x11')
  expect(await left).toEqual({ exitCode: 0, detached: true })
  expect(first.raw).toEqual([true, false])
  const [terminal] = await running()
  expect(first.said).toContain(`--attach ${terminal!.id} sbx_test`)
  const second = person()
  const ended = shell(second.io, sandbox(), settings({ attach: terminal!.id }))
  second.type('echo still $var\r')
  await second.sees(/still kept\r\n/)
  second.type('exit\r')
  expect(await ended).toEqual({ exitCode: 0, detached: false })
})

test('who is hung up on, or whose input ends, leaves nothing running', async () => {
  for (const leave of [
    ({ signals }: ReturnType<typeof person>) => signals.get('SIGHUP')!(),
    ({ signals }: ReturnType<typeof person>) => signals.get('SIGTERM')!(),
    ({ leaveDesk }: ReturnType<typeof person>) => leaveDesk(),
  ]) {
    const one = person()
    const ended = shell(one.io, sandbox(), settings({ command: ['/bin/sh', '-c', 'echo up; exec sleep 100'] }))
    await one.sees(/up/)
    leave(one)
    expect(await ended).toEqual({ exitCode: 129, detached: false })
    expect(one.raw).toEqual([true, false])
    expect(await running()).toEqual([])
  }
})

test('a program that can not be started is an error, and this terminal as it was', async () => {
  const { io, raw } = person()
  await expect(shell(io, sandbox(), settings({ command: ['/no/such', 'x'] }))).rejects.toMatchObject({
    code: 'exec_start_failed',
  })
  expect(raw.at(-1) ?? false).toBe(false)
})

test('without a terminal here it says what to use instead', async () => {
  const { io, raw } = person({ isTTY: false })
  await expect(shell(io, sandbox(), settings())).rejects.toThrow(/standard input is no terminal.*sandbox exec/)
  expect(raw).toEqual([])
})
