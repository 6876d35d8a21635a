import { DeltaError } from '../../kernel/errors.ts'
import type { Caller } from '../../kernel/http/api.ts'
import type { Needs } from '../../kernel/http/needs.ts'
import { needsText } from '../../kernel/http/needs.ts'
import type { Logger } from '../../kernel/log.ts'
import type { CallerDoor } from '../door.ts'
import type { RateLimits } from '../limits/rate-limits.ts'
import type { RecordAudit } from './entry.ts'
import { targetOf } from './target.ts'

export interface FrontAuditDeps {
  record: RecordAudit
  /** No more entries than requests: what fronts serve is not counted itself. */
  rateLimits: Pick<RateLimits, 'count'>
  log: Pick<Logger, 'error'>
}

/** The door for what serves connections beside the router: who lacks a right there is written down too, beside the refusal. */
export function auditFronts(access: CallerDoor, { record, rateLimits, log }: FrontAuditDeps): CallerDoor {
  async function write(caller: Caller, needs: Needs, target: string | undefined): Promise<void> {
    const isCounted = await rateLimits.count({ caller, address: undefined }).then(
      () => true,
      () => false,
    )
    if (!isCounted) return
    const { accountId, actorId } = caller
    const details = { right: needsText(needs) }
    await record({
      accountId,
      actorId,
      action: 'connection.refused',
      target,
      outcome: 'refused',
      reason: 'forbidden',
      details,
    })
  }

  return {
    ...access,
    admit(caller, needs, id) {
      try {
        return access.admit(caller, needs, id)
      } catch (error) {
        if (error instanceof DeltaError && error.code === 'forbidden') {
          write(caller, needs, targetOf(id)).catch((cause: unknown) =>
            log.error('refusal_not_audited', { error: cause }),
          )
        }
        throw error
      }
    },
  }
}
