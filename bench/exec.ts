import { spawn } from 'node:child_process'
import { createSandbox, execTrue, remove, timed } from './client.ts'
import { type Figure, figure } from './figures.ts'
import type { Bench } from './run.ts'

/** exec of /bin/true through REST on a live sandbox, paired with Node's own spawn of it on the host. */
export async function execTrueFigure(bench: Bench): Promise<Figure[]> {
  const { client } = await bench.platform({ runtime: 'crun' })
  const { id } = await createSandbox(client)
  const ours: number[] = []
  const theirs: number[] = []
  for (let round = -100; round < 1000; round++) {
    const mine = await timed(() => execTrue(client, id))
    const alone = await timed(spawnTrue)
    if (round < 0) continue
    ours.push(mine)
    theirs.push(alone)
  }
  await remove(client, id)
  return [
    figure({
      name: 'exec /bin/true',
      unit: 'ms',
      samples: ours,
      rival: { name: "child_process.spawn('/bin/true')", samples: theirs },
      bar: 'p50 ≤ 1.0 × rival, p99 ≤ 5 × p50',
      holds: ({ ratio, p50, p99 }) => ratio !== null && ratio <= 1 && p99 <= 5 * p50,
    }),
  ]
}

function spawnTrue(): Promise<void> {
  return new Promise((done, fail) => {
    const child = spawn('/bin/true', { stdio: ['ignore', 'pipe', 'pipe'] })
    child.on('error', fail)
    child.on('close', () => done())
  })
}
