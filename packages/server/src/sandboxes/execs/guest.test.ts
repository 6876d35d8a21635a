import { execFileSync } from 'node:child_process'
import { createHash, randomBytes } from 'node:crypto'
import { once } from 'node:events'
import { request as httpRequest } from 'node:http'
import type { IncomingMessage } from 'node:http'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest'
import { openTestGuest, testUser } from './testing-guest.ts'
import { startTestServer } from './testing-server.ts'
import type { TestServer } from './testing-server.ts'
import type { Exec } from './schema.ts'

let box: Awaited<ReturnType<typeof openTestGuest>>
let server: TestServer

beforeAll(async () => {
  box = await openTestGuest()
  server = await startTestServer({ door: box.door })
})
afterAll(async () => {
  await server?.close()
  await box?.close()
})

const base = '/v1/sandboxes/sbx_test'
const post = (path: string, body: object, headers: Record<string, string> = {}) =>
  server.post(`${base}/${path}`, { user: testUser, cwd: box.folder, ...body }, headers)
const run = async (body: object): Promise<Exec> => (await post('execs', body)).json() as Promise<Exec>
/** Without a login shell, whose start-up files may take their time. */
const sh = (script: string) => ['/bin/sh', '-c', script]
/** The machine may be busy with other tests. */
const patience = { timeout: 15_000 }
const refused = async (response: Response) => ((await response.json()) as { error: { code: string } }).error.code

describe('a real process', () => {
  test('runs in its folder with its variables, and says how it ended', async () => {
    const exec = await run({ cmd: 'pwd; echo $A; echo oh >&2; exit 7', env: { A: 'é b' } })
    expect(exec).toMatchObject({
      state: 'exited',
      exitCode: 7,
      stdout: `${box.folder}\né b\n`,
      stderr: 'oh\n',
      truncated: false,
    })
    expect(exec.pid).toBeGreaterThan(0)
    expect(await run({ cmd: ['/bin/sh', '-c', 'kill -TERM $$'] })).toMatchObject({
      state: 'signalled',
      exitCode: null,
      signal: 'SIGTERM',
    })
    expect(await run({ cmd: ['printenv', 'PATH'] })).toMatchObject({ stdout: expect.stringContaining('/usr/bin') })
  })

  test('takes a command and a stdin of more than 1 MiB, and keeps its exit code', async () => {
    const stdin = randomBytes(800_000).toString('base64')
    const sum = createHash('sha256').update(stdin).digest('hex')
    const cmd = `# ${'x'.repeat(1_100_000)}\nsha256sum; echo "$# args"; exit 3`
    expect(await run({ cmd, stdin })).toMatchObject({ exitCode: 3, stdout: `${sum}  -\n0 args\n` })
  })

  test('that does not start says why', async () => {
    const cases: [object, string][] = [
      [{ cmd: ['no-such-program'] }, 'exec_start_failed'],
      [{ cmd: ['/etc/passwd'] }, 'exec_start_failed'],
      [{ cmd: ['true'], cwd: '/no/such/folder' }, 'exec_start_failed'],
      [{ cmd: ['true'], cwd: '/etc/passwd' }, 'exec_start_failed'],
      [{ cmd: ['true'], user: 'nobody-here' }, 'user_not_found'],
    ]
    for (const [body, code] of cases) expect(await refused(await post('execs', body)), JSON.stringify(body)).toBe(code)
  })

  test('is ended at its timeout with all it started', async () => {
    const exec = await run({ cmd: sh('sleep 471 & sleep 471'), timeoutMs: 300 })
    expect(exec).toMatchObject({ timedOut: true, exitCode: null, oomKilled: false })
    await vi.waitFor(() => expect(running('sleep 471')).toBe(0), patience)
  })

  test('that is not text comes exact as base64, on both streams', async () => {
    const exec = await run({ cmd: ['/bin/sh', '-c', "printf '\\377\\000'; printf '\\376' >&2"], encoding: 'base64' })
    expect([exec.stdout, exec.stderr]).toEqual(['/wA=', '/g=='])
  })

  test('on a terminal has its size', async () => {
    const exec = await run({ cmd: ['stty', 'size'], pty: { cols: 91, rows: 17 } })
    expect(exec.stdout).toBe('17 91\r\n')
  })

  test('of a flood is cut to its ends, at flat memory', async () => {
    const before = process.memoryUsage().rss
    let most = 0
    const watch = setInterval(() => (most = Math.max(most, process.memoryUsage().rss)), 5)
    const exec = await run({ cmd: sh('echo first; yes xxx | head -c 300000000; echo last') })
    clearInterval(watch)
    expect(exec.stdout.startsWith('first\nxxx\n')).toBe(true)
    expect(exec.stdout.endsWith('xxx\nlast\n')).toBe(true)
    expect([exec.stdout.length, exec.outputBytes]).toEqual([2 * 1024 * 1024, 300_000_011])
    expect(exec.truncatedBytes).toEqual({ stdout: 300_000_011 - 2 * 1024 * 1024, stderr: 0 })
    // What is on its way to the garbage collector counts too; all of the output would be far more.
    expect(most - before).toBeLessThan(128 * 1024 * 1024)
  })

  test('outlives its request, and is found with its output', async () => {
    const started = (await (
      await post('execs', { cmd: sh('echo up; sleep 472'), background: true, tag: 'web' })
    ).json()) as Exec
    expect(started).toMatchObject({ state: 'running', tag: 'web' })
    await vi.waitFor(async () => {
      expect(await (await server.get(`${base}/execs/${started.id}`)).json()).toMatchObject({
        state: 'running',
        stdout: 'up\n',
        tag: 'web',
      })
    })
    const { data } = (await (await server.get(`${base}/execs`)).json()) as { data: Exec[] }
    expect(data.find(({ id }) => id === started.id)).toMatchObject({
      state: 'running',
      cmd: sh('echo up; sleep 472'),
    })
    expect((await server.post(`${base}/execs/${started.id}/signal`, { signal: 'KILL', scope: 'session' })).status).toBe(
      204,
    )
    await vi.waitFor(async () => {
      expect(await (await server.get(`${base}/execs/${started.id}`)).json()).toMatchObject({
        state: 'signalled',
        signal: 'SIGKILL',
        oomKilled: false,
      })
    })
    expect(await refused(await server.post(`${base}/execs/${started.id}/signal`, { signal: 15 }))).toBe(
      'exec_not_running',
    )
    expect(await refused(await server.post(`${base}/execs/exe_none/signal`, { signal: 15 }))).toBe('exec_not_found')
  })

  test('reads stdin as it is sent, of any length, and nothing is lost when a sender leaves', async () => {
    const { id } = (await (
      await post('execs', { cmd: sh('sleep 0.2; sha256sum'), background: true, stdinOpen: true })
    ).json()) as Exec
    const sum = createHash('sha256')
    for (const last of [false, true]) {
      const part = randomBytes(3_000_000)
      sum.update(part)
      expect((await server.send('POST', `${base}/execs/${id}/stdin?close=${last}`, { body: part })).status).toBe(204)
    }
    const stdout = `${sum.digest('hex')}  -\n`
    await vi.waitFor(async () => {
      expect(await (await server.get(`${base}/execs/${id}`)).json()).toMatchObject({ state: 'exited', stdout })
    }, patience)
  })

  test('without an open stdin refuses to be written to', async () => {
    const { id } = (await (await post('execs', { cmd: ['sleep', '473'], background: true })).json()) as Exec
    expect(await refused(await server.send('POST', `${base}/execs/${id}/stdin`, { body: 'x' }))).toBe(
      'exec_stdin_closed',
    )
    await server.post(`${base}/execs/${id}/signal`, { signal: 9 })
  })

  test('with the same key runs once, also when both ask at once', async () => {
    const file = join(box.folder, 'count')
    const body = { cmd: sh(`echo x >> ${file}; sleep 0.2; cat ${file}`) }
    const both = await Promise.all([1, 2].map(() => post('execs', body, { 'idempotency-key': 'once' })))
    const [one, other] = (await Promise.all(both.map((response) => response.json()))) as Exec[]
    expect([one!.stdout, other]).toEqual(['x\n', one])
    expect(await refused(await post('execs', { cmd: 'true' }, { 'idempotency-key': 'once' }))).toBe(
      'idempotency_conflict',
    )
  })

  test('goes on over a lost connection, without a byte lost or twice', async () => {
    const waiting = run({ cmd: sh('for i in $(seq 1 400); do echo line $i; sleep 0.002; done') })
    for (let i = 0; i < 4; i++) {
      await new Promise((resolve) => setTimeout(resolve, 150))
      await box.lose()
    }
    const exec = await waiting
    expect(exec.stdout).toBe(Array.from({ length: 400 }, (_, i) => `line ${i + 1}\n`).join(''))
    expect([exec.exitCode, exec.truncated]).toEqual([0, false])
  })
})

describe('code', () => {
  const source: Record<string, string> = {
    python: 'import sys\nprint(6*7, sys.stdin.read())',
    javascript: 'import fs from "node:fs"; console.log(6*7, fs.readFileSync(0, "utf8"))',
    bash: 'echo $((6*7)) $(cat)',
  }
  test.each(Object.keys(source))('of %s runs, short and long', async (language) => {
    const comment = language === 'javascript' ? '//' : '#'
    for (const text of [source[language]!, `${source[language]}\n${comment} ${'x'.repeat(300_000)}`]) {
      const exec = (await (await post('code', { language, source: text, stdin: 'in' })).json()) as Exec
      expect([exec.stderr, exec.exitCode, exec.stdout.trim()]).toEqual(['', 0, '42 in'])
    }
  })

  test('without an interpreter names the template that has one', async () => {
    const response = await post('code', { language: 'python', source: '1', env: { PATH: '/nowhere' } })
    expect(await response.json()).toMatchObject({
      error: { code: 'interpreter_missing', context: { interpreter: 'python3' } },
    })
  })
})

describe('a viewer', () => {
  test('that stops reading holds the process back at flat memory, and frees it by leaving', async () => {
    const request = httpRequest(`${server.url}${base}/execs`, { method: 'POST', headers: server.headers })
    request.on('error', () => {})
    const cmd = sh('head -c 100000000 /dev/zero')
    request.end(JSON.stringify({ cmd, user: testUser, cwd: box.folder, stream: true, encoding: 'base64' }))
    const [response] = (await once(request, 'response')) as [IncomingMessage]
    await once(response, 'readable')
    response.pause()
    const { id } = ((await (await server.get(`${base}/execs`)).json()) as { data: Exec[] }).data[0]!
    const produced = async () =>
      ((await (await server.get(`${base}/execs`)).json()) as { data: Exec[] }).data.find((exec) => exec.id === id)!
    // It stands still: what is under way between the process and the viewer is bounded.
    const stood = await vi.waitFor(async () => {
      const first = (await produced()).outputBytes
      await new Promise((resolve) => setTimeout(resolve, 100))
      expect((await produced()).outputBytes).toBe(first)
      return first
    }, patience)
    expect(stood).toBeLessThan(100_000_000)
    response.destroy()
    await vi.waitFor(
      async () => expect(await produced()).toMatchObject({ state: 'exited', outputBytes: 100_000_000 }),
      10_000,
    )
  })

  test('resumes where it was', async () => {
    const { id } = (await (
      await post('execs', { cmd: sh('echo one; sleep 0.1; echo two'), background: true })
    ).json()) as Exec
    const text = await (await server.get(`${base}/execs/${id}/events`)).text()
    expect(text).toContain('event: exit')
    const resumed = await (await server.get(`${base}/execs/${id}/events`, { 'last-event-id': '4' })).text()
    expect(resumed).toContain('{"data":"two\\n","offset":4}')
    expect(resumed).not.toContain('"one')
  })
})

test('a guest that is killed leaves an unknown end and what was said', async () => {
  const waiting = run({ cmd: sh('echo half; sleep 474') })
  await vi.waitFor(() => expect(running('sleep 474')).toBeGreaterThan(0), patience)
  await box.kill()
  const exec = await waiting
  expect(exec).toMatchObject({ state: 'unknown', exitCode: null, signal: null, stdout: 'half\n' })
})

function running(command: string): number {
  try {
    return execFileSync('pgrep', ['-fx', command], { encoding: 'utf8' }).trim().split('\n').length
  } catch {
    return 0
  }
}
