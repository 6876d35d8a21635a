import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { chmodSync, copyFileSync, mkdtempSync, rmSync, symlinkSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { leftovers } from '../e2e/leftovers.ts'
import { freePort } from '../e2e/platform.ts'
import { eventually, read } from './host.ts'

/** The helper with a taken-over HTTP process below it. */
export interface TakenOver {
  dataDir: string
  /** Where the HTTP process's program lies. */
  programDir: string
  helperPid: number
  /** The HTTP process, as the host sees it; another one after it was started again. */
  serverPid(): number
  order<Answer>(what: Record<string, unknown>): Promise<Answer>
  log(): string
  /** Orderly; says what is left. */
  stop(): Promise<string[]>
}

const root = resolve(import.meta.dirname, '..')
const startSeconds = 30
const stopMs = 40_000

/** `ranges`: how many boxes there is room for; `beside`: how many ranges of uids are left to others before them. */
export async function takeOver({
  scratch,
  tool,
  helper,
  ranges,
  beside = 0,
}: {
  scratch: string
  tool: string
  helper: string
  ranges: number
  beside?: number
}): Promise<TakenOver> {
  const dataDir = mkdtempSync(join(root, '.build/taken-over-'))
  chmodSync(dataDir, 0o711)
  const programDir = mkdtempSync(join(scratch, 'program-'))
  chmodSync(programDir, 0o755)
  copyFileSync(join(import.meta.dirname, 'taken-over/main.mjs'), join(programDir, 'main.mjs'))
  copyFileSync(tool, join(programDir, 'attack'))
  for (const name of ['main.mjs', 'attack']) chmodSync(join(programDir, name), 0o755)
  symlinkSync(join(root, '.build/templates'), join(dataDir, 'templates'))
  const port = await freePort()
  const child = spawn(helper, ['serve'], {
    env: {
      ...process.env,
      PORT: String(port),
      DELTA_DATA_DIR: dataDir,
      DELTA_SERVER: join(programDir, 'main.mjs'),
      DELTA_NODE: process.execPath,
      DELTA_UID_BASE: String(Number(process.env['DELTA_UID_BASE'] ?? 1_879_048_192) + beside * 65_536),
      DELTA_UID_COUNT: String((ranges + 1) * 65_536),
    },
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  let log = ''
  for (const stream of [child.stdout, child.stderr])
    stream.on('data', (chunk: Buffer) => (log = (log + chunk.toString()).slice(-64_000)))
  const takenOver: TakenOver = {
    dataDir,
    programDir,
    helperPid: child.pid ?? 0,
    serverPid: () => childOf(child.pid ?? 0, programDir),
    log: () => log,
    async order<Answer>(what: Record<string, unknown>): Promise<Answer> {
      const answer = await fetch(`http://127.0.0.1:${port}`, {
        method: 'POST',
        body: JSON.stringify(what),
        signal: AbortSignal.timeout(60_000),
      })
      const text = await answer.text()
      if (!answer.ok) throw new Error(text)
      return JSON.parse(text) as Answer
    },
    async stop() {
      await end(child)
      const left = leftovers(dataDir)
      rmSync(dataDir, { recursive: true, force: true })
      rmSync(programDir, { recursive: true, force: true })
      return left
    },
  }
  if (!(await answers(takenOver, child))) {
    await takenOver.stop()
    throw new Error(`the taken-over process did not start:\n${log}`)
  }
  return takenOver
}

export async function answers(takenOver: Pick<TakenOver, 'order'>, child?: ChildProcess): Promise<boolean> {
  for (const late = performance.now() + startSeconds * 1000; performance.now() < late;) {
    if (child !== undefined && child.exitCode !== null) return false
    const heard = await takenOver.order({ order: 'heard' }).then(
      () => true,
      () => false,
    )
    if (heard) return true
    await eventually(0.05, () => false)
  }
  return false
}

function childOf(helper: number, programDir: string): number {
  const tasks = read(`/proc/${helper}/task/${helper}/children`)
  // Another thread of the helper may have started it.
  const all = tasks.trim().split(' ').filter(Boolean).map(Number)
  return all.find((pid) => read(`/proc/${pid}/cmdline`).includes(programDir)) ?? 0
}

async function end(child: ChildProcess): Promise<void> {
  if (child.exitCode !== null || child.signalCode !== null) return
  const exit = once(child, 'exit')
  child.kill('SIGINT')
  const timer = setTimeout(() => child.kill('SIGKILL'), stopMs)
  await exit
  clearTimeout(timer)
}
