import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { mkdtempSync, readFileSync, rmSync, statSync, truncateSync, cpSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { Delta } from '@delta-agents/sdk'
import { afterAll, expect, test } from 'vitest'
import { newDataDir } from './global-setup.ts'
import { leftovers } from './leftovers.ts'
import { ownUids, type Platform, startPlatform } from './platform.ts'
import type { Ran } from './target.ts'

// One machine is backed up while it works, another is made of the file.

const folder = mkdtempSync(join(tmpdir(), 'delta-e2e-backup-'))
const file = join(folder, 'delta.backup')
const passphrase = 'correct horse battery staple'
const running = new Set<Platform>()

afterAll(async () => {
  for (const platform of running) await gone(platform)
  rmSync(folder, { recursive: true })
})

async function machine(part: 0 | 1): Promise<Platform> {
  const platform = await startPlatform({ dataDir: newDataDir(), env: ownUids(200, part * 200) })
  running.add(platform)
  return platform
}

async function gone(platform: Platform): Promise<void> {
  await platform.stop()
  running.delete(platform)
  expect(leftovers(platform.dataDir), platform.log()).toEqual([])
  rmSync(platform.dataDir, { recursive: true, force: true })
}

const clientOf = ({ url, key }: Platform) => new Delta({ url, apiKey: key })

/** As the operator runs it: with the data folder, and no key in the environment. */
async function delta({ url, dataDir }: Platform, args: string[], input = ''): Promise<Ran> {
  const { DELTA_API_KEY: _, ...env } = process.env
  const child = spawn(process.execPath, [resolve(import.meta.dirname, '../packages/cli/bin/delta.mjs'), ...args], {
    cwd: folder,
    env: { ...env, HOME: folder, XDG_CONFIG_HOME: folder, DELTA_URL: url, DELTA_DATA_DIR: dataDir },
    stdio: 'pipe',
  })
  let [stdout, stderr] = ['', '']
  child.stdout.on('data', (chunk: Buffer) => (stdout += chunk.toString()))
  child.stderr.on('data', (chunk: Buffer) => (stderr += chunk.toString()))
  child.stdin.on('error', () => {})
  child.stdin.end(input)
  const [exitCode] = (await once(child, 'close')) as [number | null]
  return { exitCode, stdout, stderr }
}

test('a platform that is backed up while it works is there again on another machine, with its files and its audit log', async () => {
  const first = await machine(0)
  const before = clientOf(first)
  const workspace = await before.workspaces.create({ name: 'kept' })
  const worker = await workspace.start({ timeoutMs: 600_000 })
  await worker.files.write('/workspace/note.txt', 'written before the backup')
  await worker.commands.run('sudo -n true 2>/dev/null; mkdir -p /opt/own 2>/dev/null; echo made > ~/made')
  await workspace.snapshot({ name: 'kept-state' })
  await before.account.invite('ada@e2e.example', 'admin')
  const { publicKey } = await before.audit.head()

  expect(await delta(first, ['backup', file, '--passphrase', '--with-secrets'], `${passphrase}\n`)).toMatchObject({
    exitCode: 0,
    stderr: '',
  })
  expect(statSync(file).mode & 0o777).toBe(0o600)
  // It went on meanwhile, and what comes now is not in it.
  await before.workspaces.create({ name: 'later' })
  expect((await worker.commands.run('cat /workspace/note.txt')).stdout).toBe('written before the backup')
  const firstSecret = readFileSync(join(first.dataDir, 'secret-key'), 'utf8')
  await gone(first)

  const second = await machine(1)
  const oldSecret = readFileSync(join(second.dataDir, 'secret-key'), 'utf8')
  expect(await delta(second, ['restore', file, '--passphrase'], 'another passphrase\n')).toMatchObject({
    exitCode: 1,
    stderr: expect.stringContaining('passphrase'),
  })
  const cut = join(folder, 'cut.backup')
  cpSync(file, cut)
  truncateSync(cut, statSync(file).size - 1)
  expect(await delta(second, ['restore', cut, '--passphrase'], `${passphrase}\n`)).toMatchObject({
    exitCode: 1,
    stderr: expect.stringContaining('nothing was changed'),
  })
  const restored = await delta(second, ['restore', file, '--passphrase'], `${passphrase}\n`)
  expect(restored, second.log()).toMatchObject({ exitCode: 0, stdout: expect.stringContaining('Restored to') })
  expect(readFileSync(join(second.dataDir, 'secret-key'), 'utf8')).toBe(firstSecret)
  expect(readFileSync(join(second.dataDir, 'secret-key.before-restore'), 'utf8')).toBe(oldSecret)

  const after = clientOf(second)
  expect((await after.workspaces.list().all()).map(({ name }) => name)).toEqual(['kept'])
  expect((await after.account.invitations()).map(({ email }) => email)).toEqual(['ada@e2e.example'])
  const again = await (await after.workspaces.get('kept')).start({ timeoutMs: 600_000 })
  expect(await again.files.readText('/workspace/note.txt')).toBe('written before the backup')
  expect((await again.commands.run('cat ~/made')).stdout).toBe('made\n')

  const verified = await delta(second, ['audit', 'verify', '--key', publicKey])
  expect(verified).toMatchObject({ exitCode: 0, stdout: expect.stringContaining('A backup was restored') })
  expect((await delta(second, ['audit', 'list', '--action', 'platform.restored'])).stdout).toContain('platform')
  expect(second.log()).not.toMatch(/audit_(cut|changed)/)

  expect(await delta(second, ['restore', file, '--passphrase'], `${passphrase}\n`)).toMatchObject({
    exitCode: 1,
    stderr: expect.stringContaining('--replace'),
  })
  // While a sandbox runs, and with more than the backup knows.
  await after.workspaces.create({ name: 'given-up' })
  expect(await delta(second, ['restore', file, '--passphrase', '--replace'], `${passphrase}\n`)).toMatchObject({
    exitCode: 0,
  })
  expect((await after.workspaces.list().all()).map(({ name }) => name)).toEqual(['kept'])
  const restarted = await (await after.workspaces.get('kept')).start({ timeoutMs: 600_000 })
  expect(await restarted.files.readText('/workspace/note.txt')).toBe('written before the backup')
  expect(await delta(second, ['audit', 'verify', '--key', publicKey])).toMatchObject({ exitCode: 0 })
  await restarted.kill()
  await gone(second)
})
