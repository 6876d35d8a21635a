import { knownCallerOf, mayReach } from '../../access/callers/door.ts'
import { DeltaError } from '../../kernel/errors.ts'
import type { Caller } from '../../kernel/http/api.ts'
import { beyond, type EgressPolicy } from './rules.ts'

/** Throws where `after` lets programs reach what `before` does not and the caller may not either. */
export type CheckReach = (after: EgressPolicy, before: EgressPolicy) => void

/** To let a sandbox reach a host takes the right `egress` for that host, beside that to change the sandbox; what it reaches already takes none. */
export function checkReachOf(caller: Caller): CheckReach {
  return (after, before) => {
    for (const host of beyond(after, before)) {
      checkHost(caller, host, '; a person can be asked with POST /v1/sandboxes/{id}/network/requests')
    }
  }
}

/** Throws where the caller may not have the server fetch something from that host. */
export function checkHostOf(caller: Caller): (host: string) => void {
  return (host) => checkHost(caller, host)
}

function checkHost(caller: Caller, host: string, otherwise = ''): void {
  const { principal, actorId } = knownCallerOf(caller)
  if (mayReach(principal, host)) return
  const right = `egress:${host}`
  throw new DeltaError('forbidden', `This needs the right ${right}, and ${actorId} does not have it${otherwise}`, {
    context: { right },
  })
}
