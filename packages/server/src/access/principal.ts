import type { Right } from './rights.ts'

export type Role = 'owner' | 'admin' | 'member' | 'viewer'
export type AgentKind = 'main' | 'bot' | 'messenger'

/** A person, in a session of theirs. */
export interface UserPrincipal {
  kind: 'user'
  accountId: string
  userId: string
  sessionId: string
  role: Role
  /** TOTP was shown in this session. */
  secondFactor: boolean
}

export interface KeyPrincipal {
  kind: 'key'
  accountId: string
  keyId: string
  /** Of the person it was made by or for, as it is now: a key never has more than they. */
  role: Role
  /** That person; absent for the key in the data folder, which is the operator's. */
  userId?: string
  rights: readonly Right[]
  /** Limited to these. @default all */
  agents?: readonly string[]
  /** Limited to these. @default all */
  sandboxes?: readonly string[]
}

export interface AgentPrincipal {
  kind: 'agent'
  accountId: string
  agentId: string
  agentKind: AgentKind
  /** Of its token. */
  jti: string
  /** What is left of the token's own after each of its ancestors, as they are now. */
  rights: readonly Right[]
  agents?: readonly string[]
  sandboxes?: readonly string[]
}

/** Who calls, and what bounds them. */
export type Principal = UserPrincipal | KeyPrincipal | AgentPrincipal

export function actorIdOf(principal: Principal): string {
  if (principal.kind === 'user') return principal.userId
  return principal.kind === 'key' ? principal.keyId : principal.agentId
}
