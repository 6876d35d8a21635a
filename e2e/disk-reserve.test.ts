import { execFileSync, spawnSync } from 'node:child_process'
import { mkdirSync, rmSync, statfsSync, truncateSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { Delta } from '@delta-agents/sdk'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { newDataDir } from './global-setup.ts'
import { leftovers } from './leftovers.ts'
import { type Platform, startPlatform } from './platform.ts'
import { refusal } from './target.ts'

const mib = 1024 * 1024
const gib = 1024 * mib

/** A small disk of its own carries the data folder, so that it can be filled. */
let folder: string
let disk: string
let platform: Platform
let delta: Delta

beforeEach(async () => {
  folder = newDataDir()
  const image = join(folder, 'disk.img')
  disk = join(folder, 'disk')
  mkdirSync(disk)
  writeFileSync(image, '')
  truncateSync(image, 5 * gib)
  execFileSync('mkfs.ext4', ['-q', '-m', '0', '-E', 'lazy_itable_init=1', image])
  execFileSync('mount', ['-o', 'loop', image, disk])
  await begin()
})

afterEach(async () => {
  await platform.stop('SIGINT')
  execFileSync('umount', [disk])
  const left = leftovers(folder)
  rmSync(folder, { recursive: true, force: true })
  expect(left, platform.log()).toEqual([])
})

async function begin(): Promise<void> {
  platform = await startPlatform({ dataDir: join(disk, 'data') })
  delta = new Delta({ url: platform.url, apiKey: platform.key })
}

const freeBytes = () => {
  const { bavail, bsize } = statfsSync(disk)
  return bavail * bsize
}

const ballast = () => join(disk, 'ballast')
/** Takes space as somebody else's file does, without writing it. */
function leaveFree(bytes: number): void {
  rmSync(ballast(), { force: true })
  execFileSync('fallocate', ['-l', String(Math.floor(freeBytes() - bytes)), ballast()])
}

const storage = async () => ((await delta.health())['storage'] as { state: string }).state

test('below the reserve nothing grows, all else goes on, and room again is noticed', async () => {
  const sandbox = await delta.sandboxes.create()
  const asleep = await delta.sandboxes.create()
  await asleep.stop()
  await sandbox.files.write('/workspace/kept', 'kept')
  await sandbox.files.write('/workspace/large', new Uint8Array(8 * mib))
  leaveFree(1.5 * gib)
  await expect.poll(storage, { timeout: 20_000 }).toBe('low')

  const refused = [
    await refusal(sandbox.files.write('/workspace/new', 'x')),
    await refusal(asleep.files.write('/workspace/new', 'x')),
    await refusal(delta.sandboxes.create()),
  ]
  for (const error of refused) expect([error.status, error.code]).toEqual([507, 'disk_full'])
  for (const each of [sandbox, asleep]) {
    const written = await each.commands.run('head -c 20M /dev/zero > /workspace/fill')
    expect(written.stderr).toMatch(/quota/i)
    expect((await each.metrics()).diskLimitBytes).toBeLessThan(64 * mib)
  }
  expect(await sandbox.files.readText('/workspace/kept')).toBe('kept')
  expect((await sandbox.commands.run('cat kept; rm large; mv kept moved; ls')).stdout).toContain('moved')
  await sandbox.files.remove('/workspace/fill')

  // A helper that starts anew finds it so, and lifts it when there is room.
  await platform.kill()
  await begin()
  expect(await storage()).toBe('low')
  rmSync(ballast())
  await expect.poll(storage, { timeout: 20_000 }).toBe('fine')
  const again = await delta.sandboxes.get(sandbox.id)
  await again.files.write('/workspace/new', new Uint8Array(30 * mib))
  expect((await again.metrics()).diskLimitBytes).toBe(4096 * mib)
  const small = await delta.sandboxes.create({ diskMb: 64 })
  for (const each of [again, small, await delta.sandboxes.get(asleep.id)]) await each.kill()
})

test('the fastest writers are stopped before the disk is full', async () => {
  const writers = await Promise.all(Array.from({ length: 3 }, () => delta.sandboxes.create({ diskMb: 8192 })))
  leaveFree(2.1 * gib)
  const results = await Promise.all(
    writers.map((writer) => writer.commands.run('cat /dev/zero > fill', { timeoutMs: 90_000 })),
  )
  for (const { stderr, timedOut } of results) {
    expect(stderr).toMatch(/quota/i)
    expect(timedOut).toBe(false)
  }
  // A writer is stopped a moment before the server hears why.
  await expect.poll(storage).toBe('low')
  expect(freeBytes()).toBeGreaterThan(1 * gib)
  for (const writer of writers) await writer.files.remove('/workspace/fill')
  // It began closer to the reserve than the room that lifts the stop: an eighth more than the reserve.
  rmSync(ballast())
  await expect.poll(storage, { timeout: 60_000 }).toBe('fine')
  await writers[0]!.files.write('/workspace/new', 'x')
  for (const writer of writers) await writer.kill()
})

test('a pool that lost a write is read-only, says so, and is mended by a restart', async () => {
  const sandbox = await delta.sandboxes.create({ onTimeout: 'stop' })
  await sandbox.files.write('/workspace/kept', 'kept')
  await sandbox.commands.run('sync')
  // Somebody else fills the disk to its last block at once, which no reserve prevents.
  leaveFree(32 * mib)
  spawnSync('sh', ['-c', 'cat /dev/zero > "$0"', `${ballast()}.end`])
  await expect
    .poll(
      async () => {
        await sandbox.commands.run('seq 200 | xargs touch; sync', { timeoutMs: 10_000 }).catch(() => {})
        return storage()
      },
      { timeout: 60_000 },
    )
    .toBe('read_only')
  // Room for the database, which has nothing to do with it.
  rmSync(`${ballast()}.end`)
  for (const error of [
    await refusal(sandbox.files.write('/workspace/new', 'x')),
    await refusal(sandbox.files.remove('/workspace/kept')),
    await refusal(delta.sandboxes.create()),
  ])
    expect([error.status, error.code]).toEqual([503, 'pool_read_only'])

  rmSync(ballast())
  await platform.stop('SIGINT')
  await begin()
  expect(await storage()).toBe('fine')
  const again = await delta.sandboxes.get(sandbox.id)
  expect(await again.files.readText('/workspace/kept')).toBe('kept')
  await again.files.write('/workspace/new', 'x')
  await again.kill()
})
