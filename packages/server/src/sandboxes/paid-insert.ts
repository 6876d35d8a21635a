import type { BoxUse } from '../drivers/driver.ts'
import type { SandboxMeter } from './meter.ts'
import type { SandboxRecord, SandboxStore, WantedRequest } from './store.ts'

/** `refused`: nobody pays, and nothing is left of the row. `written` is false where somebody with the same key was quicker. */
export type PaidInsert = { written: boolean; refused?: never } | { written?: never; refused: unknown }

export type InsertPaid = (
  record: SandboxRecord,
  request?: WantedRequest,
  became?: { record: SandboxRecord; used: BoxUse | undefined },
) => Promise<PaidInsert>

/** Writes the row of a new sandbox while its first minute is held, so that both share a commit. It throws where the row may have been written or not. */
export function createInsertPaid({ store, meter }: { store: SandboxStore; meter: SandboxMeter }): InsertPaid {
  return async (record, request, became) => {
    const [held, inserted] = await Promise.allSettled([
      meter.begin(record, became && { isMade: true, used: became.used }),
      store.insert(record, request, became?.record),
    ])
    if (held.status === 'fulfilled') {
      if (inserted.status === 'fulfilled' && inserted.value) return { written: true }
      await meter.end(record.id)
    }
    if (inserted.status === 'rejected') throw inserted.reason
    if (held.status === 'fulfilled' || !inserted.value) return { written: false }
    await store.withdraw(record, request)
    return { refused: held.reason }
  }
}
