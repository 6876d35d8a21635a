import type { FindAgent, Revocations, Right } from '../access/callers/door.ts'
import type { Clock } from '../kernel/clock.ts'
import type { Database } from '../kernel/db/database.ts'
import { isId } from '../kernel/ids.ts'
import { effective, mayAuthenticate } from './rules.ts'
import { agentLimits } from './schema.ts'
import { type AgentRecord, createAgentStore } from './store.ts'

export interface Known {
  agent: AgentRecord
  /** It and those above it, from the first down. */
  line: readonly string[]
  /** What it may. */
  rights: readonly Right[]
}

export interface DirectoryDeps {
  database: Database
  revocations: Pick<Revocations, 'count' | 'isRevoked' | 'onRevoked'>
  clock: Clock
}

export type Directory = ReturnType<typeof createDirectory>

/** A server that lost the news of a change, with its connection to the database, goes on for so long at most. */
const trustedMs = 30_000

/**
 * Agents with all above them: one indexed read, remembered until something of the line changes. News of that come as revocations of the agent's id, so that they reach other servers,
 * tokens and open streams by the same way.
 */
export function createDirectory({ database, revocations, clock }: DirectoryDeps) {
  const store = createAgentStore(database)
  const known = new Map<string, { found: Known; readMs: number }>()
  const below = new Map<string, Set<string>>()

  const forget = (id: string): void => {
    for (const above of known.get(id)?.found.line ?? []) {
      const ids = below.get(above)
      if (ids?.delete(id) && ids.size === 0) below.delete(above)
    }
    known.delete(id)
  }

  const remember = (found: Known): void => {
    const { id } = found.agent
    forget(id)
    if (known.size >= agentLimits.known) forget(known.keys().next().value!)
    known.set(id, { found, readMs: clock.monotonic() })
    for (const above of found.line) {
      const ids = below.get(above)
      if (ids) ids.add(id)
      else below.set(above, new Set([id]))
    }
  }

  /** Of it and all below it. */
  const changed = (id: string): void => {
    for (const one of Array.from(below.get(id) ?? [])) forget(one)
  }
  revocations.onRevoked((id) => {
    if (isId('agt', id)) changed(id)
  })

  /** Undefined where the account has none of that id. What is remembered is asked for the account's own alone: somebody else's costs as much work as one that never was. */
  async function find(id: string, accountId: string): Promise<Known | undefined> {
    const one = known.get(id)
    if (one?.found.agent.accountId === accountId && clock.monotonic() - one.readMs < trustedMs) return one.found
    if (!isId('agt', id)) return undefined
    const since = revocations.count
    const records = await store.lookUpLine(id)
    const found = knownOf(records)
    if (found?.agent.accountId !== accountId) return undefined
    if (!revocations.isRevoked(found.line, since)) remember(found)
    return found
  }

  const findAgent: FindAgent = async (id, accountId) => {
    const found = await find(id, accountId)
    if (!found) return undefined
    const { kind, state } = found.agent
    const { line, rights } = found
    return { id, kind, state, mayAct: mayAuthenticate(state), isAtRest: state === 'suspended', line, rights }
  }

  return { find, findAgent, changed, store }
}

/** Of a line as it was read. One that is being made, or whose making is undone, is not there. */
export function knownOf(line: readonly AgentRecord[]): Known | undefined {
  const agent = line.at(-1)
  if (!agent || agent.state === 'creating' || agent.state === 'undoing') return undefined
  return { agent, line: line.map(({ id }) => id), rights: effective(line.map(({ rights }) => rights)) }
}
