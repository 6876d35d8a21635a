import { isId } from '../kernel/ids.ts'
import type { DoorCaller } from './door.ts'
import type { BoxLimits, BoxSpec, BoxVolume, DriverInfo } from '../drivers/driver.ts'
import { type CreateSandbox, createSandboxSchema, type PatchSandbox, type Sandbox } from './schema.ts'
import { mayMove, type SandboxState, transitionDetails, type TransitionReason } from './states.ts'
import type { Lease, Origin } from '../workspaces/service.ts'
import type { SandboxRecord } from './store.ts'

/** Whose computer a sandbox is. */
export interface SandboxAgent {
  id: string
  /** It and those above it, from the first down. */
  line: readonly string[]
}

/** The record of a sandbox that somebody just asked for; it says `creating` before anything is made. */
export function newRecord(
  wish: CreateSandbox,
  own: {
    id: string
    accountId: string
    runtime: string
    now: number
    volumes?: BoxVolume[]
    lease?: Lease | undefined
    origin?: Origin | undefined
    agent?: SandboxAgent | undefined
  },
) {
  const { lease } = own
  const origin = own.origin ?? lease?.origin
  const record: SandboxRecord = {
    id: own.id,
    accountId: own.accountId,
    state: 'creating',
    reason: 'requested',
    detail: null,
    failure: null,
    template: lease?.template ?? own.origin?.template ?? wish.template,
    origin: origin ? originOf(origin) : null,
    runtime: own.runtime,
    cpuMilli: Math.round(wish.cpu * 1_000),
    memoryMb: wish.memoryMb,
    diskMb: lease?.diskMb ?? wish.diskMb,
    processes: wish.processes,
    timeoutMs: wish.timeoutMs,
    onTimeout: wish.onTimeout,
    autoResume: wish.autoResume,
    metadata: wish.metadata,
    env: { ...origin?.env, ...wish.env },
    network: wish.network,
    volumes: own.volumes ?? [],
    upperId: lease?.upperId ?? `upp_${own.id.slice(4)}`,
    workspaceId: lease?.workspaceId ?? null,
    idleTimeoutMs: wish.idleTimeoutMs ?? null,
    agentId: own.agent?.id ?? null,
    agentLine: own.agent?.line ?? [],
    boxId: boxIdOf(own.id, 1),
    userNamespace: null,
    starts: 1,
    version: 1,
    createdAt: own.now,
    startedAt: null,
    endAt: null,
    changedAt: own.now,
  }
  return record
}

/** Whether they may know of it: it is in their account and, where they are an agent, no other agent's but one's below it. */
export function isSeenBy({ accountId, agentId, agentLine }: SandboxRecord, caller: DoorCaller): boolean {
  if (accountId !== caller.accountId) return false
  const { actorId } = caller
  return agentId === null || !isAgent(actorId) || agentLine.includes(actorId)
}

/**
 * Whether they may change it and wake it. Who has no agent is paid by the account: an agent looks at it and works in it while it runs, but what costs the account is none of its business,
 * unless whoever made its token named the sandbox there.
 */
export function isRunBy({ id, agentId }: SandboxRecord, { actorId, sandboxes }: DoorCaller): boolean {
  return agentId !== null || !isAgent(actorId) || (sandboxes?.includes(id) ?? false)
}

/** Whose a sandbox is that they make. */
export function agentOf({ actorId, above = [] }: DoorCaller): SandboxAgent | undefined {
  return isAgent(actorId) ? { id: actorId, line: [...above, actorId] } : undefined
}

function isAgent(actorId: string | undefined): actorId is string {
  return actorId !== undefined && isId('agt', actorId)
}

function originOf({ name, cwd, user }: Omit<Origin, 'template'>): NonNullable<SandboxRecord['origin']> {
  return { name, ...(cwd !== undefined && { cwd }), ...(user !== undefined && { user }) }
}

const sandboxIdChars = 20

/**
 * Each start has a box of its own, so that news and clean-up of an earlier one never meet the present one. The name tells an operator
 * who looks at processes and cgroups which sandbox it is.
 */
export function boxIdOf(sandboxId: string, starts: number): string {
  return `box_${sandboxId.slice(4)}${starts.toString(36)}`
}

/** The sandbox that a box was made for. */
export function sandboxIdOf(boxId: string): string {
  return `sbx_${boxId.slice(4, 4 + sandboxIdChars)}`
}

/** It belongs to a workspace, which outlives every sandbox on it: nothing here drops it. */
export function isWorkspaceUpper(upperId: string): boolean {
  return upperId.startsWith('wup_')
}

export function specOf(record: SandboxRecord, fresh: boolean): BoxSpec {
  return {
    boxId: record.boxId!,
    upperId: record.upperId,
    fresh,
    template: record.template,
    runtime: record.runtime,
    ...limitsOf(record),
    ...(record.volumes.length > 0 && { volumes: record.volumes }),
    // A host name has no underscores.
    hostname: record.id.replace('_', '-'),
  }
}

/** The box of a sandbox whose caller asks for nothing but this. */
export function warmSpecOf(sandboxId: string, { runtime, template }: { runtime: string; template: string }): BoxSpec {
  const wish = createSandboxSchema.parse({ template })
  return specOf(newRecord(wish, { id: sandboxId, accountId: '', runtime, now: 0 }), true)
}

export function limitsOf({ cpuMilli, memoryMb, diskMb, processes }: SandboxRecord): BoxLimits {
  return { cpuMilli, memoryMb, diskMb, processes }
}

export interface Change {
  to: SandboxState
  reason: TransitionReason
  detail?: string | undefined
  failure?: { code: string; message: string }
  /** Of the box that was made. */
  userNamespace?: string | undefined
  /** Of the workspace it starts on again: what it was made of may be another disk by now. */
  lease?: Lease | undefined
}

/**
 * The record after a transition. The time until `onTimeout` counts only while it runs: pausing and stopping end it, every way back to running
 * starts it anew.
 */
export function moved(record: SandboxRecord, change: Change, now: number): SandboxRecord {
  const { to, reason, detail, failure, userNamespace, lease } = change
  if (!mayMove(record.state, to, reason)) {
    throw new Error(`A sandbox cannot go from ${record.state} to ${to} because of ${reason}`)
  }
  const after: SandboxRecord = {
    ...record,
    state: to,
    reason,
    detail: detail ?? transitionDetails[reason] ?? null,
    failure: failure ?? null,
    version: record.version + 1,
    changedAt: now,
    endAt: to === 'running' ? now + record.timeoutMs : null,
  }
  if (to === 'running' && record.state !== 'paused') after.startedAt = now
  if (to === 'starting') {
    after.starts = record.starts + 1
    after.boxId = boxIdOf(record.id, after.starts)
  }
  if (lease) Object.assign(after, { upperId: lease.upperId, template: lease.template, diskMb: lease.diskMb })
  if (userNamespace !== undefined) after.userNamespace = userNamespace
  if (to === 'stopped' || to === 'killed' || to === 'failed') {
    after.boxId = null
    after.userNamespace = null
  }
  return after
}

/** The record after a change of its settings. A timeout counts from now. */
export function patched(record: SandboxRecord, wish: PatchSandbox, now: number): SandboxRecord {
  const timeoutMs = wish.timeoutMs ?? record.timeoutMs
  const restarts = wish.timeoutMs !== undefined && record.state === 'running'
  return {
    ...record,
    timeoutMs,
    endAt: restarts ? now + timeoutMs : record.endAt,
    onTimeout: wish.onTimeout ?? record.onTimeout,
    autoResume: wish.autoResume ?? record.autoResume,
    metadata: wish.metadata ?? record.metadata,
    idleTimeoutMs: wish.idleTimeoutMs === undefined ? record.idleTimeoutMs : wish.idleTimeoutMs,
  }
}

/** What a caller sees. */
export function viewOf(record: SandboxRecord, driver: DriverInfo, { unsettled = false } = {}): Sandbox {
  return {
    id: record.id,
    state: record.state,
    template: record.origin?.name ?? record.template,
    runtime: record.runtime,
    metadata: record.metadata,
    cpu: record.cpuMilli / 1_000,
    memoryMb: record.memoryMb,
    diskMb: record.diskMb,
    processes: record.processes,
    timeoutMs: record.timeoutMs,
    onTimeout: record.onTimeout,
    autoResume: record.autoResume,
    workspaceId: record.workspaceId,
    idleTimeoutMs: record.idleTimeoutMs,
    agentId: record.agentId,
    network: record.network,
    volumes: record.volumes,
    createdAt: iso(record.createdAt),
    startedAt: record.startedAt === null ? null : iso(record.startedAt),
    endAt: record.endAt === null ? null : iso(record.endAt),
    reason: record.reason,
    detail: record.detail,
    ...(unsettled && { unsettled }),
    isolation: isolationOf(record, driver),
  }
}

/** What keeps it apart, as far as that is known: of a runtime other than the configured one, the version is not. */
function isolationOf({ runtime, userNamespace }: SandboxRecord, driver: DriverInfo): Sandbox['isolation'] {
  const { name, runtimeVersion, cgroup, pool, ownKernelRuntimes } = driver
  return {
    driver: name,
    runtime,
    ...(runtime === driver.runtime && { runtimeVersion }),
    kernel: ownKernelRuntimes.includes(runtime) ? 'own' : 'shared',
    ...(userNamespace !== null && { userNamespace }),
    cgroup,
    pool,
  }
}

export function iso(unixMs: number): string {
  return new Date(unixMs).toISOString()
}
