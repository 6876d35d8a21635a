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
    return { exitCode: exitCodes.failed, code, message, why, fix: remediation, requestId }
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
