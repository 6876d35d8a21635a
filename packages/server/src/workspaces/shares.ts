import { DeltaError } from '../kernel/errors.ts'

export interface ShareLimits {
  /** At once, by all. */
  total: number
  /** At once, by one account. */
  perAccount: number
  /** Of one account; one more is refused. */
  waiting: number
}

export interface Shares {
  /** Resolves when it is the account's turn, with what gives the place back. */
  take(accountId: string): Promise<() => void>
}

interface Account {
  used: number
  waiting: (() => void)[]
}

/** Places that accounts take turns at: whoever asks for many waits for its own, not others for it. */
export function createShares({ total, perAccount, waiting }: ShareLimits): Shares {
  /** In the order in which they are next: whoever was served goes to the end. */
  const accounts = new Map<string, Account>()
  let used = 0

  function serve(): void {
    for (const [accountId, account] of Array.from(accounts)) {
      if (used >= total) return
      if (account.used >= perAccount) continue
      const begin = account.waiting.shift()
      if (!begin) continue
      used += 1
      account.used += 1
      accounts.delete(accountId)
      accounts.set(accountId, account)
      begin()
    }
  }

  function giveBack(accountId: string): void {
    const account = accounts.get(accountId)!
    used -= 1
    account.used -= 1
    if (account.used === 0 && account.waiting.length === 0) accounts.delete(accountId)
    serve()
  }

  return {
    async take(accountId) {
      const account = accounts.get(accountId) ?? { used: 0, waiting: [] }
      if (account.waiting.length >= waiting) {
        throw new DeltaError('too_many_requests', `${waiting} of your requests wait for others to end already`)
      }
      accounts.set(accountId, account)
      const { promise, resolve } = Promise.withResolvers<void>()
      account.waiting.push(resolve)
      serve()
      await promise
      let isTaken = true
      return () => {
        if (isTaken) giveBack(accountId)
        isTaken = false
      }
    },
  }
}
