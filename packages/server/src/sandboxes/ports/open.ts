import type { DeltaError } from '../../kernel/errors.ts'

/** Why something open is ended from our side. */
export type OpenEnd = DeltaError

/** A request or a WebSocket under way. */
export interface Open {
  /** On the monotonic clock. */
  deadlineMs: number
  /** Its deadline has passed. */
  expire(): void
  cut(reason: OpenEnd): void
}
