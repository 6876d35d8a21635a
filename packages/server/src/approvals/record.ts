export const approvalStates = ['pending', 'approved', 'executed', 'failed', 'refused', 'expired', 'canceled'] as const
export type ApprovalState = (typeof approvalStates)[number]

/** Who asks, as far as it matters to who may decide. */
export interface Asker {
  /** The person, key or agent. */
  actorId: string
  /** The person, also behind a key; null for agents and the operator’s key. */
  userId: string | null
  /** Ids of all that lets them in: the keys and sessions that an agent descends from, and whose they are. */
  ties: readonly string[]
  /** Of agents the whole line, since a name alone is whatever the maker of a token wrote; of others the same as `actorId`. */
  line: string
  /** Whoever answers for it: the person, or the key in the data folder. */
  root: string
}

export interface ApprovalRecord {
  id: string
  accountId: string
  kind: string
  /** Canonical JSON. */
  action: string
  /** Its SHA-256. */
  actionHash: string
  state: ApprovalState
  asker: Asker
  reason: string
  /** The sandbox that it is about. */
  sandboxId: string | null
  askedAt: number
  expiresAt: number
  decidedBy: string | null
  decidedAt: number | null
  /** Why it was refused. */
  refusal: string | null
  /** When doing it was begun last. */
  begunAt: number | null
  tries: number
  /** Of what is approved: until then it is somebody's to do. */
  leaseUntil: number | null
  endedAt: number | null
  failureCode: string | null
  failureText: string | null
  /** Numbers the changes of an account. */
  changed: number
}
