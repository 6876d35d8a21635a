import type { RecordAudit } from '../access/audit/service.ts'
import type { Clock } from '../kernel/clock.ts'
import { DeltaError, type ErrorCode } from '../kernel/errors.ts'
import type { Logger } from '../kernel/log.ts'
import type { ApprovalKind } from './kinds.ts'
import { approvalLimits } from './limits.ts'
import type { ApprovalRecord } from './record.ts'
import { hashOf, readAction } from './rules.ts'
import type { ApprovalStore } from './store.ts'

export interface ExecutionDeps {
  store: ApprovalStore
  kinds: ReadonlyMap<string, ApprovalKind>
  record: RecordAudit
  clock: Clock
  log: Logger
  onChanged(record: ApprovalRecord): void
}

type Outcome = { ok: true } | { ok: false; code: ErrorCode; text: string }

/** What may be over when it is tried again. */
const passing = new Set<ErrorCode>(['database_busy', 'database_unavailable', 'shutting_down', 'audit_unavailable'])

/**
 * Does what was approved. Each step is a row first: taken by whoever changes `tries`, so by one server only; begun, then ended. A server that dies in
 * between leaves a lease that ends, and the next one goes on as the kind says.
 */
export function createExecution({ store, kinds, record, clock, log, onChanged }: ExecutionDeps) {
  const running = new Map<string, Promise<void>>()
  const stopped = new AbortController()

  /** Resolves when it is over, or left to a later look. */
  function run(approval: ApprovalRecord): Promise<void> {
    const before = running.get(approval.id)
    if (before) return before
    const work = execute(approval).finally(() => running.delete(approval.id))
    running.set(approval.id, work)
    return work
  }

  async function execute(approval: ApprovalRecord): Promise<void> {
    const now = clock.now()
    if (!(await store.take(approval, { now, leaseUntil: now + approvalLimits.leaseMs }))) return
    const kind = kinds.get(approval.kind)
    const refusal = refusalOf(approval, kind)
    if (refusal || !kind) return end(approval, refusal ?? unknownKind(approval))
    // Before the deed: that it was begun is known whatever happens next.
    await record(entryOf(approval, 'begun'))
    const outcome = await attempt(approval, kind)
    if (outcome) await end(approval, outcome)
  }

  /** Undefined: to be tried again when the lease has ended. */
  async function attempt(approval: ApprovalRecord, kind: ApprovalKind): Promise<Outcome | undefined> {
    const late = new AbortController()
    const disarm = clock.after(approvalLimits.executeMs, () => late.abort(new Error('It took too long')))
    const { id, accountId, asker, decidedBy } = approval
    const approved = { id, accountId, askedBy: asker.actorId, decidedBy: decidedBy ?? '' }
    try {
      await kind.execute(readAction(approval.action), approved, AbortSignal.any([late.signal, stopped.signal]))
      return { ok: true }
    } catch (error) {
      const again = kind.afterDeath === 'again' && approval.tries + 1 < approvalLimits.tries
      const isPassing = stopped.signal.aborted || (error instanceof DeltaError && passing.has(error.code))
      if (again && isPassing) {
        log.warn('approval_put_off', { approvalId: id, error })
        return undefined
      }
      if (error instanceof DeltaError) return { ok: false, code: error.code, text: error.message }
      log.error('approval_failed', { approvalId: id, error })
      return { ok: false, code: 'internal', text: 'The server failed at it' }
    } finally {
      disarm()
    }
  }

  async function end(approval: ApprovalRecord, outcome: Outcome): Promise<void> {
    const endedAt = clock.now()
    const changed = outcome.ok
      ? await store.move(approval, 'executed', { endedAt })
      : await store.move(approval, 'failed', { endedAt, failureCode: outcome.code, failureText: outcome.text })
    if (!changed) return log.warn('approval_ended_elsewhere', { approvalId: approval.id, outcome: outcome.ok })
    onChanged(approval)
    await record(entryOf(approval, outcome.ok ? 'done' : 'failed', outcome.ok ? undefined : outcome.code))
  }

  return {
    run,
    /** What is under way is waited for by whoever started it, and told to end. */
    async stop(): Promise<void> {
      stopped.abort(new Error('The server is stopping'))
      await Promise.allSettled(running.values())
    },
  }
}

/** What keeps it from being done at all. */
function refusalOf(approval: ApprovalRecord, kind: ApprovalKind | undefined): Outcome | undefined {
  // A row is not the only place where the action stands: the hash is what the person saw.
  if (hashOf(approval.action) !== approval.actionHash || readAction(approval.action).kind !== approval.kind) {
    return { ok: false, code: 'approval_action_changed', text: 'The action is not the one that was approved' }
  }
  if (!kind) return unknownKind(approval)
  const mayNotRepeat = approval.begunAt !== null && kind.afterDeath === 'never'
  if (mayNotRepeat || approval.tries >= approvalLimits.tries) {
    const text = 'The server ended while it was at it; it may have been done'
    return { ok: false, code: 'approval_interrupted', text }
  }
  return undefined
}

function unknownKind({ kind }: ApprovalRecord): Outcome {
  return { ok: false, code: 'not_supported', text: `This server knows no approvals of the kind ${kind}` }
}

function entryOf(
  approval: ApprovalRecord,
  outcome: 'begun' | 'done' | 'failed',
  reason?: ErrorCode,
): Parameters<RecordAudit>[0] {
  const { id, accountId, kind, actionHash, asker, decidedBy } = approval
  const details = { kind, actionHash, askedBy: asker.actorId, approvedBy: decidedBy }
  return { accountId, actorId: 'platform', action: 'approval.execute', target: id, outcome, reason, details }
}
