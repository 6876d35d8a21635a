import { type ChildProcess, execFile, spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync, mkdirSync, readFileSync } from 'node:fs'
import { symlink } from 'node:fs/promises'
import { createServer } from 'node:net'
import { join, resolve } from 'node:path'
import { promisify } from 'node:util'

export interface PlatformOptions {
  /** Made when it is not there; a second start on the same folder adopts what the first left. */
  dataDir: string
  /** crun, runc or runsc. @default DELTA_RUNTIME, else the platform's own choice */
  runtime?: string | undefined
  /** @default a free one */
  port?: number | undefined
  env?: NodeJS.ProcessEnv | undefined
}

export interface Platform {
  url: string
  key: string
  port: number
  dataDir: string
  /** The helper's pid, root of all of the platform's processes. */
  pid: number
  /** The last of what it logged. */
  log(): string
  /** Orderly: INT ends every sandbox, TERM leaves them for the next start. Resolves when the helper is gone. */
  stop(signal?: 'SIGINT' | 'SIGTERM'): Promise<void>
  /** KILL, to the helper alone. */
  kill(): Promise<void>
}

const root = resolve(import.meta.dirname, '..')
const helper = join(root, '.build/bin/delta-helper')
const startMs = 60_000
const stopMs = 30_000
const logChars = 256 * 1024

/** Where nothing says otherwise: far above those of the common platform. */
const ownUidBase = 1_879_048_192 + 2_800 * 65_536

/**
 * Uids for a platform beside the common one, apart from those of tests that run at the same time: so many ranges, from the `first` of at
 * most 512.
 */
export function ownUids(ranges: number, first = 0): { DELTA_UID_BASE: string; DELTA_UID_COUNT: string } {
  const base = Number(process.env['DELTA_TEST_OWN_UID_BASE'] ?? ownUidBase)
  return { DELTA_UID_BASE: String(base + first * 65_536), DELTA_UID_COUNT: String(ranges * 65_536) }
}

/** Starts the platform as `npm start` does, after `node scripts/setup.mjs` has built it, and waits until it is healthy. */
export async function startPlatform(options: PlatformOptions): Promise<Platform> {
  if (!existsSync(helper)) throw new Error(`${helper} is not there: run 'node scripts/setup.mjs' first`)
  mkdirSync(options.dataDir, { recursive: true })
  await provideTemplate(options.dataDir)
  const port = options.port ?? (await freePort())
  const runtime = options.runtime ?? process.env['DELTA_RUNTIME']
  const child = spawn(helper, ['serve'], {
    cwd: root,
    env: {
      ...process.env,
      PATH: `${process.env['PATH'] ?? ''}:/usr/sbin:/sbin`,
      PORT: String(port),
      DELTA_DATA_DIR: options.dataDir,
      // Counted as always, but tests and benches ask more of one key than anybody else would.
      DELTA_RATE_LIMIT_KEY: '1000000',
      DELTA_RATE_LIMIT_ACCOUNT: '1000000',
      DELTA_RATE_LIMIT_ADDRESS: '1000000',
      ...(runtime ? { DELTA_RUNTIME: runtime } : {}),
      ...options.env,
    },
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  const log = keepLog(child)
  const url = `http://127.0.0.1:${port}`
  try {
    await healthy({ url, child, log })
  } catch (error) {
    await end(child, 'SIGINT').catch(() => {})
    throw error
  }
  const key = readFileSync(join(options.dataDir, 'api-key'), 'utf8').trim()
  return {
    url,
    key,
    port,
    dataDir: options.dataDir,
    pid: child.pid ?? 0,
    log,
    stop: (signal = 'SIGINT') => end(child, signal),
    kill: () => end(child, 'SIGKILL'),
  }
}

/** Built once and shared by the data folders of all tests and benches: boxes only read a template. */
export async function provideTemplate(dataDir: string): Promise<void> {
  const own = join(dataDir, 'templates')
  if (existsSync(own)) return
  const cache = join(root, '.build')
  const run = promisify(execFile)
  await run(helper, ['template', 'build', 'host'], {
    cwd: root,
    env: { ...process.env, DELTA_DATA_DIR: cache, PATH: `${process.env['PATH'] ?? ''}:/usr/sbin:/sbin` },
  })
  await symlink(join(cache, 'templates'), own)
}

export async function freePort(): Promise<number> {
  const server = createServer().listen(0, '127.0.0.1')
  await once(server, 'listening')
  const address = server.address()
  server.close()
  await once(server, 'close')
  if (typeof address !== 'object' || address === null) throw new Error('no free port')
  return address.port
}

function keepLog(child: ChildProcess): () => string {
  let kept = ''
  const keep = (chunk: Buffer) => (kept = (kept + chunk.toString()).slice(-logChars))
  child.stdout?.on('data', keep)
  child.stderr?.on('data', keep)
  return () => kept
}

async function healthy({ url, child, log }: { url: string; child: ChildProcess; log: () => string }): Promise<void> {
  const deadline = performance.now() + startMs
  for (;;) {
    if (hasEnded(child)) throw new Error(`The platform ended with ${child.exitCode ?? child.signalCode}:\n${log()}`)
    const answer = await fetch(`${url}/health`, { signal: AbortSignal.timeout(2_000) }).catch(() => undefined)
    await answer?.body?.cancel()
    if (answer?.ok) return
    if (performance.now() > deadline) throw new Error(`${url}/health did not answer within ${startMs} ms:\n${log()}`)
    await new Promise((done) => setTimeout(done, 10))
  }
}

const hasEnded = (child: ChildProcess) => child.exitCode !== null || child.signalCode !== null

async function end(child: ChildProcess, signal: NodeJS.Signals): Promise<void> {
  if (hasEnded(child)) return
  const exited = once(child, 'exit')
  child.kill(signal)
  const timer = setTimeout(() => child.kill('SIGKILL'), stopMs)
  await exited
  clearTimeout(timer)
}
