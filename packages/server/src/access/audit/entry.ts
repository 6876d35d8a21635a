/** `begun`: what takes long is written down before it is done; `refused` and `failed` then follow as entries of their own. */
export type AuditOutcome = 'done' | 'begun' | 'refused' | 'failed'

export type AuditDetails = Readonly<Record<string, string | number | boolean | null>>

/** What somebody did or was refused. Never a secret, and nothing of the content of files, commands and messages. */
export interface AuditEntry {
  accountId: string
  /** `usr_…`, `key_…`, `agt_…`, or `platform` for what the server did by itself. */
  actorId: string
  /** An operation of the API by its `operationId`, such as `createSandbox`, or what happened, such as `approval.expired`. */
  action: string
  /** The id of what it was done to, or the name of a workspace, volume or template. */
  target?: string | undefined
  outcome: AuditOutcome
  /** The error code of a refusal or failure. */
  reason?: string | undefined
  details?: AuditDetails | undefined
  requestId?: string | undefined
  /** Where the request came from. */
  address?: string | undefined
}

/** Resolves when the entry is durable. */
export type RecordAudit = (entry: AuditEntry) => Promise<void>

export const auditLimits = {
  /** Of action, target, actor, reason and each text of the details; what is longer is cut. */
  textChars: 200,
  details: 16,
  /** Entries that wait for the database; beyond it what would be audited is refused before it is done. */
  waiting: 10_000,
  /** Entries that share a commit. */
  group: 512,
  /** Rows of one insert. */
  rows: 64,
  /** Tries of a group that lost to another server, or to a database that was away. */
  tries: 20,
  /** From then on what would be audited is refused before it is done. */
  lateMs: 2_000,
  /** A head is signed after so many entries, or so long after the first that no head has. */
  headEntries: 1_000,
  headMs: 60_000,
  /** At most one head in this time, whatever comes in: an hour's heads fit into one document. */
  headLeastMs: 1_000,
  /** Accounts whose last link is known without asking. */
  accounts: 10_000,
  page: { max: 500, default: 100 },
  exportRows: 1_000,
} as const
