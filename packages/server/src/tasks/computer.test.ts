import { expect, test } from 'vitest'
import type { Known } from '../agents/door.ts'
import { manualClock } from '../kernel/clock.ts'
import { silentLogger } from '../kernel/log.ts'
import { createTaskComputer } from './computer.ts'
import type { Run } from './run.ts'

const accountId = 'acc_1'

/** Of an agent with a disk; `kept` are the comments of its snapshots, as they begin. */
function start() {
  const clock = manualClock(0)
  const kept: string[] = []
  const looked: string[] = []
  const nothing = async (): Promise<never> => {
    throw new Error('Nothing else is asked for')
  }
  const agent = { agent: { workspaceId: 'wsp_1', sandboxId: null } } as Known
  const computer = createTaskComputer({
    store: { async setSnapshot() {} },
    agents: { computerOf: nothing },
    findAgent: async () => agent,
    files: { read: nothing, write: nothing },
    sandboxes: { getNetwork: nothing, isAlive: nothing, rollback: nothing },
    workspaces: {
      async get(id) {
        looked.push(id)
        return { createdAt: new Date(5).toISOString() } as never
      },
      async snapshot(_, wish) {
        kept.push(wish.comment!)
        return { id: 'snp_1' } as never
      },
      rollback: nothing,
      fork: nothing,
      removeSnapshot: nothing,
    },
    attachments: { read: nothing },
    clock,
    log: silentLogger,
  })
  const at = (step: number) =>
    ({
      task: { id: 'tsk_1', accountId, agentId: 'agt_1', turn: 1, step, createdAt: 5, spec: { files: [] } },
    }) as unknown as Run
  return { clock, kept, looked, computer, at }
}

const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve))

test('the disk is kept as it was after a step once the next question has left', async () => {
  const { clock, kept, computer, at } = start()
  computer.snapshots.after(at(1))
  await turn()
  expect(kept).toEqual([])
  computer.snapshots.asked(at(2))
  await turn()
  expect(kept).toEqual([])
  await clock.advance(10)
  await turn()
  expect(kept).toEqual(['After step 1 of tsk_1'])
  computer.snapshots.asked(at(3))
  await clock.advance(10)
  await turn()
  expect(kept).toHaveLength(1)
})

test.each<[string, (started: ReturnType<typeof start>) => unknown]>([
  ['before it is changed again', ({ computer, at }) => computer.snapshots.before(at(2))],
  ['when the task rests', ({ computer }) => computer.snapshots.rests('tsk_1')],
  ['before somebody goes back', ({ computer }) => computer.settledOf('tsk_1')],
  ['when the server stops', ({ computer }) => computer.settled()],
  ['before it is to be kept once more', ({ computer, at }) => computer.snapshots.after(at(2))],
])('at the latest it is kept %s', async (_, begin) => {
  const started = start()
  started.computer.snapshots.after(started.at(1))
  await begin(started)
  await turn()
  expect(started.kept[0]).toBe('After step 1 of tsk_1')
})

test('whether a disk is older than its task is looked up once for each run', async () => {
  const { computer, looked, at } = start()
  const run = at(1)
  expect([await computer.isForeign(run), await computer.isForeign(run)]).toEqual([false, false])
  expect(looked).toHaveLength(1)
  const later = { ...run, task: { ...run.task, createdAt: 6 } }
  expect(await computer.isForeign(later)).toBe(true)
})
