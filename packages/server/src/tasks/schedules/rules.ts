import { decide, type Principal } from '../../access/callers/door.ts'
import { scheduleLimits } from './limits.ts'
import type { MissedPolicy, SkipReason, Timing } from './record.ts'
import { lastTimes, nextTime } from './times.ts'

/** Pure decisions about schedules: who may see and change them, and which runs are due. */

export interface PlannedRun {
  at: number
  skipped: SkipReason | null
}

/** What is due of a schedule whose next time has come, and when its next one is. A time was missed if the one after it has come too, or it is late. */
export function planOf(
  { missed, ...timing }: Timing & { missed: MissedPolicy },
  { nextAt, now }: { nextAt: number; now: number },
): { runs: PlannedRun[]; nextAt: number | null } {
  const found = lastTimes(timing, { from: nextAt, until: now, most: scheduleLimits.madeUp })
  // The rules of its time zone may have changed since `nextAt` was found; it was promised all the same.
  const due = found.length > 0 ? found : [nextAt]
  const last = due.at(-1)!
  const isLate = now - last > scheduleLimits.lateMs
  const times = missed === 'all' ? due : [last]
  const runs = times.map((at) => ({ at, skipped: missed === 'skip' && isLate ? ('missed' as const) : null }))
  return { runs, nextAt: nextTime(timing, Math.max(now, last)) }
}

/** The same for every server and at every try. */
export function runKeyOf(scheduleId: string, at: number): string {
  return `${scheduleId}:${new Date(at).toISOString()}`
}

/** After so many tries, how long until the next one. */
export function pauseOf(tries: number): number {
  const { first, longest } = scheduleLimits.pauseMs
  return Math.min(longest, first * 2 ** (tries - 1))
}

/** The agents whose schedules somebody sees: an agent its own. Undefined: all. Null: none. */
export function sightOf(principal: Principal): readonly string[] | undefined | null {
  const seen = decide(principal, { right: 'read:tasks', resource: 'agent' })
  if (principal.kind === 'agent') {
    const isOwnSeen = decide(principal, { right: 'read:tasks', resource: 'agent', id: principal.agentId }).allowed
    return isOwnSeen ? [principal.agentId] : null
  }
  return seen.allowed ? seen.only : null
}

export function maySee(principal: Principal, agentId: string): boolean {
  const sight = sightOf(principal)
  return sight !== null && (sight === undefined || sight.includes(agentId))
}

/** An agent makes schedules for itself alone: what others do while it rests is not its to say. */
export function mayChange(principal: Principal, agentId: string): boolean {
  if (principal.kind === 'agent' && principal.agentId !== agentId) return false
  return decide(principal, { right: 'write:tasks', resource: 'agent', id: agentId }).allowed
}
