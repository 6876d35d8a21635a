import { createHash, randomBytes, randomUUID } from 'node:crypto'
import type { Sandbox } from '@delta-agents/sdk'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { delta, refusal, request, serverMemoryBytes } from './target.ts'

const mib = 1024 * 1024
let sandbox: Sandbox
beforeAll(async () => {
  sandbox = await delta.sandboxes.create({ timeoutMs: 1_800_000 })
})
afterAll(() => sandbox.kill())

test('a text is run by a login shell, an array as it is', async () => {
  expect(await sandbox.commands.run('echo $((6*7)) | cat')).toMatchObject({
    stdout: '42\n',
    stderr: '',
    exitCode: 0,
    ok: true,
  })
  expect((await sandbox.commands.run(['/bin/echo', '$HOME', 'a  b'])).stdout).toBe('$HOME a  b\n')
  expect((await sandbox.commands.run('shopt -q login_shell && echo login')).stdout).toBe('login\n')
})

test('a non-zero exit is a result', async () => {
  expect(await sandbox.commands.run('echo out; echo err >&2; exit 3')).toMatchObject({
    stdout: 'out\n',
    stderr: 'err\n',
    exitCode: 3,
    signal: null,
    state: 'exited',
    timedOut: false,
    ok: false,
  })
})

test('death by a signal is not an exit code', async () => {
  const result = await sandbox.commands.run(['/bin/bash', '-c', 'kill -SEGV $$'])
  expect(result).toMatchObject({ exitCode: null, signal: 'SIGSEGV', state: 'signalled' })
})

test('the defaults are user, /workspace and a clean environment', async () => {
  const { stdout } = await sandbox.commands.run(['/usr/bin/env'])
  const env = Object.fromEntries(
    stdout
      .trim()
      .split('\n')
      .map((line) => line.split('=', 2)),
  )
  expect(env).toMatchObject({
    HOME: '/home/user',
    USER: 'user',
    LANG: 'C.UTF-8',
    PATH: expect.stringContaining('/usr/bin'),
  })
  expect(Object.keys(env).filter((name) => /DELTA|KEY|TOKEN|SECRET/i.test(name))).toEqual([])
  expect((await sandbox.commands.run('id -un; id -u; pwd')).stdout).toBe('user\n1000\n/workspace\n')
})

test('user, cwd and env are honoured', async () => {
  const options = { user: 'root', cwd: '/tmp', env: { A: 'x y', EMPTY: '' } }
  const { stdout } = await sandbox.commands.run('id -u; pwd; echo "[$A][$EMPTY]"', options)
  expect(stdout).toBe('0\n/tmp\n[x y][]\n')
  expect((await sandbox.commands.run('id -u', { user: '1000' })).stdout).toBe('1000\n')
})

test.each([
  ['a program that is not there', ['no-such-program'], {}, 'exec_start_failed'],
  ['a folder that is not there', ['true'], { cwd: '/no/such/folder' }, 'exec_start_failed'],
  ['a user that is not there', ['true'], { user: 'nobody-here' }, 'user_not_found'],
  ['a file that is no program', ['/etc/passwd'], {}, 'exec_start_failed'],
])('%s is an error that says so', async (_, cmd, options, code) => {
  expect(await refusal(sandbox.commands.run(cmd, options))).toMatchObject({ status: 400, code })
})

test('at its timeout a command gets TERM, and KILL when it does not listen', async () => {
  const polite = await sandbox.commands.run(`trap 'echo bye; exit 9' TERM; while true; do sleep 0.05; done`, {
    timeoutMs: 400,
  })
  expect(polite).toMatchObject({ timedOut: true, exitCode: null, stdout: 'bye\n' })
  const stubborn = await sandbox.commands.run(`trap '' TERM; echo up; while true; do sleep 0.05; done`, {
    timeoutMs: 400,
  })
  expect(stubborn).toMatchObject({ timedOut: true, exitCode: null, stdout: 'up\n' })
})

test('a timeout reaches what the command started', async () => {
  await sandbox.commands.run('sleep 4242 & sleep 4242', { timeoutMs: 300 })
  await expect
    .poll(async () => (await sandbox.commands.run('pgrep -fx "sleep 4242"')).stdout, { timeout: 5_000 })
    .toBe('')
})

test.each([
  ['text', 'grüße\n'],
  ['nothing', ''],
  ['1 MiB of text', 'x'.repeat(mib)],
  ['3 MiB of text', 'y'.repeat(3 * mib)],
])('%s as stdin arrives whole', async (_, stdin) => {
  const { stdout } = await sandbox.commands.run('sha256sum', { stdin })
  expect(stdout).toBe(`${createHash('sha256').update(stdin).digest('hex')}  -\n`)
})

test('bytes and streams as stdin arrive whole', async () => {
  const bytes = randomBytes(5 * mib)
  const digest = createHash('sha256').update(bytes).digest('hex')
  expect((await sandbox.commands.run('sha256sum', { stdin: bytes })).stdout).toContain(digest)
  expect((await sandbox.commands.run('sha256sum', { stdin: new Blob([bytes]).stream() })).stdout).toContain(digest)
})

test('a command that does not read its stdin ends all the same', async () => {
  expect(await sandbox.commands.run('exit 4', { stdin: randomBytes(4 * mib) })).toMatchObject({ exitCode: 4 })
})

test('a command of 1 MiB runs', async () => {
  const word = 'z'.repeat(mib)
  expect((await sandbox.commands.run(`printf %s ${word} | wc -c`)).stdout.trim()).toBe(String(mib))
})

test('output that is no text is replaced, or exact in base64', async () => {
  const cmd = ['/bin/bash', '-c', String.raw`printf '\xff\x00\xc3\xa4'`]
  expect((await sandbox.commands.run(cmd)).stdout).toBe('\ufffd\0ä')
  const exact = await sandbox.commands.run(cmd, { encoding: 'base64' })
  expect([...Buffer.from(exact.stdout, 'base64')]).toEqual([0xff, 0, 0xc3, 0xa4])
})

test('a long answer keeps both ends and counts what it cut', async () => {
  const result = await sandbox.commands.run(
    'echo first; head -c 10M /dev/zero | tr "\\0" x; echo; echo last; echo small >&2',
  )
  expect(result.stdout.startsWith('first\nxxx')).toBe(true)
  expect(result.stdout.endsWith('xxx\nlast\n')).toBe(true)
  expect(result).toMatchObject({ truncated: true, stderr: 'small\n', outputBytes: 10 * mib + 18 })
  expect(result.truncatedBytes.stdout + result.stdout.length).toBe(10 * mib + 12)
  expect(result.truncatedBytes.stderr).toBe(0)
})

test('streamed output comes as it is written', async () => {
  const seen: string[] = []
  const go = Promise.withResolvers<void>()
  const run = sandbox.commands.run('echo one; while [ ! -e /tmp/go ]; do sleep 0.02; done; echo two >&2', {
    onStdout: (text) => {
      seen.push(`out ${text}`)
      go.resolve()
    },
    onStderr: (text) => void seen.push(`err ${text}`),
  })
  await go.promise
  expect(seen).toEqual(['out one\n'])
  await sandbox.files.write('/tmp/go', '')
  expect(await run).toMatchObject({ stdout: 'one\n', stderr: 'two\n', exitCode: 0 })
  expect(seen).toEqual(['out one\n', 'err two\n'])
})

test('event streams follow the standard and name where to resume', async () => {
  const answer = await request(`/v1/sandboxes/${sandbox.id}/execs`, {
    method: 'POST',
    headers: { 'content-type': 'application/json', accept: 'text/event-stream' },
    body: JSON.stringify({ cmd: ['/bin/echo', 'hi'] }),
  })
  expect(answer.headers.get('content-type')).toMatch(/^text\/event-stream/)
  const text = await answer.text()
  expect(text).toMatch(/event: start\n(.*\n)?data: \{"id":"exe_/)
  expect(text).toMatch(/event: stdout\nid: 3\ndata: /)
  expect(text).toMatch(/event: exit\n/)
})

test('a client that goes away does not end its command; another finds it again', async () => {
  const controller = new AbortController()
  const tag = randomUUID()
  const answer = await request(`/v1/sandboxes/${sandbox.id}/execs`, {
    method: 'POST',
    headers: { 'content-type': 'application/json', accept: 'text/event-stream' },
    body: JSON.stringify({ cmd: 'echo begin; sleep 1; echo end', tag }),
    signal: controller.signal,
  })
  await answer.body?.getReader().read()
  controller.abort()
  const found = (await sandbox.commands.list()).find((exec) => exec.tag === tag)
  expect(found?.id).toMatch(/^exe_/)
  const handle = await sandbox.commands.connect(found?.id ?? '')
  expect(await handle.wait()).toMatchObject({ stdout: 'begin\nend\n', exitCode: 0 })
})

test('a background command outlives its request and keeps what it says', async () => {
  const handle = await sandbox.commands.start('for i in 1 2 3; do echo $i; sleep 0.1; done; exit 5', { tag: 'bg' })
  expect(handle.pid).toBeGreaterThan(1)
  await expect.poll(async () => (await sandbox.commands.get(handle.id)).state).toBe('exited')
  expect(await sandbox.commands.get(handle.id)).toMatchObject({ stdout: '1\n2\n3\n', exitCode: 5, tag: 'bg' })
  expect(await (await sandbox.commands.connect(handle.id)).wait()).toMatchObject({ stdout: '1\n2\n3\n', exitCode: 5 })
})

test('an exec is read again from any offset', async () => {
  const { id } = await sandbox.commands.run('printf 0123456789')
  const answer = await request(`/v1/sandboxes/${sandbox.id}/execs/${id}/events?from=4`)
  const text = await answer.text()
  expect(text).toContain('"data":"456789"')
  const byHeader = await request(`/v1/sandboxes/${sandbox.id}/execs/${id}/events`, {
    headers: { 'last-event-id': '8' },
  })
  expect(await byHeader.text()).toContain('"data":"89"')
})

test('two viewers see the same', async () => {
  const handle = await sandbox.commands.start('for i in $(seq 1 200); do echo line $i; done; sleep 0.2; echo done')
  const [a, b] = await Promise.all([handle.wait(), (await sandbox.commands.connect(handle.id)).wait()])
  expect(a.stdout.split('\n')).toHaveLength(202)
  expect(b.stdout).toBe(a.stdout)
})

test('stdin can be written piece by piece and closed', async () => {
  const handle = await sandbox.commands.start('while read -r line; do echo "got $line"; done; echo end', {
    stdinOpen: true,
  })
  await handle.sendStdin('one\n')
  await handle.sendStdin(Buffer.from('two\n'))
  await handle.closeStdin()
  expect((await handle.wait()).stdout).toBe('got one\ngot two\nend\n')
  expect((await refusal(handle.sendStdin('late\n'))).status).toBe(409)
})

test.each([
  ['SIGTERM', 15],
  ['SIGINT', 2],
  ['SIGUSR1', 10],
])('%s reaches the process', async (signal, number) => {
  const handle = await sandbox.commands.start(
    `trap 'exit ${100 + number}' ${signal}; echo ready; while true; do sleep 0.02; done`,
  )
  await expect.poll(async () => (await sandbox.commands.get(handle.id)).stdout).toBe('ready\n')
  await handle.signal(number === 10 ? number : signal)
  expect((await handle.wait()).exitCode).toBe(100 + number)
})

test('kill ends everything the command started', async () => {
  const handle = await sandbox.commands.start('sleep 5151 & sleep 5151 & wait')
  await expect.poll(async () => (await sandbox.commands.run('pgrep -cfx "sleep 5151"')).stdout).toBe('2\n')
  await handle.kill()
  expect(await handle.wait()).toMatchObject({ exitCode: null, signal: 'SIGKILL' })
  await expect.poll(async () => (await sandbox.commands.run('pgrep -fx "sleep 5151"')).stdout).toBe('')
})

test('an aborted run is killed', async () => {
  const controller = new AbortController()
  const run = sandbox.commands.run('echo up; sleep 6161', {
    signal: controller.signal,
    onStdout: () => controller.abort(),
  })
  await expect(run).rejects.toThrow()
  await expect.poll(async () => (await sandbox.commands.run('pgrep -fx "sleep 6161"')).stdout).toBe('')
})

test('the same exec asked for twice runs once', async () => {
  const idempotencyKey = randomUUID()
  const run = () => sandbox.commands.run('echo ran >> /workspace/runs; cat /workspace/runs', { idempotencyKey })
  const [a, b] = await Promise.all([run(), run()])
  const again = await run()
  expect(await sandbox.files.readText('/workspace/runs')).toBe('ran\n')
  expect(new Set([a.id, b.id, again.id]).size).toBe(1)
  expect(again.stdout).toBe('ran\n')
})

test('a terminal has its size and can be resized', async () => {
  const handle = await sandbox.commands.start('stty size; read -r _; stty size', {
    pty: { cols: 91, rows: 23 },
    stdinOpen: true,
  })
  await expect.poll(async () => (await sandbox.commands.get(handle.id)).stdout).toContain('23 91')
  await handle.resize(100, 40)
  await handle.sendStdin('\n')
  expect((await handle.wait()).stdout).toContain('40 100')
})

test.each([
  ['python', 'import sys\nprint(6*7, sys.version_info[0])', '42 3\n', 'python3'],
  ['javascript', 'console.log(6*7, [1,2].map((x) => x * 2).join())', '42 2,4\n', 'node'],
  ['bash', 'for i in 1 2; do echo $i; done', '1\n2\n', 'bash'],
] as const)('%s code runs, or its interpreter is named as missing', async (language, source, expected, program) => {
  const present = (await sandbox.commands.run(`command -v ${program}`)).ok
  if (!present) {
    const error = await refusal(sandbox.runCode(source, { language }))
    expect(error.code).toBe('interpreter_missing')
    expect(`${error.message} ${String(error.cause)}`).toContain(program)
    return
  }
  expect(await sandbox.runCode(source, { language })).toMatchObject({ stdout: expected, exitCode: 0 })
})

test('code that fails says where, and takes stdin, cwd and env', async () => {
  const failed = await sandbox.runCode('echo fine\nfalse_command_here', { language: 'bash' })
  expect(failed).toMatchObject({ stdout: 'fine\n', exitCode: 127 })
  expect(failed.stderr).toContain('false_command_here')
  const options = { language: 'bash', stdin: 'in', cwd: '/tmp', env: { A: 'b' } } as const
  expect((await sandbox.runCode('cat; pwd; echo $A', options)).stdout).toBe('in/tmp\nb\n')
})

test('1 MiB of source runs', async () => {
  const source = `${'# a comment to fill it\n'.repeat(45_000)}echo end`
  expect(source.length).toBeGreaterThan(1_000_000)
  expect((await sandbox.runCode(source, { language: 'bash' })).stdout).toBe('end\n')
})

test('a gigabyte of output passes at flat memory, byte for byte', async () => {
  const before = await serverMemoryBytes()
  let received = 0
  let peak = before
  const result = await sandbox.commands.run('head -c 1G /dev/zero', {
    timeoutMs: 600_000,
    onStdout: async (_, { bytes }) => {
      const checkAt = Math.floor(received / (128 * mib))
      received += bytes.length
      if (Math.floor(received / (128 * mib)) > checkAt) peak = Math.max(peak, await serverMemoryBytes())
    },
  })
  expect(received).toBe(1024 * mib)
  expect(result).toMatchObject({ exitCode: 0, outputBytes: 1024 * mib, truncated: true })
  expect(peak - before).toBeLessThan(128 * mib)
})

test('a flood nobody reads neither grows the server nor stops others', async () => {
  const before = await serverMemoryBytes()
  const flood = await sandbox.commands.start('cat /dev/zero')
  expect((await sandbox.commands.run('echo fine')).stdout).toBe('fine\n')
  await new Promise((done) => setTimeout(done, 2_000))
  expect((await serverMemoryBytes()) - before).toBeLessThan(64 * mib)
  await flood.kill()
  const kept = await sandbox.commands.get(flood.id)
  expect(kept.outputBytes).toBeGreaterThan(8 * mib)
  expect(kept.truncated).toBe(true)
})

test('a slow reader holds the command back instead of losing output', async () => {
  let chunks = 0
  const result = await sandbox.commands.run('head -c 24M /dev/zero', {
    onStdout: async (_, { lostBytes }) => {
      expect(lostBytes).toBe(0)
      if (++chunks <= 20) await new Promise((done) => setTimeout(done, 50))
    },
  })
  expect(result.outputBytes).toBe(24 * mib)
})
