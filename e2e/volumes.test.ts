import type { Sandbox } from '@delta-agents/sdk'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { cli, delta, refusal } from './target.ts'

const name = 'e2e-shared'
let writer: Sandbox
let reader: Sandbox

beforeAll(async () => {
  await delta.volumes.create({ name, diskMb: 64 })
  ;[writer, reader] = await Promise.all([
    delta.sandboxes.create({ volumes: [{ volume: name, path: '/data' }] }),
    delta.sandboxes.create({ volumes: [{ volume: name, path: '/srv/deep/data', readOnly: true }] }),
  ])
})

afterAll(async () => {
  await Promise.all([writer.kill(), reader.kill()])
  await delta.volumes.remove(name)
})

test('what one sandbox writes the other reads at once, with the same owners', async () => {
  await writer.commands.run('echo hello > /data/file && mkdir /data/folder && ln -s file /data/link')
  const { stdout } = await reader.commands.run(
    'cat /srv/deep/data/link && find /srv/deep/data /srv/deep/data/file -maxdepth 0 -printf "%u:%U %m\\n"',
  )
  expect(stdout).toBe('hello\nuser:1000 755\nuser:1000 644\n')
})

test('who may only read cannot write, not even as root', async () => {
  const { exitCode, stderr } = await reader.commands.run(
    'touch /srv/deep/data/mine; mount -o remount,rw /srv/deep/data',
    {
      user: 'root',
    },
  )
  expect(exitCode).not.toBe(0)
  expect(stderr).toContain('Read-only file system')
  expect((await writer.commands.run('ls /data')).stdout).not.toContain('mine')
})

test('files of the API go there too, and it outlives its sandboxes', async () => {
  const sandbox = await delta.sandboxes.create({ volumes: [{ volume: name, path: '/data' }] })
  await sandbox.files.write('/data/kept', 'kept')
  await sandbox.kill()
  expect(await reader.files.readText('/srv/deep/data/kept')).toBe('kept')
})

test('it is there again after a stop and a start', async () => {
  await writer.stop()
  await writer.start()
  expect((await writer.commands.run('cat /data/file')).stdout).toBe('hello\n')
})

test('its quota is its own', async () => {
  const { exitCode, stderr } = await writer.commands.run('head -c 100M /dev/urandom > /data/big')
  expect(exitCode).not.toBe(0)
  expect(stderr).toMatch(/quota|space/i)
  expect(
    (await writer.commands.run('rm /data/big && head -c 100M /dev/urandom > /workspace/big && rm /workspace/big'))
      .exitCode,
  ).toBe(0)
})

test('one that is used cannot be removed, a missing one is named', async () => {
  expect(await refusal(delta.volumes.remove(name))).toMatchObject({ code: 'volume_in_use', status: 409 })
  const missing = delta.sandboxes.create({ volumes: [{ volume: 'missing', path: '/data' }] })
  expect(await refusal(missing)).toMatchObject({ code: 'volume_not_found', message: 'There is no volume missing' })
})

test('the command line makes, gives, lists and removes one', async () => {
  expect((await cli(['volume', 'create', 'e2e-cli', '--disk', '64'])).stdout).toMatch(/^vol_/)
  const { stdout } = await cli(['sandbox', 'create', '--volume', 'e2e-cli:/data'])
  expect((await cli(['volume', 'list'])).stdout).toContain(stdout.trim())
  const refused = await cli(['volume', 'remove', 'e2e-cli'])
  expect(refused).toMatchObject({ exitCode: 1, stderr: expect.stringContaining('Kill the sandboxes') })
  await delta.sandboxes.kill(stdout.trim())
  expect((await cli(['volume', 'remove', 'e2e-cli'])).stdout).toBe('e2e-cli removed\n')
})
