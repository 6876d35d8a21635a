import { execFileSync } from 'node:child_process'
import { mkdirSync, readdirSync, rmSync, statSync, truncateSync, writeFileSync } from 'node:fs'
import { totalmem } from 'node:os'
import { join } from 'node:path'
import { Delta } from '@delta-agents/sdk'
import { expect, test } from 'vitest'
import { httpProcess } from '../bench/process-tree.ts'
import { newDataDir } from './global-setup.ts'
import { leftovers } from './leftovers.ts'
import { type Platform, startPlatform } from './platform.ts'
import { refusal } from './target.ts'

test('a host out of uid ranges says so and what to do, keeps what runs, and goes on once one is free', async () => {
  const dataDir = newDataDir()
  // One range is the HTTP process's.
  const env = { DELTA_UID_COUNT: String(3 * 65_536), DELTA_POOL_SIZE: '0' }
  const platform = await startPlatform({ dataDir, env })
  try {
    const delta = new Delta({ url: platform.url, apiKey: platform.key, maxRetries: 0 })
    const first = await delta.sandboxes.create()
    const second = await delta.sandboxes.create()
    const refusals = await Promise.all([1, 2, 3].map(() => refusal(delta.sandboxes.create())))
    for (const { status, code, message, cause, remediation } of refusals) {
      expect([status, code]).toEqual([503, 'capacity_exhausted'])
      expect(`${message} ${String(cause)}`).toContain('all 2 uid ranges are in use')
      expect(remediation).toContain('Kill sandboxes you no longer need')
    }
    expect((await second.commands.run('echo on')).stdout).toBe('on\n')
    await first.kill()
    await using third = await delta.sandboxes.create()
    expect((await third.commands.run('echo again')).stdout).toBe('again\n')
    // What was refused is listed as failed, and holds nothing.
    const { data } = (await (
      await fetch(`${platform.url}/v1/sandboxes?limit=100`, { headers: { authorization: `Bearer ${platform.key}` } })
    ).json()) as { data: { state: string }[] }
    expect(data.filter(({ state }) => state === 'running')).toHaveLength(2)
  } finally {
    await endedClean(platform, dataDir)
  }
})

test('a host out of memory refuses another sandbox, says how much is left, and goes on with those that run', async () => {
  const dataDir = newDataDir()
  const limits = { DELTA_POOL_SIZE: '0' }
  let platform = await startPlatform({ dataDir, env: limits })
  try {
    const sandbox = await new Delta({ url: platform.url, apiKey: platform.key }).sandboxes.create()
    await platform.stop('SIGTERM')
    // To run the machine itself out of memory would hurt whoever else is on it: so much is kept that it counts as out of it.
    const keptMb = Math.ceil(totalmem() / 2 ** 20)
    platform = await startPlatform({ dataDir, env: { ...limits, DELTA_MEMORY_RESERVE_MB: String(keptMb) } })
    const delta = new Delta({ url: platform.url, apiKey: platform.key, maxRetries: 0 })
    const { status, code, message, cause } = await refusal(delta.sandboxes.create())
    expect([status, code]).toEqual([503, 'capacity_exhausted'])
    expect(`${message} ${String(cause)}`).toMatch(
      new RegExp(`has \\d+ MiB of memory left, and ${keptMb} are kept free: .*DELTA_MEMORY_RESERVE_MB`),
    )
    const running = await delta.sandboxes.get(sandbox.id)
    expect((await running.commands.run('echo on')).stdout).toBe('on\n')
    await running.kill()
  } finally {
    await endedClean(platform, dataDir)
  }
})

test('a data folder out of inodes refuses what needs a file, goes on with what runs, and with all else once there are some', async () => {
  const folder = newDataDir()
  const image = join(folder, 'disk.img')
  const disk = join(folder, 'disk')
  mkdirSync(disk)
  writeFileSync(image, '')
  truncateSync(image, 5 * 1024 ** 3)
  execFileSync('mkfs.ext4', ['-q', '-m', '0', '-N', '8192', '-E', 'lazy_itable_init=1', image])
  execFileSync('mount', ['-o', 'loop', image, disk])
  const platform = await startPlatform({ dataDir: join(disk, 'data'), env: { DELTA_POOL_SIZE: '0' } })
  try {
    const delta = new Delta({ url: platform.url, apiKey: platform.key, maxRetries: 0 })
    const sandbox = await delta.sandboxes.create()
    const ballast = join(disk, 'ballast')
    mkdirSync(ballast)
    fillInodes(ballast)
    const refused = await refusal(delta.sandboxes.create())
    expect([refused.status, refused.code]).toEqual([507, 'disk_full'])
    // Where on the host it lies is nobody's business.
    expect(refused.cause).toMatch(/^making state\/boxes\/box_.*No space left/)
    expect((await sandbox.commands.run('echo on > /workspace/file && cat /workspace/file')).stdout).toBe('on\n')
    await sandbox.files.write('/workspace/other', 'x')
    rmSync(ballast, { recursive: true })
    await using another = await delta.sandboxes.create()
    expect((await another.commands.run('echo again')).stdout).toBe('again\n')
    await sandbox.kill()
  } finally {
    await platform.stop('SIGINT')
    execFileSync('umount', [disk])
    const left = leftovers(folder)
    rmSync(folder, { recursive: true, force: true })
    expect(left, platform.log()).toEqual([])
  }
})

function fillInodes(folder: string): void {
  for (let number = 0; ; number += 1) {
    try {
      writeFileSync(join(folder, `${number}`), '')
    } catch (error) {
      expect(error).toMatchObject({ code: 'ENOSPC' })
      return
    }
  }
}

test('a helper without descriptors refuses what needs one, and goes on once it has some', async () => {
  const dataDir = newDataDir()
  const platform = await startPlatform({ dataDir, env: { DELTA_POOL_SIZE: '0' } })
  try {
    const delta = new Delta({ url: platform.url, apiKey: platform.key, maxRetries: 0 })
    const sandbox = await delta.sandboxes.create()
    limitFiles(platform.pid, openFiles(platform.pid))
    const refusals = await Promise.all([1, 2, 3].map(() => refusal(delta.sandboxes.create())))
    for (const { status, code } of refusals) expect([status, code]).toEqual([503, 'capacity_exhausted'])
    expect((await sandbox.commands.run('echo on')).stdout).toBe('on\n')
    limitFiles(platform.pid, 1_024)
    await using another = await delta.sandboxes.create()
    expect((await another.commands.run('echo again')).stdout).toBe('again\n')
    await sandbox.kill()
  } finally {
    await endedClean(platform, dataDir)
  }
})

test('an HTTP process without descriptors refuses what needs one, and goes on once it has some', async () => {
  const dataDir = newDataDir()
  const platform = await startPlatform({ dataDir, env: { DELTA_POOL_SIZE: '0' } })
  try {
    const delta = new Delta({ url: platform.url, apiKey: platform.key, maxRetries: 0 })
    const sandbox = await delta.sandboxes.create()
    expect((await sandbox.commands.run('echo on')).stdout).toBe('on\n')
    const server = httpProcess(platform.pid)
    limitFiles(server, openFiles(server))
    // One after another, on the connection that is there: it could take no more.
    for (let tries = 0; tries < 3; tries += 1) {
      const { status, code, message } = await refusal(delta.sandboxes.create())
      expect([status, code]).toEqual([503, 'capacity_exhausted'])
      expect(message).toContain('no descriptor left')
    }
    expect((await sandbox.commands.run('echo on')).stdout).toBe('on\n')
    limitFiles(server, 1_024)
    await using another = await delta.sandboxes.create()
    expect((await another.commands.run('echo again')).stdout).toBe('again\n')
    await sandbox.kill()
  } finally {
    await endedClean(platform, dataDir)
  }
})

async function endedClean(platform: Platform, dataDir: string): Promise<void> {
  await platform.stop('SIGINT')
  const left = leftovers(dataDir)
  rmSync(dataDir, { recursive: true, force: true })
  expect(left, platform.log()).toEqual([])
}

function limitFiles(pid: number, files: number): void {
  // As the process's own user, whom no capability is asked for. The soft limit only: it may be raised again.
  const { uid, gid } = statSync(`/proc/${pid}`)
  execFileSync('prlimit', ['--pid', String(pid), `--nofile=${files}:`], { uid, gid })
}

function openFiles(pid: number): number {
  return readdirSync(`/proc/${pid}/fd`).length
}
