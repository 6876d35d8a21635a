import { createHmac } from 'node:crypto'
import { DeltaError } from '../../kernel/errors.ts'
import { createBox } from '../secrets.ts'
import type { AttemptState } from './attempts.ts'
import { pauseMs } from './attempts.ts'
import type { PeopleContext, SessionActor } from './context.ts'
import { attemptLimits } from './limits.ts'
import type { TotpRow, UserRow } from './store.ts'
import { tooMany } from './throttle.ts'
import { matchingStep, newRecoveryCodes, newTotpSecret, readRecoveryCode, totpUri } from './totp.ts'

export type SecondFactor = ReturnType<typeof createSecondFactor>

type SecondFactorDeps = Pick<PeopleContext, 'store' | 'clock' | 'secrets'>

const rule = attemptLimits.code
/** Looks at a count that others change at the same moment. After `free` of them each has to wait. */
const countLooks = 2 * rule.free

/** Codes of an app (TOTP), and ten that are good once each for who has lost it. */
export function createSecondFactor({ store, clock, secrets }: SecondFactorDeps) {
  const box = createBox(secrets.deriveKey('totp'))
  const recoveryKey = secrets.deriveKey('recovery codes')
  // With a key that is not in the database: 50 bits alone could be tried out.
  const hashOf = (userId: string, code: string) =>
    createHmac('sha256', recoveryKey).update(`${userId} ${code}`).digest('hex')
  const hashed = (userId: string, codes: string[]) => codes.map((code) => hashOf(userId, readRecoveryCode(code)!))
  const secretOf = (userId: string, sealed: string): string => {
    const secret = box.open(sealed, `totp ${userId}`)
    if (secret !== undefined) return secret
    throw new DeltaError('second_factor_unreadable', 'The second factor was stored under another SECRET_KEY')
  }

  /** In the database, so that of codes tried at once, at whichever servers, each is one more. Undefined: the second factor is off. */
  async function countTry(userId: string): Promise<TotpRow | undefined> {
    for (let looks = 0; looks < countLooks; looks++) {
      const row = await store.totp(userId)
      if (row?.confirmed_at == null) return undefined
      const now = clock.now()
      const { failures, waitMs } = codeState(row, now)
      if (waitMs > 0) throw tooManyCodes(failures, waitMs)
      const nextAt = now + pauseMs(failures + 1, rule)
      if (await store.countCode(row, { failures: failures + 1, nextAt })) return row
    }
    throw tooManyCodes(rule.free, rule.firstMs)
  }

  async function isOn(userId: string): Promise<boolean> {
    return (await store.totp(userId))?.confirmed_at != null
  }

  return {
    isOn,

    /** Whether this is a code that is good now. It is counted before it is looked at, and used up by being asked for. */
    async spend(
      userId: string,
      code: string,
      { alsoCount }: { alsoCount?: () => Promise<void> } = {},
    ): Promise<boolean> {
      const row = await countTry(userId)
      if (!row) return false
      await alsoCount?.()
      const secret = secretOf(userId, row.secret)
      const recovery = readRecoveryCode(code)
      if (recovery !== undefined) return store.useRecoveryCode(userId, hashOf(userId, recovery))
      const step = matchingStep(secret, code, clock.now())
      return step !== undefined && (await store.useStep(userId, step))
    },

    /** What the app needs. It is asked for only from when a code of it has been shown. */
    async prepare(user: Pick<UserRow, 'id' | 'email'>): Promise<{ secret: string; uri: string }> {
      const secret = newTotpSecret()
      const sealed = box.seal(secret, `totp ${user.id}`)
      const row = { user_id: user.id, secret: sealed, confirmed_at: null, last_step: 0, failures: 0, next_at: 0 }
      if (!(await store.prepareTotp(row))) throw alreadyOn()
      return { secret, uri: totpUri(secret, user.email) }
    },

    async confirm({ userId }: SessionActor, code: string): Promise<string[]> {
      const row = await store.totp(userId)
      if (!row) throw notOn()
      if (row.confirmed_at !== null) throw alreadyOn()
      const step = matchingStep(secretOf(userId, row.secret), code, clock.now())
      if (step === undefined) throw codeInvalid()
      const codes = newRecoveryCodes()
      const confirmed = await store.confirmTotp(userId, { step, now: clock.now(), codes: hashed(userId, codes) })
      if (!confirmed) throw alreadyOn()
      return codes
    },

    async newCodes({ userId }: SessionActor): Promise<string[]> {
      if (!(await isOn(userId))) throw notOn()
      const codes = newRecoveryCodes()
      await store.replaceRecoveryCodes(userId, hashed(userId, codes))
      return codes
    },

    async turnOff({ userId }: { userId: string }): Promise<void> {
      if (!(await isOn(userId))) throw notOn()
      await store.removeTotp(userId)
    },
  }
}

/** No pause is longer than the longest: one that seems so is of a clock that was set back since. */
function codeState({ failures, next_at }: Pick<TotpRow, 'failures' | 'next_at'>, now: number): AttemptState {
  const pause = pauseMs(Number(failures), rule)
  const leftMs = Number(next_at) - now
  if (Number(failures) === 0 || -leftMs + pause >= rule.forgetMs) return { failures: 0, waitMs: 0 }
  return { failures: Number(failures), waitMs: leftMs > rule.longestMs ? 0 : Math.max(0, leftMs) }
}

function tooManyCodes(failures: number, waitMs: number): DeltaError {
  return tooMany('Too many wrong codes', { failures, waitMs, rule })
}

export function codeInvalid(): DeltaError {
  return new DeltaError('code_invalid', 'The code is not right, or was used before')
}

function alreadyOn(): DeltaError {
  return new DeltaError('totp_state_conflict', 'The second factor is on already')
}

function notOn(): DeltaError {
  return new DeltaError('totp_state_conflict', 'The second factor is not on')
}
