import type { ErrorCode } from '../kernel/errors.ts'

/** What the operations of a sandbox may be refused with, for the API's description; each takes in the one before. */

export const database: readonly ErrorCode[] = ['database_busy', 'database_unavailable', 'database_failed']

export const ofKnown: readonly ErrorCode[] = [...database, 'sandbox_not_found']

const driver: readonly ErrorCode[] = ['driver_failed', 'driver_timed_out', 'driver_unavailable', 'canceled']

/** A change of state. */
export const ofChange: readonly ErrorCode[] = [
  ...ofKnown,
  ...driver,
  'sandbox_not_running',
  'sandbox_state_conflict',
  'too_many_requests',
]

/** Nobody can pay for it. */
export const unpaid: readonly ErrorCode[] = [
  'balance_too_low',
  'account_owes',
  'plan_limit_reached',
  'purse_not_found',
  'purse_archived',
  'meter_not_priced',
  'ledger_full',
]

/** Making a box, fresh or on its old disk. */
export const ofStart: readonly ErrorCode[] = [
  ...ofChange,
  ...unpaid,
  'sandbox_start_failed',
  'capacity_exhausted',
  'runtime_not_available',
  'template_not_found',
  'template_not_ready',
  'not_supported',
  'disk_full',
  'pool_read_only',
  'volume_not_found',
  'guest_unreachable',
  'guest_protocol_error',
  // On a workspace
  'workspace_not_found',
  'workspace_in_use',
  'workspace_conflict',
  'snapshot_lost',
  'disk_not_found',
  'disk_exists',
  'layer_invalid',
  'layer_too_large',
]

/** Whatever is asked of what runs inside: it may have to be started first, and it may break off or lie. */
export const ofGuest: readonly ErrorCode[] = [...ofStart, 'sandbox_ended', 'guest_limit_reached', 'guest_timed_out']
