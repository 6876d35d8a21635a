import { createHash } from 'node:crypto'
import type { ExecExit, ExecInfo } from '../../guest/client.ts'
import { signalName } from './signals.ts'
import { execLimits, loginShell } from './schema.ts'
import type { CodeLanguage, ExecBody, ExecSummary } from './schema.ts'

/** The kernel takes no argument longer than 128 KiB; what is longer than this travels as a file in memory. */
export const SCRIPT_BYTES = 100 * 1024
/** The kernel's bound on one argument or one `NAME=value`, with its end. */
export const ARGUMENT_BYTES = 128 * 1024 - 1
/** Command and stdin of one exec together. */
export const COMMAND_BYTES = 3 * 1024 * 1024
/** All variables of one exec together. */
export const ENVIRONMENT_BYTES = 512 * 1024

const SCRIPT = '\0script'
const PATH = '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin'

export type Refusal = { ok: false; reason: string; limitBytes?: number }
/** `shell`: it names no program of its own, so that another shell may take the place of bash. */
export type Command = { ok: true; argv: string[]; script?: Buffer; shell?: true } | Refusal

/** What is executed for `cmd`: an array as it is, a text by a login shell. */
export function commandOf(cmd: string | string[]): Command {
  if (typeof cmd === 'string') {
    if (cmd.length === 0) return { ok: false, reason: '`cmd` is empty' }
    if (cmd.includes('\0')) return { ok: false, reason: '`cmd` contains a NUL character' }
    // A character is at most three bytes for one unit of its length.
    if (cmd.length * 3 <= SCRIPT_BYTES || Buffer.byteLength(cmd) <= SCRIPT_BYTES) {
      return { ok: true, argv: ['/bin/bash', '-l', '-c', cmd], shell: true }
    }
    return { ok: true, argv: ['/bin/bash', '-l', '-c', '. "$0"', SCRIPT], script: Buffer.from(cmd), shell: true }
  }
  if (cmd.length === 0 || cmd[0] === '') return { ok: false, reason: '`cmd` names no program' }
  for (const [index, argument] of cmd.entries()) {
    if (argument.includes('\0')) return { ok: false, reason: `\`cmd[${index}]\` contains a NUL character` }
    if (argument.length * 3 > ARGUMENT_BYTES && Buffer.byteLength(argument) > ARGUMENT_BYTES) {
      return {
        ok: false,
        reason: `\`cmd[${index}]\` is longer than a single argument can be; send \`cmd\` as a text, or write the argument to a file first`,
        limitBytes: ARGUMENT_BYTES,
      }
    }
  }
  return { ok: true, argv: cmd, ...(cmd === loginShell && { shell: true as const }) }
}

function withoutShell(command: Command): Command {
  if (!command.ok) return command
  const { shell: _shell, ...rest } = command
  return rest
}

// Both keep imports relative to the working directory where the source fits into an argument, as `-c` and `-e` do. Node has no way to
// compile a longer one there that knows modules, so it imports by absolute paths or from node: only.
const pythonFromFile = "import sys;exec(compile(open(sys.argv.pop(1),'rb').read(),'<source>','exec'))"

/** What runs a piece of source. */
export function codeCommandOf(language: CodeLanguage, source: string): Command {
  if (source.includes('\0')) return { ok: false, reason: '`source` contains a NUL character' }
  const bytes = Buffer.byteLength(source)
  if (bytes > execLimits.sourceBytes) {
    return { ok: false, reason: '`source` is too long', limitBytes: execLimits.sourceBytes }
  }
  // Here bash is what was asked for.
  if (language === 'bash') return withoutShell(commandOf(source))
  const script = bytes > SCRIPT_BYTES ? { script: Buffer.from(source) } : undefined
  if (language === 'python') {
    return { ok: true, argv: script ? ['python3', '-c', pythonFromFile, SCRIPT] : ['python3', '-c', source], ...script }
  }
  // The file in memory has no path that could be resolved, which Node would try.
  return { ok: true, argv: script ? ['node', '--preserve-symlinks-main', SCRIPT] : ['node', '-e', source], ...script }
}

/** The guest's proxy (docs/guest-protocol.md), the way out for programs that know of proxies. Node heeds it when told to. */
const proxy = 'http://127.0.0.1:3129'
const noProxy = 'localhost,127.0.0.1,::1'
const proxyEnvironment = {
  HTTP_PROXY: proxy,
  HTTPS_PROXY: proxy,
  http_proxy: proxy,
  https_proxy: proxy,
  NO_PROXY: noProxy,
  no_proxy: noProxy,
  NODE_USE_ENV_PROXY: '1',
}

/** The variables of an exec: defaults of its user, the sandbox's own above them, the exec's on top. */
export function environmentOf(
  user: string,
  layers: {
    sandbox: Readonly<Record<string, string>>
    exec?: Readonly<Record<string, string>> | undefined
    pty: boolean
    /** @default /bin/bash */
    shell?: string | undefined
  },
): Record<string, string> {
  const { name, home } = accountOf(user)
  const env: Record<string, string> = {
    PATH,
    HOME: home,
    USER: name,
    LOGNAME: name,
    LANG: 'C.UTF-8',
    SHELL: layers.shell ?? '/bin/bash',
    ...proxyEnvironment,
  }
  if (layers.pty) env['TERM'] = 'xterm-256color'
  return Object.assign(env, layers.sandbox, layers.exec)
}

function accountOf(user: string): { name: string; home: string } {
  const name = user.split(':', 1)[0]!
  if (name === 'root' || name === '0') return { name: 'root', home: '/root' }
  if (name === '1000') return { name: 'user', home: '/home/user' }
  return /^\d+$/.test(name) ? { name, home: '/' } : { name, home: `/home/${name}` }
}

/** 0 is no timeout, which only what nobody waits for may have. Undefined where that is asked for otherwise. */
export function timeoutOf(body: Pick<ExecBody, 'timeoutMs' | 'background'>): number | undefined {
  if (body.timeoutMs === undefined) return body.background ? 0 : execLimits.timeoutMs.default
  return body.timeoutMs === 0 && !body.background ? undefined : body.timeoutMs
}

/** Why these variables can not be given to a process; undefined when they can. */
export function environmentProblem(env: Readonly<Record<string, string>>): string | undefined {
  let total = 0
  for (const [name, value] of Object.entries(env)) {
    if (!/^[A-Za-z_][A-Za-z0-9_]*$/.test(name)) {
      return `env: \`${name.slice(0, 64)}\` is no name of a variable (letters, digits and _, not beginning with a digit)`
    }
    if (value.includes('\0')) return `env: the value of ${name.slice(0, 64)} contains a NUL character`
    const bytes = name.length + 1 + Buffer.byteLength(value)
    if (bytes > ARGUMENT_BYTES) return `env: ${name.slice(0, 64)} is longer than ${ARGUMENT_BYTES} bytes`
    total += bytes
  }
  return total > ENVIRONMENT_BYTES ? `env: all variables together exceed ${ENVIRONMENT_BYTES} bytes` : undefined
}

/** An id that the same key in the same sandbox always gives, so that the guest itself knows a repeated request. */
export function execIdOfKey(sandboxId: string, key: string): string {
  const digest = createHash('sha256').update(`${sandboxId}\0${key}`).digest()
  let id = 'exe_'
  for (let i = 0; i < 20; i++) id += (digest[i]! % 36).toString(36)
  return id
}

/** Tells two bodies under one key apart. How the answer is wanted is not part of it: a stream may follow up on a lost JSON answer. */
export function bodyDigest(body: object & Partial<Pick<ExecBody, 'stream' | 'encoding' | 'env'>>): string {
  const { stream: _stream, encoding: _encoding, env, ...given } = body
  const rest = { user: 'user', cwd: '/workspace', ...given }
  const variables = env && Object.entries(env).toSorted(([a], [b]) => (a < b ? -1 : 1))
  const fields = Object.entries({ ...rest, env: variables }).toSorted(([a], [b]) => (a < b ? -1 : 1))
  return createHash('sha256').update(JSON.stringify(fields)).digest('base64url').slice(0, 22)
}

/**
 * The tag as the guest keeps it. What the platform must know of an exec later is carried beside the caller's own: the guest's memory of an
 * exec ends with the exec, so nothing has to be written on the host for each one.
 */
export function wireTag({
  tag,
  digest,
  stdinOpen,
}: {
  tag: string | null
  digest: string | undefined
  stdinOpen: boolean
}): string {
  if (tag === null && digest === undefined && !stdinOpen) return ''
  return `x:${stdinOpen ? 'i' : ''}:${digest ?? ''}:${tag ?? ''}`
}

export interface KnownTag {
  tag: string | null
  digest?: string
  /** Undefined where somebody else started it, who does not say. */
  stdinOpen?: boolean
}

/** Of processes that are the platform's own means, such as tar; lists leave them out. */
export const INTERNAL_TAG = 'i:'

export function readTag(wire: string): KnownTag {
  if (wire === '') return { tag: null, stdinOpen: false }
  const known = /^x:(i?):([A-Za-z0-9_-]{22})?:([^]*)$/.exec(wire)
  if (known === null) return { tag: wire }
  const [, input, digest, tag] = known
  return { tag: tag || null, stdinOpen: input === 'i', ...(digest && { digest }) }
}

export type ExecOutcome = Pick<ExecSummary, 'state' | 'exitCode' | 'signal' | 'timedOut' | 'oomKilled'>

/** What an end means to the caller: a death by signal or by timeout is no exit code. */
export function outcomeOf(exit: Pick<ExecExit, 'kind' | 'value' | 'timedOut' | 'oomKilled'>): ExecOutcome {
  const { kind, value, timedOut, oomKilled } = exit
  if (kind === 'exited')
    return { state: 'exited', exitCode: timedOut ? null : value, signal: null, timedOut, oomKilled }
  if (kind === 'signalled')
    return { state: 'signalled', exitCode: null, signal: signalName(value), timedOut, oomKilled }
  return { state: 'unknown', exitCode: null, signal: null, timedOut, oomKilled }
}

/** Whether this end may be the kernel's kill for memory: SIGKILL, or a shell reporting that of its last command. */
export function looksKilled(exit: ExecExit): boolean {
  if (exit.timedOut || exit.oomKilled) return false
  return exit.kind === 'signalled' ? exit.value === 9 : exit.kind === 'exited' && exit.value === 137
}

/** What the guest says of an exec, as the API shows it. */
export function summaryOf(info: ExecInfo): ExecSummary {
  const outcome: ExecOutcome =
    info.kind === 'running'
      ? { state: 'running', exitCode: null, signal: null, timedOut: false, oomKilled: false }
      : outcomeOf({ ...info, kind: info.kind })
  return {
    id: info.execId,
    pid: info.pid,
    ...outcome,
    durationMs: info.durationMs,
    outputBytes: info.outputBytes,
    tag: readTag(info.tag).tag,
    cmd: info.argv.map((argument) => (argument === SCRIPT ? '(source)' : argument)),
    cwd: info.cwd,
    user: info.user,
    pty: info.pty,
    startedAt: isoTime(info.startedUnixMs),
  }
}

// The guest's clock may say anything; what no Date can hold is shown as the beginning of time.
function isoTime(unixMs: number): string {
  return new Date(unixMs <= 8.64e15 ? unixMs : 0).toISOString()
}
