import type { Clock } from '../kernel/clock.ts'
import type { GuestConnection } from '../guest/client.ts'

const askMs = 5_000

/**
 * Whether somebody still works in a sandbox of which nothing was asked for its idle time: an exec runs, or a channel is open (a file on its way, a
 * terminal with a viewer, a connection to a port or to the outside). A terminal without a viewer is nobody's work.
 */
export async function isAtWork(guest: Pick<GuestConnection, 'channels' | 'execs'>): Promise<boolean> {
  if (guest.channels > 0) return true
  const execs = await guest.execs({ signal: AbortSignal.timeout(askMs) })
  return execs.some(({ kind, pty }) => kind === 'running' && !pty)
}

export interface Activity {
  /** Something was asked of it just now. */
  note(sandboxId: string): void
  /** For how long nothing was. */
  idleMs(sandboxId: string): number
  forget(sandboxId: string): void
}

export function createActivity({ clock }: { clock: Clock }): Activity {
  const last = new Map<string, number>()
  return {
    note: (sandboxId) => void last.set(sandboxId, clock.monotonic()),
    idleMs: (sandboxId) => clock.monotonic() - (last.get(sandboxId) ?? -Infinity),
    forget: (sandboxId) => void last.delete(sandboxId),
  }
}

/** How soon to look again at one that is at work: it then stops at most a quarter of its idle time late. */
export function nextLookMs(idleTimeoutMs: number): number {
  return Math.max(250, idleTimeoutMs / 4)
}
