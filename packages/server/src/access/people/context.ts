import type { Clock } from '../../kernel/clock.ts'
import type { BatchStep } from '../../kernel/db/database.ts'
import type { Logger } from '../../kernel/log.ts'
import type { RecordAudit } from '../audit/entry.ts'
import type { Mail } from '../mail/events.ts'
import type { Role } from '../principal.ts'
import type { Secrets } from '../secrets.ts'
import type { Attempts } from './attempts.ts'
import type { Passwords } from './passwords.ts'
import type { PeopleStore } from './store.ts'

/** What all parts of people share. */
export interface PeopleContext {
  store: PeopleStore
  clock: Clock
  log: Logger
  secrets: Secrets
  passwords: Passwords
  attempts: Attempts
  revocations: SessionRevocations
  sendMail(mail: Mail): void
  /** Ends the keys that a person has in an account, together with what else takes them out of it. */
  endKeysSteps(userId: string, accountId: string): BatchStep[]
  /** Refuses what could not be written down in that account's audit log. */
  mustRecord(accountId: string): void
  record: RecordAudit
  settings: PeopleSettings
}

export interface PeopleSettings {
  /** Where people reach the server; the only thing that links are made of. */
  publicUrl: string
  /** `invited`: only whom somebody has invited gets a user. */
  registration: 'open' | 'invited'
}

/** Who may not go on with what they were let into, by the ids of sessions and users. */
export interface SessionRevocations {
  /** Raised by each revocation. */
  readonly count: number
  /** To be written together with the change they are about, and then to be heard. */
  steps(ids: readonly string[]): BatchStep[]
  heard(ids: readonly string[]): void
  /** Whether one of these was revoked after the count was `since`. */
  isRevoked(ids: readonly string[], since: number): boolean
  onRevoked(listener: (id: string) => void): void
}

/** Where a request came from, as far as anybody can tell. */
export interface Origin {
  address: string | undefined
  client: string | undefined
}

/** Who asks for a change of an account. */
export interface Actor {
  accountId: string
  actorId: string
  role: Role
  userId?: string
}

/** A person in a session of theirs. */
export interface SessionActor extends Actor {
  userId: string
  sessionId: string
  secondFactor: boolean
}
