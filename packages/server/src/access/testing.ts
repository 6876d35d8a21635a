import { systemClock } from '../kernel/clock.ts'
import { createCallerDoor } from './authenticate.ts'
import type { CallerDoor, KnownCaller } from './door.ts'
import { actorIdOf, type KeyPrincipal, type Principal } from './principal.ts'
import { rightsOfRole } from './rights.ts'

/** An owner's key with every right, unless it is said otherwise. */
export function testKeyPrincipal(changes: Partial<KeyPrincipal> = {}): KeyPrincipal {
  return {
    kind: 'key',
    accountId: 'acc_default',
    keyId: 'key_test',
    role: 'owner',
    rights: rightsOfRole('owner'),
    ...changes,
  }
}

export function testCaller(principal: Principal = testKeyPrincipal()): KnownCaller {
  const actorId = actorIdOf(principal)
  return { accountId: principal.accountId, actorId, principal, ties: [actorId], since: 0 }
}

/** Lets everybody ask as often as they like. */
export async function uncounted(): Promise<void> {}

/** Knows these bearer texts, and no other; without any it takes whatever comes for an owner's key. */
export function testDoor(callers?: Record<string, Principal>): CallerDoor {
  const read = (token: string): KnownCaller | null => {
    if (!callers) return testCaller()
    return Object.hasOwn(callers, token) ? testCaller(callers[token]) : null
  }
  return createCallerDoor({
    readers: [{ fits: () => true, read }],
    revocations: { isRevoked: () => false, onRevoked: () => {} },
    clock: systemClock,
  })
}
