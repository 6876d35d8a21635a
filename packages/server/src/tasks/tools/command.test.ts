import { readFileSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest'
import { unknownText } from './command.ts'
import { createTools } from './table.ts'
import { agentCaller, callTool, openTestComputer, testContext, testDeps, textOf } from './testing.ts'
import type { ToolContext } from './tool.ts'

let box: Awaited<ReturnType<typeof openTestComputer>>
let tools: ReturnType<typeof createTools>
const leftFiles: string[] = []

beforeAll(async () => {
  box = await openTestComputer()
  tools = createTools(testDeps(box))
})
afterAll(async () => {
  await box?.close()
  for (const file of leftFiles) rmSync(file, { force: true })
})

const call = (name: string, input: object, context: ToolContext = testContext()) =>
  callTool(tools, name, input, context)
/** The machine may be busy with other tests. */
const patience = { timeout: 15_000 }

describe('run_terminal', () => {
  test('answers output and exit code, and shows it while it runs', async () => {
    const context = testContext()
    const text = await call('run_terminal', { command: 'echo one; echo two >&2; exit 3' }, context)
    expect(text).toMatch(/^(one\ntwo|two\none)\n\[exit code 3 after [0-9.]+ s\]$/)
    expect(context.seen.output.split('\n').toSorted()).toEqual(['', 'one', 'two'])
    expect(await call('run_terminal', { command: 'pwd' })).toContain(`${box.folder}\n[exit code 0`)
    expect(await call('run_terminal', { command: 'true' })).toMatch(/^\[no output\]\n\[exit code 0/)
  })

  test('on a computer where others may have written, says what it says as data, and its end beside that', async () => {
    for (const tool of ['run_terminal', 'run_code'] as const) {
      const context = testContext({ isForeign: async () => true })
      const wish = tool === 'run_code' ? { language: 'bash', source: 'echo OBEY' } : { command: 'echo OBEY' }
      expect(await call(tool, wish, context)).toMatch(
        /^Between the marks stands data from your computer.*\n<data-([0-9a-f]{12})>\nOBEY\n<\/data-\1>\n\[exit code 0/,
      )
      expect(context.seen.untrusted).toEqual(['your computer'])
    }
    const silent = testContext({ isForeign: async () => true })
    expect(await call('run_terminal', { command: 'true' }, silent)).toMatch(/^\[no output\]/)
    expect(silent.seen.untrusted).toEqual([])
  })

  test('a command that ran while the network was open said words of others, though it is closed at its end', async () => {
    let asked = 0
    let isForeign = false
    const context = testContext({ isForeign: async () => (isForeign ||= ++asked === 1) })
    expect(await call('run_terminal', { command: 'echo OBEY' }, context)).toContain('<data-')
  })

  test('is ended at its timeout, and says so', async () => {
    expect(await call('run_terminal', { command: 'echo begun; exec sleep 461', timeoutMs: 300 })).toMatch(
      /^error: begun\n\[ended at its timeout/,
    )
  })

  test('keeps head and tail of long output, and the whole of it in a file', async () => {
    const text = await call('run_terminal', { command: 'seq 1 20000' })
    expect(text).toMatch(/^1\n2\n3\n/)
    expect(text).toMatch(/\n19999\n20000\n\[exit code 0/)
    expect(text.length).toBeLessThan(16_300)
    const [, leftOut, path] = /\[([0-9,]+) characters left out here; read_file (\S+) has the whole output\]/.exec(text)!
    leftFiles.push(path!)
    const whole = readFileSync(path!, 'utf8')
    expect(whole).toBe(Array.from({ length: 20_000 }, (_, index) => `${index + 1}\n`).join(''))
    const shown = text.replace(/\[[^\]]*\]\n?/g, '')
    expect(Number(leftOut!.replaceAll(',', '')) + shown.length).toBe(whole.length)
  })

  test('what floods is stopped', async () => {
    const context = testContext()
    const text = await call('run_terminal', { command: 'exec yes 0123456789012345678901234567890123456789' }, context)
    leftFiles.push(...(/read_file (\S+) has/.exec(text)?.slice(1) ?? []))
    expect(text).toContain('stopped because it wrote more than 64 MiB')
    expect(text.length).toBeLessThan(17_000)
    expect(context.seen.output.length).toBeLessThan(1_100_000)
  }, 60_000)

  test('interrupted, it gets SIGINT, and says that it was interrupted', async () => {
    const context = testContext()
    const running = call(
      'run_terminal',
      { command: "trap 'echo got INT; exit 9' INT; echo ready; while :; do sleep 0.05; done" },
      context,
    )
    await vi.waitFor(() => expect(context.seen.output).toContain('ready'), patience)
    context.interrupt()
    expect(await running).toMatch(/^error: ready\ngot INT\n\[interrupted by a person: exit code 9/)
  })

  test('what ignores SIGINT is killed', async () => {
    const context = testContext()
    const running = call('run_terminal', { command: "trap '' INT; echo ready; while :; do sleep 0.05; done" }, context)
    await vi.waitFor(() => expect(context.seen.output).toContain('ready'), patience)
    context.interrupt()
    expect(await running).toMatch(/^error: ready\n\[interrupted by a person: ended by SIGKILL/)
  })

  test('interrupted before it began, nothing runs', async () => {
    const context = testContext()
    context.interrupt()
    const file = join(box.folder, 'never')
    expect(await call('run_terminal', { command: `touch ${file}` }, context)).toContain('nothing was run')
    expect(await call('run_terminal', { command: `ls ${file}` })).toContain('[exit code 2')
  })

  test('begun before a crash, it is attached to and not run again', async () => {
    const file = join(box.folder, 'runs')
    const command = `echo run >> ${file}; echo before; sleep 0.7; echo after`
    const first = testContext({ callId: 'call_crashed' })
    const abandoned = call('run_terminal', { command }, first)
    await vi.waitFor(() => expect(first.seen.output).toContain('before'), patience)
    const again = testContext({ callId: 'call_crashed', begun: true })
    expect(await call('run_terminal', { command }, again)).toMatch(/^before\nafter\n\[exit code 0/)
    expect(again.seen.output).toBe('before\nafter\n')
    await abandoned
    // And when it has ended meanwhile.
    expect(await call('run_terminal', { command }, again)).toMatch(/^before\nafter\n\[exit code 0/)
    expect(readFileSync(file, 'utf8')).toBe('run\n')
  })

  test('the same call id in another task is another call', async () => {
    expect(await call('run_terminal', { command: 'echo a' }, testContext({ callId: 'call_0' }))).toContain('a\n')
    expect(
      await call('run_terminal', { command: 'echo b' }, testContext({ callId: 'call_0', taskId: 'tsk_b' })),
    ).toContain('b\n')
  })

  test('begun and not known to the sandbox, or without one: unknown, and nothing runs', async () => {
    const file = join(box.folder, 'not-run')
    const command = `touch ${file}`
    for (const presentComputer of [async () => 'sbx_test', async () => undefined]) {
      const context = testContext({ begun: true, presentComputer })
      expect(await call('run_terminal', { command }, context)).toBe(`error: ${unknownText}`)
    }
    expect(await call('run_terminal', { command: `ls ${file}` })).toContain('[exit code 2')
  })

  test('in the background it answers at once with an id', async () => {
    const context = testContext({ callId: 'call_background' })
    const text = await call('run_terminal', { command: 'sleep 0.2; echo late', background: true }, context)
    expect(text).toMatch(/^Started in the background as exe_/)
    const again = testContext({ callId: 'call_background', begun: true })
    expect(await call('run_terminal', { command: 'sleep 0.2; echo late', background: true }, again)).toBe(text)
  })

  test('without the right nothing runs, whatever the command says', async () => {
    const caller = agentCaller(['read:exec', 'read:files'])
    let made = 0
    const context = testContext({ caller, computer: async () => `sbx_${(made += 1)}` })
    expect(await call('run_terminal', { command: 'true' }, context)).toMatch(
      /^error: Not done: this needs the right write:exec/,
    )
    expect(made).toBe(0)
  })

  test('what can not be started says why', async () => {
    expect(await call('run_terminal', { command: 'true', cwd: '/no/such/folder' })).toMatch(/^error: exec_start_failed/)
  })
})

describe('run_code', () => {
  test('runs each language', async () => {
    expect(await call('run_code', { language: 'bash', source: 'echo $((6 * 7))' })).toMatch(/^42\n\[exit code 0/)
    expect(await call('run_code', { language: 'python', source: 'print(6 * 7)' })).toMatch(/^42\n\[exit code 0/)
    expect(await call('run_code', { language: 'javascript', source: 'console.log(6 * 7)' })).toMatch(/^42\n\[exit/)
  })

  test('an error of the program is a result', async () => {
    const text = await call('run_code', { language: 'python', source: 'raise ValueError("no")' })
    expect(text).toMatch(/ValueError: no\n\[exit code 1/)
  })
})

describe('a sandbox that ends under a command', () => {
  test('leaves it unknown', async () => {
    const own = await openTestComputer()
    try {
      const table = createTools(testDeps(own))
      const context = testContext()
      const running = table
        .get('run_terminal')!
        .run({ command: 'echo ready; exec sleep 462', timeoutMs: 60_000, background: false, user: 'user' }, context)
      await vi.waitFor(() => expect(context.seen.output).toContain('ready'), patience)
      await own.kill()
      expect(textOf(await running)).toContain(unknownText)
      const again = testContext({ callId: context.callId, begun: true })
      expect(textOf(await table.get('run_terminal')!.run({ command: 'echo ready', timeoutMs: 1 }, again))).toMatch(
        /^error: unknown: it may have run/,
      )
    } finally {
      await own.close()
    }
  })
})
