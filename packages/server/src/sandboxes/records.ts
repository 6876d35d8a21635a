import type { BoxLimits, BoxSpec, DriverInfo } from '../drivers/driver.ts'
import { type CreateSandbox, createSandboxSchema, type PatchSandbox, type Sandbox } from './schema.ts'
import { mayMove, type SandboxState, type TransitionReason } from './states.ts'
import type { SandboxRecord } from './store.ts'

/** The record of a sandbox that somebody just asked for; it says `creating` before anything is made. */
export function newRecord(wish: CreateSandbox, own: { id: string; accountId: string; runtime: string; now: number }) {
  const record: SandboxRecord = {
    id: own.id,
    accountId: own.accountId,
    state: 'creating',
    reason: 'requested',
    detail: null,
    failure: null,
    template: wish.template,
    runtime: own.runtime,
    cpuMilli: Math.round(wish.cpu * 1_000),
    memoryMb: wish.memoryMb,
    diskMb: wish.diskMb,
    processes: wish.processes,
    timeoutMs: wish.timeoutMs,
    onTimeout: wish.onTimeout,
    autoResume: wish.autoResume,
    metadata: wish.metadata,
    env: wish.env,
    network: wish.network,
    upperId: `upp_${own.id.slice(4)}`,
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

/**
 * Each start has a box of its own, so that news and clean-up of an earlier one never meet the present one. The name tells an operator
 * who looks at processes and cgroups which sandbox it is.
 */
export function boxIdOf(sandboxId: string, starts: number): string {
  return `box_${sandboxId.slice(4)}${starts.toString(36)}`
}

export function specOf(record: SandboxRecord, fresh: boolean): BoxSpec {
  return {
    boxId: record.boxId!,
    upperId: record.upperId,
    fresh,
    template: record.template,
    runtime: record.runtime,
    ...limitsOf(record),
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
}

/**
 * The record after a transition. The time until `onTimeout` counts only while it runs: pausing and stopping end it, every way back to running
 * starts it anew.
 */
export function moved(record: SandboxRecord, change: Change, now: number): SandboxRecord {
  const { to, reason, detail, failure, userNamespace } = change
  if (!mayMove(record.state, to, reason)) {
    throw new Error(`A sandbox cannot go from ${record.state} to ${to} because of ${reason}`)
  }
  const after: SandboxRecord = {
    ...record,
    state: to,
    reason,
    detail: detail ?? null,
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
  }
}

/** What a caller sees. */
export function viewOf(record: SandboxRecord, driver: DriverInfo, { unsettled = false } = {}): Sandbox {
  return {
    id: record.id,
    state: record.state,
    template: record.template,
    runtime: record.runtime,
    metadata: record.metadata,
    cpu: record.cpuMilli / 1_000,
    memoryMb: record.memoryMb,
    diskMb: record.diskMb,
    processes: record.processes,
    timeoutMs: record.timeoutMs,
    onTimeout: record.onTimeout,
    autoResume: record.autoResume,
    network: record.network,
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
