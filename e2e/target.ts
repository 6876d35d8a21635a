import { spawn } from 'node:child_process'
import { join, resolve } from 'node:path'
import { Delta, type DeltaApiError } from '@delta-agents/sdk'
import { expect, inject } from 'vitest'

export const url = inject('url')
export const key = inject('key')
export const delta = new Delta({ url, apiKey: key })
const root = resolve(import.meta.dirname, '..')

/** A request as it is, for what the SDK would never send. */
export function request(path: string, options: RequestInit & { duplex?: 'half' } = {}): Promise<Response> {
  const headers = new Headers(options.headers)
  if (!headers.has('authorization')) headers.set('authorization', `Bearer ${key}`)
  return fetch(`${url}${path}`, { ...options, headers })
}

export interface Ran {
  exitCode: number | null
  stdout: string
  stderr: string
}

export interface RunningCli {
  kill(signal: NodeJS.Signals): void
  ended: Promise<Ran>
}

export interface CliOptions {
  input?: string | Buffer
  cwd?: string
  /** @default that of the common platform */
  env?: NodeJS.ProcessEnv
}

const ownEnv = { ...process.env, DELTA_URL: url, DELTA_API_KEY: key }

export function startCli(args: string[], { input, cwd = root, env = ownEnv }: CliOptions = {}): RunningCli {
  const child = spawn(process.execPath, [join(root, 'packages/cli/bin/delta.mjs'), ...args], {
    cwd,
    env,
    stdio: [input === undefined ? 'ignore' : 'pipe', 'pipe', 'pipe'],
  })
  // A command that does not read its input closes the pipe.
  child.stdin?.on('error', () => {})
  child.stdin?.end(input)
  const stdout: Buffer[] = []
  const stderr: Buffer[] = []
  child.stdout?.on('data', (chunk: Buffer) => stdout.push(chunk))
  child.stderr?.on('data', (chunk: Buffer) => stderr.push(chunk))
  const ended = new Promise<Ran>((done, fail) => {
    child.on('error', fail)
    child.on('close', (exitCode) =>
      done({ exitCode, stdout: String(Buffer.concat(stdout)), stderr: String(Buffer.concat(stderr)) }),
    )
  })
  return { kill: (signal) => child.kill(signal), ended }
}

export const cli = (args: string[], options?: CliOptions) => startCli(args, options).ended

/** The server's resident memory, as it states it itself. */
export async function serverMemoryBytes(): Promise<number> {
  const text = await (await request('/metrics')).text()
  const value = /^process_resident_memory_bytes (\S+)$/m.exec(text)?.[1]
  expect(value, 'process_resident_memory_bytes in /metrics').toBeDefined()
  return Number(value)
}

/** The error a call must end with; succeeding is a failure of the test. */
export async function refusal(call: Promise<unknown>): Promise<DeltaApiError> {
  const error = await call.then(
    (value) => expect.unreachable(`it succeeded with ${JSON.stringify(value)}`),
    (cause: unknown) => cause,
  )
  expect(error).toMatchObject({
    name: expect.any(String),
    code: expect.any(String),
    remediation: expect.stringMatching(/\w/),
  })
  return error as DeltaApiError
}
