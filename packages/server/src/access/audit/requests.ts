import type { MiddlewareHandler } from 'hono'
import { DeltaError } from '../../kernel/errors.ts'
import type { ApiContext, ApiEnv, Caller } from '../../kernel/http/api.ts'
import type { KnownCaller } from '../door.ts'
import type { AuditDetails, AuditEntry } from './entry.ts'
import type { Audit } from './service.ts'
import { targetOf } from './target.ts'

/** Written down beside the doing: to wait for the entry afterwards would cost a command a tenth of its time. */
const ahead = new Set([
  'createExec',
  'runCode',
  'createTerminal',
  'createAgentExec',
  'execAgent',
  'runAgentCode',
  'createAgentTerminal',
])
/** Part of what was begun by an entry of its own, and as frequent as keys are pressed: only where it is refused or fails. */
const unheard = new Set([
  'writeStdin',
  'resizeExec',
  'resizeTerminal',
  'writeAgentStdin',
  'resizeAgentExec',
  'resizeAgentTerminal',
])

/**
 * Every request that may change something is an entry before its answer leaves, also one that was refused to a known caller; of what
 * only looks, that for which the right was missing. What somebody unknown sends belongs to no account: it is in the log and the metrics only.
 */
export function auditRequests(audit: Pick<Audit, 'record' | 'mustWork'>): MiddlewareHandler<ApiEnv> {
  async function look(c: ApiContext, next: () => Promise<void>): Promise<void> {
    const caller = c.get('caller')
    await next()
    const operation = c.get('operation')
    if (operation === undefined || !caller || !(c.error instanceof DeltaError) || c.error.code !== 'forbidden') return
    audit.mustWork(caller.accountId)
    await audit.record(entryOf(c, caller, { operation, ...outcomeOf(c) }))
  }

  return async (c, next) => {
    if (isSafe(c.req.method)) return look(c, next)
    // As it came: what is hidden from a caller is looked for as nobody's.
    const caller = c.get('caller')
    audit.mustWork(caller?.accountId)
    let begun: Promise<void> | undefined
    c.set('onOperation', (operation) => {
      if (caller && ahead.has(operation)) begun = audit.record(entryOf(c, caller, { operation, outcome: 'begun' }))
      // Waited for below.
      begun?.catch(() => undefined)
    })
    await next()
    await begun
    const operation = c.get('operation')
    if (operation === undefined || !caller) return
    const outcome = outcomeOf(c)
    if ((begun || unheard.has(operation)) && outcome.outcome === 'done') return
    await audit.record(entryOf(c, caller, { operation, ...outcome }))
  }
}

/** A request with somebody's key or session that was refused before it had a route: by the name it was sent to, or for the page that had it sent. */
export function auditRefusals({ record }: Pick<Audit, 'record'>) {
  return (c: ApiContext, caller: KnownCaller, { code }: DeltaError): Promise<void> =>
    record({
      ...entryOf(c, caller, { operation: 'request.refused', outcome: 'refused', reason: code }),
      details: {
        ...detailsOf(c, caller),
        method: c.req.method,
        host: c.req.header('host') ?? null,
        origin: c.req.header('origin') ?? null,
      },
    })
}

function isSafe(method: string): boolean {
  return method === 'GET' || method === 'HEAD' || method === 'OPTIONS'
}

function outcomeOf(c: ApiContext): Pick<AuditEntry, 'outcome' | 'reason'> {
  const { error } = c
  if (!error) return { outcome: 'done' }
  if (error instanceof DeltaError) {
    return { outcome: error.status >= 500 ? 'failed' : 'refused', reason: error.code }
  }
  return { outcome: 'failed', reason: 'internal' }
}

/** By these an agent's act leads back to the token that was used, to the agents above it and to the key or session at the root. */
function detailsOf(
  c: ApiContext,
  { principal, parents, above }: Caller & Partial<KnownCaller>,
): AuditDetails | undefined {
  const told = c.get('told')
  if (principal?.kind !== 'agent') return told
  return { token: principal.jti, root: parents?.[0] ?? null, above: above?.join(' ') || null, ...told }
}

function entryOf(
  c: ApiContext,
  caller: Caller,
  { operation, ...outcome }: Pick<AuditEntry, 'outcome' | 'reason'> & { operation: string },
): AuditEntry {
  const { accountId, actorId } = caller
  const { req } = c
  return {
    accountId,
    actorId,
    action: operation,
    target: c.get('made') ?? targetOf(req.param('id') ?? req.param('name') ?? req.param('template'), req.path),
    ...outcome,
    details: detailsOf(c, caller),
    requestId: c.get('requestId'),
    address: c.get('address'),
  }
}
