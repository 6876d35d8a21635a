import { execFileSync, spawn } from 'node:child_process'
import { randomBytes } from 'node:crypto'
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { type Client, createSandbox, execTrue, remove, type SandboxAnswer, timed } from './client.ts'
import { type Figure, figure } from './figures.ts'
import { residentBytes } from './process-tree.ts'
import type { Bench, Target } from './run.ts'

interface Snapshot {
  id: string
  flushMicros: number
  frozenMicros: number
  save: { state: string; layer: { size: number; tarSize: number } | null }
}

interface Workspace {
  id: string
}

const megabyte = 1024 * 1024
const gigabyteMb = 1_024
/** A file of the workspace that is saved: small enough that there are many. */
const files = 4_096
const fileBytes = (gigabyteMb * megabyte) / files
const rounds = 20
const savedWithinMs = 600_000
/** Asked for anew after a hundredth of what has passed: often enough to be exact, too seldom to be felt on a machine of two processors. */
const askEvery = { leastMs: 2, partOfPassed: 0.01 }

/** Snapshots, forks, rollbacks and starts: what they take on a real pool. */
export async function snapshots(bench: Bench): Promise<Figure[]> {
  const { client } = await bench.platform({ runtime: 'crun' })
  // Without the automatic snapshot at a stop, which would leave nothing changed for the one that is timed.
  const workspace = await makeWorkspace(client, { diskMb: 16_384, autoSnapshot: false })
  const stopped: number[] = []
  const writer: Snapshot[] = []
  const idle: Snapshot[] = []
  // A gigabyte that changes: each round writes all of it anew.
  for (let round = 0; round < 5; round += 1) {
    const sandbox = await startOn(client, workspace.id)
    await run(client, sandbox.id, `head -c ${gigabyteMb}M /dev/urandom > /workspace/big`)
    await remove(client, sandbox.id)
    stopped.push(await timed(() => snapshot(client, workspace.id)))
  }
  // What is saved in the background is no part of these figures.
  await savedTime(client, (await newest(client, workspace.id)).id)
  const sandbox = await startOn(client, workspace.id)
  await run(client, sandbox.id, 'sync')
  for (let round = 0; round < rounds; round += 1) {
    await sleep(1_100)
    idle.push(await snapshot(client, workspace.id))
  }
  // 100 MB a second, in pieces of a megabyte.
  await client.call('POST', `/v1/sandboxes/${sandbox.id}/execs`, {
    cmd: ['python3', '-c', steadyWriter],
    background: true,
  })
  await sleep(2_000)
  for (let round = 0; round < rounds; round += 1) {
    writer.push(await snapshot(client, workspace.id))
    await sleep(1_000)
  }
  await remove(client, sandbox.id)
  const figures = [
    figure({
      name: 'snapshot of a stopped workspace, 1 GB changed',
      unit: 'ms',
      samples: stopped,
      bar: 'p50 ≤ 30 ms until usable',
      holds: ({ p50 }) => p50 <= 30,
    }),
    figure({
      name: 'snapshot of a running one without writes: frozen',
      unit: 'ms',
      samples: idle.map(({ frozenMicros }) => frozenMicros / 1_000),
      bar: 'p95 ≤ 30 ms',
      holds: ({ p95 }) => p95 <= 30,
    }),
    figure({
      name: 'snapshot beside a writer at 100 MB/s: frozen',
      unit: 'ms',
      samples: writer.map(({ frozenMicros }) => frozenMicros / 1_000),
      bar: 'p95 ≤ 300 ms',
      holds: ({ p95 }) => p95 <= 300,
    }),
    figure({
      name: 'snapshot beside a writer at 100 MB/s: flushed before',
      unit: 'ms',
      samples: writer.map(({ flushMicros }) => flushMicros / 1_000),
      bar: 'stated, no bar',
      holds: () => true,
    }),
    ...(await forksAndRollbacks(client, workspace.id)),
    ...(await longHistory(client)),
  ]
  await client.call('DELETE', `/v1/workspaces/${workspace.id}`)
  return figures
}

const steadyWriter = `
import os, time
block = os.urandom(1 << 20)
end = time.monotonic() + 60
at = time.monotonic()
n = 0
with open('/workspace/stream', 'wb', buffering=0) as file:
    while time.monotonic() < end:
        file.write(block)
        n += 1
        if n % 1024 == 0: file.seek(0)
        at += 0.01
        time.sleep(max(0, at - time.monotonic()))
`

async function forksAndRollbacks(client: Client, workspaceId: string): Promise<Figure[]> {
  const { id: snapshotId } = await snapshot(client, workspaceId)
  await savedTime(client, snapshotId)
  const forks: number[] = []
  const rollbacks: number[] = []
  const starts: number[] = []
  const fresh: number[] = []
  for (let round = -2; round < rounds; round += 1) {
    let fork: Workspace | undefined
    const forked = await timed(async () => {
      const { data } = await client.call<{ data: Workspace[] }>('POST', `/v1/snapshots/${snapshotId}/forks`, {})
      fork = data[0]
    })
    const started = await timed(async () => {
      const sandbox = await startOn(client, fork!.id)
      await execTrue(client, sandbox.id)
      await remove(client, sandbox.id)
    })
    const rolledBack = await timed(() => client.call('POST', `/v1/workspaces/${fork!.id}/rollback`, { snapshotId }))
    const alone = await timed(async () => {
      const sandbox = await createSandbox(client)
      await execTrue(client, sandbox.id)
      await remove(client, sandbox.id)
    })
    await client.call('DELETE', `/v1/workspaces/${fork!.id}`)
    if (round < 0) continue
    forks.push(forked)
    starts.push(started)
    rollbacks.push(rolledBack)
    fresh.push(alone)
  }
  return [
    figure({
      name: 'fork of a snapshot of 1 GB',
      unit: 'ms',
      samples: forks,
      bar: 'p50 ≤ 30 ms',
      holds: ({ p50 }) => p50 <= 30,
    }),
    figure({
      name: 'rollback to a snapshot of 1 GB',
      unit: 'ms',
      samples: rollbacks,
      bar: 'p50 ≤ 30 ms',
      holds: ({ p50 }) => p50 <= 30,
    }),
    figure({
      name: 'start on a fork, exec, end',
      unit: 'ms',
      samples: starts,
      rival: { name: 'create from a template, exec, end', samples: fresh },
      bar: 'stated, no bar',
      holds: () => true,
    }),
  ]
}

/** Start on a workspace of 50 layers, beside one of one layer. */
async function longHistory(client: Client): Promise<Figure[]> {
  const [long, short] = [await makeWorkspace(client), await makeWorkspace(client)]
  for (const [workspace, layers] of [
    [long, 50],
    [short, 1],
  ] as const) {
    for (let layer = 0; layer < layers; layer += 1) {
      const sandbox = await startOn(client, workspace.id)
      await run(client, sandbox.id, `head -c 1M /dev/urandom > /workspace/layer-${layer}`)
      await remove(client, sandbox.id)
    }
  }
  const times = { long: [] as number[], short: [] as number[] }
  for (let round = -2; round < rounds; round += 1) {
    for (const [kind, workspace] of [
      ['long', long],
      ['short', short],
    ] as const) {
      let id = ''
      const took = await timed(async () => {
        id = (await startOn(client, workspace.id)).id
        await execTrue(client, id)
      })
      await remove(client, id)
      if (round >= 0) times[kind].push(took)
    }
  }
  for (const { id } of [long, short]) await client.call('DELETE', `/v1/workspaces/${id}`)
  return [
    figure({
      name: 'start on a workspace of 50 layers',
      unit: 'ms',
      samples: times.long,
      rival: { name: 'the same with one layer', samples: times.short },
      bar: 'p50 ≤ 1.3 × rival',
      holds: ({ ratio }) => ratio !== null && ratio <= 1.3,
    }),
  ]
}

/** Saving: what 1 MB of change costs beside restic, and how fast a layer is packed beside tar and zstd. */
export async function saving(bench: Bench): Promise<Figure[]> {
  const target = await bench.platform({ runtime: 'crun', anew: true })
  const { client } = target
  const workspace = await makeWorkspace(client, { diskMb: 8_192 })
  const sandbox = await startOn(client, workspace.id)
  // Half of each file compresses, as programs and texts do.
  await run(
    client,
    sandbox.id,
    `cd /workspace && python3 -c "
import os
for n in range(${files}):
    with open(f'{n % 64:02}-{n}', 'wb') as file:
        file.write(os.urandom(${fileBytes / 2}) + b'delta ' * ${Math.floor(fileBytes / 12)})
"`,
  )
  await remove(client, sandbox.id)
  const first = await newest(client, workspace.id)
  const packed = await savedTime(client, first.id)
  const upper = join(target.pool, 'snapshots', first.id, 'upper')
  const tar = await timed(() => shell(`tar -C ${upper} -cf - . | zstd -3 -q > ${join(target.pool, 'rival.tar.zst')}`))
  const tarred = [tar]
  for (let round = 0; round < 2; round += 1) {
    tarred.push(
      await timed(() => shell(`tar -C ${upper} -cf - . | zstd -3 -q > ${join(target.pool, 'rival.tar.zst')}`)),
    )
  }
  rmSync(join(target.pool, 'rival.tar.zst'))
  const packs = [packed, ...(await packedAnew(client, first.id))]
  const { ours, sizes, restic } = await smallChanges(target, workspace.id)
  const rate = (ms: number): number => ((gigabyteMb * megabyte) / 1e6 / ms) * 1_000
  return [
    figure({
      name: 'pack and store a layer of 1 GB',
      unit: 'MB/s',
      samples: packs.map(rate),
      rival: { name: 'tar | zstd -3 > file', samples: tarred.map(rate) },
      bar: '≥ 0.7 × rival',
      holds: ({ ratio }) => ratio !== null && ratio >= 0.7,
    }),
    figure({
      name: 'save 1 MB of change in 1 GB: stored',
      unit: 'MB',
      samples: sizes.map((bytes) => bytes / 1e6),
      bar: 'p95 ≤ 2 MB',
      holds: ({ p95 }) => p95 <= 2,
    }),
    figure({
      name: 'save 1 MB of change in 1 GB: snapshot until saved',
      unit: 'ms',
      samples: ours,
      rival: { name: 'restic backup of the same', samples: restic },
      bar: '≤ 0.2 × rival',
      holds: ({ ratio }) => ratio !== null && ratio <= 0.2,
    }),
  ]
}

/** The same layer again, for workspaces of their own: equal content under another clock is another layer. */
async function packedAnew(client: Client, snapshotId: string): Promise<number[]> {
  const times: number[] = []
  for (let round = 0; round < 2; round += 1) {
    const { data } = await client.call<{ data: Workspace[] }>('POST', `/v1/snapshots/${snapshotId}/forks`, {})
    const fork = data[0]!
    const sandbox = await startOn(client, fork.id)
    await run(client, sandbox.id, 'cd /workspace && touch *')
    await remove(client, sandbox.id)
    times.push(await savedTime(client, (await newest(client, fork.id)).id))
  }
  return times
}

async function smallChanges(target: Target, workspaceId: string) {
  const { client, pool } = target
  const repository = mkdtempSync(join(pool, 'restic-'))
  const restic = (...args: string[]): void => {
    execFileSync('restic', ['--quiet', '--no-cache', '-r', repository, ...args], {
      env: { ...process.env, RESTIC_PASSWORD: 'bench' },
    })
  }
  restic('init')
  const ours: number[] = []
  const sizes: number[] = []
  const theirs: number[] = []
  try {
    for (let round = -1; round < 5; round += 1) {
      const sandbox = await startOn(client, workspaceId)
      await run(client, sandbox.id, `head -c 1M /dev/urandom > /workspace/00-${64 * (round + 2)}`)
      await remove(client, sandbox.id)
      // The one of the stop; its saving has begun already, so a manual one of another change is timed.
      await savedTime(client, (await newest(client, workspaceId)).id)
      const second = await startOn(client, workspaceId)
      await run(client, second.id, `head -c 1M /dev/urandom > /workspace/01-${64 * (round + 2) + 1}; sync`)
      let taken: Snapshot | undefined
      const mine = await timed(async () => {
        taken = await snapshot(client, workspaceId)
        await savedTime(client, taken.id)
      })
      await remove(client, second.id)
      const saved = await client.call<Snapshot>('GET', `/v1/snapshots/${taken!.id}`)
      // Always under the same path, so that restic finds what it saved before.
      const seen = join(pool, 'restic-source')
      mkdirSync(seen, { recursive: true })
      execFileSync('mount', ['--bind', join(pool, 'snapshots', taken!.id, 'upper'), seen])
      const alone = await timed(async () => restic('backup', seen)).finally(() => execFileSync('umount', [seen]))
      if (round < 0) continue
      ours.push(mine)
      sizes.push(saved.save.layer?.size ?? 0)
      theirs.push(alone)
    }
  } finally {
    rmSync(repository, { recursive: true, force: true })
    rmSync(join(pool, 'restic-source'), { recursive: true, force: true })
  }
  return { ours, sizes, restic: theirs }
}

/** Memory of the server while it saves 10 MB and 10 GB. */
export async function savingMemory(bench: Bench): Promise<Figure[]> {
  const target = await bench.platform({ runtime: 'crun', anew: true })
  const { client } = target
  const workspace = await makeWorkspace(client, { diskMb: 14_336 })
  const most: number[] = []
  for (const sizeMb of [10, 10_240]) {
    const sandbox = await startOn(client, workspace.id, { timeoutMs: 3_600_000 })
    const block = randomBytes(1).toString('hex')
    await run(
      client,
      sandbox.id,
      `python3 -c "
import os
block = os.urandom(1 << 16) + b'${block}' * (15 << 15)
with open('/workspace/of-${sizeMb}', 'wb') as file:
    for n in range(${sizeMb}): file.write(block)
"`,
      3_000_000,
    )
    await remove(client, sandbox.id)
    const { id } = await newest(client, workspace.id)
    let peak = 0
    const watching = setInterval(() => {
      peak = Math.max(peak, residentBytes(target.serverPid()) + residentBytes(target.pid))
    }, 20)
    await savedTime(client, id)
    clearInterval(watching)
    most.push(peak)
  }
  const [small = 0, large = 0] = most
  await client.call('DELETE', `/v1/workspaces/${workspace.id}`)
  return [
    figure({
      name: 'memory while 10 GB are saved, above that while 10 MB are',
      unit: 'MB',
      samples: [(large - small) / megabyte],
      bar: '≤ 32 MB',
      holds: ({ p50 }) => p50 <= 32,
    }),
  ]
}

function makeWorkspace(client: Client, more: object = {}): Promise<Workspace> {
  return client.call<Workspace>('POST', '/v1/workspaces', { diskMb: 4_096, retention: { keepLast: 1_000 }, ...more })
}

function startOn(client: Client, workspace: string, more: object = {}): Promise<SandboxAnswer> {
  return client.call<SandboxAnswer>('POST', '/v1/sandboxes', { workspace, timeoutMs: 3_600_000, ...more })
}

function snapshot(client: Client, workspaceId: string): Promise<Snapshot> {
  return client.call<Snapshot>('POST', `/v1/workspaces/${workspaceId}/snapshots`, {})
}

async function newest(client: Client, workspaceId: string): Promise<Snapshot> {
  const { data } = await client.call<{ data: Snapshot[] }>('GET', `/v1/workspaces/${workspaceId}/snapshots?limit=1`)
  if (!data[0]) throw new Error(`${workspaceId} has no snapshot`)
  return data[0]
}

function savedTime(client: Client, snapshotId: string): Promise<number> {
  return timed(async () => {
    const began = performance.now()
    for (;;) {
      const { save } = await client.call<Snapshot>('GET', `/v1/snapshots/${snapshotId}`)
      if (save.state === 'saved') return
      const passedMs = performance.now() - began
      if (passedMs > savedWithinMs) throw new Error(`${snapshotId} is ${save.state} after ${savedWithinMs} ms`)
      await sleep(Math.max(askEvery.leastMs, askEvery.partOfPassed * passedMs))
    }
  })
}

async function run(client: Client, id: string, cmd: string, timeoutMs = 600_000): Promise<void> {
  const exec = await client.call<{ exitCode: number; stderr: string }>('POST', `/v1/sandboxes/${id}/execs`, {
    cmd,
    timeoutMs,
  })
  if (exec.exitCode !== 0)
    throw new Error(`${cmd.slice(0, 60)} ended with ${exec.exitCode}: ${exec.stderr.slice(0, 500)}`)
}

function shell(line: string): Promise<void> {
  return new Promise((done, fail) => {
    const child = spawn('/bin/bash', ['-c', `set -o pipefail; ${line}`], { stdio: 'inherit' })
    child.on('error', fail)
    child.on('close', (code) => (code === 0 ? done() : fail(new Error(`${line} ended with ${code}`))))
  })
}
