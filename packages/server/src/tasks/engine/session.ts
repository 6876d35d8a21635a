import type { KnownCaller } from '../../access/callers/door.ts'
import type { Clock } from '../../kernel/clock.ts'
import { DeltaError } from '../../kernel/errors.ts'
import type { Logger } from '../../kernel/log.ts'
import type { ExecSummary } from '../../sandboxes/execs/schema.ts'
import type { AttachedExec, Execs } from '../../sandboxes/execs/service.ts'
import { endOf } from '../tools/command.ts'
import { bodyOf, refusal, type Refusal } from './answer.ts'
import type { Answer, Endpoint } from './endpoint.ts'
import { engineLimits } from './limits.ts'
import { runnerSource } from './runner-source.ts'
import {
  type Begin,
  broken,
  createLineReader,
  type FromRunner,
  type FromServer,
  lineOf,
  type RunnerRequest,
} from './wire.ts'

export interface SessionDeps {
  execs: Pick<Execs, 'run' | 'list' | 'inspect' | 'attach' | 'signal'>
  clock: Clock
  log: Logger
}

export interface SessionWish {
  sandboxId: string
  caller: KnownCaller
  /** By which one that a dead server left is found. */
  tag: string
  begin: Begin
  endpoint: Endpoint
  /** What is said in the conversation; nothing more is read before it resolves. */
  onSaid(message: FromRunner & { type: 'said' | 'results' }): Promise<void>
}

export type SessionEnd =
  | { kind: 'result'; isError: boolean; text: string }
  | { kind: 'missing'; found: string | undefined }
  | { kind: 'failed'; message: string }

export type Session = ReturnType<typeof createSession>

/** Starts the runner, and hears it until one turn is over. */
export async function openSession(deps: SessionDeps, wish: SessionWish): Promise<Session> {
  const { execs } = deps
  const { sandboxId, caller, tag } = wish
  for (const { id, state, tag: known } of await execs.list(sandboxId, caller)) {
    if (known !== tag || state !== 'running') continue
    // It may end by itself at the same moment.
    await execs.signal(sandboxId, caller, id, { signal: 'SIGKILL', scope: 'session' }).catch(() => undefined)
  }
  const { id } = await execs.run(sandboxId, caller, {
    cmd: ['node', '--input-type=module', '-e', runnerSource()],
    stdinOpen: true,
    background: true,
    timeoutMs: 0,
    tag,
    encoding: 'base64',
    stream: false,
  })
  const known = await execs.inspect(sandboxId, caller, id)
  const exec = await execs.attach(sandboxId, caller, known, { from: 0, stdin: true })
  return createSession(deps, wish, { id, exec })
}

interface Arriving {
  request: RunnerRequest
  body: Buffer
  got: number
}

function createSession(
  { execs, clock, log }: SessionDeps,
  { sandboxId, caller, begin, endpoint, onSaid }: SessionWish,
  { id: execId, exec }: { id: string; exec: AttachedExec },
) {
  const arriving = new Map<number, Arriving>()
  /** Those that are being answered. */
  const open = new Map<number, { abort: AbortController; body: Buffer }>()
  const serving = new Set<Promise<void>>()
  /** Answers to those that were turned down, which whoever asked may not read. */
  let turningDown = 0
  let saidChars = 0
  let sending: Promise<void> = Promise.resolve()
  let end: SessionEnd | undefined
  let fault: unknown
  let stderr = ''
  let isOver = false
  const disarms = new Set<() => void>()

  function after(ms: number, work: () => void): void {
    const disarm = clock.after(ms, () => {
      disarms.delete(disarm)
      work()
    })
    disarms.add(disarm)
  }

  /** One after the other, and no faster than the sandbox reads. */
  function send(message: FromServer): Promise<void> {
    const sent = sending.then(() => {
      if (isOver) throw new DeltaError('exec_not_running', 'The engine in the sandbox has ended')
      return exec.write(lineOf(message))
    })
    sending = sent.catch(() => undefined)
    return sent
  }

  function ping(): void {
    // One that can not be written ends with its exec.
    send({ type: 'ping' }).catch(() => undefined)
    after(engineLimits.pingMs, ping)
  }

  function kill(): void {
    execs
      .signal(sandboxId, caller, execId, { signal: 'SIGKILL', scope: 'session' })
      .catch((error: unknown) => log.info('engine_not_killed', { execId, error }))
  }

  // ── what it says ──

  async function hear(message: FromRunner): Promise<void> {
    if (message.type === 'request') return begun(message)
    if (message.type === 'body') return more(message)
    if (message.type === 'gone') {
      arriving.delete(message.id)
      return open.get(message.id)?.abort.abort(new Error('gone'))
    }
    if (message.type === 'said' || message.type === 'results') {
      saidChars += JSON.stringify(message).length
      if (saidChars > engineLimits.saidChars) throw broken('it says more than a turn holds')
      return onSaid(message)
    }
    if (end) throw broken('it ends twice')
    if (message.type === 'missing') end = { kind: 'missing', found: message.found }
    else if (message.type === 'failed') end = { kind: 'failed', message: message.message }
    else end = { kind: 'result', isError: message.isError, text: message.text }
    for (const { abort } of open.values()) abort.abort(new Error('over'))
    after(engineLimits.closeMs, kill)
  }

  function begun(request: RunnerRequest): void {
    const { id, bytes } = request
    if (arriving.has(id) || open.has(id)) throw broken('a request has the number of another one')
    const openBytes = [...open.values(), ...arriving.values()].reduce((sum, { body }) => sum + body.length, 0)
    if (bytes > engineLimits.bodyBytes) return turnDown(id, refusal(413, 'The request is too large'))
    if (arriving.size + open.size >= engineLimits.requests || openBytes + bytes > engineLimits.openBytes) {
      return turnDown(id, refusal(429, 'Too many requests at once'))
    }
    // Served only when it is filled to its end.
    arriving.set(id, { request, body: Buffer.allocUnsafe(bytes), got: 0 })
  }

  /** Its body is passed over. */
  function turnDown(id: number, refused: Refusal): void {
    if (turningDown >= engineLimits.requests) throw broken('it asks and does not hear the answers')
    turningDown += 1
    const data = Buffer.from(bodyOf(refused)).toString('base64')
    send({ type: 'head', id, status: refused.status, headers: { 'content-type': 'application/json' } })
      .then(() => send({ type: 'data', id, data }))
      .then(() => send({ type: 'end', id, cut: false }))
      .catch(() => undefined)
      .finally(() => {
        turningDown -= 1
      })
  }

  function more({ id, data, isLast }: FromRunner & { type: 'body' }): void {
    const one = arriving.get(id)
    if (!one) return
    const { body } = one
    const piece = Buffer.from(data, 'base64')
    const got = one.got + piece.length
    if (got > body.length || (isLast && got !== body.length)) throw broken('a request is not as long as it said')
    piece.copy(body, one.got)
    one.got = got
    if (!isLast) return
    arriving.delete(id)
    const abort = new AbortController()
    open.set(id, { abort, body })
    const { method, path, headers } = one.request
    const work = endpoint
      .serve({ method, path, headers, body }, answerTo(id), abort.signal)
      .catch((error: unknown) => {
        if (!isOver) log.info('engine_not_answered', { execId, error })
      })
      .finally(() => {
        open.delete(id)
        serving.delete(work)
      })
    serving.add(work)
  }

  function answerTo(id: number): Answer {
    return {
      head: (status, headers) => send({ type: 'head', id, status, headers }),
      async data(bytes) {
        for (let at = 0; at < bytes.length; at += engineLimits.pieceBytes) {
          const piece = Buffer.from(bytes.subarray(at, at + engineLimits.pieceBytes))
          await send({ type: 'data', id, data: piece.toString('base64') })
        }
      },
      end: (cut) => send({ type: 'end', id, cut }),
    }
  }

  /** Until the runner has ended. Rejects with what broke here, such as the database; never with what broke in there. */
  async function over(): Promise<SessionEnd> {
    const read = createLineReader(hear)
    send(begin).catch(() => undefined)
    after(engineLimits.pingMs, ping)
    let exit: ExecSummary | undefined
    try {
      exit = await exec.consume(async ({ stream, bytes, gap }) => {
        // What was in doubt is not heard any more.
        if (fault !== undefined) return
        try {
          if (stream === 'stderr') stderr = (stderr + bytes.toString()).slice(-engineLimits.stderrChars)
          else if (gap !== undefined) throw broken('a part of what it said was lost')
          else await read(bytes)
        } catch (error) {
          fault = error
          kill()
        }
      })
    } catch (error) {
      fault ??= error
      kill()
    } finally {
      isOver = true
      for (const disarm of disarms) disarm()
      for (const { abort } of open.values()) abort.abort(new Error('over'))
      // What was asked is paid for before anybody says how the turn ended.
      await Promise.all(serving)
    }
    if (fault !== undefined && !isOfSandbox(fault)) throw fault
    // Whoever says what is never said is not believed before that either.
    const isLie = fault instanceof DeltaError && fault.code === 'guest_protocol_error'
    if (end && !isLie) return end
    if (fault instanceof DeltaError) return { kind: 'failed', message: `${fault.code}: ${fault.message}` }
    const said = stderr.trim() === '' ? '' : `: ${stderr.trim().slice(-1_000)}`
    return { kind: 'failed', message: `The engine ended without a result, ${exit ? endOf(exit) : 'unheard'}${said}` }
  }

  return {
    over,
    /** What it does is given up: asked to, and made to if it does not. */
    interrupt(): void {
      for (const { abort } of open.values()) abort.abort(new Error('interrupted'))
      send({ type: 'interrupt' }).catch(() => undefined)
      after(engineLimits.killMs, kill)
    },
    kill,
    /** The server stops: the runner, which can do nothing without it, is not waited for. */
    leave(): void {
      kill()
      for (const { abort } of open.values()) abort.abort(new Error('left'))
      exec.detach()
    },
  }
}

/** What may break in a sandbox or on the way to it. */
function isOfSandbox(error: unknown): boolean {
  if (!(error instanceof DeltaError)) return false
  return error.code === 'canceled' || /^(guest|exec|sandbox)_/.test(error.code)
}
