import type { AgentKind } from './principal.ts'
import type { Right } from './rights.ts'

/** What tokens of an agent must know of it. */
export interface KnownAgent {
  id: string
  kind: AgentKind
  state: string
  /** Whether its tokens let anybody in now. */
  mayAct: boolean
  /** It is out of tokens: whatever it may, until it has some it only looks and asks. */
  isAtRest: boolean
  /** It and those above it, from the first down. News about one of these are news about it. */
  line: readonly string[]
  /** What is left of its own rights after all above it. */
  rights: readonly Right[]
}

/** The feature that keeps agents stands above this one, so it is given. Undefined where the account has no such agent. */
export type FindAgent = (agentId: string, accountId: string) => Promise<KnownAgent | undefined> | KnownAgent | undefined
