import type { ExecExit, GuestConnection } from '../../guest/client.ts'
import type { SandboxDoor } from '../door.ts'
import { looksKilled } from './rules.ts'

const REMEMBERED_EXECS = 1_000

export interface MemoryKills {
  /** To be called when an exec starts, and given back to `explain`. Costs a look-up, but for the first exec of a connection. */
  mark(guest: GuestConnection, sandboxId: string): MemoryMark
  /** The exit, with `oomKilled` set where the kernel's count says so. */
  explain(mark: MemoryMark, execId: string, exit: ExecExit): Promise<ExecExit>
  /** A caller sends SIGKILL itself: its effect is no lack of memory. */
  expectKill(execId: string): void
  /** Whether an exec was found to be killed for memory, for those who ask later. */
  wasKilled(execId: string): boolean
}

interface Count {
  sandboxId: string
  kills: number | undefined
  /** What the first question answered; for those who started before it did. */
  first: number | undefined
  asked: Promise<void>
}

export interface MemoryMark {
  count: Count
  killsBefore: number | undefined
}

/**
 * Tells a kill by the kernel for memory from any other SIGKILL, by the count of such kills in the sandbox before and after. Asking before
 * each exec would cost a driver call, so the count is asked once for each connection and from then on whenever it may have changed.
 */
export function createMemoryKills(door: Pick<SandboxDoor, 'oomKills'>): MemoryKills {
  const counts = new WeakMap<GuestConnection, Count>()
  const expected = new Set<string>()
  const killed = new Set<string>()

  async function refresh(count: Count): Promise<void> {
    try {
      count.kills = await door.oomKills(count.sandboxId)
    } catch {
      // Without the count nothing is claimed.
      count.kills = undefined
    }
  }

  return {
    mark(guest, sandboxId) {
      let count = counts.get(guest)
      if (count === undefined) {
        const made: Count = { sandboxId, kills: undefined, first: undefined, asked: Promise.resolve() }
        made.asked = refresh(made).then(() => void (made.first = made.kills))
        counts.set(guest, made)
        count = made
      }
      return { count, killsBefore: count.kills }
    },
    async explain({ count, killsBefore }, execId, exit) {
      if (!looksKilled(exit) || expected.has(execId)) return exit
      await count.asked
      const before = killsBefore ?? count.first
      await refresh(count)
      if (before === undefined || count.kills === undefined || count.kills <= before) return exit
      remember(killed, execId)
      return { ...exit, oomKilled: true }
    },
    expectKill: (execId) => remember(expected, execId),
    wasKilled: (execId) => killed.has(execId),
  }
}

function remember(set: Set<string>, execId: string): void {
  set.add(execId)
  if (set.size > REMEMBERED_EXECS) set.delete(set.values().next().value!)
}
