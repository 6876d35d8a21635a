import type { Right } from '../access/callers/door.ts'
import { DeltaError } from '../kernel/errors.ts'
import type { ErrorCode } from '../kernel/errors.ts'
import type { Logger } from '../kernel/log.ts'
import { bounded } from '../sandboxes/egress/service.ts'
import { createSandboxSchema } from '../sandboxes/schema.ts'
import type { Sandboxes } from '../sandboxes/service.ts'
import { createWorkspaceSchema } from '../workspaces/schema.ts'
import type { Workspaces } from '../workspaces/service.ts'
import { type Directory, type Known, knownOf } from './directory.ts'
import { isOver, mayReachWith, mayWork, refusalOf } from './rules.ts'
import { agentLimits } from './schema.ts'
import type { AgentRecord } from './store.ts'

export interface ComputerDeps {
  directory: Directory
  sandboxes: Pick<
    Sandboxes,
    | 'createOrJoin'
    | 'get'
    | 'getNetwork'
    | 'setNetwork'
    | 'isAlive'
    | 'kill'
    | 'ofAgents'
    | 'patch'
    | 'pause'
    | 'resume'
    | 'stopSandbox'
  >
  workspaces: Pick<Workspaces, 'create' | 'get'>
  log: Logger
}

/** The longest that a sandbox may say; then it stops, and starts again with the next use. */
const longestMs = 24 * 3_600_000

export type Computer = ReturnType<typeof createComputer>

/** The sandbox of an agent on its workspace: both are made when they are first used, and the sandbox again whenever it has ended. */
export function createComputer({ directory, sandboxes, workspaces, log }: ComputerDeps) {
  const { store } = directory
  const making = new Map<string, Promise<string>>()

  /** The id of a sandbox that is there; it may be at rest. */
  async function open(known: Known): Promise<string> {
    const { id, sandboxId } = known.agent
    if (sandboxId !== null && (await sandboxes.isAlive(sandboxId))) return sandboxId
    const underway = making.get(id)
    if (underway) return underway
    const work = make(known).finally(() => making.delete(id))
    making.set(id, work)
    return work
  }

  /** Its name is the agent's id: whoever finds it there, after a crash or from another server, has the right one. */
  async function workspaceOf({ id, accountId, template, workspaceId }: AgentRecord): Promise<string> {
    if (workspaceId !== null) return workspaceId
    const wish = createWorkspaceSchema.parse({
      name: id,
      template,
      metadata: { agent: id },
      keepLast: agentLimits.snapshots,
    })
    try {
      return (await workspaces.create(wish, { accountId })).id
    } catch (error) {
      if (!isCode(error, ['workspace_name_taken'])) throw error
      return (await workspaces.get(id, { accountId })).id
    }
  }

  async function make({ agent, line, rights }: Known): Promise<string> {
    const { id, accountId, memoryMb } = agent
    const workspaceId = await workspaceOf(agent)
    const wish = createSandboxSchema.parse({
      workspace: workspaceId,
      ifHeld: 'join',
      memoryMb,
      timeoutMs: longestMs,
      onTimeout: 'stop',
      idleTimeoutMs: agentLimits.idleTimeoutMs,
      metadata: { agent: id },
      network: { egress: bounded({ hosts: [], presets: ['packages'] }, (host) => mayReachWith(rights, host)) },
    })
    const { sandbox } = await sandboxes.createOrJoin(wish, { accountId }, { agent: { id, line } })
    if (sandbox.agentId !== id) {
      throw new DeltaError(
        'workspace_in_use',
        `Sandbox ${sandbox.id}, which is not its own, runs on the workspace of ${id}`,
        {
          context: { sandboxId: sandbox.id, workspaceId },
        },
      )
    }
    await store.setComputer(id, { workspaceId, sandboxId: sandbox.id })
    directory.changed(id)
    // Whoever paused, narrowed or archived it meanwhile did not see the sandbox; from this write on they do.
    const known = knownOf(await store.line(id))
    if (!known) {
      await end({ ...agent, sandboxId: sandbox.id })
      throw new DeltaError('agent_not_found', `There is no agent ${id}`)
    }
    const verdict = mayWork(known.agent, { computer: true })
    if (verdict.ok) {
      await bound(known.agent, known.rights)
      return sandbox.id
    }
    await (isOver(known.agent.state) ? end({ ...agent, sandboxId: sandbox.id }) : freeze(known.agent))
    throw refusalOf(verdict)
  }

  /** Its processes stand still, and nothing but a person's word wakes it. */
  async function freeze({ accountId, sandboxId }: AgentRecord): Promise<void> {
    const sandbox = await present(accountId, sandboxId)
    if (!sandbox) return
    await sandboxes.patch(sandbox.id, { autoResume: false }, { accountId })
    if (sandbox.state === 'running') await sandboxes.pause(sandbox.id, { accountId })
  }

  async function thaw({ accountId, sandboxId }: AgentRecord): Promise<void> {
    const sandbox = await present(accountId, sandboxId)
    if (!sandbox) return
    await sandboxes.patch(sandbox.id, { autoResume: true }, { accountId })
    if (sandbox.state === 'paused') await sandboxes.resume(sandbox.id, { accountId })
  }

  /** Its workspace stays, with a snapshot of what it was. */
  async function end({ accountId, sandboxId }: AgentRecord): Promise<void> {
    const sandbox = await present(accountId, sandboxId)
    if (!sandbox) return
    if (sandbox.state === 'running' || sandbox.state === 'paused')
      await sandboxes.stopSandbox(sandbox.id, { accountId })
    await sandboxes.kill(sandbox.id, { accountId })
  }

  /** What it reaches that its rights no longer say, it reaches no longer. */
  async function bound({ accountId, sandboxId }: AgentRecord, rights: readonly Right[]): Promise<void> {
    const sandbox = await present(accountId, sandboxId)
    if (!sandbox) return
    const { egress } = await sandboxes.getNetwork(sandbox.id, { accountId })
    const after = bounded(egress, (host) => mayReachWith(rights, host))
    if (after === egress) return
    await sandboxes.setNetwork(sandbox.id, { egress: after }, { accountId })
    log.info('agent_network_bounded', { sandboxId: sandbox.id })
  }

  async function present(accountId: string, sandboxId: string | null) {
    if (sandboxId === null || !(await sandboxes.isAlive(sandboxId))) return undefined
    return sandboxes.get(sandboxId, { accountId })
  }

  return { open, freeze, thaw, end, bound }
}

function isCode(error: unknown, codes: readonly ErrorCode[]): boolean {
  return error instanceof DeltaError && codes.includes(error.code)
}
