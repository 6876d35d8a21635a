import { execFile, spawn } from 'node:child_process'
import { dirname, resolve } from 'node:path'
import { promisify } from 'node:util'
import { Delta } from '@delta-agents/sdk'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { callTool, type PeerReply, say } from '../packages/server/src/models/testing/peer.ts'
import { type ModelPlatform, startModelPlatform } from './model.ts'
import { cli, delta, key, url } from './target.ts'

const run = promisify(execFile)
const root = resolve(import.meta.dirname, '..')
const env = {
  ...process.env,
  DELTA_URL: url,
  DELTA_API_KEY: key,
  PATH: `${dirname(process.execPath)}:${process.env['PATH'] ?? ''}`,
}

test('the first task in TypeScript', async () => {
  const { stdout } = await run(process.execPath, ['examples/first-task.ts'], { cwd: root, env })
  expect(stdout).toContain('there are 15 primes up to 50 (exit code 0)\n2 3 5 7 11 13')
})

test('the first task with curl and the command line', async () => {
  const { stdout } = await run('bash', ['examples/first-task.sh'], { cwd: root, env })
  expect(stdout).toMatch(/sandbox sbx_\w+ runs\n.*"stdout":"1\+2\+3\\n".*\n1\+2\+3\n6\n/s)
})

test('agents with tokens of their own: a bot asks, main says yes, a person confirms, and the balance has moved', async () => {
  await delta.account.invite('confirms@e2e.example')
  const link = new URL((await delta.auth.createLink('confirms@e2e.example')).url)
  const session = await delta.auth.acceptInvitation({
    token: link.searchParams.get('t')!,
    password: 'a password of the tests',
  })
  const person = new Delta({ url, apiKey: delta.auth.keep(session), maxRetries: 0 })
  const example = spawn(process.execPath, ['examples/agents.ts'], {
    cwd: root,
    env,
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  const ended = new Promise<number | null>((done) => example.on('close', done))
  let shown = ''
  let confirmed: Promise<unknown> | undefined
  for await (const chunk of example.stdout) {
    shown += String(chunk)
    const id = /delta approve yes (apr_\w+)/.exec(shown)?.[1]
    if (id === undefined) continue
    confirmed ??= person.approvals.get(id).then((approval) => {
      expect(approval).toMatchObject({ kind: 'tokens', state: 'pending' })
      expect(approval.description).toMatch(/gets 40 tokens of the agent agt_\w+, to spend/)
      return person.approvals.approve(approval)
    })
  }
  expect(await confirmed).toMatchObject({ state: 'executed' })
  expect(await ended).toBe(0)
  expect(shown).toMatch(/it knows 2 orders\n5 tokens: granted\nmain says yes; .*\n40 tokens: granted\n/)
  expect(shown).toMatch(/Shop has and had 35 tokens\nemail bot has and had 65 tokens\n$/)
})

test('the demo plays a recording on a real sandbox, without any key, and says so', async () => {
  const shown = await cli(['demo'])
  expect(shown, shown.stderr).toMatchObject({ exitCode: 0 })
  expect(shown.stderr).toMatch(/^\[recording\] No model is asked/)
  expect(shown.stderr).toMatch(/finished \((tsk_\w+), 5 steps, 0 tokens for the model\)/)
  expect(shown.stderr).toMatch(/That was a recording\..*\nFor a model of your own set ANTHROPIC_API_KEY/)
  expect(shown.stdout).toMatch(/FAIL: test_first_ones[^]*One test fails[^]*Ran 3 tests[^]*OK/)
  const id = /tsk_\w+/.exec(shown.stderr)![0]
  const task = await delta.tasks.get(id)
  expect(task.info).toMatchObject({ model: 'recording/fibonacci', metadata: { demo: 'recording' } })
  const agent = await delta.agents.get(task.agentId)
  const { stdout } = await agent.exec(`python3 -c 'from fib import fibonacci; print(fibonacci(0), fibonacci(90))'`)
  expect(stdout).toBe('0 2880067194370816120\n')
  // Once more is the same agent, with what it has.
  expect((await cli(['demo', '--json'])).exitCode).toBe(0)
  expect((await delta.agents.list({ kind: 'main' }).all()).filter(({ name }) => name === 'Demo')).toHaveLength(1)
  await agent.archive()
})

test('without a model the refusal says which variable to set', async () => {
  const agent = await delta.agents.create({ name: 'Keyless' })
  const refused = await cli(['task', 'create', '--agent', agent.id, '--model', 'anthropic/claude-haiku-4-5', 'Hi'])
  expect(refused).toMatchObject({
    exitCode: 1,
    stderr: expect.stringMatching(/ANTHROPIC_API_KEY is not set\n {2}fix: .*delta models key set.*delta demo/),
  })
  await agent.archive()
})

describe('with a model', () => {
  let on: ModelPlatform
  beforeAll(async () => {
    on = await startModelPlatform(110)
  })
  afterAll(() => on.end())

  const example = async (name: string, more: NodeJS.ProcessEnv = {}) =>
    (await run(process.execPath, [`examples/${name}.ts`], { cwd: root, env: { ...env, ...on.env, ...more } })).stdout

  test('an agent computes something from a file and gives a value', async () => {
    on.peer.script(
      callTool('run_code', {
        language: 'python',
        source:
          'import csv, collections\nc = collections.Counter()\nfor r in csv.DictReader(open("/workspace/sales.csv")): c[r["product"]] += int(r["count"])\nprint(c.most_common(1))',
      }),
      callTool('write_file', { path: 'report.md', content: '# Sales\nShoes sold most: 28.\n' }),
      callTool('finish', { value: { product: 'shoes', count: 28 } }),
    )
    const shown = await example('basic-usage')
    expect(on.peer.requests().at(-2)!.results[0]!.text).toContain("[('shoes', 28)]")
    expect(shown).toContain(
      'result: {"product":"shoes","count":28}\n/workspace/report.md:\n# Sales\nShoes sold most: 28.\n',
    )
  })

  test('a main agent delegates to a bot below it', async () => {
    const bot = { name: 'Words', task: 'Find words', rights: ['write:exec', 'read:exec'], tokenBudget: 20 }
    // Whose request it is says the conversation.
    const main: PeerReply[] = [
      callTool('delegate', { bot, task: 'List the ten longest names of programs in /usr/bin.' }),
      callTool('write_file', { path: 'sentence.txt', content: 'Long words make short sentences.\n' }),
      say('The sentence is in sentence.txt.'),
    ]
    const below: PeerReply[] = [
      callTool('run_terminal', { command: 'ls /usr/bin | awk "{print length, \\$0}" | sort -rn | head -10' }),
      say('They are in my last output.'),
    ]
    on.peer.otherwise((request) => (request.system.includes('Your one duty') ? below : main)[request.replies]!)
    const shown = await example('multi-agent')
    expect(shown).toMatch(/^Editor → delegate\nEditor → write_file\nEditor: The sentence is in sentence\.txt\.\n/)
    expect(shown).toMatch(/Words, below Editor, was given: List the ten/)
    expect(shown).toMatch(/Words → run_terminal\nWords: They are/)
    expect(shown).toContain('Long words make short sentences.')
    const told = on.peer.requests().flatMap(({ results }) => results.map(({ text }) => text))
    expect(told).toContainEqual(expect.stringContaining('They are in my last output.'))
  })

  test('a loop of one’s own in Anthropic’s format uses a sandbox', async () => {
    on.peer.script(
      callTool('bash', { command: 'seq 2 999 | factor | awk "NF==2" | wc -l; exit 3' }),
      say('There are 168.'),
    )
    const model = { ANTHROPIC_API_KEY: on.peer.key, ANTHROPIC_BASE_URL: on.peer.url }
    expect(await example('claude-integration', model)).toBe(
      '$ seq 2 999 | factor | awk "NF==2" | wc -l; exit 3\n168\nThere are 168.\n',
    )
    expect(on.peer.requests().at(-1)!.results[0]!.text).toBe('168\n\n[exit code 3]')
  })
})
