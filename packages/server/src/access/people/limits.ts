const minute = 60_000
const hour = 60 * minute
const day = 24 * hour

/** Every bound of people, sessions and mails' links, with its unit in the name. */
export const peopleLimits = {
  emailChars: 254,
  nameChars: 100,
  password: { minChars: 10, maxChars: 256 },
  /** A session token is good for so long; what it says of a role is looked up anew all the time. */
  accessTokenMs: 10 * minute,
  /** A session that is not refreshed for so long is over. */
  refreshTokenMs: 30 * day,
  /** No session lives longer, however often it is refreshed. */
  sessionMs: 90 * day,
  sessionsOfUser: 100,
  accountsOfUser: 100,
  membersOfAccount: 1_000,
  invitationsOfAccount: 200,
  linkMs: { verify: day, reset: hour, signin: hour, owner: hour, invitation: 7 * day },
  /** Links of one kind that one address may have open at once; the oldest goes. */
  linksOfEmail: 5,
  /** Codes that may be tried with one sign-in link; then the link is over. */
  codesOfLink: 5,
  /** Of a day (UTC): what one account sends, to one address, and what one address is sent by all accounts. */
  invitationsADay: { ofAccount: 100, toAddress: 3, toAddressByAll: 20 },
  /** Places from which somebody has logged in that are looked at. */
  homes: 200,
  recoveryCodes: 10,
  /** Of a time-based code. */
  totpStepMs: 30_000,
  /** Steps before and after the present one whose code is taken too. */
  totpDrift: 1,
  /** How long what the database says of a session is believed. What is taken away is heard of at once; this is far below how long such news are kept. */
  standingMs: 30_000,
  /** Tokens and sessions that are known without asking. */
  remembered: 10_000,
  /** A form of a page. */
  formBytes: 16 * 1024,
  sweepMs: hour,
  /** Sessions that are forgotten in one step; the next follows until none is over. */
  sweptAtOnce: 500,
} as const

/** OWASP's parameters of Argon2id: 19 MiB, two passes, one lane. */
export const argon2Parameters = { memory: 19_456, passes: 2, parallelism: 1, tagLength: 32 } as const

export const hashingLimits = {
  /** Passwords hashed at once: each takes 19 MiB, and a thread that others need too. */
  atOnce: 2,
  /** Passwords that wait for their turn; one more is refused with `too_many_requests`. */
  waiting: 256,
} as const

/** Wrong passwords and codes. After `free` of them in a row each next try has to wait, twice as long each time. */
export const attemptLimits = {
  /** Of one user from one address, or in one session. */
  user: { free: 5, firstMs: 1_000, longestMs: minute, forgetMs: 15 * minute },
  /** Of one user from all addresses together, but those where that user has been. */
  everywhere: { free: 100, firstMs: 1_000, longestMs: 5_000, forgetMs: 15 * minute },
  /** Codes of one user. Only who has the password or a link of theirs comes so far, so that no stranger makes anybody wait. */
  code: { free: 5, firstMs: 1_000, longestMs: 15 * minute, forgetMs: day },
  address: { free: 30, firstMs: 1_000, longestMs: minute, forgetMs: 15 * minute },
  /** Mails that one address of the net may have sent to one mailbox, and to all of them. */
  mailTo: { free: 3, firstMs: minute, longestMs: hour, forgetMs: hour },
  mailFrom: { free: 20, firstMs: minute, longestMs: hour, forgetMs: hour },
  /** Mails of one kind to one mailbox, whoever asks; but for an address from where its user has had a session. Only what is sent counts. */
  mailToByAll: { free: 6, firstMs: minute, longestMs: hour, forgetMs: day },
  /** Names that are kept; beyond it the longest unused is forgotten. */
  kept: 50_000,
} as const
