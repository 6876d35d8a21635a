import type { Clock } from '../../kernel/clock.ts'
import { DeltaError } from '../../kernel/errors.ts'
import { createPortConnections } from './connections.ts'
import type { Open, OpenEnd } from './open.ts'
import { portLimits } from './schema.ts'

/** Deadlines are looked at this often, so that none costs a timer of its own. */
const sweepMs = 500

export interface Place {
  /** What took the place, for its deadline and for being cut. */
  occupy(open: Open): void
  leave(): void
}

export type Gateway = ReturnType<typeof createGateway>

/** Everything that goes through ports at a moment: how much of it there may be, how long it may stand still, and its end. */
export function createGateway({ clock }: { clock: Clock }) {
  const places = new Map<Place, { sandboxId: string; isPublic: number | undefined; open: Open | undefined }>()
  const perSandbox = new Map<string, number>()
  const nowMs = () => clock.monotonic()
  const connections = createPortConnections({ nowMs, ...portLimits })
  let sweeping: AbortController | undefined
  let stopped = false
  let served = 0

  function enter(sandboxId: string, publicPort: number | undefined): Place {
    if (stopped) throw new DeltaError('shutting_down', 'The server is stopping')
    const here = perSandbox.get(sandboxId) ?? 0
    if (here >= portLimits.openPerSandbox)
      throw tooMany(`${here} requests go through the ports of this sandbox already`)
    if (places.size >= portLimits.open) throw tooMany(`${places.size} requests go through ports already`)
    perSandbox.set(sandboxId, here + 1)
    served += 1
    const place: Place = {
      occupy(open) {
        const mine = places.get(place)
        if (mine) mine.open = open
      },
      leave() {
        if (!places.delete(place)) return
        const left = perSandbox.get(sandboxId)! - 1
        if (left === 0) perSandbox.delete(sandboxId)
        else perSandbox.set(sandboxId, left)
      },
    }
    places.set(place, { sandboxId, isPublic: publicPort, open: undefined })
    if (!sweeping) void sweep((sweeping = new AbortController()))
    return place
  }

  async function sweep(own: AbortController): Promise<void> {
    while (places.size > 0 || connections.idle > 0) {
      await clock.sleep(sweepMs, own.signal).catch(() => undefined)
      if (own.signal.aborted) return
      connections.sweep()
      const now = nowMs()
      for (const { open } of Array.from(places.values())) if (open && open.deadlineMs <= now) open.expire()
    }
    sweeping = undefined
  }

  /** Ends what came in without a token through ports of this sandbox that are public no longer. */
  function cutPublic(sandboxId: string, stillPublic: ReadonlySet<number>, reason: OpenEnd): void {
    for (const place of Array.from(places.values())) {
      if (place.sandboxId !== sandboxId || place.isPublic === undefined || stillPublic.has(place.isPublic)) continue
      place.open?.cut(reason)
    }
  }

  function stop(): void {
    stopped = true
    sweeping?.abort()
    for (const { open } of Array.from(places.values()))
      open?.cut(new DeltaError('shutting_down', 'The server is stopping'))
  }

  return {
    enter,
    cutPublic,
    stop,
    deps: { connections, nowMs },
    counts: () => ({ open: places.size, idle: connections.idle, served }),
  }
}

function tooMany(message: string): DeltaError {
  return new DeltaError('port_limit_reached', message)
}
