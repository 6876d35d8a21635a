import { DeltaError } from '../../kernel/errors.ts'
import type { AttemptRule, Attempts } from './attempts.ts'
import { addressName } from './attempts.ts'
import { attemptLimits } from './limits.ts'
import { hashOf } from './links.ts'
import type { Lane } from './turns.ts'

export interface Throttle {
  /** Refuses whoever has to wait. */
  check(): Promise<void>
  failed(): Promise<void>
  succeeded(): Promise<void>
}

interface Counted {
  name: string
  rule: AttemptRule
  /** Who does not have to wait for it. */
  spares?: () => Promise<boolean>
}

export interface Trying {
  email: string
  address: string | undefined
  /** Whether that user has had a session from that address. */
  isAtHome: () => Promise<boolean>
}

/**
 * For one who tries passwords: by who they say they are and where they come from, and by each of the two alone. A stranger's tries must not keep somebody from
 * their own user: what counts for everybody together is let pass by whoever comes from where that user has been before.
 */
export function throttleLogin(attempts: Attempts, { email, address, isAtHome }: Trying): Throttle {
  const from = addressName(address)
  const here = { name: `login user ${hashOf(email)} from ${from}`, rule: attemptLimits.user }
  const everywhere = { name: `login user ${hashOf(email)}`, rule: attemptLimits.everywhere, spares: isAtHome }
  const ofAddress = { name: `login address ${from}`, rule: attemptLimits.address }
  const throttle = throttleOf(attempts, [here, everywhere, ofAddress], 'Too many wrong passwords')
  return {
    ...throttle,
    // Whoever has a user of their own must not be able to make the server forget what their address has tried of others.
    async succeeded() {
      await attempts.forget(here.name)
      await attempts.forget(everywhere.name)
    },
  }
}

/** For one in a session of theirs who shows the password once more: nobody else's tries count. */
export function throttleSession(attempts: Attempts, sessionId: string): Throttle {
  const session = { name: `login session ${sessionId}`, rule: attemptLimits.user }
  const throttle = throttleOf(attempts, [session], 'Too many wrong passwords')
  return { ...throttle, succeeded: async () => attempts.forget(session.name) }
}

/** For one who has mails sent. Each counts, whether it was sent or not; what others ask for counts for nobody else. */
export function throttleMail(attempts: Attempts, email: string, address: string | undefined): Throttle {
  const asker = addressName(address)
  const to = { name: `mail to ${hashOf(email)} from ${asker}`, rule: attemptLimits.mailTo }
  const from = { name: `mail from ${asker}`, rule: attemptLimits.mailFrom }
  return throttleOf(attempts, [to, from], 'Too many mails were asked for')
}

/**
 * Whether a mailbox may be sent another mail of that kind; true counts it. A stranger's mails hold as good a link as anybody's, so whoever gets no other has theirs.
 */
export async function takeMail(
  attempts: Attempts,
  kind: 'registration' | 'reset',
  { email, isAtHome }: Pick<Trying, 'email' | 'isAtHome'>,
): Promise<boolean> {
  const [name, rule] = [`mail ${kind} to ${hashOf(email)}`, attemptLimits.mailToByAll]
  const found = attempts.look(name, rule)
  // In this process nothing comes between looking and counting, so that what is asked for at once is not sent at once.
  const { waitMs } = found instanceof Promise ? await found : found
  if (waitMs > 0) return isAtHome()
  const counted = attempts.failed(name, rule)
  if (counted instanceof Promise) await counted
  return true
}

/** By which turns at hashing passwords go round. */
export function laneOf(email: string, address: string | undefined): Lane {
  return { group: addressName(address), name: hashOf(email) }
}

function throttleOf(attempts: Attempts, counted: Counted[], message: string): Throttle {
  return {
    async check() {
      for (const { name, rule, spares } of counted) {
        const { failures, waitMs } = await attempts.look(name, rule)
        if (waitMs > 0 && !(await spares?.())) throw tooMany(message, { failures, waitMs, rule })
      }
    },
    async failed() {
      for (const { name, rule } of counted) await attempts.failed(name, rule)
    },
    succeeded: async () => {},
  }
}

export function tooMany(
  message: string,
  { failures, waitMs, rule }: { failures: number; waitMs: number; rule: AttemptRule },
): DeltaError {
  return new DeltaError('too_many_requests', message, {
    context: { limit: rule.free, windowMs: rule.forgetMs, count: failures, retryAfterMs: Math.ceil(waitMs) },
  })
}
