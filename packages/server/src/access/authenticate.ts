import type { Clock } from '../kernel/clock.ts'
import { DeltaError } from '../kernel/errors.ts'
import type { Caller } from '../kernel/http/api.ts'
import { needsText } from '../kernel/http/needs.ts'
import { bearerChars, type CallerDoor, type CallerEnd, type KnownCaller } from './door.ts'
import { createHolds } from './holds.ts'
import { decide, needOf } from './policy.ts'
import type { Principal } from './principal.ts'
import { readEnding, type Revocations } from './revocations.ts'

/** Knows bearer tokens of one kind. */
export interface TokenReader {
  /** Whether it is of this kind, by its form alone. The first reader that says so is the only one asked. */
  fits(token: string): boolean
  read(token: string): KnownCaller | null | Promise<KnownCaller | null>
}

export interface CallerDoorDeps {
  readers: readonly TokenReader[]
  revocations: Pick<Revocations, 'isRevoked' | 'onRevoked'>
  clock: Clock
}

const bearer = new RegExp(`^Bearer +([\\x21-\\x7e]{1,${bearerChars}})$`, 'i')

/** The account of nobody: nothing is ever in it. */
const nobodysAccountId = 'acc_nobody'

export function createCallerDoor({ readers, revocations, clock }: CallerDoorDeps): CallerDoor & { stop(): void } {
  const holds = createHolds<CallerEnd>(clock)
  revocations.onRevoked((news) => {
    const { id, at } = readEnding(news)
    if (at === undefined) holds.end(id, 'revoked')
    else holds.limit(id, at)
  })

  const isOver = (caller: object): boolean =>
    isKnown(caller) &&
    ((caller.expiresAt !== undefined && caller.expiresAt <= clock.now()) ||
      revocations.isRevoked(caller.ties, caller.since))

  return {
    authenticate({ authorization }) {
      const token = authorization === undefined ? undefined : bearer.exec(authorization)?.[1]
      if (token === undefined) return null
      const reader = readers.find(({ fits }) => fits(token))
      return reader ? reader.read(token) : null
    },
    admit(caller, needs, id) {
      if (needs === 'public' || needs === 'nothing') return caller
      const decision = isKnown(caller)
        ? decide(caller.principal, needOf(needs, id))
        : ({ allowed: false, reason: 'lacks_right' } as const)
      if (decision.allowed) return decision.only ? { ...caller, only: decision.only } : caller
      if (decision.reason === 'hidden') return { ...caller, accountId: nobodysAccountId, only: [] }
      throw forbidden(caller, needsText(needs), decision.reason)
    },
    isOver,
    hold(caller, onEnd) {
      if (!isKnown(caller)) return () => {}
      if (isOver(caller)) {
        queueMicrotask(() => onEnd('revoked'))
        return () => {}
      }
      return holds.add(caller.ties, caller.expiresAt, onEnd)
    },
    stop: holds.stop,
  }
}

function isKnown(caller: object): caller is KnownCaller {
  return 'principal' in caller
}

/** For features of `access/`, to which the caller is more than an account. */
export function knownCallerOf(caller: Caller): KnownCaller {
  if (isKnown(caller)) return caller
  throw new DeltaError('unauthorized', 'The request has no API key')
}

export function principalOf(caller: Caller): Principal {
  return knownCallerOf(caller).principal
}

function forbidden({ actorId }: Caller, right: string, reason: 'lacks_right' | 'limited'): DeltaError {
  const why = reason === 'limited' ? `${actorId} is limited to some sandboxes or agents` : `${actorId} does not have it`
  return new DeltaError('forbidden', `This needs the right ${right}, and ${why}`, { context: { right } })
}
