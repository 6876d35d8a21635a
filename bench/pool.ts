import { chmodSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { setTimeout as sleep } from 'node:timers/promises'
import { type Client, createSandbox, execTrue, remove, timed } from './client.ts'
import { type Figure, figure } from './figures.ts'
import { openRuntimeRival } from './rival.ts'
import type { Bench } from './run.ts'

/** What a caller may ask for of its own; all of it is bound to a ready box late. */
const own = {
  env: { TASK: 'report', TOKEN: 'x'.repeat(200), LANG: 'C.UTF-8' },
  metadata: { task: 'report-7', owner: 'bench' },
  cpu: 0.5,
  memoryMb: 256,
  diskMb: 1_024,
  processes: 128,
}

/** Create → first exec result from the pool through REST, paired with the runtime alone on the same bundle. */
export async function warmCreate(bench: Bench, runtime: string): Promise<Figure[]> {
  const { client } = await bench.platform({ runtime, pool: true, anew: true })
  const scratch = mkdtempSync(join(tmpdir(), 'delta-rival-'))
  chmodSync(scratch, 0o755)
  const rival = await openRuntimeRival({
    runtime,
    helper: bench.helper,
    lower: join(bench.templates, 'host/root'),
    usr: '/usr',
    scratch,
  })
  const plain: number[] = []
  const bound: number[] = []
  const alone: number[] = []
  const rounds = 100
  try {
    for (let round = -10; round < rounds; round++) {
      const samples = [await createAndExec(client), await createAndExec(client, own), await rival.run()] as const
      if (round < 0) continue
      plain.push(samples[0])
      bound.push(samples[1])
      alone.push(samples[2])
    }
  } finally {
    await rival.close()
    rmSync(scratch, { recursive: true, force: true })
  }
  const judged = { unit: 'ms', rival: { name: `overlay + ${runtime} run /bin/true + delete`, samples: alone } }
  const bar = 'p50 ≤ 0.3 × rival'
  const holds = ({ ratio }: { ratio: number | null }): boolean => ratio !== null && ratio <= 0.3
  return [
    figure({ name: `create from the pool to first exec, ${runtime}`, samples: plain, bar, holds, ...judged }),
    figure({ name: `the same with own env, metadata and limits, ${runtime}`, samples: bound, bar, holds, ...judged }),
  ]
}

async function createAndExec(client: Client, body: object = {}): Promise<number> {
  await poolFull(client)
  let id = ''
  const ms = await timed(async () => {
    id = (await createSandbox(client, body)).id
    await execTrue(client, id)
  })
  await remove(client, id)
  return ms
}

/** What is measured is a create that finds a box, and a machine that is not busy making the next. */
async function poolFull(client: Client): Promise<void> {
  for (;;) {
    const { ready, size, making } = (await client.call<Health>('GET', '/health')).sandboxes.pool
    if (ready >= size && making === 0) return
    await sleep(5)
  }
}

interface Health {
  sandboxes: { pool: { size: number; ready: number; making: number } }
}

/** 20 creates a second, each with a command and a kill; how many found no box ready. */
export async function poolMisses(bench: Bench, runtime: string): Promise<Figure[]> {
  const { client } = await bench.platform({ runtime, pool: true, anew: true })
  await poolFull(client)
  const seconds = 25
  const perSecond = 20
  const before = await asked(client)
  const latencies: number[] = []
  const startedAt = performance.now()
  const lives: Promise<void>[] = []
  for (let number = 0; number < seconds * perSecond; number++) {
    // By the clock, not by the answers: a slow server gets no less to do.
    await sleep(Math.max(0, startedAt + (number * 1_000) / perSecond - performance.now()))
    lives.push(life(client, latencies))
  }
  await Promise.all(lives)
  const after = await asked(client)
  const all = after.hit + after.miss - before.hit - before.miss
  const misses = ((after.miss - before.miss) / all) * 100
  return [
    figure({
      name: `pool misses at ${perSecond} creates/s, ${runtime}`,
      unit: `% of ${all}`,
      samples: [misses],
      bar: '≤ 1 %',
      holds: ({ p50 }) => p50 <= 1,
    }),
    figure({
      name: `create to first exec at ${perSecond} creates/s, ${runtime}`,
      unit: 'ms',
      samples: latencies,
      bar: 'stated, no bar',
      holds: () => true,
    }),
  ]
}

async function life(client: Client, latencies: number[]): Promise<void> {
  let id = ''
  latencies.push(
    await timed(async () => {
      id = (await createSandbox(client)).id
      await execTrue(client, id)
    }),
  )
  await remove(client, id)
}

/** As the server counts itself. */
async function asked(client: Client): Promise<{ hit: number; miss: number }> {
  const text = await client.page('/metrics')
  const all = [...text.matchAll(/^delta_warm_asked_total\{outcome="(\w+)"\} (\d+)$/gm)]
  const sum = (wanted: (outcome: string) => boolean): number =>
    all.filter(([, outcome = '']) => wanted(outcome)).reduce((total, [, , count]) => total + Number(count), 0)
  return { hit: sum((outcome) => outcome === 'hit'), miss: sum((outcome) => outcome !== 'hit') }
}
