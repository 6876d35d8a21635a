import { type ChildProcess, spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { Delta } from '@delta-agents/sdk'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { newDataDir } from './global-setup.ts'
import { leftovers } from './leftovers.ts'
import { freePort, provideTemplate } from './platform.ts'

// As `npm start` ends: the file .env of a folder, and the platform in it.

const root = resolve(import.meta.dirname, '..')
const secret = 'kZ0pXq7T3vYbN5mRw8eHs2aLc9dGf4uJ'
let folder: string
let child: ChildProcess | undefined

beforeEach(() => {
  folder = newDataDir()
})
afterEach(async () => {
  if (child && child.exitCode === null && child.signalCode === null) {
    const exited = once(child, 'exit')
    child.kill('SIGINT')
    await exited
  }
  child = undefined
  const left = leftovers(folder)
  rmSync(folder, { recursive: true, force: true })
  expect(left).toEqual([])
})

function serve(lines: string[], env: NodeJS.ProcessEnv = {}): { ended: Promise<number | null>; said: () => string } {
  writeFileSync(join(folder, '.env'), `${lines.join('\n')}\n`, { mode: 0o600 })
  const { PORT: _port, ...own } = process.env
  const started = spawn(process.execPath, ['--disable-warning=ExperimentalWarning', join(root, 'scripts/serve.mjs')], {
    cwd: folder,
    env: { ...own, PATH: `${own['PATH'] ?? ''}:/usr/sbin:/sbin`, ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  child = started
  let text = ''
  started.stdout.on('data', (chunk: Buffer) => (text += chunk.toString()))
  started.stderr.on('data', (chunk: Buffer) => (text += chunk.toString()))
  return { ended: once(started, 'close').then(([code]) => code as number | null), said: () => text }
}

/** `delta config` with what the environment of this folder says. */
async function config(args: string[], env: NodeJS.ProcessEnv = {}): Promise<{ exitCode: number | null; said: string }> {
  const program = spawn(process.execPath, [join(root, 'packages/cli/bin/delta.mjs'), 'config', ...args], {
    cwd: folder,
    env: { ...process.env, ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
  })
  let said = ''
  program.stdout.on('data', (chunk: Buffer) => (said += chunk.toString()))
  program.stderr.on('data', (chunk: Buffer) => (said += chunk.toString()))
  const [exitCode] = (await once(program, 'close')) as [number | null]
  return { exitCode, said }
}

test('what .env says holds, the environment before it, and delta config shows all of it but secrets', async () => {
  const port = await freePort()
  const dataDir = join(folder, 'data')
  mkdirSync(dataDir)
  await provideTemplate(dataDir)
  const free = { unit: 'each', perMillion: 0 }
  const meters = {
    sandbox_cpu_seconds: { unit: 'second', perMillion: 1_500_000 },
    sandbox_memory_mb_seconds: free,
    storage_mb_days: free,
    storage_s3_mb_days: free,
    egress_bytes: free,
    email: free,
    sms: free,
    voice_minutes: free,
  }
  writeFileSync(join(folder, 'card.json'), JSON.stringify({ version: 'mine', tokenUsd: 0.01, meters }))
  const { said, ended } = serve(
    [
      `PORT=${port}`,
      `SECRET_KEY="${secret}"`,
      'LOG_LEVEL=error',
      'DELTA_POOL_SIZE=0',
      'DELTA_POOL_SISE=1',
      'DELTA_RATE_CARD=card.json',
    ],
    { LOG_LEVEL: 'info' },
  )
  const url = `http://127.0.0.1:${port}`
  await expect.poll(() => said(), { timeout: 60_000 }).toContain('"listening"')
  expect(said()).toContain('"DELTA_POOL_SISE"')
  const env = { DELTA_URL: url, DELTA_DATA_DIR: dataDir }
  const shown = await config([], env)
  expect(shown).toMatchObject({ exitCode: 0, said: expect.stringMatching(new RegExp(`^ +PORT +${port}$`, 'm')) })
  expect(shown.said).toMatch(/^ +LOG_LEVEL +info$/m)
  expect(shown.said).toMatch(/^ +SECRET_KEY +set$/m)
  expect(shown.said).not.toContain(secret)
  const delta = new Delta({ url, apiKey: readFileSync(join(dataDir, 'api-key'), 'utf8').trim() })
  expect((await delta.config()).find(({ name }) => name === 'SECRET_KEY')).toMatchObject({ isSet: true, value: null })
  const { data, ...card } = await delta.ledger.rates()
  expect(card).toEqual({ version: 'mine', tokenUsd: 0.01 })
  expect(data).toHaveLength(Object.keys(meters).length)
  expect(data).toContainEqual({ meter: 'sandbox_cpu_seconds', unit: 'second', perMillion: 1.5 })
  const sandbox = await delta.sandboxes.create()
  expect((await sandbox.commands.run('echo fine')).stdout).toBe('fine\n')
  expect(said()).not.toContain(secret)
  child?.kill('SIGINT')
  expect(await ended).toBe(0)
})

test('under another SECRET_KEY than its data has been used with the platform does not start, and says what to do', async () => {
  const dataDir = join(folder, 'data')
  mkdirSync(dataDir)
  await provideTemplate(dataDir)
  const start = async (...more: string[]) =>
    serve([`PORT=${await freePort()}`, 'DELTA_POOL_SIZE=0', 'LOG_LEVEL=info', ...more])
  const first = await start(`SECRET_KEY=${secret}`)
  await expect.poll(() => first.said(), { timeout: 60_000 }).toContain('"listening"')
  child?.kill('SIGINT')
  expect(await first.ended).toBe(0)

  const other = 'SECRET_KEY=another_one_of_32_bytes_or_more_here'
  const refused = await start(other)
  expect(await refused.ended).not.toBe(0)
  expect(refused.said()).toMatch(/SECRET_KEY is not the one .*DELTA_SECRET_KEY_LOST=true.*reset-totp/)
  expect(refused.said()).not.toContain('"listening"')

  const replaced = await start(other, 'DELTA_SECRET_KEY_LOST=true')
  await expect.poll(() => replaced.said(), { timeout: 60_000 }).toContain('"listening"')
  expect(replaced.said()).toContain('"secret_key_replaced"')
  child?.kill('SIGINT')
  expect(await replaced.ended).toBe(0)
})

test('a wrong value stops the start before anything is mounted, and every one is named with its reason and not repeated', async () => {
  const lines = ['PORT=hunter2', 'REDIS_URL=http://:hunter2@redis', 'DELTA_RATE_LIMIT_KEY=-1', 'DELTA_CORS_ORIGINS=*']
  lines.push('DELTA_RATE_CARD=card.json')
  writeFileSync(
    join(folder, 'card.json'),
    '{ "version": "mine", "tokenUsd": 0.01, "meters": { "x": { "unit": "x" } } }',
  )
  const { said, ended } = serve(lines)
  expect(await ended).toBe(1)
  for (const words of [
    '  PORT ',
    '  REDIS_URL must be a redis:// or rediss:// URL',
    '  DELTA_RATE_LIMIT_KEY ',
    '  DELTA_CORS_ORIGINS ',
    '  DELTA_RATE_CARD names a file that is no rate card: meters.x.perMillion',
  ]) {
    expect(said()).toContain(words)
  }
  expect(said()).not.toContain('hunter2')
  const offline = await config(['--offline'])
  expect(offline.exitCode).toBe(1)
  expect(offline.said).toContain('wrong: REDIS_URL must be a redis:// or rediss:// URL')
  expect(offline.said).not.toContain('@redis')
})
