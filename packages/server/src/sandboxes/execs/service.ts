import type { Readable } from 'node:stream'
import { GuestError } from '../../guest/client.ts'
import type { ExecExit, ExecInfo, ExecOutput, ExecRequest, GuestConnection } from '../../guest/client.ts'
import { DeltaError } from '../../kernel/errors.ts'
import type { HeldAccount } from '../../kernel/held-bytes.ts'
import type { DoorCaller, OpenDoor, SandboxDoor } from '../door.ts'
import { explainLost } from '../ended.ts'
import { GUEST_ANSWER_MS, inTime } from '../patience.ts'
import type { ServerSentEvent } from '../../kernel/http/event-stream.ts'
import { createOutputTexts } from './event-text.ts'
import type { OutputPiece } from './event-text.ts'
import { detach, follow, readOutput, takeOutput } from './follow.ts'
import type { Followed } from './follow.ts'
import { createMemoryKills } from './memory-kills.ts'
import type { MemoryKills, MemoryMark } from './memory-kills.ts'
import { createOutputKeeper, encodeOutput, outputBudgetOf } from './output.ts'
import type { OutputBudget, OutputEncoding, OutputKeeper } from './output.ts'
import { pour } from './pour.ts'
import { execNotFound, execRefusal, startRefusal } from './refusals.ts'
import {
  bodyDigest,
  codeCommandOf,
  COMMAND_BYTES,
  commandOf,
  environmentOf,
  environmentProblem,
  execIdOfKey,
  INTERNAL_TAG,
  outcomeOf,
  readTag,
  summaryOf,
  timeoutOf,
  wireTag,
} from './rules.ts'
import type { Command } from './rules.ts'
import type { CodeBody, CodeLanguage, Exec, ExecBody, ExecSummary } from './schema.ts'
import { signalNumber } from './signals.ts'

/** The guest ends an exec at its timeout: TERM, 2 s later KILL. Whoever waits here only gives up on a guest that does not. */
const ANSWER_MARGIN_MS = 12_000
/** A process that takes nothing of its stdin keeps a connection busy whose client may be gone: reading on is the only way to notice. */
const STDIN_STALL_MS = 300_000
/** For reading what the guest has kept already. */
const KEPT_OUTPUT_MS = 20_000

export interface ExecsDeps {
  door: SandboxDoor
  newExecId(): string
  answerMarginMs?: number
  /** @default GUEST_ANSWER_MS */
  answerMs?: number | undefined
  stdinStallMs?: number
}

export interface StartOptions {
  /** The caller's Idempotency-Key. */
  key?: string | undefined
  /** Calls its argument when the client goes away. */
  whenLeft?: (leave: () => void) => void
}

/** An exec as a stream of events. `leave` ends them; the process lives on. */
export interface LiveExec {
  events: AsyncIterator<ServerSentEvent>
  leave(): void
}

/** What is known of an exec without its output. */
export interface KnownExec {
  summary: ExecSummary
  /** Oldest output offset kept. */
  start: number
}

/** An exec held by one channel, over as many connections as it takes. Its output must be taken: 1 MiB unread holds the process back. */
export interface AttachedExec {
  readonly pid: number
  /** Memory of its sandbox for what waits for viewers. */
  readonly held: HeldAccount
  /** Everything from the offset it was attached at. Rejects with a `DeltaError`; with `canceled` after `detach`. */
  consume(onOutput: (chunk: ExecOutput) => void | Promise<void>): Promise<ExecSummary>
  /** Resolves when the sandbox has room for more. Rejects when the connection was lost, and the bytes perhaps with it. */
  write(bytes: Buffer): Promise<void>
  resize(cols: number, rows: number): void
  /** The process lives on. */
  detach(): void
}

export type Execs = ReturnType<typeof createExecs>

interface Prepared {
  execId: string
  command: Command & { ok: true }
  body: Omit<ExecBody, 'cmd'>
  timeoutMs: number
  digest: string | undefined
  tag: string | null
  language?: CodeLanguage
}

/** Everything about processes in a sandbox. Nothing of an exec is kept here: the guest knows them all, and this may restart at any time. */
export function createExecs(deps: ExecsDeps) {
  const { door, newExecId } = deps
  const { answerMarginMs = ANSWER_MARGIN_MS, stdinStallMs = STDIN_STALL_MS, answerMs = GUEST_ANSWER_MS } = deps
  const knownExecs = (guest: GuestConnection) => inTime(answerMs, (signal) => guest.execs({ signal }))
  const kills = createMemoryKills(door)

  function prepareExec(sandboxId: string, body: ExecBody, key: string | undefined): Prepared {
    const { cmd, ...rest } = body
    return prepare({ sandboxId, key, newExecId, body: rest, command: commandOf(cmd), digested: body })
  }

  function prepareCode(sandboxId: string, { language, source, ...rest }: CodeBody, key: string | undefined): Prepared {
    const command = codeCommandOf(language, source)
    const prepared = prepare({
      sandboxId,
      key,
      newExecId,
      body: rest,
      command,
      digested: { language, source, ...rest },
    })
    return { ...prepared, language }
  }

  async function begin(sandboxId: string, caller: DoorCaller, prepared: Prepared) {
    const { guest, sandbox } = await door.open(sandboxId, caller)
    const mark = kills.mark(guest, sandboxId)
    const { execId } = prepared
    const open = (request: ExecRequest) => (on: GuestConnection) =>
      inTime(answerMs, (signal) => on.exec(request, { signal }))
    try {
      const followed = await withShell(guest, prepared, sandbox, (request) =>
        follow(door, guest, { sandboxId, caller, execId, from: 0, open: open(request) }),
      )
      if (followed.stream.known) checkSameBody(followed, prepared.digest, await knownExecs(followed.guest))
      return { followed, mark }
    } catch (error) {
      throw await explainStart(error, prepared, { guest, sandbox }, requestOf(prepared, sandbox))
    }
  }

  async function wait(
    sandboxId: string,
    caller: DoorCaller,
    prepared: Prepared,
    { whenLeft }: StartOptions,
  ): Promise<Exec> {
    const { followed, mark } = await begin(sandboxId, caller, prepared)
    whenLeft?.(() => detach(followed))
    const kept = createKept(outputBudgetOf(followed.guest.held))
    let late = false
    const timer = setTimeout(() => {
      late = true
      detach(followed)
    }, prepared.timeoutMs + answerMarginMs)
    try {
      let exit = await takeOutput(door, followed, kept.add)
      exit = await kills.explain(mark, prepared.execId, exit)
      return { ...liveSummary(followed, prepared.tag, exit), ...kept.encoded(prepared.body.encoding) }
    } catch (error) {
      if (late) throw lateAnswer(prepared.execId)
      throw execRefusal(await explainLost(door, followed, error), prepared.execId)
    } finally {
      clearTimeout(timer)
      kept.release()
    }
  }

  async function start(sandboxId: string, caller: DoorCaller, prepared: Prepared): Promise<Exec> {
    const { execId, digest, tag } = prepared
    const { guest, sandbox } = await door.open(sandboxId, caller)
    let started: { pid: number; known: boolean }
    try {
      started = await withShell(guest, prepared, sandbox, (request) =>
        inTime(answerMs, (signal) => guest.start(request, { signal })),
      )
    } catch (error) {
      const explained = await explainLost(door, { sandboxId, caller, guest }, error)
      throw await explainStart(explained, prepared, { guest, sandbox }, requestOf(prepared, sandbox))
    }
    const nothingYet = createKept(outputBudgetOf(guest.held)).encoded(prepared.body.encoding)
    // Only a keyed id can be known: the others are new.
    const info = digest === undefined ? undefined : (await knownExecs(guest)).find((known) => known.execId === execId)
    if (info !== undefined && !sameBody(info, digest)) throw keyConflict(execId)
    if (info !== undefined) return { ...summaryOf(info), ...nothingYet }
    const running = { state: 'running', exitCode: null, signal: null, timedOut: false, oomKilled: false } as const
    return { id: execId, pid: started.pid, ...running, durationMs: 0, outputBytes: 0, tag, ...nothingYet }
  }

  async function stream(sandboxId: string, caller: DoorCaller, prepared: Prepared): Promise<LiveExec> {
    const { followed, mark } = await begin(sandboxId, caller, prepared)
    return live(followed, {
      mark,
      encoding: prepared.body.encoding,
      summary: (exit) => liveSummary(followed, prepared.tag, exit),
    })
  }

  function live(followed: Followed, view: LiveView): LiveExec {
    return { events: liveEvents({ door, kills }, followed, view), leave: () => detach(followed) }
  }

  async function find(
    sandboxId: string,
    caller: DoorCaller,
    execId: string,
  ): Promise<{ guest: GuestConnection; info: ExecInfo }> {
    const { guest } = await door.open(sandboxId, caller)
    try {
      const info = (await knownExecs(guest)).find((known) => known.execId === execId)
      if (info === undefined) throw execNotFound(execId)
      return { guest, info: kills.wasKilled(execId) ? { ...info, oomKilled: true } : info }
    } catch (error) {
      throw execRefusal(await explainLost(door, { sandboxId, caller, guest }, error), execId)
    }
  }

  return {
    /** Runs it and waits for its end. */
    run: async (sandboxId: string, caller: DoorCaller, body: ExecBody, options: StartOptions = {}): Promise<Exec> =>
      body.background
        ? start(sandboxId, caller, prepareExec(sandboxId, body, options.key))
        : wait(sandboxId, caller, prepareExec(sandboxId, body, options.key), options),

    stream: async (
      sandboxId: string,
      caller: DoorCaller,
      body: ExecBody,
      { key }: StartOptions = {},
    ): Promise<LiveExec> => stream(sandboxId, caller, prepareExec(sandboxId, body, key)),

    runCode: async (sandboxId: string, caller: DoorCaller, body: CodeBody, options: StartOptions = {}): Promise<Exec> =>
      body.background
        ? start(sandboxId, caller, prepareCode(sandboxId, body, options.key))
        : wait(sandboxId, caller, prepareCode(sandboxId, body, options.key), options),

    streamCode: async (
      sandboxId: string,
      caller: DoorCaller,
      body: CodeBody,
      { key }: StartOptions = {},
    ): Promise<LiveExec> => stream(sandboxId, caller, prepareCode(sandboxId, body, key)),

    async list(sandboxId: string, caller: DoorCaller): Promise<ExecSummary[]> {
      const { guest } = await door.open(sandboxId, caller)
      try {
        return (await knownExecs(guest))
          .filter(({ tag }) => tag !== INTERNAL_TAG)
          .map((info) => summaryOf(kills.wasKilled(info.execId) ? { ...info, oomKilled: true } : info))
      } catch (error) {
        throw execRefusal(await explainLost(door, { sandboxId, caller, guest }, error), '')
      }
    },

    /** The exec and the output that is kept of it. */
    async get(sandboxId: string, caller: DoorCaller, execId: string, encoding: OutputEncoding): Promise<Exec> {
      const { guest, info } = await find(sandboxId, caller, execId)
      const kept = createKept(outputBudgetOf(guest.held))
      try {
        const exit = await readKept(guest, info, kept.add)
        const outcome = exit === undefined ? {} : outcomeOf({ ...exit, oomKilled: exit.oomKilled || info.oomKilled })
        const measured = exit === undefined ? {} : { durationMs: exit.durationMs, outputBytes: exit.outputBytes }
        return { ...summaryOf(info), ...outcome, ...measured, ...kept.encoded(encoding) }
      } catch (error) {
        throw execRefusal(await explainLost(door, { sandboxId, caller, guest }, error), execId)
      } finally {
        kept.release()
      }
    },

    /** Everything from an offset on, and what follows. */
    async events(
      sandboxId: string,
      caller: DoorCaller,
      execId: string,
      { from, encoding }: { from: number; encoding: OutputEncoding },
    ): Promise<LiveExec> {
      const { guest, info } = await find(sandboxId, caller, execId)
      if (from > info.outputBytes) {
        throw new DeltaError('invalid_request', 'The offset lies behind the end of the output', {
          cause: `from: at most ${info.outputBytes}, the output so far`,
          context: { outputBytes: info.outputBytes },
        })
      }
      try {
        const mark = kills.mark(guest, sandboxId)
        const open = (on: GuestConnection) =>
          inTime(answerMs, (signal) => on.attach(execId, { from, stdin: false, signal }))
        const followed = await follow(door, guest, { sandboxId, caller, execId, from, open })
        const summary = (exit: ExecExit): ExecSummary => ({
          ...summaryOf(info),
          ...outcomeOf(exit),
          durationMs: exit.durationMs,
          outputBytes: exit.outputBytes,
        })
        return live(followed, { mark, encoding, summary })
      } catch (error) {
        throw execRefusal(await explainLost(door, { sandboxId, caller, guest }, error), execId)
      }
    },

    async inspect(sandboxId: string, caller: DoorCaller, execId: string): Promise<KnownExec> {
      const { info } = await find(sandboxId, caller, execId)
      return { summary: summaryOf(info), start: info.start }
    },

    /**
     * What was started with this key in the sandbox's present life. Undefined where nothing is known of it, or that life is over: a stopped sandbox is left so, a paused one
     * goes on with all that runs in it.
     */
    async startedWith(sandboxId: string, caller: DoorCaller, key: string): Promise<ExecSummary | undefined> {
      const opened = await openPresent(door, sandboxId, caller)
      if (opened === undefined) return undefined
      const execId = execIdOfKey(sandboxId, key)
      try {
        const info = (await knownExecs(opened.guest)).find((known) => known.execId === execId)
        return info && summaryOf(kills.wasKilled(execId) ? { ...info, oomKilled: true } : info)
      } catch (error) {
        throw execRefusal(await explainLost(door, { sandboxId, caller, guest: opened.guest }, error), execId)
      }
    },

    /** For a terminal: output, input and size over one channel. `stdin`: whether to write. */
    async attach(
      sandboxId: string,
      caller: DoorCaller,
      { summary }: KnownExec,
      { from, stdin }: { from: number; stdin: boolean },
    ): Promise<AttachedExec> {
      const { guest } = await door.open(sandboxId, caller)
      const execId = summary.id
      const mark = kills.mark(guest, sandboxId)
      const attachWith = (input: boolean) =>
        follow(door, guest, {
          sandboxId,
          caller,
          execId,
          from,
          stdin: input,
          open: (on) => inTime(answerMs, (signal) => on.attach(execId, { from, stdin: input, signal })),
        })
      try {
        // What ended a moment ago takes no input, but still tells its output.
        const followed = await attachWith(stdin).catch((error: unknown) => {
          if (!stdin || !isInvalid(error)) throw error
          return attachWith(false)
        })
        return attachedExec(followed, { door, kills, mark, summary })
      } catch (error) {
        throw execRefusal(await explainLost(door, { sandboxId, caller, guest }, error), execId)
      }
    },

    /** Hands a body of any length to the process as fast as it takes it. */
    async writeStdin(
      sandboxId: string,
      caller: DoorCaller,
      execId: string,
      { body, close }: { body: Readable; close: boolean },
    ): Promise<void> {
      const { guest, info } = await find(sandboxId, caller, execId)
      if (info.kind !== 'running') throw new DeltaError('exec_not_running', `Exec ${execId} has ended`)
      if (readTag(info.tag).stdinOpen === false) {
        throw new DeltaError('exec_stdin_closed', `Exec ${execId} was started without an open stdin`)
      }
      try {
        await pourStdin(guest, info, { body, close, stallMs: stdinStallMs })
      } catch (error) {
        throw stdinRefusal(await explainLost(door, { sandboxId, caller, guest }, error), execId)
      }
    },

    async signal(
      sandboxId: string,
      caller: DoorCaller,
      execId: string,
      { signal, scope }: { signal: string | number; scope: 'process' | 'session' },
    ): Promise<void> {
      const number = signalNumber(signal)
      if (number === undefined) {
        throw new DeltaError('invalid_request', 'There is no such signal', {
          cause: 'body.signal: a name such as SIGTERM, or a number from 1 to 64',
        })
      }
      const { guest } = await door.open(sandboxId, caller)
      if (signal === 9 || number === 9) kills.expectKill(execId)
      try {
        const id = checkedId(execId)
        await inTime(answerMs, (patience) => guest.signal(id, number, scope, { signal: patience }))
      } catch (error) {
        throw execRefusal(await explainLost(door, { sandboxId, caller, guest }, error), execId)
      }
    },

    async resize(
      sandboxId: string,
      caller: DoorCaller,
      execId: string,
      { cols, rows }: { cols: number; rows: number },
    ): Promise<void> {
      const { guest, info } = await find(sandboxId, caller, execId)
      if (info.kind !== 'running') throw new DeltaError('exec_not_running', `Exec ${execId} has ended`)
      if (!info.pty) {
        throw new DeltaError('invalid_request', `Exec ${execId} has no terminal`, {
          cause: 'start the exec with `pty`',
        })
      }
      try {
        const from = info.outputBytes
        const attached = await inTime(answerMs, (patience) =>
          guest.attach(execId, { from, stdin: false, signal: patience }),
        )
        attached.resize(cols, rows)
        attached.detach()
      } catch (error) {
        throw execRefusal(await explainLost(door, { sandboxId, caller, guest }, error), execId)
      }
    },
  }
}

async function openPresent(door: SandboxDoor, sandboxId: string, caller: DoorCaller): Promise<OpenDoor | undefined> {
  try {
    return await door.open(sandboxId, caller, { wake: false })
  } catch (error) {
    if (!(error instanceof DeltaError)) throw error
    if (error.code === 'sandbox_not_found') return undefined
    if (error.code !== 'sandbox_not_running') throw error
    return error.context?.['state'] === 'paused' ? door.open(sandboxId, caller) : undefined
  }
}

// ── starting ─────────────────────────────────────────────────────────────────────────────────────────────────────────────────────

interface Preparing {
  sandboxId: string
  key: string | undefined
  newExecId(): string
  body: Omit<ExecBody, 'cmd'>
  command: Command
  digested: object
}

/** All that can be refused without asking the sandbox. */
function prepare({ sandboxId, key, newExecId, body, command, digested }: Preparing): Prepared {
  if (!command.ok) {
    const limit = command.limitBytes === undefined ? {} : { context: { limitBytes: command.limitBytes } }
    const code = command.limitBytes === undefined ? 'invalid_request' : 'body_too_large'
    throw new DeltaError(code, 'The command can not be executed', { cause: command.reason, ...limit })
  }
  const problem = body.env === undefined ? undefined : environmentProblem(body.env)
  if (problem !== undefined)
    throw new DeltaError('invalid_request', 'The request is not valid at body.env', { cause: problem })
  const timeoutMs = timeoutOf(body)
  if (timeoutMs === undefined) {
    throw new DeltaError('invalid_request', 'The request is not valid at body.timeoutMs', {
      cause: 'body.timeoutMs: 0, which is no timeout, is for execs with `background: true`',
    })
  }
  if (commandBytes(command) + Buffer.byteLength(body.stdin ?? '') > COMMAND_BYTES) {
    throw new DeltaError('body_too_large', `Command and stdin exceed ${COMMAND_BYTES} bytes`, {
      cause: 'send a longer stdin with `stdinOpen: true` and POST …/execs/{execId}/stdin, or put the data into a file',
      context: { limitBytes: COMMAND_BYTES },
    })
  }
  return {
    execId: key === undefined ? newExecId() : execIdOfKey(sandboxId, key),
    command,
    body,
    timeoutMs,
    digest: key === undefined ? undefined : bodyDigest(digested),
    tag: body.tag ?? null,
  }
}

function commandBytes({ argv, script }: Command & { ok: true }): number {
  let bytes = script?.length ?? 0
  for (const argument of argv) bytes += Buffer.byteLength(argument)
  return bytes
}

const bash = '/bin/bash'
const plainShell = '/bin/sh'
/** Sandboxes in which there was no bash when a command was to be run by it. */
const withoutBash = new WeakSet<GuestConnection>()

/** Where a text is to be run and there is no bash, by /bin/sh: small images have nothing else. */
async function withShell<T>(
  guest: GuestConnection,
  prepared: Prepared,
  sandbox: OpenDoor['sandbox'],
  begin: (request: ExecRequest) => Promise<T>,
): Promise<T> {
  const { command } = prepared
  if (!command.shell) return begin(requestOf(prepared, sandbox))
  if (withoutBash.has(guest)) return begin(requestOf(prepared, sandbox, plainShell))
  try {
    return await begin(requestOf(prepared, sandbox))
  } catch (error) {
    if (!(error instanceof GuestError) || error.code !== 'not_found' || !(await lacks(guest, bash))) throw error
    withoutBash.add(guest)
    return begin(requestOf(prepared, sandbox, plainShell))
  }
}

async function lacks(guest: GuestConnection, path: string): Promise<boolean> {
  return guest.stat(path).then(
    () => false,
    (error: unknown) => error instanceof GuestError && error.code === 'not_found',
  )
}

function requestOf(
  { execId, command, body, timeoutMs, digest, tag }: Prepared,
  sandbox: OpenDoor['sandbox'],
  shell = bash,
): ExecRequest {
  if (sandbox.env === null) {
    throw new DeltaError(
      'sandbox_env_unreadable',
      `The variables of sandbox ${sandbox.id} were stored under another SECRET_KEY`,
    )
  }
  const user = body.user ?? sandbox.user ?? 'user'
  const home = sandbox.cwd ?? '/workspace'
  const cwd = body.cwd ?? home
  return {
    execId,
    argv: command.shell ? [shell, ...command.argv.slice(1)] : command.argv,
    script: command.script,
    env: environmentOf(user, { sandbox: sandbox.env, exec: body.env, pty: body.pty !== undefined, shell }),
    cwd: cwd.startsWith('/') ? cwd : `${home}/${cwd}`,
    user,
    timeoutMs,
    pty: body.pty,
    keepStdin: body.stdinOpen,
    stdin: body.stdin === undefined ? undefined : Buffer.from(body.stdin),
    tag: wireTag({ tag, digest, stdinOpen: body.stdinOpen }),
  }
}

function checkSameBody(followed: Followed, digest: string | undefined, known: ExecInfo[]): void {
  const info = known.find(({ execId }) => execId === followed.execId)
  if (info === undefined || sameBody(info, digest)) return
  detach(followed)
  throw keyConflict(followed.execId)
}

function sameBody(info: ExecInfo, digest: string | undefined): boolean {
  return readTag(info.tag).digest === digest
}

function keyConflict(execId: string): DeltaError {
  return new DeltaError('idempotency_conflict', 'This Idempotency-Key has started another command', {
    context: { execId },
  })
}

/** For code, a missing interpreter is told from a missing folder. */
async function explainStart(
  error: unknown,
  { language }: Prepared,
  { guest, sandbox }: OpenDoor,
  request: ExecRequest,
): Promise<unknown> {
  if (language === undefined || !(error instanceof GuestError) || error.code !== 'not_found') return startRefusal(error)
  const folder = await guest.stat(request.cwd).catch(() => undefined)
  if (folder === undefined) return startRefusal(error)
  return new DeltaError('interpreter_missing', `The template ${sandbox.template} has no ${request.argv[0]}`, {
    context: { language, interpreter: request.argv[0], template: sandbox.template },
  })
}

// ── output ───────────────────────────────────────────────────────────────────────────────────────────────────────────────────────

type KeptFields = Pick<Exec, 'stdout' | 'stderr' | 'truncated' | 'truncatedBytes' | 'encoding'>

interface Kept {
  add(chunk: ExecOutput): void
  encoded(encoding: OutputEncoding): KeptFields
  release(): void
}

const nothingKept = { text: '', droppedBytes: 0 }

/** What a JSON answer holds of both streams. A stream that says nothing costs nothing. */
function createKept(budget: OutputBudget): Kept {
  const keepers: { stdout: OutputKeeper | undefined; stderr: OutputKeeper | undefined } = {
    stdout: undefined,
    stderr: undefined,
  }
  return {
    add({ stream, bytes, gap }) {
      const keeper = (keepers[stream] ??= createOutputKeeper(budget))
      // Which stream the lost bytes were of is not known; they are counted where the output goes on.
      if (gap !== undefined) keeper.skip(gap)
      keeper.add(bytes)
    },
    encoded(encoding) {
      const stdout = keepers.stdout === undefined ? nothingKept : encodeOutput(keepers.stdout.result(), encoding)
      const stderr = keepers.stderr === undefined ? nothingKept : encodeOutput(keepers.stderr.result(), encoding)
      return {
        stdout: stdout.text,
        stderr: stderr.text,
        truncated: stdout.droppedBytes + stderr.droppedBytes > 0,
        truncatedBytes: { stdout: stdout.droppedBytes, stderr: stderr.droppedBytes },
        encoding,
      }
    },
    release() {
      keepers.stdout?.release()
      keepers.stderr?.release()
    },
  }
}

function liveSummary({ execId, stream, unknownBecause }: Followed, tag: string | null, exit: ExecExit): ExecSummary {
  const { outputBytes, durationMs } = exit
  const why = exit.kind === 'unknown' && unknownBecause !== undefined ? { reason: unknownBecause } : {}
  return { id: execId, pid: stream.pid, ...outcomeOf(exit), ...why, durationMs, outputBytes, tag }
}

function lateAnswer(execId: string): DeltaError {
  return new DeltaError(
    'guest_timed_out',
    'The sandbox did not report the end of the exec in time; it may be paused or overloaded',
    {
      context: { execId },
    },
  )
}

/** Reads what is kept of an exec now. Returns the exit when it has one. */
async function readKept(
  guest: GuestConnection,
  info: ExecInfo,
  onOutput: (chunk: ExecOutput) => void,
): Promise<ExecExit | undefined> {
  if (info.outputBytes === 0) return undefined
  const signal = AbortSignal.timeout(KEPT_OUTPUT_MS)
  const attached = await guest.attach(info.execId, { from: 0, stdin: false, signal })
  let done = false
  try {
    return await attached.consume((chunk) => {
      onOutput(chunk)
      if (chunk.offset + chunk.bytes.length < info.outputBytes || info.kind !== 'running') return
      // A running process has no end to wait for.
      done = true
      attached.detach()
    })
  } catch (error) {
    if (done) return undefined
    if (signal.aborted) throw lateAnswer(info.execId)
    throw error
  }
}

interface LiveView {
  mark: MemoryMark
  encoding: OutputEncoding
  summary(exit: ExecExit): ExecSummary
}

async function* liveEvents(
  { door, kills }: { door: SandboxDoor; kills: MemoryKills },
  followed: Followed,
  { mark, encoding, summary }: LiveView,
): AsyncGenerator<ServerSentEvent> {
  const texts = createOutputTexts(encoding)
  yield { event: 'start', id: String(followed.position), data: { id: followed.execId, pid: followed.stream.pid } }
  const output = readOutput(door, followed)
  let exit: ExecExit
  for (;;) {
    const step = await output.next()
    if (step.done === true) {
      exit = step.value
      break
    }
    const { stream, offset, bytes, gap } = step.value
    if (gap !== undefined) {
      for (const piece of texts.flush()) yield pieceEvent(piece)
      yield { event: 'gap', id: String(offset), data: { from: offset - gap, to: offset } }
    }
    const piece = texts.push(stream, offset, bytes)
    if (piece !== undefined) yield pieceEvent(piece)
  }
  for (const piece of texts.flush()) yield pieceEvent(piece)
  exit = await kills.explain(mark, followed.execId, exit)
  yield { event: 'exit', id: String(followed.position), data: summary(exit) }
}

interface Holding {
  door: SandboxDoor
  kills: MemoryKills
  mark: MemoryMark
  summary: ExecSummary
}

function attachedExec(followed: Followed, { door, kills, mark, summary }: Holding): AttachedExec {
  const { execId } = followed
  return {
    pid: followed.stream.pid,
    held: followed.guest.held,
    async consume(onOutput) {
      try {
        const exit = await kills.explain(mark, execId, await takeOutput(door, followed, onOutput))
        const { outputBytes, durationMs } = exit
        return { ...summary, ...outcomeOf(exit), durationMs, outputBytes }
      } catch (error) {
        throw execRefusal(await explainLost(door, followed, error), execId)
      }
    },
    async write(bytes) {
      try {
        await followed.stream.writeStdin(bytes)
      } catch (error) {
        throw execRefusal(await explainLost(door, followed, error), execId)
      }
    },
    resize: (cols, rows) => followed.stream.resize(cols, rows),
    detach: () => detach(followed),
  }
}

function isInvalid(error: unknown): boolean {
  return error instanceof GuestError && error.code === 'invalid'
}

function pieceEvent({ stream, data, offset, resumeAt }: OutputPiece): ServerSentEvent {
  return { event: stream, id: resumeAt === undefined ? undefined : String(resumeAt), data: { data, offset } }
}

// ── input ────────────────────────────────────────────────────────────────────────────────────────────────────────────────────────

interface Pouring {
  body: Readable
  close: boolean
  stallMs: number
}

async function pourStdin(guest: GuestConnection, info: ExecInfo, { body, close, stallMs }: Pouring): Promise<void> {
  const attached = await guest.attach(info.execId, { from: info.outputBytes, stdin: true })
  // A channel that may write also hears the output; it must be taken, or it would hold the process back.
  attached.consume(() => {}).catch(() => {})
  const leave = () => attached.detach()
  const onClose = () => void (body.readableEnded || leave())
  body.once('close', onClose)
  let stalled = false
  const onStall = () => {
    stalled = true
    leave()
  }
  try {
    const whole = await pour(body, (chunk) => patiently(attached.writeStdin(chunk), stallMs, onStall), attached.exit)
    if (stalled) throw new DeltaError('guest_timed_out', `Exec ${info.execId} does not read its stdin`)
    if (!whole) throw new DeltaError('exec_not_running', `Exec ${info.execId} ended while its stdin was written`)
    if (close) attached.closeStdin()
  } finally {
    body.off('close', onClose)
    attached.detach()
  }
}

async function patiently(writing: Promise<void>, stallMs: number, onStall: () => void): Promise<void> {
  const timer = setTimeout(onStall, stallMs)
  try {
    await writing
  } finally {
    clearTimeout(timer)
  }
}

function stdinRefusal(error: unknown, execId: string): unknown {
  if (
    error instanceof GuestError &&
    (error.code === 'invalid' || error.code === 'not_supported' || error.code === 'busy')
  ) {
    return new DeltaError('exec_stdin_closed', `The stdin of exec ${execId} is not open`, { cause: error.message })
  }
  return execRefusal(error, execId)
}

function checkedId(execId: string): string {
  if (!/^[A-Za-z0-9_-]{1,64}$/.test(execId)) throw execNotFound(execId)
  return execId
}
