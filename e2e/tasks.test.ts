import { type Agent, Delta, type Task, type TaskEvent, type TaskInfo } from '@delta-agents/sdk'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { callTool, type PeerReply, say } from '../packages/server/src/models/testing/peer.ts'
import { type ModelPlatform, startModelPlatform } from './model.ts'
import { cli as commandLine, refusal, startCli as startCommandLine } from './target.ts'

let on: ModelPlatform
let delta: Delta
let agent: Agent
let ada: Delta

const cli = (args: string[], input?: string) =>
  commandLine(args, { env: on.env, ...(input !== undefined && { input }) })
const run = (command: string) => callTool('run_terminal', { command })
const write = (path: string, content: string) => callTool('write_file', { path, content })

/** Forgets what a test before left, where it failed in the middle. */
function script(...replies: (PeerReply | Promise<PeerReply>)[]): void {
  const left = [...replies]
  const nothing = { refusal: { status: 400, message: 'Nothing is scripted for this request.' } }
  on.peer.otherwise(() => left.shift() ?? nothing)
}

function resultsIn(events: readonly TaskEvent[]): string[] {
  return events.flatMap((event) => (event.kind === 'result' ? [event.data.text] : []))
}

async function eventsOf(task: Task): Promise<TaskEvent[]> {
  const seen: TaskEvent[] = []
  for await (const event of task.events()) seen.push(event)
  return seen
}

async function isIn(task: Task, state: TaskInfo['state']): Promise<void> {
  await expect.poll(async () => (await task.refresh()).state).toBe(state)
}

beforeAll(async () => {
  on = await startModelPlatform(0)
  delta = on.delta
  ada = await on.person('ada@tasks.example')
  agent = await delta.agents.create({ name: 'Worker', config: { memoryMb: 128, tokenBudget: 400 } })
})
afterAll(() => on.end())

test('a task works in its sandbox to its end, is watched as it does, and is paid for', async () => {
  const before = (await agent.refresh()).balance!
  script(run('echo $((6*7)) | tee out.txt'), { parts: [{ type: 'text', text: 'It is 42.' }], pieceMs: 20 })
  const events: TaskEvent[] = []
  const task = await agent.run('What is six times seven?', { onEvent: (event) => events.push(event) })
  expect(task.info).toMatchObject({ state: 'finished', reason: 'done', step: 2, lastEvent: events.at(-1)!.id })
  expect(events.map(({ id }) => id)).toEqual(events.map((_, index) => index + 1))
  expect(events.at(-1)!.kind).toBe('end')
  expect(resultsIn(events)).toEqual([expect.stringMatching(/\n42\n<\/data-\w+>\n\[exit code 0 /)])
  const text = events.flatMap((event) => (event.kind === 'text' ? [event.data.text] : [])).join('')
  expect('It is 42.'.startsWith(text)).toBe(true)
  expect(await task.result()).toMatchObject({ state: 'finished', text: 'It is 42.' })
  expect(await agent.files.readText('out.txt')).toBe('42\n')
  expect((await task.transcript()).messages.map(({ role }) => role)).toEqual(['user', 'assistant', 'tool', 'assistant'])
  expect(await task.transcript({ format: 'markdown' })).toContain('Calls `run_terminal`:')
  expect(task.info.usage.tokens).toBeGreaterThan(0)
  const after = (await agent.refresh()).balance!
  expect(after.used - before.used).toBeGreaterThanOrEqual(task.info.usage.tokens)
  const used = await delta.ledger.usage({ groupBy: ['task'], taskId: task.id }).all()
  expect(used[0]!.tokens).toBeCloseTo(task.info.usage.tokens, 5)
})

test('the command line gives one, shows it as text, and its exit code says how it ended', async () => {
  script(write('hello.txt', 'hello\n'), run('cat hello.txt; exit 3'), say('It is done.'))
  const ran = await cli(['task', 'create', '--agent', 'Worker'], 'Say hello\n')
  expect(ran.stdout).toMatch(
    /^> Say hello\n→ write_file hello\.txt\n {2}Wrote \/workspace\/hello\.txt.*\n→ run_terminal cat hello\.txt; exit 3\n {2}hello\n {2}\[exit code 3 .*\]\nIt is done\.\n$/,
  )
  expect(ran).toMatchObject({ exitCode: 0, stderr: expect.stringMatching(/^\nfinished \(tsk_\w+, 3 steps, .* tokens/) })
  const id = /tsk_\w+/.exec(ran.stderr)![0]
  expect(await cli(['task', 'result', id])).toMatchObject({
    stdout: 'It is done.\n',
    stderr: 'Files: /workspace/hello.txt\n',
  })
  expect((await cli(['task', 'show', id.slice(0, 14)])).stdout).toMatch(/state +finished, done\n/)
  expect((await cli(['task', 'list', '--state', 'finished'])).stdout).toContain(id)
  expect((await cli(['task', 'transcript', id])).stdout).toContain('## Agent, step 3')
  const lines = (await cli(['task', 'attach', id, '--json'])).stdout.trim().split('\n')
  const events = lines.map((line) => JSON.parse(line) as TaskEvent)
  expect([events[0]!.kind, events.at(-1)!.kind]).toEqual(['message', 'end'])

  script({ refusal: { status: 400, message: 'Your request is not nice.' } })
  const failed = await cli(['task', 'create', '--agent', 'Worker', 'Fail'])
  expect(failed).toMatchObject({ exitCode: 1, stderr: expect.stringMatching(/failed: model_refused: .*not nice/) })
  expect(await cli(['task', 'message', id, 'More'])).toMatchObject({
    exitCode: 1,
    stderr: expect.stringMatching(/is finished\n {2}fix: .*delta task fork.*\n {2}ref: task_over/),
  })
})

test('a file, instructions and a schema reach it, and its result fits', async () => {
  const schema = { type: 'object', properties: { lines: { type: 'integer' } }, required: ['lines'] }
  script(
    run('wc -l < data.csv'),
    callTool('finish', { value: { lines: 'two' } }),
    callTool('finish', { value: { lines: 2 } }),
  )
  const files = [{ path: 'data.csv', content: Buffer.from('a,b\n1,2\n') }]
  const options = { files, instructions: 'Count lines, not records', resultSchema: schema, tokenBudget: 50 }
  const task = await agent.run('How long is it?', options)
  expect(task.state).toBe('finished')
  expect((await task.result()).value).toEqual({ lines: 2 })
  const all = await eventsOf(task)
  expect(resultsIn(all)[0]).toMatch(/^2\n/m)
  expect(resultsIn(all)[1]).toMatch(/value\.lines/)
  expect(on.peer.requests().at(-1)!.system).toContain('Count lines, not records')
})

test('a question waits for its answer, without a terminal with exit code 2', async () => {
  script(callTool('ask_user', { question: 'Which colour?', options: ['red', 'green'] }), say('Green it is.'))
  const asked = await cli(['task', 'create', '--agent', 'Worker', 'Paint it'])
  expect(asked).toMatchObject({ exitCode: 2 })
  expect(asked.stderr).toMatch(/It asks: Which colour\? \(red \/ green\)\nAnswer: delta task message tsk_\w+ TEXT\n/)
  const id = /tsk_\w+/.exec(asked.stderr)![0]
  const answered = await cli(['task', 'message', id, '--attach', 'green'])
  expect(answered).toMatchObject({ exitCode: 0, stdout: expect.stringContaining('The answer: green\nGreen it is.\n') })
})

test('a chat answers, rests, and goes on with the next message', async () => {
  script(say('One.'), say('Two.'))
  const first = await cli(['task', 'create', '--agent', 'Worker', '--chat', 'Count'])
  expect(first).toMatchObject({ exitCode: 0, stdout: '> Count\nOne.\n' })
  const [task] = await delta.tasks.list({ agentId: agent.id, state: 'waiting' }).all()
  await task!.message('And on')
  expect(await task!.wait()).toMatchObject({ state: 'waiting', turn: 2, waitsFor: [{ kind: 'message' }] })
  expect((await task!.transcript({ format: 'markdown' })).match(/Two\./g)).toHaveLength(1)
  expect((await cli(['task', 'cancel', task!.id])).stdout).toBe(`${task!.id} is canceled\n`)
})

test('a call that a person confirms waits for them, and is done once they have', async () => {
  script(run('echo ran >> asked.txt; cat asked.txt'), say('Done.'))
  const task = await agent.run('Do it', { tools: { run_terminal: 'ask' } })
  expect(task.info).toMatchObject({ state: 'waiting', waitsFor: [{ kind: 'approval' }] })
  const [waits] = task.info.waitsFor
  if (waits?.kind !== 'approval') return expect.unreachable()
  const approval = await ada.approvals.get(waits.approvalId)
  expect(approval.description).toContain('echo ran >> asked.txt')
  expect(await agent.files.exists('asked.txt')).toBe(false)
  expect((await cli(['task', 'attach', task.id])).stderr).toBe(
    `It wants to use run_terminal echo ran >> asked.txt; cat asked.txt\nA person has to confirm a call: delta approve yes ${approval.id}\n`,
  )
  // Not the key that has given the task.
  expect((await refusal(delta.approvals.approve(approval))).code).toMatch(
    /^(forbidden|approval_not_found|approval_own_request)$/,
  )
  // A key of hers that may decide decides, and no other of hers.
  const { key } = await ada.keys.create({ name: 'decides', rights: ['approve:*'] })
  const decides = new Delta({ url: delta.url, apiKey: key, maxRetries: 0 })
  expect(await decides.approvals.approve(approval)).toMatchObject({ state: 'executed' })
  await isIn(task, 'finished')
  expect(await agent.files.readText('asked.txt')).toBe('ran\n')

  script(run('echo no >> asked.txt'), say('Then not.'))
  const refused = await agent.run('Do it again', { tools: { '*': 'ask' } })
  const [asks] = refused.info.waitsFor
  if (asks?.kind !== 'approval') return expect.unreachable()
  await ada.approvals.refuse(asks.approvalId, 'Not today')
  await isIn(refused, 'finished')
  expect(resultsIn(await eventsOf(refused))[0]).toMatch(/refused.*Not today/)
  expect(await agent.files.readText('asked.txt')).toBe('ran\n')
})

test('canceling ends it at once, with its program', async () => {
  script(run('touch started; sleep 300; touch never'))
  const task = await delta.tasks.create({ agent, text: 'Wait long' })
  await expect.poll(() => agent.files.exists('started')).toBe(true)
  expect(await task.cancel()).toMatchObject({ state: 'canceled', reason: 'canceled_by_user' })
  await expect.poll(async () => (await agent.exec('pgrep -c -f "sleep 30[0]" || true')).stdout.trim()).toBe('0')
  expect((await cli(['task', 'attach', task.id])).exitCode).toBe(1)
})

test('Ctrl-C leaves it working', async () => {
  script(run('touch ctrl; while [ ! -e go ]; do sleep 0.05; done'), say('Went on.'))
  const watching = startCommandLine(['task', 'create', '--agent', 'Worker', 'Go on'], { env: on.env })
  await expect.poll(() => agent.files.exists('ctrl')).toBe(true)
  watching.kill('SIGINT')
  const left = await watching.ended
  expect(left).toMatchObject({ exitCode: 130 })
  expect(left.stderr).toMatch(/Detached; the task goes on\. Attach again: delta task attach tsk_\w+\n/)
  const task = await delta.tasks.get(/tsk_\w+/.exec(left.stderr)![0])
  expect(task.state).toBe('working')
  await agent.files.write('go', '')
  expect((await task.wait()).state).toBe('finished')
})

test('interrupting gives up what it does, and it goes on with what it is told', async () => {
  script(run('touch busy; sleep 300'), say('Stopped.'))
  const task = await delta.tasks.create({ agent, text: 'Wait long' })
  await expect.poll(() => agent.files.exists('busy')).toBe(true)
  await task.message('Stop that', { interrupt: true })
  expect((await task.wait()).state).toBe('finished')
  const events = await eventsOf(task)
  expect(resultsIn(events)[0]).toMatch(/[Ii]nterrupted|SIGINT|ended by INT/)
  expect(on.peer.requests().at(-1)!.lastText).toContain('Stop that')
})

test('a fork goes on from a step on a copy of the disk, and the first stays as it is', async () => {
  script(write('fork.txt', 'one\n'), write('fork.txt', 'two\n'), say('It is two.'))
  const task = await agent.run('Write one, then two')
  expect(task.state).toBe('finished')
  script(run('cat fork.txt; echo three > fork.txt'), say('It was one.'))
  const fork = await task.fork({ step: 1, text: 'What is in it?', tokenBudget: 30 })
  expect(fork.info).toMatchObject({ forkedFrom: { taskId: task.id, step: 1 } })
  expect(await fork.wait()).toMatchObject({ state: 'finished' })
  const copy = await delta.agents.get(fork.agentId)
  expect(resultsIn(await eventsOf(fork))[0]).toMatch(/^one\n/m)
  expect(await agent.files.readText('fork.txt')).toBe('two\n')
  expect(await copy.files.readText('fork.txt')).toBe('three\n')
})

test('undo brings files back, and what was said since is forgotten', async () => {
  script(write('undo.txt', 'one\n'), say('One.'))
  const task = await agent.run('Write one', { chat: true })
  expect(task.state).toBe('waiting')
  script(write('undo.txt', 'two\n'), say('Two.'))
  await task.message('Now two')
  await task.wait()
  expect(await agent.files.readText('undo.txt')).toBe('two\n')
  expect((await cli(['task', 'undo', task.id])).stdout).toBe(`${task.id} is waiting\n`)
  expect(await agent.files.readText('undo.txt')).toBe('one\n')
  script(say('Still here.'))
  await task.message('Are you there?')
  await task.wait()
  const last = on.peer.requests().at(-1)!
  expect(JSON.stringify(last.body.messages)).not.toContain('Now two')
  expect(last.lastText).toContain('Are you there?')
  await task.cancel()
})

test('what the first turn of a new agent wrote is undone too', async () => {
  const fresh = await delta.agents.create({ name: 'Fresh', config: { memoryMb: 128, tokenBudget: 20 } })
  script(write('first.txt', 'first\n'), say('Written.'))
  const task = await fresh.run('Write it')
  expect(task.state).toBe('finished')
  expect(await fresh.files.exists('first.txt')).toBe(true)
  await task.undo()
  expect(await fresh.files.exists('first.txt')).toBe(false)
})

test('out of its own tokens it asks, waits, and goes on mid-task when a person says yes', async () => {
  const small = await delta.agents.create({ name: 'Small', config: { memoryMb: 128, tokenBudget: 60 } })
  script(run('echo first >> tokens.txt'), say('Done.'))
  const task = await small.run('Work', { tokenBudget: 1 })
  expect(task.info).toMatchObject({ state: 'suspended', message: 'Its own tokens are used up' })
  expect(task.info.waitsFor).toMatchObject([{ kind: 'tokens' }])
  const shown = await cli(['task', 'attach', task.id])
  expect(shown).toMatchObject({ exitCode: 2, stderr: expect.stringMatching(/Its own tokens are used up\.\n/) })
  await task.giveTokens(20)
  expect((await task.wait()).state).toBe('finished')
  expect(await small.files.readText('tokens.txt')).toBe('first\n')
})

test('a budget that is used up is asked for, and given by whoever says yes', async () => {
  const rich = await delta.agents.create({ name: 'Rich', config: { memoryMb: 128, tokenBudget: 60 } })
  script({ ...run('echo first >> rich.txt'), usage: { output: 3_500 } }, say('Done.'))
  const task = await rich.run('Work', { tokenBudget: 4 })
  expect(task.info).toMatchObject({ state: 'suspended', waitsFor: [{ kind: 'tokens', requestId: expect.any(String) }] })
  const [waits] = task.info.waitsFor
  if (waits?.kind !== 'tokens') return expect.unreachable()
  const request = await delta.tokenRequests.get(waits.requestId!)
  expect(request.info.reason).toContain(task.id)
  await expect.poll(async () => (await request.refresh()).approvalId).not.toBe(null)
  await ada.approvals.approve(await ada.approvals.get(request.info.approvalId!))
  await isIn(task, 'finished')
  expect(await rich.files.readText('rich.txt')).toBe('first\n')
})

test('an agent that has used up its tokens asks for more, and its task goes on when a person says yes', async () => {
  const poor = await delta.agents.create({ name: 'Poor', config: { memoryMb: 128, tokenBudget: 4 } })
  // Costs more than what the next call needs at least.
  script({ ...run('echo first >> poor.txt'), usage: { output: 3_500 } }, say('Done.'))
  const task = await poor.run('Work')
  expect(task.info).toMatchObject({ state: 'suspended', step: 2 })
  const pending = () => delta.tokenRequests.list({ agentId: poor.id, state: 'pending' }).all()
  await expect.poll(async () => (await pending())[0]?.info.approvalId ?? null).not.toBe(null)
  const [request] = await pending()
  expect(await ada.approvals.approve(await ada.approvals.get(request!.info.approvalId!))).toMatchObject({
    state: 'executed',
  })
  await isIn(task, 'finished')
  expect(await poor.files.readText('poor.txt')).toBe('first\n')
  expect((await delta.ledger.get({ purseId: poor.id })).purses[0]!.used).toBeGreaterThan(0)
})

test.each([undefined, 20])(
  'a task whose agent is paused waits for it, with a budget of its own of %s',
  async (budget) => {
    const asked = on.peer.requests().length
    // Its command comes once the agent is paused, however long that takes.
    const { promise: next, resolve: answer } = Promise.withResolvers<PeerReply>()
    script(run('true'), next, say('Went on.'))
    const task = await delta.tasks.create({ agent, text: 'Work', ...(budget && { tokenBudget: budget }) })
    await expect.poll(() => on.peer.requests().length - asked).toBe(2)
    await agent.pause()
    answer(run('echo on > paused.txt'))
    await isIn(task, 'suspended')
    expect((await cli(['task', 'attach', task.id])).stderr).toContain(`${agent.id} is paused`)
    await agent.resume()
    await isIn(task, 'finished')
    expect(await agent.files.readText('paused.txt')).toBe('on\n')
  },
)

for (const signal of ['SIGTERM', 'SIGKILL', 'KILL of the HTTP process'] as const) {
  test(`after ${signal} it goes on, and what had finished is not done again`, async () => {
    const name = signal.replaceAll(' ', '-')
    script(
      run(`echo once >> ${name}.txt`),
      run(`touch ${name}.busy; while [ ! -e ${name}.go ]; do sleep 0.05; done; echo twice >> ${name}.txt`),
      say('Both done.'),
    )
    const asked = on.peer.requests().length
    const task = await delta.tasks.create({ agent, text: 'Do both' })
    const watched = eventsOf(task)
    await expect.poll(() => agent.files.exists(`${name}.busy`)).toBe(true)
    if (signal === 'SIGTERM' || signal === 'SIGKILL') await on.restart(signal)
    else await on.crash()
    await agent.files.write(`${name}.go`, '')
    expect((await task.wait()).state, task.info.message ?? '').toBe('finished')
    const events = await watched
    expect(events.map(({ id }) => id)).toEqual(events.map((_, index) => index + 1))
    expect(await agent.files.readText(`${name}.txt`), resultsIn(events).join('\n')).toBe('once\ntwice\n')
    expect(on.peer.requests().length - asked).toBe(3)
    expect(resultsIn(events)).toHaveLength(2)
  })
}
