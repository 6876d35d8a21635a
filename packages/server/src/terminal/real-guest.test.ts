import { afterAll, afterEach, beforeAll, beforeEach, expect, test } from 'vitest'
import { openTestGuest, testUser } from '../sandboxes/execs/testing-guest.ts'
import { startTerminalServer } from './testing.ts'

// A real guest with real PTYs, as an ordinary process.

let guest: Awaited<ReturnType<typeof openTestGuest>>
let server: Awaited<ReturnType<typeof startTerminalServer>>
beforeAll(async () => {
  guest = await openTestGuest()
})
afterAll(() => guest.close())
beforeEach(async () => {
  server = await startTerminalServer(guest.door)
})
afterEach(() => server.close())

const where = () => ({ user: testUser, cwd: guest.folder, env: { PS1: '$ ', ENV: '', HOME: guest.folder } })
const shell = () => server.create({ ...where(), cmd: ['/bin/sh'] })

test('what is typed runs, and what it says comes back', async () => {
  const viewer = server.view(await shell())
  expect(await viewer.notice('ready')).toMatchObject({ offset: 0, cols: 80, rows: 24, readOnly: false })
  viewer.write('echo $((6 * 7))\n')
  await viewer.until(/\b42\r\n/)
})

test('the program sees a new size, and the other viewers hear of it', async () => {
  const id = await shell()
  const [one, other] = [server.view(id), server.view(id)]
  await Promise.all([one.notice('ready'), other.notice('ready')])
  one.control({ type: 'resize', cols: 123, rows: 45 })
  expect(await other.notice('resized')).toEqual({ type: 'resized', cols: 123, rows: 45 })
  one.write('stty size\n')
  await Promise.all([one.until(/\b45 123\r\n/), other.until(/\b45 123\r\n/)])
  expect(one.notices.filter(({ type }) => type === 'resized')).toEqual([])
  const answer = await server.send('PATCH', `/${id}`, { cols: 99, rows: 9 })
  expect(await answer.json()).toMatchObject({ id, cols: 99, rows: 9, viewers: 2, state: 'running' })
  one.write('stty size\n')
  await one.until(/\b9 99\r\n/)
})

test('a viewer hears the last of the output and how the terminal ended', async () => {
  const viewer = server.view(await shell())
  await viewer.notice('ready')
  viewer.write('echo by""e; exit 7\n')
  expect(await viewer.closed).toEqual({ code: 1000, reason: 'the terminal has ended' })
  expect(viewer.text).toMatch(/\bbye\r\n/)
  expect(viewer.notices.at(-1)).toMatchObject({ type: 'exit', state: 'exited', exitCode: 7, offset: viewer.bytes })
})

test('a terminal that has ended replays its output to who comes later', async () => {
  const id = await server.create({ ...where(), cmd: 'echo over; exit 3' })
  const first = server.view(id)
  await first.closed
  const late = server.view(id)
  await late.closed
  expect([late.text, late.notices.at(-1)]).toEqual(['over\r\n', first.notices.at(-1)])
})

test('who comes back goes on exactly where it left', async () => {
  const id = await server.create({ ...where(), cmd: 'for i in $(seq 2000); do echo line $i; done; cat' })
  const whole = server.view(id)
  await whole.until(/line 2000\r\n/)
  for (const from of [0, 1, 777, whole.bytes - 1]) {
    const part = server.view(id, `?from=${from}`)
    await part.until(({ bytes }) => bytes === whole.bytes - from)
    expect(part.text).toBe(whole.text.slice(from))
    expect(part.notices[0]).toMatchObject({ type: 'ready', offset: from, end: whole.bytes })
  }
  const some = server.view(id, '?scrollback=100')
  await some.until(({ bytes }) => bytes === 100)
  expect(some.text).toBe(whole.text.slice(-100))
})

test('what the window does not hold any more is fetched from the sandbox', async () => {
  const id = await server.create({ ...where(), cmd: 'seq 350000; exec cat' })
  const whole = server.view(id)
  await whole.until(/350000\r\n$/)
  const all = server.view(id, '?from=0')
  const bytes = Buffer.byteLength(Array.from({ length: 350_000 }, (_, i) => `${i + 1}\r\n`).join(''))
  await all.until((viewer) => viewer.bytes === bytes)
  expect([all.text.slice(-20), all.notices.map(({ type }) => type)]).toEqual([whole.text.slice(-20), ['ready']])
})

test('deleting a terminal ends what ignores the hang-up too', async () => {
  const id = await server.create({
    ...where(),
    cmd: ['/bin/sh', '-c', 'trap "" HUP; echo up; while :; do sleep 1; done'],
  })
  const viewer = server.view(id)
  await viewer.until(/up/)
  expect((await server.send('DELETE', `/${id}`)).status).toBe(204)
  expect(await viewer.closed).toMatchObject({ code: 1000 })
  expect(viewer.notices.at(-1)).toMatchObject({ type: 'exit', state: 'signalled', signal: 'SIGKILL', exitCode: null })
  expect((await server.send('DELETE', `/${id}`)).status).toBe(204)
})

test('a lost connection to the sandbox is not noticed by who watches', async () => {
  const viewer = server.view(await shell())
  await viewer.notice('ready')
  viewer.write('echo bef""ore\n')
  await viewer.until(/before\r\n/)
  await guest.lose()
  const again = async (): Promise<void> => {
    viewer.write('echo aft""er\n')
    await Promise.race([viewer.until(/after\r\n/), viewer.notice('error').then(() => undefined)])
    viewer.notices.length = 0
  }
  while (!/after\r\n/.test(viewer.text)) await again()
  expect(viewer.text).toMatch(/before\r\n[^]*after\r\n/)
})
