import { DeltaApiError, DeltaConfigError, DeltaConnectionError, DeltaTimeoutError } from '@delta-agents/sdk'
import { visible } from './format.ts'
import { type Io, paint } from './io.ts'

/** Exit codes of every command but `exec`, which passes on the command's own. */
export const exitCodes = {
  failed: 1,
  usage: 2,
  /** No server, no key, no Node: nothing was done. */
  unreachable: 3,
  /** `exec` only: DELTA failed, not the command. */
  execFailed: 125,
  /** `exec` only, as timeout(1) has it. */
  timedOut: 124,
  signalBase: 128,
} as const

/** The caller's mistake, told without a request. */
export class UsageError extends Error {
  override name = 'UsageError'
}

/** A failure of this program itself that has a remedy. */
export class CliError extends Error {
  override name = 'CliError'
  readonly remediation: string

  constructor(message: string, remediation: string, options?: ErrorOptions) {
    super(message, options)
    this.remediation = remediation
  }
}

/** Ctrl-C, or a signal like it, after what was begun has been put in order. */
export class Interrupted extends Error {
  override name = 'Interrupted'
  readonly signalNumber: number

  constructor(signalNumber: number) {
    super('interrupted')
    this.signalNumber = signalNumber
  }
}

/** What to do, in the words of this program; the server's own words are for those who send requests. */
const commands: Record<string, string> = {
  unauthorized: 'Log in with `delta login`, or set DELTA_API_KEY to a valid key.',
  login_failed: 'Check the address and the password, or choose a new one with `delta user reset EMAIL`.',
  second_factor_required: 'Give a code of your authenticator app, or a recovery code, with `--code`.',
  session_ended: 'Log in again with `delta login`.',
  session_required: 'Log in as a user: `delta login --email EMAIL`. API keys are nobody.',
  link_invalid:
    'Ask for a new link: each is good once and for a limited time. The operator makes one with `delta user link EMAIL`.',
  member_not_found:
    'Check the address: `delta user list` shows who belongs to the account, `delta user add EMAIL` invites.',
  last_owner: 'Make another member an owner first: `delta user role USER owner`.',
  approval_not_found: 'Check the id: `delta approve list --all` shows your own requests and those you may decide on.',
  approval_decided: 'Look at how it ended with `delta approve show APPROVAL`.',
  approval_expired: 'Nobody decided in time: it has to be asked for again.',
  approval_action_changed: 'Look at it again with `delta approve show APPROVAL`, and give the hash that it prints.',
  approval_own_request:
    'Another person of the account decides (`delta approve yes`); you take it back with `delta approve cancel APPROVAL`.',
  approval_requester_gone: 'Refuse it: `delta approve no APPROVAL`.',
  approval_second_factor_required: 'Log in again with a code of your authenticator app: `delta login --code CODE`.',
  purse_not_found: 'Check the id: `delta budget` shows the reserve and every agent and task that has tokens.',
  balance_too_low:
    'Look at what there is with `delta budget`, and move less or give it more first: `delta budget transfer`.',
  account_owes: 'What is owed is paid first, with the next tokens: `delta budget` shows how much that is.',
  hold_not_found: 'Check the id: `delta budget holds --all` lists them.',
  key_conflict: 'Leave `--key` out, or repeat what was done with it word for word.',
  task_not_found: 'Check the id: `delta task list` shows those that you may see.',
  task_over:
    'A task that has ended stays so. Go on from it with `delta task fork`, or give a new one: `delta task create`.',
  task_state_conflict:
    'Look at it with `delta task show`; one that works is paused (`delta task pause`) or canceled first.',
  model_not_found:
    'Name one of `delta models`, such as anthropic/claude-sonnet-5-5, with `--model`, or have DELTA_MODEL set where the server starts.',
  model_key_missing:
    'Set that variable where the server starts, or the account’s own key: `delta models key set anthropic`. `delta models` shows what can be used, `delta demo` needs no key.',
  model_key_not_found: '`delta models key list` shows those that the account has.',
  workspace_not_found:
    'Check the id or name: `delta workspace list` shows yours, `delta workspace restore` finds those that only storage knows.',
  workspace_in_use:
    'Stop that sandbox (`delta sandbox stop`), work in it (`delta workspace start --join`), or start on a fork (`delta workspace fork`).',
  workspace_name_taken: 'Choose another name, or use the workspace that has it: `delta workspace list`.',
  workspace_conflict:
    'Something else changed it at the same moment. Look at it with `delta workspace get` and try again.',
  workspace_limit_reached: 'Remove workspaces you no longer need with `delta workspace remove`, then try again.',
  snapshot_not_found:
    'Check the id: `delta workspace log` shows those of a workspace. Unnamed ones are removed when there are more than it keeps.',
  snapshot_name_taken:
    'Choose another name, or take it from the snapshot that has it: `delta workspace name SNAPSHOT`.',
  snapshot_in_use: 'Remove what stands on it first, or roll that back to another snapshot: `delta workspace rollback`.',
  snapshot_not_saved: '`delta workspace save` waits until it is, and says what hinders it.',
  volume_not_found: 'Check the id or name: `delta volume list` shows yours, `delta volume create` makes one.',
  volume_exists: 'Choose another name, or use the volume that has it: `delta volume get`.',
  template_not_found: 'Use a name of `delta template list`.',
  template_not_ready:
    'Make it with `delta template build`, see how it goes with `delta template log`, or use one that `delta template list` says is ready.',
}

interface Told {
  exitCode: number
  code: string
  message: string
  why?: string | undefined
  fix?: string | undefined
  requestId?: string | undefined
}

export function tell(error: unknown): Told {
  if (error instanceof UsageError) {
    return {
      exitCode: exitCodes.usage,
      code: 'usage',
      message: error.message,
      fix: 'Add --help to see how it is used.',
    }
  }
  if (error instanceof CliError) {
    const why = error.cause instanceof Error ? error.cause.message : undefined
    return { exitCode: exitCodes.failed, code: 'failed', message: error.message, why, fix: error.remediation }
  }
  if (error instanceof DeltaApiError) {
    const { code, message, remediation, requestId, cause } = error
    const why = typeof cause === 'string' && cause !== message ? cause : undefined
    return { exitCode: exitCodes.failed, code, message, why, fix: commands[code] ?? remediation, requestId }
  }
  if (error instanceof DeltaConfigError) {
    return { exitCode: exitCodes.unreachable, code: 'config', message: error.message }
  }
  if (error instanceof DeltaTimeoutError) {
    const fix = 'The server is busy or hangs. Look at its log; whether the request had an effect is unknown.'
    return { exitCode: exitCodes.unreachable, code: 'timeout', message: error.message, fix }
  }
  if (error instanceof DeltaConnectionError) {
    const fix =
      'Start the server with `npm start`, or set DELTA_URL to where it listens. `delta doctor` checks this machine.'
    return { exitCode: exitCodes.unreachable, code: 'unreachable', message: error.message, fix }
  }
  return tellOther(error)
}

function tellOther(error: unknown): Told {
  const { code, path } = error as { code?: unknown; path?: unknown }
  // Errors of the local file system name their file already.
  if (typeof code === 'string' && /^E[A-Z]+$/.test(code)) {
    const message = error instanceof Error ? error.message : code
    return {
      exitCode: exitCodes.failed,
      code,
      message,
      fix: `Check ${typeof path === 'string' ? path : 'the local file'} and its permissions.`,
    }
  }
  const message = error instanceof Error ? error.message : String(error)
  return {
    exitCode: exitCodes.failed,
    code: 'unexpected',
    message,
    fix: 'This may be a fault of the command. Set DELTA_DEBUG=1 to see where it came from.',
  }
}

/** What happened, why, what to do; never a stack trace unless asked for. */
export function report(io: Io, error: unknown, { json }: { json: boolean }): number {
  const { exitCode, ...told } = tell(error)
  if (json) io.stderr.write(`${JSON.stringify({ error: told })}\n`)
  else {
    const line = (name: string, text: string | undefined) =>
      text === undefined || text === '' ? '' : `  ${paint(io, io.stderr, 'dim', name)} ${visible(text)}\n`
    io.stderr.write(
      `${paint(io, io.stderr, 'red', 'error:')} ${visible(told.message)}\n` +
        line('why:', told.why) +
        line('fix:', told.fix) +
        line('ref:', told.requestId && `${told.code}, request ${told.requestId}`),
    )
  }
  if (io.env['DELTA_DEBUG'] && error instanceof Error) io.stderr.write(`${error.stack ?? ''}\n`)
  return exitCode
}
