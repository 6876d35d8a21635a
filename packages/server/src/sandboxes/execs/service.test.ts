import { Readable } from 'node:stream'
import { setTimeout as sleep } from 'node:timers/promises'
import { describe, expect, test, vi } from 'vitest'
import { ops } from '../../guest/messages.ts'
import { DeltaError } from '../../kernel/errors.ts'
import type { ServerSentEvent } from '../../kernel/http/event-stream.ts'
import { execBodySchema, codeBodySchema } from './schema.ts'
import { createExecs } from './service.ts'
import type { LiveExec } from './service.ts'
import { createModelGuest } from './testing.ts'
import type { ModelExec } from './testing.ts'

const caller = { accountId: 'acc_default' }
const box = 'sbx_model'
const bodyOf = (body: object) => execBodySchema.parse(body)

function setUp(options: { answerMarginMs?: number; stdinStallMs?: number } = {}) {
  const guest = createModelGuest()
  let ids = 0
  const execs = createExecs({
    door: guest.door,
    newExecId: () => `exe_${++ids}`,
    ...options,
  })
  const run = (body: object, key?: string) => execs.run(box, caller, bodyOf(body), { key })
  const stream = (body: object, key?: string) => execs.stream(box, caller, bodyOf(body), { key })
  return { guest, execs, run, stream }
}

async function refusal(promise: Promise<unknown>): Promise<DeltaError> {
  const error = await promise.then(
    () => undefined,
    (reason: unknown) => reason,
  )
  if (!(error instanceof DeltaError)) throw new Error(`not refused: ${String(error)}`)
  return error
}

async function started(guest: ReturnType<typeof createModelGuest>, id = 'exe_1'): Promise<ModelExec> {
  return vi.waitFor(() => {
    const exec = guest.execs.get(id)
    if (exec === undefined) throw new Error('not started')
    return exec
  })
}

async function collect({ events }: LiveExec): Promise<ServerSentEvent[]> {
  const all: ServerSentEvent[] = []
  for (;;) {
    const step = await events.next()
    if (step.done) return all
    all.push(step.value)
  }
}

describe('running and waiting', () => {
  test('nothing runs without the variables of the sandbox, where they can not be read', async () => {
    const { guest } = setUp()
    const open: typeof guest.door.open = async (...asked) => {
      const door = await guest.door.open(...asked)
      return { ...door, sandbox: { ...door.sandbox, env: null } }
    }
    const execs = createExecs({ door: { ...guest.door, open }, newExecId: () => 'exe_1' })
    const error = await refusal(execs.run(box, caller, bodyOf({ cmd: 'true' }), {}))
    expect([error.code, error.status]).toEqual(['sandbox_env_unreadable', 409])
    expect((await refusal(execs.run(box, caller, bodyOf({ cmd: ['x'], background: true }), {}))).code).toBe(error.code)
    expect(guest.execs.size).toBe(0)
  })

  test('an exec answers with its exit and both streams', async () => {
    const { guest, run } = setUp()
    guest.onStart = (exec) => {
      exec.say('stdout', 'hi\n')
      exec.say('stderr', 'oh\n')
      exec.exit('exited', 3)
    }
    expect(await run({ cmd: ['/bin/x', 'a b'], tag: 'mine' })).toEqual({
      id: 'exe_1',
      pid: 7,
      state: 'exited',
      exitCode: 3,
      signal: null,
      timedOut: false,
      oomKilled: false,
      stdout: 'hi\n',
      stderr: 'oh\n',
      truncated: false,
      truncatedBytes: { stdout: 0, stderr: 0 },
      encoding: 'utf8',
      durationMs: 5,
      outputBytes: 6,
      tag: 'mine',
    })
    const exec = guest.execs.get('exe_1')!
    expect(exec.argv).toEqual(['/bin/x', 'a b'])
    expect([exec.user, exec.cwd, exec.timeoutMs, exec.keepStdin]).toEqual(['user', '/workspace', 60_000, false])
  })

  test('a text is run by a login shell, a long one from a file, and both get stdin and variables', async () => {
    const { guest, run } = setUp()
    guest.onStart = (exec) => exec.exit('exited', 0)
    await run({ cmd: 'echo hi', stdin: 'in', env: { FROM: 'exec', A: '1' }, cwd: 'sub' })
    const first = guest.execs.get('exe_1')!
    expect(first.argv).toEqual(['/bin/bash', '-l', '-c', 'echo hi'])
    expect([first.stdin, first.cwd]).toEqual(['in', '/workspace/sub'])
    expect(first.env).toEqual(
      expect.arrayContaining(['FROM=exec', 'A=1', 'HOME=/home/user', 'USER=user', 'LANG=C.UTF-8', 'SHELL=/bin/bash']),
    )
    expect(first.env.filter((variable) => variable.startsWith('PATH='))).toHaveLength(1)

    const long = `: ${'é'.repeat(512 * 1024)}`
    await run({ cmd: long, stdin: 'x'.repeat(1024 * 1024) })
    const second = guest.execs.get('exe_2')!
    expect(second.argv).toEqual(['/bin/bash', '-l', '-c', '. "$0"', '\0script'])
    expect(second.script).toBe(long)
    expect(second.stdin.length).toBe(1024 * 1024)
  })

  test('a death by signal and a timeout are no exit codes', async () => {
    const { guest, run } = setUp()
    guest.onStart = (exec) => exec.exit('signalled', 15, { timedOut: true })
    expect(await run({ cmd: ['x'] })).toMatchObject({
      state: 'signalled',
      exitCode: null,
      signal: 'SIGTERM',
      timedOut: true,
    })
    guest.onStart = (exec) => exec.exit('exited', 0, { timedOut: true })
    expect(await run({ cmd: ['x'] })).toMatchObject({ state: 'exited', exitCode: null, signal: null, timedOut: true })
  })

  test('output beyond both ends is cut in the middle and counted, at flat memory', async () => {
    const { guest, run } = setUp()
    guest.onStart = (exec) => {
      for (let i = 0; i < 80; i++) exec.say('stdout', Buffer.alloc(64 * 1024, i === 0 ? 'a' : i === 79 ? 'z' : '-'))
      exec.exit('exited', 0)
    }
    const exec = await run({ cmd: ['flood'] })
    expect(exec.stdout.length).toBe(2 * 1024 * 1024)
    expect([exec.stdout[0], exec.stdout.at(-1)]).toEqual(['a', 'z'])
    expect([exec.truncated, exec.truncatedBytes]).toEqual([true, { stdout: 48 * 64 * 1024, stderr: 0 }])
    expect(exec.outputBytes).toBe(80 * 64 * 1024)
  })

  test('output that is no text is exact as base64', async () => {
    const { guest, run } = setUp()
    guest.onStart = (exec) => {
      exec.say('stdout', Buffer.from([0, 255, 254]))
      exec.exit('exited', 0)
    }
    expect(await run({ cmd: ['x'], encoding: 'base64' })).toMatchObject({ stdout: 'AP/+', encoding: 'base64' })
    expect(await run({ cmd: ['x'] })).toMatchObject({ stdout: '\0\ufffd\ufffd', encoding: 'utf8' })
  })

  test('a background exec answers when it has started, and has no timeout unless asked for', async () => {
    const { guest, run } = setUp()
    expect(await run({ cmd: ['server'], background: true })).toMatchObject({
      id: 'exe_1',
      pid: 7,
      state: 'running',
      exitCode: null,
      stdout: '',
    })
    expect(guest.execs.get('exe_1')!.timeoutMs).toBe(0)
    await run({ cmd: ['server'], background: true, timeoutMs: 5 })
    expect(guest.execs.get('exe_2')!.timeoutMs).toBe(5)
  })

  test('a client that leaves detaches; the process is neither ended nor held back', async () => {
    const { guest, execs } = setUp()
    let leave = () => {}
    const waiting = execs.run(box, caller, bodyOf({ cmd: ['x'] }), { whenLeft: (act) => (leave = act) })
    const exec = await started(guest)
    await vi.waitFor(() => expect(exec.viewers).toBe(1))
    leave()
    expect((await refusal(waiting)).code).toBe('canceled')
    await vi.waitFor(() => expect(exec.viewers).toBe(0))
    expect(exec.signals).toEqual([])
  })

  test('a guest that never reports the end is given up after the margin, with the id to look later', async () => {
    const { guest, run } = setUp({ answerMarginMs: 5 })
    const error = await refusal(run({ cmd: ['x'], timeoutMs: 10 }))
    expect([error.code, error.context]).toEqual(['guest_timed_out', { execId: 'exe_1' }])
    await vi.waitFor(() => expect(guest.execs.get('exe_1')!.viewers).toBe(0))
  })
})

describe('what is refused before anything runs', () => {
  const cases: [string, object, string][] = [
    ['an empty command', { cmd: '' }, 'invalid_request'],
    ['an empty program', { cmd: [''] }, 'invalid_request'],
    ['NUL in a text', { cmd: 'a\0b' }, 'invalid_request'],
    ['NUL in an argument', { cmd: ['a', 'b\0'] }, 'invalid_request'],
    ['the mark of a script', { cmd: ['cat', '\0script'] }, 'invalid_request'],
    ['an argument longer than the kernel takes', { cmd: ['a', 'x'.repeat(128 * 1024)] }, 'body_too_large'],
    ['more than 3 MiB together', { cmd: `: ${'x'.repeat(2 ** 20)}`, stdin: 'x'.repeat(2 ** 21) }, 'body_too_large'],
    ['a variable’s name with =', { cmd: 'x', env: { 'A=B': '1' } }, 'invalid_request'],
    ['an empty name', { cmd: 'x', env: { '': '1' } }, 'invalid_request'],
    ['NUL in a value', { cmd: 'x', env: { A: '\0' } }, 'invalid_request'],
    ['an endless variable', { cmd: 'x', env: { A: 'x'.repeat(128 * 1024) } }, 'invalid_request'],
    ['no timeout for what is waited for', { cmd: 'x', timeoutMs: 0 }, 'invalid_request'],
  ]
  test.each(cases)('%s', async (_name, body, code) => {
    const { guest, run } = setUp()
    const error = await refusal(run(body))
    expect(error.code).toBe(code)
    expect(error.cause).toBeTypeOf('string')
    expect(guest.counts.execs).toBe(0)
  })

  test.each([
    [{}],
    [{ cmd: 1 }],
    [{ cmd: [] }],
    [{ cmd: ['a', 1] }],
    [{ cmd: 'x', timeoutMs: -1 }],
    [{ cmd: 'x', timeoutMs: 3_600_001 }],
    [{ cmd: 'x', timeoutMs: 1.5 }],
    [{ cmd: 'x', timeoutMs: Number.NaN }],
    [{ cmd: 'x', timeoutMs: Infinity }],
    [{ cmd: 'x', timeoutMs: '60' }],
    [{ cmd: 'x', user: '' }],
    [{ cmd: 'x', user: 'a\0' }],
    [{ cmd: 'x', user: '../root' }],
    [{ cmd: 'x', cwd: '' }],
    [{ cmd: 'x', cwd: 'a\0' }],
    [{ cmd: 'x', cwd: 'x'.repeat(5_000) }],
    [{ cmd: 'x', env: { A: 1 } }],
    [{ cmd: 'x', env: [] }],
    [{ cmd: 'x', pty: { cols: 0, rows: 1 } }],
    [{ cmd: 'x', pty: { cols: 80, rows: 100_000 } }],
    [{ cmd: 'x', pty: true }],
    [{ cmd: 'x', encoding: 'latin1' }],
    [{ cmd: 'x', stdin: 1 }],
    [{ cmd: 'x', tag: 'x'.repeat(257) }],
    [{ cmd: 'x', comand: 'x' }],
  ])('a body of the wrong shape (%#)', (body) => {
    expect(execBodySchema.safeParse(body).success).toBe(false)
  })
})

describe('the same Idempotency-Key', () => {
  test('starts one process, and answers both with all of its output', async () => {
    const { guest, run } = setUp()
    guest.onStart = (exec) => {
      exec.say('stdout', 'once\n')
      exec.exit('exited', 0)
    }
    const first = await run({ cmd: 'x', env: { A: '1', B: '2' } }, 'key')
    const second = await run({ env: { B: '2', A: '1' }, cmd: 'x' }, 'key')
    expect(second).toEqual(first)
    expect(guest.execs.size).toBe(1)
    const other = await run({ cmd: 'x' }, 'other key')
    expect(other.id).not.toBe(first.id)
    expect(first.id).toMatch(/^exe_[a-z0-9]{20}$/)
  })

  test('with another body is a conflict, waited for or in the background', async () => {
    const { guest, run } = setUp()
    guest.onStart = (exec) => exec.exit('exited', 0)
    const { id } = await run({ cmd: 'x', tag: 'a:b' }, 'key')
    for (const body of [{ cmd: 'y' }, { cmd: 'x' }, { cmd: 'y', background: true }]) {
      const error = await refusal(run(body, 'key'))
      expect([error.code, error.context]).toEqual(['idempotency_conflict', { execId: id }])
    }
    expect(guest.execs.size).toBe(1)
  })

  test('shows the caller’s own tag, not what is kept beside it', async () => {
    const { guest, run, execs } = setUp()
    guest.onStart = (exec) => exec.exit('exited', 0)
    await run({ cmd: 'x', tag: 'a:b' }, 'key')
    await run({ cmd: 'x', tag: 'x:i:c' })
    await run({ cmd: 'x' }, 'other')
    expect((await execs.list(box, caller)).map(({ tag }) => tag)).toEqual([null, 'x:i:c', 'a:b'])
  })

  test('joins a background exec that runs already', async () => {
    const { guest, run } = setUp()
    const first = await run({ cmd: 'server', background: true }, 'key')
    const second = await run({ cmd: 'server', background: true }, 'key')
    expect([second.id, second.state, guest.execs.size]).toEqual([first.id, 'running', 1])
  })
})

describe('when the connection is lost', () => {
  test('in the middle of a wait, the output goes on where it was', async () => {
    const { guest, run } = setUp()
    const waiting = run({ cmd: ['x'] })
    const exec = await started(guest)
    exec.say('stdout', 'one ')
    await sleep(5)
    guest.lose()
    exec.say('stdout', 'two ')
    await vi.waitFor(() => expect(guest.counts.connections).toBe(2))
    await vi.waitFor(() => expect(exec.viewers).toBe(1))
    guest.lose()
    exec.say('stderr', 'three')
    exec.exit('exited', 4)
    expect(await waiting).toMatchObject({ exitCode: 4, stdout: 'one two ', stderr: 'three', truncated: false })
    expect(guest.counts.execs).toBe(1)
  })

  test('before the start was answered, the same id is asked again: nothing runs twice', async () => {
    const { guest, run } = setUp()
    let asked = 0
    guest.onAsked = ({ op }) => {
      if (op !== ops.exec || ++asked > 1) return false
      guest.lose()
      return true
    }
    guest.onStart = (exec) => exec.exit('exited', 0)
    expect(await run({ cmd: ['x'] })).toMatchObject({ exitCode: 0 })
    expect([asked, guest.execs.size]).toEqual([2, 1])
  })

  test('and another life of the guest answers, the end is unknown and what was said is kept', async () => {
    const { guest, run } = setUp()
    const waiting = run({ cmd: ['x'] })
    const exec = await started(guest)
    exec.say('stdout', 'half')
    await sleep(5)
    guest.reboot()
    expect(await waiting).toMatchObject({ state: 'unknown', exitCode: null, signal: null, stdout: 'half' })
  })

  test('because the sandbox was stopped, it is not started again to ask', async () => {
    const { guest, run } = setUp()
    const open = vi.spyOn(guest.door, 'open')
    const waiting = run({ cmd: ['x'] })
    await started(guest)
    guest.refuse = new DeltaError('sandbox_not_running', 'stopped')
    guest.lose()
    expect(await waiting).toMatchObject({ state: 'unknown', exitCode: null, reason: 'stopped' })
    expect(open.mock.calls.slice(1).map(([, , options]) => options)).toEqual([{ wake: false }])
  })

  test('before the start was answered and the guest is another one, nothing is claimed', async () => {
    const { guest, run } = setUp()
    guest.onAsked = ({ op }) => {
      if (op !== ops.exec) return false
      guest.reboot()
      return true
    }
    const error = await refusal(run({ cmd: ['x'] }))
    expect([error.code, error.context]).toMatchObject(['sandbox_ended', { execId: 'exe_1' }])
    expect(error.cause).toMatch(/started again/)
  })

  test('over and over without a byte between, it is given up', async () => {
    const { guest, run } = setUp()
    guest.onAsked = ({ op }) => {
      if (op !== ops.attach) return false
      guest.lose()
      return true
    }
    const waiting = run({ cmd: ['x'] })
    await started(guest)
    await sleep(5)
    guest.lose()
    expect((await refusal(waiting)).code).toBe('guest_unreachable')
  })
})

describe('a lack of memory', () => {
  test('explains a SIGKILL when the kernel counted one, and also a shell’s 137', async () => {
    const { guest, run } = setUp()
    guest.onStart = (exec) => exec.exit('exited', 0)
    await run({ cmd: ['x'] })
    for (const [kind, value] of [
      ['signalled', 9],
      ['exited', 137],
    ] as const) {
      guest.onStart = (exec) => {
        guest.oomKills += 1
        exec.exit(kind, value)
      }
      expect(await run({ cmd: ['x'] })).toMatchObject({ oomKilled: true })
      guest.onStart = (exec) => exec.exit(kind, value)
      expect(await run({ cmd: ['x'] })).toMatchObject({ oomKilled: false })
    }
  })

  test('does not explain what a caller’s own SIGKILL ended', async () => {
    const { guest, run, execs } = setUp()
    const waiting = run({ cmd: ['x'] })
    const exec = await started(guest)
    await execs.signal(box, caller, 'exe_1', { signal: 'SIGKILL', scope: 'process' })
    guest.oomKills += 1
    exec.exit('signalled', 9)
    expect(await waiting).toMatchObject({ signal: 'SIGKILL', oomKilled: false })
  })

  test('costs a question per connection, not per exec', async () => {
    const { guest, run } = setUp()
    guest.onStart = (exec) => exec.exit('exited', 0)
    for (let i = 0; i < 5; i++) await run({ cmd: ['x'] })
    expect(guest.counts.oomQuestions).toBe(1)
  })
})

describe('events', () => {
  test('come in order, with the offset to resume from as their id', async () => {
    const { guest, stream } = setUp()
    guest.onStart = (exec) => {
      exec.say('stdout', 'ab')
      exec.say('stderr', 'c')
      exec.exit('exited', 0)
    }
    const events = await collect(await stream({ cmd: ['x'], tag: 't' }))
    expect(events).toEqual([
      { event: 'start', id: '0', data: { id: 'exe_1', pid: 7 } },
      { event: 'stdout', id: '2', data: { data: 'ab', offset: 0 } },
      { event: 'stderr', id: '3', data: { data: 'c', offset: 2 } },
      {
        event: 'exit',
        id: '3',
        data: {
          id: 'exe_1',
          pid: 7,
          state: 'exited',
          exitCode: 0,
          signal: null,
          timedOut: false,
          oomKilled: false,
          durationMs: 5,
          outputBytes: 3,
          tag: 't',
        },
      },
    ])
  })

  test('resume at an offset, and say what is no longer kept', async () => {
    const { guest, run, execs } = setUp()
    await run({ cmd: ['x'], background: true })
    const exec = await started(guest)
    exec.say('stdout', 'abc')
    exec.say('stdout', 'def')
    exec.exit('exited', 0)
    const from = async (offset: number) =>
      (await collect(await execs.events(box, caller, 'exe_1', { from: offset, encoding: 'utf8' })))
        .filter(({ event }) => event !== 'exit')
        .map(({ event, data }) => [event, data])
    expect(await from(2)).toEqual([
      ['start', { id: 'exe_1', pid: 7 }],
      ['stdout', { data: 'c', offset: 2 }],
      ['stdout', { data: 'def', offset: 3 }],
    ])
    exec.forgetUpTo(4)
    expect(await from(1)).toEqual([
      ['start', { id: 'exe_1', pid: 7 }],
      ['gap', { from: 1, to: 4 }],
      ['stdout', { data: 'ef', offset: 4 }],
    ])
    expect((await refusal(execs.events(box, caller, 'exe_1', { from: 7, encoding: 'utf8' }))).code).toBe(
      'invalid_request',
    )
    expect((await refusal(execs.events(box, caller, 'exe_2', { from: 0, encoding: 'utf8' }))).code).toBe(
      'exec_not_found',
    )
  })

  test('end with state unknown when the guest’s life is over', async () => {
    const { guest, stream } = setUp()
    const { events } = await stream({ cmd: ['x'] })
    await events.next()
    const next = events.next()
    guest.reboot()
    expect((await next).value).toMatchObject({ event: 'exit', data: { state: 'unknown', exitCode: null } })
  })

  test('of a viewer that left end, and the process has one viewer less', async () => {
    const { guest, stream } = setUp()
    const { events, leave } = await stream({ cmd: ['x'] })
    await events.next()
    const next = events.next()
    leave()
    await expect(next).rejects.toMatchObject({ code: 'canceled' })
    await vi.waitFor(() => expect(guest.execs.get('exe_1')!.viewers).toBe(0))
  })
})

describe('a known exec', () => {
  test('is listed and shown with what is kept of its output, running or ended', async () => {
    const { guest, run, execs } = setUp()
    await run({ cmd: ['server', '--x'], background: true, tag: 'web', pty: { cols: 80, rows: 24 } })
    const exec = await started(guest)
    exec.say('stdout', 'listening\n')
    const shown = {
      id: 'exe_1',
      state: 'running',
      cmd: ['server', '--x'],
      tag: 'web',
      pty: true,
      cwd: '/workspace',
      user: 'user',
      outputBytes: 10,
    }
    expect(await execs.list(box, caller)).toEqual([expect.objectContaining(shown)])
    expect(await execs.get(box, caller, 'exe_1', 'utf8')).toMatchObject({
      ...shown,
      stdout: 'listening\n',
      truncated: false,
    })
    await vi.waitFor(() => expect(exec.viewers).toBe(0))
    exec.forgetUpTo(4)
    exec.exit('signalled', 15)
    expect(await execs.get(box, caller, 'exe_1', 'utf8')).toMatchObject({
      state: 'signalled',
      signal: 'SIGTERM',
      stdout: 'ening\n',
      truncated: true,
      truncatedBytes: { stdout: 4, stderr: 0 },
    })
    expect((await refusal(execs.get(box, caller, 'exe_9', 'utf8'))).code).toBe('exec_not_found')
  })

  test('takes stdin in pieces and its end, and refuses it when it has ended', async () => {
    const { guest, run, execs } = setUp()
    await run({ cmd: ['cat'], background: true, stdinOpen: true })
    const exec = await started(guest)
    exec.say('stdout', 'ready')
    await execs.writeStdin(box, caller, 'exe_1', {
      body: Readable.from([Buffer.from('one '), Buffer.from('two')]),
      close: false,
    })
    await vi.waitFor(() => expect(exec.stdin).toBe('one two'))
    expect(exec.stdinEnded).toBe(false)
    await execs.writeStdin(box, caller, 'exe_1', { body: Readable.from([]), close: true })
    await vi.waitFor(() => expect(exec.stdinEnded).toBe(true))
    await run({ cmd: ['cat'], background: true })
    const closed = execs.writeStdin(box, caller, 'exe_2', { body: Readable.from([Buffer.from('x')]), close: false })
    expect((await refusal(closed)).code).toBe('exec_stdin_closed')
    exec.exit('exited', 0)
    const late = execs.writeStdin(box, caller, 'exe_1', { body: Readable.from([Buffer.from('x')]), close: false })
    expect((await refusal(late)).code).toBe('exec_not_running')
  })

  test('that reads nothing of its stdin does not keep a request for ever', async () => {
    const { guest, run, execs } = setUp({ stdinStallMs: 20 })
    guest.takesStdin = false
    await run({ cmd: ['x'], background: true, stdinOpen: true })
    const body = Readable.from(Array.from({ length: 40 }, () => Buffer.alloc(64 * 1024)))
    const error = await refusal(execs.writeStdin(box, caller, 'exe_1', { body, close: false }))
    expect([error.code, guest.execs.get('exe_1')!.stdin.length]).toEqual(['guest_timed_out', 1024 * 1024])
    await vi.waitFor(() => expect(guest.execs.get('exe_1')!.viewers).toBe(0))
  })

  test('takes signals by name and number, for itself or its session', async () => {
    const { guest, run, execs } = setUp()
    await run({ cmd: ['x'], background: true })
    await execs.signal(box, caller, 'exe_1', { signal: 'hup', scope: 'process' })
    await execs.signal(box, caller, 'exe_1', { signal: 15, scope: 'session' })
    expect((await started(guest)).signals).toEqual([
      { signal: 1, scope: 0 },
      { signal: 15, scope: 1 },
    ])
    expect((await refusal(execs.signal(box, caller, 'exe_1', { signal: 'SIGNOPE', scope: 'process' }))).code).toBe(
      'invalid_request',
    )
    expect((await refusal(execs.signal(box, caller, 'exe_1', { signal: 65, scope: 'process' }))).code).toBe(
      'invalid_request',
    )
    expect((await refusal(execs.signal(box, caller, 'exe_7', { signal: 9, scope: 'process' }))).code).toBe(
      'exec_not_found',
    )
    expect((await refusal(execs.signal(box, caller, '../x', { signal: 9, scope: 'process' }))).code).toBe(
      'exec_not_found',
    )
  })

  test('changes its terminal’s size, if it has one', async () => {
    const { guest, run, execs } = setUp()
    await run({ cmd: ['x'], background: true, pty: { cols: 80, rows: 24 } })
    await run({ cmd: ['x'], background: true })
    await execs.resize(box, caller, 'exe_1', { cols: 100, rows: 50 })
    const exec = await started(guest)
    await vi.waitFor(() => expect(exec.sizes).toEqual([{ cols: 100, rows: 50 }]))
    expect((await refusal(execs.resize(box, caller, 'exe_2', { cols: 1, rows: 1 }))).code).toBe('invalid_request')
  })
})

describe('code', () => {
  const code = (body: object) => codeBodySchema.parse(body)

  test('runs by its interpreter, from a file where it is long', async () => {
    const { guest, execs } = setUp()
    guest.onStart = (exec) => exec.exit('exited', 0)
    const long = `x = "${'y'.repeat(300_000)}"`
    for (const [language, source] of [
      ['python', 'print(1)'],
      ['javascript', '1'],
      ['bash', 'ls'],
      ['python', long],
      ['javascript', long],
    ] as const) {
      await execs.runCode(box, caller, code({ language, source }))
    }
    const argv = [...guest.execs.values()].map((exec) => exec.argv)
    expect(argv.slice(0, 3)).toEqual([
      ['python3', '-c', 'print(1)'],
      ['node', '-e', '1'],
      ['/bin/bash', '-l', '-c', 'ls'],
    ])
    expect([argv[3]!.at(-1), argv[4]!.at(-1)]).toEqual(['\0script', '\0script'])
    expect(guest.execs.get('exe_4')!.script).toBe(long)
  })

  test('without its interpreter says so and names what has it; a missing folder is not taken for that', async () => {
    const { guest, execs } = setUp()
    let folderExists = true
    guest.onAsked = ({ op, peer, channel }) => {
      if (op === ops.exec) peer.close(channel, 1, 'python3: not found in PATH.')
      else if (op === ops.stat && !folderExists) peer.close(channel, 1, 'No such directory.')
      else if (op === ops.stat) {
        peer.close(channel, 0, '', (writer) =>
          writer.str('/workspace').u8(2).u64(0).u32(0o755).u32(0).u32(0).str('root').str('root').i64(0n).u64(1).u8(0),
        )
      } else return false
      return true
    }
    const error = await refusal(execs.runCode(box, caller, code({ language: 'python', source: '1' })))
    expect(error.code).toBe('interpreter_missing')
    expect(error.context).toEqual({ language: 'python', interpreter: 'python3', template: 'host' })
    expect(error.remediation).toContain('debian')
    folderExists = false
    expect((await refusal(execs.runCode(box, caller, code({ language: 'python', source: '1' })))).code).toBe(
      'exec_start_failed',
    )
  })

  test('longer than 1 MiB is refused', async () => {
    const { execs } = setUp()
    const error = await refusal(
      execs.runCode(box, caller, code({ language: 'python', source: 'x'.repeat(2 ** 20 + 1) })),
    )
    expect([error.code, error.context]).toEqual(['body_too_large', { limitBytes: 2 ** 20 }])
  })
})

test.each([
  [1, 'exec_start_failed'],
  [3, 'exec_start_failed'],
  [6, 'exec_start_failed'],
  [8, 'exec_start_failed'],
  [14, 'exec_limit_reached'],
  [16, 'user_not_found'],
  [22, 'exec_start_failed'],
  [7, 'disk_full'],
  [999, 'exec_start_failed'],
])('a start that the guest refuses with %i is told as %s', async (number, code) => {
  const { guest, run } = setUp()
  guest.onAsked = ({ op, peer, channel }) => {
    if (op !== ops.exec) return false
    peer.close(channel, number, 'why not')
    return true
  }
  const error = await refusal(run({ cmd: ['x'] }))
  expect([error.code, error.cause]).toEqual([code, 'why not'])
})

test('a guest that lies about offsets loses its connection, and the caller hears why', async () => {
  const { guest, run } = setUp()
  guest.onAsked = ({ op, peer, channel }) => {
    if (op !== ops.exec) return false
    peer.send('opened', channel)
    return true
  }
  expect((await refusal(run({ cmd: ['x'] }))).code).toBe('guest_protocol_error')
})
