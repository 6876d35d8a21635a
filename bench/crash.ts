import { chmodSync, mkdtempSync, rmSync } from 'node:fs'
import { join, resolve } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { type Platform, startPlatform } from '../e2e/platform.ts'
import { type Client, createClient, execTrue } from './client.ts'
import { manySandboxes } from './create.ts'
import { type Figure, figure } from './figures.ts'
import { httpProcess } from './process-tree.ts'

const giveUpMs = 60_000

/** kill -9 of helper and HTTP process with many sandboxes running and boxes kept ready: until requests are served again, and until all is in order. */
export async function crashWithMany(count: number): Promise<Figure[]> {
  const dataDir = mkdtempSync(join(resolve(import.meta.dirname, '../.build'), 'bench-'))
  chmodSync(dataDir, 0o755)
  let platform = await startPlatform({ dataDir, runtime: 'crun' })
  let client = createClient(platform)
  const ready: number[] = []
  const reconciled: number[] = []
  try {
    const ids = await manySandboxes(client, count)
    for (let round = 0; round < 5; round++) {
      const server = httpProcess(platform.pid)
      const killed = platform.kill()
      process.kill(server, 'SIGKILL')
      await killed
      client.close()
      const startedAt = performance.now()
      platform = await startPlatform({ dataDir, runtime: 'crun' })
      ready.push(performance.now() - startedAt)
      await untilReconciled(platform, startedAt)
      reconciled.push(performance.now() - startedAt)
      client = createClient(platform)
      // Fast is worth nothing where one is lost.
      await allAnswer(client, ids)
    }
  } finally {
    client.close()
    await platform.stop()
    rmSync(dataDir, { recursive: true, force: true })
  }
  return [
    figure({
      name: `kill -9 with ${count} running: ready`,
      unit: 'ms',
      samples: ready,
      bar: '≤ 5,000 ms',
      holds: ({ p99 }) => p99 <= 5_000,
    }),
    figure({
      name: `kill -9 with ${count} running: reconciled`,
      unit: 'ms',
      samples: reconciled,
      bar: '≤ 30,000 ms',
      holds: ({ p99 }) => p99 <= 30_000,
    }),
  ]
}

/** The server says so once every row and every box are as they should be. */
async function untilReconciled(platform: Platform, startedAt: number): Promise<void> {
  while (!platform.log().includes('"event":"reconciled"')) {
    if (performance.now() - startedAt > giveUpMs) throw new Error(`not reconciled:\n${platform.log()}`)
    await sleep(5)
  }
}

async function allAnswer(client: Client, ids: string[]): Promise<void> {
  for (const id of ids) {
    const { state, startedAt, createdAt } = await client.call<Sandbox>('GET', `/v1/sandboxes/${id}`)
    // One that had been started again would have lost its processes.
    if (state !== 'running' || Date.parse(startedAt) - Date.parse(createdAt) > giveUpMs)
      throw new Error(`${id} is ${state}`)
    await execTrue(client, id)
  }
}

interface Sandbox {
  state: string
  startedAt: string
  createdAt: string
}
