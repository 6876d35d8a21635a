import { createHash } from 'node:crypto'
import type { KnownCaller } from '../../access/callers/door.ts'
import { right } from '../../access/rights.ts'
import { testCaller } from '../../access/testing.ts'
import { systemClock } from '../../kernel/clock.ts'
import { newId } from '../../kernel/ids.ts'
import type { SandboxDoor } from '../../sandboxes/door.ts'
import { createExecs } from '../../sandboxes/execs/service.ts'
import { openTestGuest, testUser } from '../../sandboxes/execs/testing-guest.ts'
import { createFiles } from '../../sandboxes/files/service.ts'
import type { createTools, ToolsDeps } from './table.ts'
import { readCall } from './table.ts'
import type { ToolContext, ToolOutcome } from './tool.ts'

export const agentRights = ['read:*', 'write:*', 'egress', 'request', 'delegate', 'allocate']

export function agentCaller(rights: readonly string[] = agentRights): KnownCaller {
  return testCaller({
    kind: 'agent',
    accountId: 'acc_a',
    agentId: 'agt_a',
    agentKind: 'main',
    jti: 'tok_a',
    rights: rights.map(right),
  })
}

export interface TestContext extends ToolContext {
  /** What whoever watches has seen. */
  readonly seen: { output: string; untrusted: string[] }
  interrupt(): void
}

let calls = 0

export function testContext(changes: Partial<ToolContext> = {}): TestContext {
  const seen = { output: '', untrusted: [] as string[] }
  const abort = new AbortController()
  calls += 1
  return {
    agentId: 'agt_a',
    taskId: 'tsk_a',
    callId: `call_${calls}`,
    hasOwnTokens: false,
    caller: agentCaller(),
    begun: false,
    answer: undefined,
    waited: undefined,
    signal: abort.signal,
    computer: async () => 'sbx_test',
    presentComputer: async () => 'sbx_test',
    isForeign: async () => false,
    onOutput: (_stream, text) => void (seen.output += text),
    readUntrusted: (source) => void seen.untrusted.push(source),
    seen,
    interrupt: () => abort.abort(new Error('interrupted')),
    ...changes,
  }
}

/** The real guest as an ordinary process, with what the tools need of a computer. Everything happens in `folder`. */
export async function openTestComputer() {
  const box = await openTestGuest()
  const { folder } = box
  const door: SandboxDoor = {
    async open(...asked) {
      const { guest, sandbox } = await box.door.open(...asked)
      return { guest, sandbox: { ...sandbox, user: testUser, cwd: folder } }
    },
    oomKills: box.door.oomKills,
  }
  const newExecId = () => newId('exe')
  const images = new Map<string, Buffer>()
  const saveImage = async (bytes: Buffer): Promise<string> => {
    const digest = `sha256:${createHash('sha256').update(bytes).digest('hex')}`
    images.set(digest, bytes)
    return digest
  }
  const execs = createExecs({ door, newExecId })
  const written = createFiles({ door, newExecId, room: () => 'fine' })
  const owner = testUser
  const files: typeof written = {
    ...written,
    // The guest is no root here, and may give files to nobody else.
    write: (at, body, wish) => written.write(at, body, { owner, ...wish }),
  }
  return { ...box, door, execs, files, images, saveImage, clock: systemClock }
}

const notHere = (what: string) => async (): Promise<never> => {
  throw new Error(`This test has no ${what}`)
}

/** Every part that tools stand on; those that are not given fail when they are used. */
export function testDeps(given: Partial<ToolsDeps>): ToolsDeps {
  return {
    execs: {
      events: notHere('execs'),
      inspect: notHere('execs'),
      run: notHere('execs'),
      runCode: notHere('execs'),
      signal: notHere('execs'),
      startedWith: notHere('execs'),
      stream: notHere('execs'),
      streamCode: notHere('execs'),
    },
    files: { list: notHere('files'), read: notHere('files'), write: notHere('files') },
    ports: { list: notHere('ports') },
    door: { open: notHere('door'), oomKills: notHere('door') },
    tokenRequests: {
      ask: notHere('requests'),
      get: notHere('requests'),
      approve: notHere('requests'),
      refuse: notHere('requests'),
    },
    approvals: { get: notHere('approvals') },
    askForHost: notHere('approvals'),
    tasks: { create: notHere('tasks'), view: notHere('tasks') },
    agents: { create: notHere('agents'), get: notHere('agents') },
    saveImage: notHere('blobs'),
    clock: systemClock,
    ...given,
  }
}

/** As the loop does it: what the model wrote is read, then run. */
export async function callTool(
  tools: ReturnType<typeof createTools>,
  name: string,
  input: object | string,
  context: ToolContext = testContext(),
): Promise<string> {
  const read = readCall(tools, name, typeof input === 'string' ? input : JSON.stringify(input))
  return read.ok ? textOf(await read.tool.run(read.input, context)) : `fault: ${read.text}`
}

/** Its text, with `error: ` before that of a failure. */
export function textOf(outcome: ToolOutcome): string {
  if (outcome.kind === 'waits') return `waits: ${JSON.stringify(outcome.for)}`
  const texts = outcome.content.map((part) => (part.type === 'text' ? part.text : `<${part.mediaType}>`))
  return `${outcome.isError ? 'error: ' : ''}${texts.join('\n')}`
}
