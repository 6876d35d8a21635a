import type { EgressTarget } from '../../guest/messages.ts'
import type { EgressOutcome } from './schema.ts'

/** News of egress for higher features. */
export interface EgressEvents {
  /** A connection ended, or did not come about. Sent for each, also for those of which the log keeps a count only. */
  'egress.ended': {
    sandboxId: string
    accountId: string
    /** When it was asked for. */
    at: number
    host: string
    port: number
    via: EgressTarget['via']
    outcome: EgressOutcome
    reason: string
    bytesUp: number
    bytesDown: number
    durationMs: number
  }
}
