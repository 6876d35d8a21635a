import { Readable } from 'node:stream'
import type { KnownCaller } from '../access/callers/door.ts'
import type { Agents } from '../agents/service.ts'
import type { Known } from '../agents/door.ts'
import { DeltaError } from '../kernel/errors.ts'
import type { Clock } from '../kernel/clock.ts'
import type { Logger } from '../kernel/log.ts'
import type { Network } from '../sandboxes/egress/schema.ts'
import type { Files } from '../sandboxes/files/service.ts'
import type { Sandboxes } from '../sandboxes/service.ts'
import type { Workspaces } from '../workspaces/service.ts'
import type { Attachments } from './attachments.ts'
import { isCode } from './budget.ts'
import { callerOf } from './calls.ts'
import { taskLimits } from './limits.ts'
import type { StepRecord, TaskRecord } from './record.ts'
import type { Run } from './run.ts'
import type { TaskStore } from './store.ts'

export interface TaskComputerDeps {
  store: Pick<TaskStore, 'setSnapshot'>
  agents: Pick<Agents, 'computerOf'>
  findAgent(agentId: string, accountId: string): Promise<Known | undefined>
  files: Pick<Files, 'read' | 'write'>
  sandboxes: Pick<Sandboxes, 'getNetwork' | 'isAlive' | 'rollback'>
  workspaces: Pick<Workspaces, 'get' | 'snapshot' | 'rollback' | 'fork' | 'removeSnapshot'>
  attachments: Pick<Attachments, 'read'>
  clock: Clock
  log: Logger
}

const notesPath = '/workspace/AGENTS.md'

/** What was told to leave has left by then. */
const leavesMs = 2

export type TaskComputer = ReturnType<typeof createTaskComputer>

/** What tasks do with their agent's computer beside their tools: notes that lie there, files that came along, and snapshots to go back to. */
export function createTaskComputer(deps: TaskComputerDeps) {
  const { store, agents, findAgent, files, sandboxes, workspaces, attachments, clock, log } = deps
  /** Snapshots being taken, by task: the next change of files waits for them. */
  const taking = new Map<string, Promise<void>>()
  /** Those whose disk is to be kept as it is, as they were when that was said. */
  const due = new Map<string, TaskRecord>()
  /** Whether a task's own disk is older than it is, by its run: that never changes. */
  const disks = new WeakMap<object, { workspaceId: string; isOld: boolean }>()
  /** The turn for which a task has a snapshot of its beginning. */
  const begun = new Map<string, number>()

  /** Undefined where it has had no computer yet. */
  async function workspaceOf({ agentId, accountId }: Pick<TaskRecord, 'agentId' | 'accountId'>) {
    return (await findAgent(agentId, accountId))?.agent.workspaceId ?? undefined
  }

  async function take({ id, accountId, agentId, turn }: TaskRecord, step: number, isTurnStart = false): Promise<void> {
    const workspaceId = await workspaceOf({ accountId, agentId })
    if (workspaceId === undefined) return
    try {
      // One with a name is kept for ever, of the others the last hundred.
      const named = isTurnStart ? { name: `${id}-turn-${turn}` } : {}
      const wish = { ...named, comment: `After step ${step} of ${id}` }
      const snapshot = await workspaces.snapshot(workspaceId, wish, { accountId })
      await store.setSnapshot(id, step, snapshot.id)
    } catch (error) {
      // The task goes on; there is one place less to go back to.
      log.warn('task_not_snapshotted', { taskId: id, step, error })
    }
  }

  function takeDue(taskId: string): void {
    const task = due.get(taskId)
    if (!task) return
    due.delete(taskId)
    const work = take(task, task.step).finally(() => {
      if (taking.get(taskId) === work) taking.delete(taskId)
    })
    taking.set(taskId, work)
  }

  async function isDiskOld(run: Pick<Run, 'task'>, workspaceId: string): Promise<boolean> {
    const known = disks.get(run)
    if (known?.workspaceId === workspaceId) return known.isOld
    const { accountId, createdAt } = run.task
    const isOld = Date.parse((await workspaces.get(workspaceId, { accountId })).createdAt) < createdAt
    disks.set(run, { workspaceId, isOld })
    return isOld
  }

  return {
    of: (run: Run, caller: KnownCaller): Promise<string> => agents.computerOf(run.task.agentId, caller),

    async present(run: Run): Promise<string | undefined> {
      const { agentId, accountId } = run.task
      const sandboxId = (await findAgent(agentId, accountId))?.agent.sandboxId ?? undefined
      return sandboxId !== undefined && (await sandboxes.isAlive(sandboxId)) ? sandboxId : undefined
    },

    /**
     * Whether what it says may be others' words: it may reach the network, or its disk is older than the task or holds files that came with it. Where that can not be told, it may.
     */
    async isForeign(run: Pick<Run, 'task'>): Promise<boolean> {
      const { agentId, accountId, spec } = run.task
      if (spec.files.length > 0) return true
      const { sandboxId = null, workspaceId = null } = (await findAgent(agentId, accountId))?.agent ?? {}
      try {
        const [network, isOld] = await Promise.all([
          sandboxId === null ? undefined : sandboxes.getNetwork(sandboxId, { accountId }),
          workspaceId !== null && isDiskOld(run, workspaceId),
        ])
        return isOld || (network !== undefined && !isClosed(network))
      } catch (error) {
        if (error instanceof DeltaError) return true
        throw error
      }
    },

    /** Where the agent has no computer yet, there are none. */
    async notesOf(run: Run): Promise<string | undefined> {
      const sandboxId = await this.present(run)
      if (sandboxId === undefined) return undefined
      const path = Buffer.from(notesPath)
      try {
        const range = `bytes=0-${taskLimits.agentsFileBytes - 1}`
        const answer = await files.read({ sandboxId, caller: callerOf(run), path }, { withBody: true, range })
        if (answer.kind === 'unchanged' || answer.body === undefined) return undefined
        const chunks: Uint8Array[] = []
        for await (const chunk of answer.body) chunks.push(chunk)
        const text = Buffer.concat(chunks).toString('utf8').trim()
        return text === '' ? undefined : text
      } catch (error) {
        // That there is none is usual; that it can not be read now is no reason not to work.
        if (!isCode(error, ['file_not_found', 'range_not_satisfiable'])) {
          log.info('task_notes_not_read', { taskId: run.task.id, error })
        }
        return undefined
      }
    },

    /** Written again they are the same. */
    async putFiles(run: Run): Promise<void> {
      const caller = callerOf(run)
      const sandboxId = await agents.computerOf(run.task.agentId, caller)
      for (const { path, digest } of run.task.spec.files) {
        const bytes = await attachments.read(digest)
        const absolute = path.startsWith('/') ? path : `/workspace/${path}`
        await files.write({ sandboxId, caller, path: Buffer.from(absolute) }, Readable.from([bytes]), {
          parents: true,
          overwrite: true,
        })
      }
    },

    snapshots: {
      async before(run: Run): Promise<void> {
        const { task } = run
        takeDue(task.id)
        await taking.get(task.id)
        if (begun.get(task.id) === task.turn) return
        begun.set(task.id, task.turn)
        // What changes files makes a computer anyway, and without one there is no disk to go back to. Why it can not be had says the call itself.
        if ((await workspaceOf(task)) === undefined) {
          await agents.computerOf(task.agentId, callerOf(run)).catch(() => undefined)
        }
        // As it was after the step before.
        await take(task, task.step - 1, true)
      },

      /** Its disk is kept as it is now: at the latest before it is changed again, and when the task rests. */
      after({ task }: Run): void {
        takeDue(task.id)
        due.set(task.id, task)
      },

      /** A model is asked, which takes long: what keeps the disk is in nobody's way now. Before that, the question would wait for it. */
      asked({ task }: Run): void {
        if (due.has(task.id)) clock.after(leavesMs, () => takeDue(task.id))
      },

      /** It is not worked on any more. */
      rests(taskId: string): void {
        takeDue(taskId)
        begun.delete(taskId)
      },
    },

    /** Its agent's disk as it was after the step, if anything was kept of that. */
    async rollBack(task: TaskRecord, snapshotId: string): Promise<void> {
      const { accountId } = task
      const known = await findAgent(task.agentId, accountId)
      const { sandboxId = null, workspaceId = null } = known?.agent ?? {}
      if (workspaceId === null) return
      if (sandboxId !== null && (await sandboxes.isAlive(sandboxId))) {
        await sandboxes.rollback(sandboxId, snapshotId, { accountId })
      } else await workspaces.rollback(workspaceId, snapshotId, { accountId })
    },

    /** A disk for another agent, under whose name it will find it. */
    async forkFor(agentId: string, snapshotId: string, accountId: string): Promise<void> {
      await workspaces.fork(snapshotId, { count: 1, names: [agentId] }, { accountId })
    },

    /** The disk as it is now; undefined where there is none. */
    async snapshotNow({ id, accountId, agentId }: TaskRecord): Promise<string | undefined> {
      const workspaceId = await workspaceOf({ accountId, agentId })
      if (workspaceId === undefined) return undefined
      return (await workspaces.snapshot(workspaceId, { comment: `For a fork of ${id}` }, { accountId })).id
    },

    /** What was begun for a task is kept, so that its steps say where the disk was. */
    async settledOf(taskId: string): Promise<void> {
      takeDue(taskId)
      await taking.get(taskId)
    },

    async settled(): Promise<void> {
      for (const taskId of Array.from(due.keys())) takeDue(taskId)
      await Promise.all(taking.values())
    },
  }
}

function isClosed({ egress }: Network): boolean {
  return typeof egress === 'string' ? egress === 'none' : egress.hosts.length + egress.presets.length === 0
}

/** That of the disk after a step: the last one taken up to then, and if there is none the first one after, since nothing was changed in between. */
export function snapshotOf(
  steps: readonly Pick<StepRecord, 'step' | 'snapshotId'>[],
  step: number,
): string | undefined {
  const taken = steps.filter(({ snapshotId }) => snapshotId !== null)
  const before = taken.findLast((one) => one.step <= step)
  return (before ?? taken.find((one) => one.step > step))?.snapshotId ?? undefined
}

export function noStep(taskId: string, step: number): DeltaError {
  return new DeltaError('invalid_request', 'The request is not valid at body.step', {
    cause: `body.step: ${taskId} has no step ${step} that has ended`,
  })
}
