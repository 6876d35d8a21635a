import { chmodSync, mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { type Client, createSandbox, execTrue, remove, timed } from './client.ts'
import { type Figure, figure } from './figures.ts'
import { openRuntimeRival } from './rival.ts'
import type { Bench } from './run.ts'

/** Create → first exec result through REST, paired with the runtime alone on the same bundle. */
export async function createToFirstExec(bench: Bench): Promise<Figure[]> {
  const figures: Figure[] = []
  for (const runtime of ['crun', 'runc']) {
    const { client } = await bench.platform({ runtime })
    const scratch = mkdtempSync(join(tmpdir(), 'delta-rival-'))
    // The runtime sets the root up as the box's own uid, which must be able to walk there.
    chmodSync(scratch, 0o755)
    let rival: Awaited<ReturnType<typeof openRuntimeRival>> | undefined
    const ours: number[] = []
    const theirs: number[] = []
    const rounds = 60
    try {
      rival = await openRuntimeRival({
        runtime,
        helper: bench.helper,
        lower: join(bench.templates, 'host/root'),
        usr: '/usr',
        scratch,
      })
      for (let round = -5; round < rounds; round++) {
        let id = ''
        const mine = await timed(async () => {
          id = (await createSandbox(client)).id
          await execTrue(client, id)
        })
        await remove(client, id)
        const alone = await rival.run()
        if (round < 0) continue
        ours.push(mine)
        theirs.push(alone)
      }
    } finally {
      await rival?.close()
      rmSync(scratch, { recursive: true, force: true })
    }
    figures.push(
      figure({
        name: `create to first exec, ${runtime}`,
        unit: 'ms',
        samples: ours,
        rival: { name: `overlay + ${runtime} run /bin/true + delete`, samples: theirs },
        bar: 'p50 ≤ 1.5 × rival',
        holds: ({ ratio }) => ratio !== null && ratio <= 1.5,
      }),
    )
  }
  return figures
}

/** 100 creates at once, then 100 deletes at once. */
export async function crowd(bench: Bench): Promise<Figure[]> {
  const { client } = await bench.platform({ runtime: 'crun' })
  const count = 100
  const rounds = 3
  const latencies: number[] = []
  const createRates: number[] = []
  const deleteRates: number[] = []
  // Round -1 warms the server up, as the other figures do.
  for (let round = -1; round < rounds; round++) {
    const ids: string[] = []
    const roundLatencies: number[] = []
    const createMs = await timed(() =>
      Promise.all(
        Array.from({ length: count }, async () => {
          roundLatencies.push(await timed(async () => ids.push((await createSandbox(client)).id)))
        }),
      ),
    )
    const deleteMs = await timed(() => Promise.all(ids.map((id) => remove(client, id))))
    if (round < 0) continue
    latencies.push(...roundLatencies)
    createRates.push((count / createMs) * 1000)
    deleteRates.push((count / deleteMs) * 1000)
  }
  return [
    figure({
      name: '100 creates at once, crun',
      unit: 'creates/s',
      samples: createRates,
      bar: 'p50 ≥ 80/s, none fails',
      holds: ({ p50 }) => p50 >= 80,
    }),
    figure({
      name: '100 creates at once, latency',
      unit: 'ms',
      samples: latencies,
      bar: 'p95 ≤ 2 × p50',
      holds: ({ p50, p95 }) => p95 <= 2 * p50,
    }),
    figure({
      name: '100 deletes at once, crun',
      unit: 'deletes/s',
      samples: deleteRates,
      bar: 'p50 ≥ 80/s',
      holds: ({ p50 }) => p50 >= 80,
    }),
  ]
}

export async function manySandboxes(client: Client, count: number, body: object = {}): Promise<string[]> {
  const ids: string[] = []
  const next = async (): Promise<void> => {
    while (ids.length < count) {
      const slot = ids.push('') - 1
      ids[slot] = (await createSandbox(client, body)).id
    }
  }
  await Promise.all([next(), next(), next(), next()])
  return ids
}
