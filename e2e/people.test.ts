import { spawn } from 'node:child_process'
import { mkdtemp, rm, stat } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { Delta } from '@delta-agents/sdk'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { cli, delta, key, refusal, request, url, type Ran } from './target.ts'

const email = 'ada@e2e.example'
const password = 'a password of the tests'
let home: string

beforeAll(async () => {
  home = await mkdtemp(join(tmpdir(), 'delta-e2e-people-'))
  expect(await cli(['user', 'add', email, '--role', 'admin'])).toMatchObject({ exitCode: 0 })
})
afterAll(async () => {
  for (const { userId, role } of await delta.account.members()) if (role !== 'owner') await delta.account.remove(userId)
  await rm(home, { recursive: true })
})

/** With a home of its own and no key in the environment. */
function inHome(args: string[], input = ''): Promise<Ran> {
  const { DELTA_API_KEY: _key, XDG_CONFIG_HOME: _config, ...env } = process.env
  const child = spawn(process.execPath, [resolve(import.meta.dirname, '../packages/cli/bin/delta.mjs'), ...args], {
    cwd: home,
    env: { ...env, HOME: home, DELTA_URL: url, DELTA_DATA_DIR: home },
    stdio: 'pipe',
  })
  child.stdin.on('error', () => {})
  child.stdin.end(input)
  let [stdout, stderr] = ['', '']
  child.stdout.on('data', (chunk: Buffer) => (stdout += chunk.toString()))
  child.stderr.on('data', (chunk: Buffer) => (stderr += chunk.toString()))
  return new Promise((done) => child.on('close', (exitCode) => done({ exitCode, stdout, stderr })))
}

test('whoever was invited opens the link, chooses a password, and is logged in on the command line', async () => {
  const link = (await cli(['user', 'link', email])).stdout.trim()
  expect(link).toContain('/auth/invitation?t=dln_')
  expect((await cli(['user', 'mail'])).stdout).toContain('/auth/invitation?t=dln_')
  const path = link.slice(link.indexOf('/auth/'))
  const page = await request(path, { headers: { authorization: 'none' } })
  expect([page.status, await page.text()]).toEqual([200, expect.stringContaining('<form method="post">')])
  const body = new URLSearchParams({ t: path.split('t=')[1]!, password })
  expect((await request(path, { method: 'POST', body })).status).toBe(200)

  expect(await inHome(['whoami'])).toMatchObject({ exitCode: 3 })
  expect(await inHome(['login', '--email', email], 'not the password\n')).toMatchObject({ exitCode: 1 })
  expect(await inHome(['login', '--email', email], `${password}\n`)).toEqual({
    exitCode: 0,
    stdout: `Logged in to ${url} as ${email} (admin)\n`,
    stderr: '',
  })
  expect((await stat(join(home, '.config/delta/logins.json'))).mode & 0o777).toBe(0o600)
  expect((await inHome(['whoami'])).stdout).toContain('acc_default')
  expect(await inHome(['sandbox', 'list'])).toMatchObject({ exitCode: 0 })
  expect((await inHome(['user', 'list'])).stdout).toContain(email)
  expect(await inHome(['user', 'link', email])).toMatchObject({
    exitCode: 1,
    stderr: expect.stringContaining('operator'),
  })
})

test('a session that is ended takes along what it had open, and what it began goes on', async () => {
  const session = await delta.auth.login({ email, password })
  const other = await delta.auth.login({ email, password })
  const mine = new Delta({ url, apiKey: delta.auth.keep(session), maxRetries: 0 })
  const sandbox = await mine.sandboxes.create()
  const waiting = sandbox.commands.run('echo begun > /tmp/begun; sleep 60').then(
    () => 'ended by itself',
    () => 'cut',
  )
  const own = await delta.sandboxes.get(sandbox.id)
  await expect.poll(() => own.files.exists('/tmp/begun')).toBe(true)
  await new Delta({ url, apiKey: other.accessToken }).auth.endSession(session.sessionId)
  expect(await waiting).toBe('cut')
  expect(await refusal(mine.auth.me())).toMatchObject({ code: 'unauthorized' })
  expect((await own.commands.list()).some(({ state }) => state === 'running')).toBe(true)
  await own.kill()
})

test('logging out ends the session on the server, and the key of the data folder opens as before', async () => {
  expect(await inHome(['logout'])).toMatchObject({ exitCode: 0 })
  expect(await inHome(['whoami'])).toMatchObject({ exitCode: 3 })
  expect(await inHome(['login', '--key'], `${key}\n`)).toMatchObject({
    exitCode: 0,
    stdout: expect.stringContaining('key_default'),
  })
  expect((await inHome(['whoami'])).stdout).toContain('key key_default (owner)')
})
