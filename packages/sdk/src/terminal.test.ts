import { afterAll, afterEach, beforeAll, expect, test } from 'vitest'
import { openTestGuest, testUser } from '../../server/src/sandboxes/execs/testing-guest.ts'
import { startTerminalServer, testKey } from '../../server/src/terminal/testing.ts'
import { NotFoundError, type Terminal } from './index.ts'
import { createTransport } from './transport.ts'
import { Terminals } from './terminals.ts'

// Against the server itself and a real guest: what is resumed is the point.

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
const open: Terminal[] = []
afterEach(() => {
  for (const terminal of open.splice(0)) terminal.close()
})

const terminals = () =>
  new Terminals(createTransport({ url: `http://127.0.0.1:${server.port}`, apiKey: testKey }), '/v1/sandboxes/sbx_test')
const where = () => ({ user: testUser, cwd: guest.folder, env: { PS1: '$ ', HOME: guest.folder } })

async function start(cmd: string | string[] = ['/bin/sh']): Promise<Terminal> {
  const terminal = await terminals().create({ ...where(), cmd })
  open.push(terminal)
  return terminal
}

/** Takes output until it fits. */
async function until(terminal: Terminal, pattern: RegExp): Promise<string> {
  let text = ''
  for await (const bytes of terminal) {
    text += Buffer.from(bytes).toString()
    if (pattern.test(text)) return text
  }
  throw new Error(`it ended before ${String(pattern)}: ${text.slice(-200)}`)
}

test('a shell answers, and its exit code is told', async () => {
  const terminal = await start()
  await terminal.write('echo $((6 * 7)); exit 3\n')
  expect(await until(terminal, /\b42\r\n/)).toContain('42')
  expect(await terminal.wait()).toEqual({
    state: 'exited',
    exitCode: 3,
    signal: null,
    timedOut: false,
    oomKilled: false,
  })
  await expect(terminal.write('x')).rejects.toThrow('The terminal has ended')
})

test('output that came before anybody listened is kept for who does', async () => {
  const terminal = await start('echo first; exec cat')
  const other = await terminals().connect(terminal.id)
  open.push(other)
  await until(other, /first/)
  let heard = ''
  const listened = new Promise<void>((resolve) => {
    terminal.onData((bytes) => {
      heard += Buffer.from(bytes).toString()
      if (heard.includes('second')) resolve()
    })
  })
  await other.write('second\n')
  await listened
  expect(heard).toMatch(/^first\r\n[^]*second/)
})

test('a reader that takes its time loses nothing and keeps little', async () => {
  const terminal = await start('seq 600000')
  let bytes = 0
  let last = ''
  for await (const piece of terminal) {
    bytes += piece.length
    last = (last + Buffer.from(piece).toString()).slice(-20)
    if (bytes < 2_000_000) await new Promise((resolve) => setImmediate(resolve))
  }
  expect([bytes, last.trim().split('\r\n').at(-1), (await terminal.wait()).exitCode]).toEqual([
    Buffer.byteLength(Array.from({ length: 600_000 }, (_, i) => `${i + 1}\r\n`).join('')),
    '600000',
    0,
  ])
})

test('a size reaches the program and the other viewers', async () => {
  const terminal = await start()
  const other = await terminals().connect(terminal.id)
  open.push(other)
  const heard = new Promise((resolve) => other.onResize(resolve))
  terminal.resize(132, 43)
  await terminal.write('stty size\n')
  expect(await heard).toEqual({ cols: 132, rows: 43 })
  await until(terminal, /\b43 132\r\n/)
  expect((await terminals().list()).find(({ id }) => id === terminal.id)).toMatchObject({ cols: 132, rows: 43 })
})

test('a size out of bounds is an error that tells the limit; the terminal stays', async () => {
  const terminal = await start()
  const error = new Promise((resolve) => terminal.onError(resolve))
  terminal.resize(100_000, 24)
  expect(await error).toMatchObject({ status: 400, code: 'invalid_request', cause: expect.stringContaining('1000') })
  await terminal.write('echo st""ill\n')
  await until(terminal, /still/)
})

test('when the server is gone for a moment, output goes on at its byte', async () => {
  const terminal = await start('while read line; do echo "got $line"; done')
  const { port } = server
  await terminal.write('one\n')
  let text = await until(terminal, /got one\r\n/)
  await server.close()
  server = await startTerminalServer(guest.door, { port })
  await terminal.write('two\n')
  text += await until(terminal, /got two\r\n/)
  expect(text).toBe('one\r\ngot one\r\ntwo\r\ngot two\r\n')
})

test('a terminal that is not there is a typed error', async () => {
  await expect(terminals().connect('exe_nothing')).rejects.toBeInstanceOf(NotFoundError)
  const wrong = new Terminals(
    createTransport({ url: `http://127.0.0.1:${server.port}`, apiKey: 'wrong' }),
    '/v1/sandboxes/sbx_test',
  )
  await expect(wrong.connect('exe_nothing')).rejects.toMatchObject({ status: 401, code: 'unauthorized' })
})

test('kill ends it, close leaves it', async () => {
  const terminal = await start()
  const other = await terminals().connect(terminal.id)
  other.close()
  await expect(other.wait()).rejects.toThrow('closed')
  await terminal.kill()
  expect(await terminal.wait()).toMatchObject({ signal: 'SIGHUP', exitCode: null })
})
