import { createHash, randomBytes } from 'node:crypto'
import { mkdir, mkdtemp, readFile, rm, stat, symlink, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { cli, delta, startCli } from './target.ts'

let id: string
let folder: string
beforeAll(async () => {
  const made = await cli(['sandbox', 'create', '--timeout', '30m', '-m', 'by=cli'])
  expect(made).toMatchObject({ exitCode: 0, stderr: '' })
  id = made.stdout.trim()
  folder = await mkdtemp(join(tmpdir(), 'delta-e2e-cli-'))
})
afterAll(async () => {
  expect(await cli(['sandbox', 'kill', id])).toMatchObject({ exitCode: 0, stdout: `${id} killed\n` })
  await rm(folder, { recursive: true })
})

test('list and get show it, the beginning of the id is enough', async () => {
  expect((await cli(['sandbox', 'list', '-m', 'by=cli'])).stdout).toContain(id)
  const got = await cli(['sandbox', 'get', id.slice(0, 14), '--json'])
  expect(JSON.parse(got.stdout)).toMatchObject({ id, state: 'running' })
})

test('exec behaves as a local command', async () => {
  expect(await cli(['sandbox', 'exec', id, 'echo out; echo err >&2; exit 7'])).toEqual({
    exitCode: 7,
    stdout: 'out\n',
    stderr: 'err\n',
  })
  expect(
    (await cli(['sandbox', 'exec', '-u', 'root', '-w', '/tmp', '-e', 'A=b', id, 'id -u; pwd; echo $A'])).stdout,
  ).toBe('0\n/tmp\nb\n')
  expect((await cli(['sandbox', 'exec', id, '--', 'printf', '%s|', 'a b', 'c'])).stdout).toBe('a b|c|')
  expect((await cli(['sandbox', 'exec', '--timeout', '300ms', id, 'sleep 30'])).exitCode).toBe(124)
  expect((await cli(['sandbox', 'exec', id, 'kill -9 $$'])).exitCode).toBe(137)
  expect((await cli(['sandbox', 'exec', id, 'no-such-command-here'])).exitCode).toBe(127)
  expect(await cli(['sandbox', 'exec', id, '--', 'no-such-program'])).toMatchObject({
    exitCode: 125,
    stderr: expect.stringMatching(/^error: .*\n(  why: .*\n)?  fix: .*\n/),
  })
})

test('piped input passes, of any size', async () => {
  const input = randomBytes(10_000_000)
  const { stdout } = await cli(['sandbox', 'exec', id, 'sha256sum'], { input })
  expect(stdout).toContain(createHash('sha256').update(input).digest('hex'))
})

test('an interrupt reaches the command inside', async () => {
  const running = startCli([
    'sandbox',
    'exec',
    id,
    `trap 'echo caught; exit 5' INT; touch /tmp/armed; while true; do sleep 0.02; done`,
  ])
  const sandbox = await delta.sandboxes.get(id)
  await expect.poll(() => sandbox.files.exists('/tmp/armed'), { timeout: 10_000 }).toBe(true)
  running.kill('SIGINT')
  expect(await running.ended).toMatchObject({ exitCode: 5, stdout: 'caught\n' })
})

test('files and folders are copied both ways', async () => {
  const bytes = randomBytes(3_000_000)
  await mkdir(join(folder, 'tree', 'sub'), { recursive: true })
  await writeFile(join(folder, 'tree', 'sub', 'data'), bytes)
  await writeFile(join(folder, 'tree', 'run.sh'), '#!/bin/sh\necho hi\n', { mode: 0o755 })
  await symlink('run.sh', join(folder, 'tree', 'link'))
  expect((await cli(['sandbox', 'cp', join(folder, 'tree'), `${id}:/workspace`])).exitCode).toBe(0)
  expect((await cli(['sandbox', 'exec', id, './tree/link'])).stdout).toBe('hi\n')
  expect((await cli(['sandbox', 'cp', `${id}:tree`, join(folder, 'back')])).exitCode).toBe(0)
  expect(await readFile(join(folder, 'back', 'sub', 'data'))).toEqual(bytes)
  expect((await stat(join(folder, 'back', 'run.sh'))).mode & 0o777).toBe(0o755)
  expect((await cli(['sandbox', 'cp', `${id}:/workspace/tree/sub/data`, folder])).exitCode).toBe(0)
  expect(await readFile(join(folder, 'data'))).toEqual(bytes)
  expect((await cli(['sandbox', 'cp', '-', `${id}:piped`], { input: 'through a pipe' })).exitCode).toBe(0)
  expect((await cli(['sandbox', 'cp', `${id}:piped`, '-'])).stdout).toBe('through a pipe')
  expect(await cli(['sandbox', 'cp', `${id}:none`, folder])).toMatchObject({
    exitCode: 1,
    stderr: expect.stringContaining('fix:'),
  })
})

test('a folder with a link that leads out is fetched without it, and says so', async () => {
  await cli(['sandbox', 'exec', id, 'mkdir evil; ln -s /etc/passwd evil/l; echo ok > evil/f'])
  const copied = await cli(['sandbox', 'cp', `${id}:evil`, join(folder, 'evil')])
  expect(copied).toMatchObject({ exitCode: 1, stderr: expect.stringContaining('Left out') })
  expect(await readFile(join(folder, 'evil', 'f'), 'utf8')).toBe('ok\n')
})

test('files commands', async () => {
  expect((await cli(['files', 'mkdir', id, 'fs/deep'])).exitCode).toBe(0)
  await cli(['sandbox', 'cp', '-', `${id}:fs/a`], { input: 'content' })
  expect((await cli(['files', 'ls', id, 'fs'])).stdout).toMatch(/\/workspace\/fs\/a\n.*\/workspace\/fs\/deep\n/)
  expect((await cli(['files', 'cat', id, 'fs/a'])).stdout).toBe('content')
  expect((await cli(['files', 'mv', id, 'fs/a', 'fs/b'])).exitCode).toBe(0)
  expect(JSON.parse((await cli(['files', 'stat', '--json', id, 'fs/b'])).stdout)).toMatchObject({
    size: 7,
    owner: 'user',
  })
  expect((await cli(['files', 'rm', id, 'fs'])).exitCode).toBe(1)
  expect((await cli(['files', 'rm', '-r', id, 'fs'])).exitCode).toBe(0)
})

test('pause, resume, stop, start, timeout, logs and metrics', async () => {
  expect((await cli(['sandbox', 'pause', id])).stdout).toBe(`${id} paused\n`)
  expect((await cli(['sandbox', 'resume', id])).stdout).toBe(`${id} running\n`)
  expect((await cli(['sandbox', 'stop', id])).stdout).toBe(`${id} stopped\n`)
  expect((await cli(['sandbox', 'start', id])).stdout).toBe(`${id} running\n`)
  expect((await cli(['sandbox', 'timeout', id, '20m'])).stdout).toContain('kill at')
  expect((await cli(['sandbox', 'logs', id])).stdout).toMatch(/running +paused/)
  expect((await cli(['sandbox', 'metrics', id])).stdout).toMatch(/memory +.* of 512 MiB/)
})

test('a detached command prints its id and runs on', async () => {
  const { stdout } = await cli(['sandbox', 'exec', '-d', id, 'sleep 0.3; echo late > /tmp/late'])
  expect(stdout).toMatch(/^exe_[a-z0-9]+\n$/)
  const sandbox = await delta.sandboxes.get(id)
  await expect.poll(() => sandbox.files.exists('/tmp/late'), { timeout: 10_000 }).toBe(true)
})

test('templates are listed, the machine is checked', async () => {
  expect((await cli(['template', 'list'])).stdout).toMatch(/host +ready/)
  const doctor = await cli(['doctor'])
  expect(doctor.stdout).toMatch(/Checked by the server at http/)
  expect(doctor.stdout).toMatch(/\d+ ok, \d+ warnings, 0 failures/)
  expect(doctor.exitCode).toBe(0)
})

test('an unknown sandbox is told with what to do', async () => {
  const missing = await cli(['sandbox', 'get', 'sbx_00000000000000000000'])
  expect(missing).toMatchObject({
    exitCode: 1,
    stdout: '',
    stderr: expect.stringMatching(/^error: .*\n.*fix: .*\n.*ref: sandbox_not_found/s),
  })
  expect(missing.stderr).not.toMatch(/ at .*\.ts/)
})
