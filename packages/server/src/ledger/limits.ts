/** Every bound of the ledger. */
export const ledgerLimits = {
  /** Accounts whose period is remembered; for others it is looked up. */
  accountsKnown: 10_000,
  /** Purses of one account that are not archived: a roll-over decides on all of them in one step, a tenth of a millisecond each. */
  livingPurses: 10_000,
  /** Accounts that are rolled over at once, all in memory. */
  rolledAtOnce: 10,
  /** Holds of dead owners, or accounts of a month that is over, that are looked up at once. */
  swept: 500,
  /** How often accounts of a month that is over are looked for: each is rolled over before it is used, this is for those that are not. */
  monthsMs: 600_000,
  /** How often a server that shares its database says that it lives, and looks for those that do not. */
  heartbeatMs: 30_000,
  /** One that was not heard of for so long is dead. */
  ownerDeadMs: 90_000,
  /** Holds of which a connection that broke left open whether they were made: they are looked for and released. */
  holdsInDoubt: 10_000,
  /** How much more than before is held for a meter whose cost went beyond its hold. */
  boundFactor: 4,
  /** Meters whose bound was raised. */
  boundMeters: 1_000,
  /** Of an account's holds, for what a task has spent just before its server died. */
  lookedBack: 5_000,
} as const
