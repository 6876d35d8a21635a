import { writeFileSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'
import { execTrue, remove, timed } from './client.ts'
import { manySandboxes } from './create.ts'
import { type Figure, figure } from './figures.ts'
import { cpuNanos, memoryAvailable, processTree } from './process-tree.ts'
import type { Bench } from './run.ts'

const megabyte = 1024 * 1024

/** Many idle sandboxes at once: memory each, processor time, and what they cost an exec. */
export async function idleSandboxes(bench: Bench, runtime: string, count: number): Promise<Figure[]> {
  const { client, pid } = await bench.platform({ runtime })
  const [first = ''] = await manySandboxes(client, 1)
  // Half before and half after: the machine itself is not equally fast for minutes.
  const alone = await execTimes(150, () => execTrue(client, first))
  const before = memoryAvailable(dropCaches)
  const ids = await manySandboxes(client, count)
  const each = (before - memoryAvailable(dropCaches)) / count / megabyte
  const crowded = await execTimes(300, (round) => execTrue(client, ids[round % ids.length] ?? first))
  // gVisor brings a kernel of its own for each sandbox: its row is stated, not judged.
  const judged = runtime !== 'runsc'
  const processor = judged ? [await idleProcessor(pid, count, runtime)] : []
  await Promise.all(ids.map((id) => remove(client, id)))
  await sleep(2_000)
  alone.push(...(await execTimes(150, () => execTrue(client, first))))
  await remove(client, first)
  return [
    figure({
      name: `${count} idle sandboxes, ${runtime}`,
      unit: 'MB each',
      samples: [each],
      bar: judged ? '≤ 2.5 MB each' : 'stated, no bar',
      holds: ({ p50 }) => !judged || p50 <= 2.5,
    }),
    figure({
      name: `exec with ${count} idle, ${runtime}`,
      unit: 'ms',
      samples: crowded,
      rival: { name: 'exec with one', samples: alone },
      bar: judged ? 'p50 ≤ 1.5 × rival' : 'stated, no bar',
      holds: ({ ratio }) => !judged || (ratio !== null && ratio <= 1.5),
    }),
    ...processor,
  ]
}

async function idleProcessor(pid: number, count: number, runtime: string): Promise<Figure> {
  await sleep(2_000)
  const pids = processTree(pid)
  const total = () => pids.reduce((sum, one) => sum + cpuNanos(one), 0)
  const before = total()
  const startedAt = performance.now()
  await sleep(60_000)
  const share = (total() - before) / 1e6 / (performance.now() - startedAt)
  return figure({
    name: `processor with ${count} idle, ${runtime}`,
    unit: '% of a core',
    samples: [share * 100],
    bar: '≤ 1 % over 60 s',
    holds: ({ p50 }) => p50 <= 1,
  })
}

async function execTimes(count: number, exec: (round: number) => Promise<void>): Promise<number[]> {
  const samples: number[] = []
  for (let round = -20; round < count; round++) {
    const ms = await timed(() => exec(Math.max(round, 0)))
    if (round >= 0) samples.push(ms)
  }
  return samples
}

function dropCaches(): void {
  writeFileSync('/proc/sys/vm/drop_caches', '3')
}
