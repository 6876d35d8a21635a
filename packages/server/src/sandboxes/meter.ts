import type { BoxUse } from '../drivers/driver.ts'
import type { SandboxRecord } from './store.ts'

/**
 * Who pays for the time of sandboxes. Whoever makes a box or wakes one asks first; what is refused costs nothing and changes nothing.
 */
export interface SandboxMeter {
  /**
   * Before a box is made, or one kept ready is taken, which has used so much already: holds what the first minute costs at most. Throws what the
   * ledger refuses with.
   */
  begin(record: SandboxRecord, options?: { isMade: boolean; used?: BoxUse | undefined }): Promise<void>
  /** It runs, and its time counts; or it is paused, and only its memory does. */
  follow(record: SandboxRecord): void
  /** Before a paused one runs again. */
  resume(sandboxId: string): Promise<void>
  /** Its box is about to end. Resolves when its use has been read; it is paid for later. Never throws, and repeating it changes nothing. */
  end(sandboxId: string): Promise<void>
}

/** For a server without a ledger. */
export const unmetered: SandboxMeter = {
  begin: () => Promise.resolve(),
  follow: () => undefined,
  resume: () => Promise.resolve(),
  end: () => Promise.resolve(),
}
