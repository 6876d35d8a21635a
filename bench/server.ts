import { setTimeout as sleep } from 'node:timers/promises'
import { type Figure, figure } from './figures.ts'
import { residentBytes } from './process-tree.ts'
import type { Bench } from './run.ts'

/** How long a set-up platform takes until /health answers, and what its HTTP process then holds. */
export async function idleServer(bench: Bench): Promise<Figure[]> {
  const starts: number[] = []
  const resident: number[] = []
  for (let round = 0; round < 5; round++) {
    const { startMs, serverPid } = await bench.platform({ runtime: 'crun', anew: true })
    starts.push(startMs)
    await sleep(2_000)
    resident.push(residentBytes(serverPid()) / 1024 / 1024)
  }
  return [
    figure({
      name: 'start to healthy',
      unit: 'ms',
      samples: starts,
      bar: '≤ 1,000 ms',
      holds: ({ p50 }) => p50 <= 1_000,
    }),
    figure({
      name: 'idle server',
      unit: 'MB resident',
      samples: resident,
      bar: '≤ 120 MB',
      holds: ({ p95 }) => p95 <= 120,
    }),
  ]
}
