import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import {
  bodyDigest,
  codeCommandOf,
  commandOf,
  environmentOf,
  environmentProblem,
  execIdOfKey,
  looksKilled,
  outcomeOf,
  readTag,
  summaryOf,
  timeoutOf,
  wireTag,
} from './rules.ts'
import { execBodySchema } from './schema.ts'

test('a tag comes back as it was given, whatever it holds, and with what is kept beside it', () => {
  const digest = fc.option(
    fc.uint8Array({ minLength: 16, maxLength: 16 }).map((bytes) => Buffer.from(bytes).toString('base64url')),
    { nil: undefined },
  )
  fc.assert(
    fc.property(fc.option(fc.string({ minLength: 1 })), digest, fc.boolean(), (tag, key, stdinOpen) => {
      const wire = wireTag({ tag, digest: key, stdinOpen })
      expect(readTag(wire)).toEqual({ tag, stdinOpen, ...(key && { digest: key }) })
    }),
  )
  expect(readTag('a terminal')).toEqual({ tag: 'a terminal' })
})

test('an exec id of a key is the same every time, and another for every key and sandbox', () => {
  fc.assert(
    fc.property(fc.string(), fc.string(), fc.string(), (sandbox, one, other) => {
      const id = execIdOfKey(sandbox, one)
      expect(id).toMatch(/^exe_[a-z0-9]{20}$/)
      expect(execIdOfKey(sandbox, one)).toBe(id)
      if (one !== other) expect(execIdOfKey(sandbox, other)).not.toBe(id)
    }),
  )
  expect(execIdOfKey('sbx_a', 'k')).not.toBe(execIdOfKey('sbx_b', 'k'))
})

describe('the digest of a body', () => {
  const digest = (body: object) => bodyDigest(execBodySchema.parse(body))

  test('is that of its meaning: defaults, the order of fields and how the answer is wanted do not count', () => {
    const one = digest({ cmd: 'x', env: { A: '1', B: '2' }, user: 'user' })
    expect(digest({ env: { B: '2', A: '1' }, cmd: 'x' })).toBe(one)
    expect(digest({ env: { B: '2', A: '1' }, cmd: 'x', stream: true, encoding: 'base64' })).toBe(one)
  })

  test('differs for every field that changes what runs', () => {
    const bodies = [
      { cmd: 'x' },
      { cmd: ['x'] },
      { cmd: 'x', stdin: '' },
      { cmd: 'x', stdin: 'a' },
      { cmd: 'x', stdinOpen: true },
      { cmd: 'x', user: 'root' },
      { cmd: 'x', cwd: '/' },
      { cmd: 'x', env: {} },
      { cmd: 'x', env: { A: '1' } },
      { cmd: 'x', env: { A: '1', B: '' } },
      { cmd: 'x', timeoutMs: 1 },
      { cmd: 'x', background: true },
      { cmd: 'x', tag: 't' },
      { cmd: 'x', pty: { cols: 1, rows: 2 } },
    ]
    expect(new Set(bodies.map(digest)).size).toBe(bodies.length)
  })
})

test('the exec’s variables lie over the sandbox’s, and these over the defaults', () => {
  const env = environmentOf('root', { sandbox: { A: 's', B: 's', PATH: '/bin' }, exec: { B: 'e' }, pty: false })
  expect(env).toEqual({
    PATH: '/bin',
    HOME: '/root',
    USER: 'root',
    LOGNAME: 'root',
    LANG: 'C.UTF-8',
    SHELL: '/bin/bash',
    HTTP_PROXY: 'http://127.0.0.1:3129',
    HTTPS_PROXY: 'http://127.0.0.1:3129',
    http_proxy: 'http://127.0.0.1:3129',
    https_proxy: 'http://127.0.0.1:3129',
    NO_PROXY: 'localhost,127.0.0.1,::1',
    no_proxy: 'localhost,127.0.0.1,::1',
    NODE_USE_ENV_PROXY: '1',
    A: 's',
    B: 'e',
  })
  expect(environmentOf('1000:1000', { sandbox: {}, pty: true })).toMatchObject({
    HOME: '/home/user',
    USER: 'user',
    TERM: 'xterm-256color',
  })
  expect(environmentOf('postgres', { sandbox: {}, pty: false })).toMatchObject({
    HOME: '/home/postgres',
    USER: 'postgres',
  })
  expect(environmentOf('4711', { sandbox: {}, pty: false })).toMatchObject({ HOME: '/' })
})

test('variables no program can get are refused, and only these', () => {
  const name = fc.stringMatching(/^[A-Za-z_][A-Za-z0-9_]{0,20}$/)
  const value = fc.string({ maxLength: 50 }).filter((text) => !text.includes('\0'))
  fc.assert(fc.property(fc.dictionary(name, value, { maxKeys: 20 }), (env) => environmentProblem(env) === undefined))
  for (const bad of ['', 'A=B', '1A', 'A B', 'A\0', 'ä', 'A-B'])
    expect(environmentProblem({ [bad]: 'x' }), bad).toContain('env')
  expect(environmentProblem({ A: 'a\0' })).toContain('NUL')
  const many = Object.fromEntries(Array.from({ length: 6 }, (_, i) => [`A${i}`, 'x'.repeat(100_000)]))
  expect(environmentProblem(many)).toContain('together')
})

test('a command is never longer than the kernel takes, and never holds NUL', () => {
  fc.assert(
    fc.property(
      fc.oneof(
        fc.string(),
        fc.string({ unit: 'binary' }),
        fc.integer({ min: 0, max: 90_000 }).map((n) => 'é'.repeat(n)),
      ),
      (text) => {
        const command = commandOf(text)
        if (!command.ok) {
          expect(text === '' || text.includes('\0')).toBe(true)
          return
        }
        expect(command.argv.every((argument) => Buffer.byteLength(argument) < 128 * 1024)).toBe(true)
        expect(
          (command.script?.toString() ?? command.argv[3]) === text.toWellFormed() || command.argv[3] === text,
        ).toBe(true)
      },
    ),
  )
})

test('code in every language fits an argument, or travels as a file', () => {
  for (const language of ['python', 'javascript', 'bash'] as const) {
    expect(codeCommandOf(language, 'x')).not.toHaveProperty('script')
    expect(codeCommandOf(language, 'x'.repeat(200_000))).toHaveProperty('script')
    expect(codeCommandOf(language, 'x'.repeat(2 ** 20 + 1))).toMatchObject({ ok: false, limitBytes: 2 ** 20 })
    expect(codeCommandOf(language, 'a\0')).toMatchObject({ ok: false })
  }
})

test('what nobody waits for has no timeout unless asked for', () => {
  expect(timeoutOf({ background: false, timeoutMs: undefined })).toBe(60_000)
  expect(timeoutOf({ background: false, timeoutMs: 0 })).toBeUndefined()
  expect(timeoutOf({ background: true, timeoutMs: undefined })).toBe(0)
  expect(timeoutOf({ background: true, timeoutMs: 0 })).toBe(0)
  expect(timeoutOf({ background: true, timeoutMs: 9 })).toBe(9)
})

test('an exit code is stated only where the process ended by itself', () => {
  const flags = { timedOut: false, oomKilled: false }
  fc.assert(
    fc.property(
      fc.constantFrom('exited', 'signalled', 'unknown' as const),
      fc.nat(255),
      fc.boolean(),
      (kind, value, timedOut) => {
        const outcome = outcomeOf({ kind, value, timedOut, oomKilled: false } as Parameters<typeof outcomeOf>[0])
        expect(outcome.exitCode === null).toBe(kind !== 'exited' || timedOut)
        expect(outcome.signal === null).toBe(kind !== 'signalled')
        expect(outcome.state).toBe(kind)
      },
    ),
  )
  expect(outcomeOf({ kind: 'signalled', value: 9, ...flags }).signal).toBe('SIGKILL')
  const exit = { ...flags, outputBytes: 0, durationMs: 0 }
  expect(looksKilled({ kind: 'signalled', value: 9, ...exit })).toBe(true)
  expect(looksKilled({ kind: 'exited', value: 137, ...exit })).toBe(true)
  expect(looksKilled({ kind: 'signalled', value: 9, ...exit, timedOut: true })).toBe(false)
  expect(looksKilled({ kind: 'exited', value: 9, ...exit })).toBe(false)
})

test('a long source is shown as what it is, not by the sign that stands for it on the wire', () => {
  const command = codeCommandOf('python', `${'x = 1\n'.repeat(40_000)}`)
  const info = { execId: 'exe_1', pid: 1, kind: 'running', value: 0, timedOut: false, oomKilled: false } as const
  const rest = {
    startedUnixMs: 0,
    durationMs: 0,
    outputBytes: 0,
    start: 0,
    cwd: '/',
    user: 'user',
    tag: '',
    pty: false,
  }
  const { cmd } = summaryOf({ ...info, ...rest, argv: command.ok ? command.argv : [] })
  expect(cmd?.at(-1)).toBe('(source)')
})

test('whatever time a guest claims, a summary has one', () => {
  fc.assert(
    fc.property(fc.maxSafeNat(), (startedUnixMs) => {
      const info = {
        execId: 'exe_1',
        pid: 1,
        kind: 'running',
        value: 0,
        timedOut: false,
        oomKilled: false,
        startedUnixMs,
      } as const
      const rest = { durationMs: 0, outputBytes: 0, start: 0, argv: [], cwd: '/', user: 'user', tag: '', pty: false }
      expect(summaryOf({ ...info, ...rest }).startedAt).toMatch(/^(\+\d{6}|\d{4})-\d\d-\d\dT/)
    }),
  )
})
