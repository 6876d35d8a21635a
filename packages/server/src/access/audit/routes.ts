import { z } from '@hono/zod-openapi'
import type { ErrorCode } from '../../kernel/errors.ts'
import type { Api, Feature } from '../../kernel/http/api.ts'
import { json } from '../../kernel/http/document.ts'
import { createRoute } from '../../kernel/http/route.ts'
import { sendStream } from '../../kernel/http/stream.ts'
import type { Link } from './chain.ts'
import { auditHeadSchema, auditListSchema, auditQuerySchema } from './schema.ts'
import type { Audit, ExportLine } from './service.ts'

const tags = ['audit']
const ofDatabase: readonly ErrorCode[] = ['database_busy', 'database_unavailable', 'database_failed']

const listAuditRoute = createRoute({
  method: 'get',
  path: '/v1/audit',
  operationId: 'listAudit',
  needs: 'read:audit',
  tags,
  refuses: ofDatabase,
  summary: 'What was done and refused in the account, newest first',
  request: { query: auditQuerySchema },
  responses: { 200: json('A page of it', auditListSchema) },
})

const getAuditHeadRoute = createRoute({
  method: 'get',
  path: '/v1/audit/head',
  operationId: 'getAuditHead',
  needs: 'read:audit',
  tags,
  refuses: ofDatabase,
  summary: 'How far the chain goes, and the key that signs its heads',
  responses: { 200: json('The head', auditHeadSchema) },
})

const exportAuditRoute = createRoute({
  method: 'get',
  path: '/v1/audit/export',
  operationId: 'exportAudit',
  needs: 'read:audit',
  tags,
  refuses: [...ofDatabase, 'storage_unavailable', 'storage_failed'],
  summary: 'The whole chain with its signed heads, to be kept and verified elsewhere',
  responses: {
    200: {
      description: 'A JSON object a line; docs/audit.md has their form, `delta audit verify` reads it',
      content: { 'application/x-ndjson': { schema: z.string().openapi({ format: 'binary' }) } },
    },
  },
})

export function auditFeature({ audit }: { audit: Audit }): Feature {
  return {
    name: 'audit',
    routes: (api) => addAuditRoutes(api, audit),
    metrics: (metrics) =>
      metrics.gauge('delta_audit_waiting', 'Audit entries that wait for the database', audit.waiting),
    stop: audit.stop,
  }
}

function addAuditRoutes(api: Api, audit: Audit): void {
  api.openapi(listAuditRoute, async (c) => {
    const { data, nextCursor } = await audit.list(c.var.caller.accountId, c.req.valid('query'))
    return c.json({ data: data.map(entryView), nextCursor }, 200)
  })
  api.openapi(getAuditHeadRoute, async (c) => c.json(await audit.head(c.var.caller.accountId), 200))
  api.openapi(exportAuditRoute, async (c) => {
    const lines = linesOf(audit.exported(c.var.caller.accountId))
    const answer = await sendStream(c, lines, { headers: { 'Content-Type': 'application/x-ndjson' } })
    // By the name of its type it is taken for JSON, of which the handler would return a value.
    return answer as never
  })
}

function entryView({ at, ...link }: Link) {
  return { ...link, at: new Date(at).toISOString() }
}

/** Many lines a chunk: each alone would be a write of its own. */
async function* linesOf(lines: AsyncIterable<ExportLine>): AsyncGenerator<string, void, undefined> {
  let chunk = ''
  for await (const line of lines) {
    chunk += `${JSON.stringify(line)}\n`
    if (chunk.length < chunkChars) continue
    yield chunk
    chunk = ''
  }
  if (chunk !== '') yield chunk
}

const chunkChars = 64 * 1024
