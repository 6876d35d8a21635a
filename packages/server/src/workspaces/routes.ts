import { z } from '@hono/zod-openapi'
import { nodeBody } from '../kernel/http/body.ts'
import { sendStream } from '../kernel/http/stream.ts'
import type { Api, Feature } from '../kernel/http/api.ts'
import { answerMade, json } from '../kernel/http/document.ts'
import { createRoute } from '../kernel/http/route.ts'
import { driver, ofFetch, ofSnapshot, ofWorkspace, database } from './refusals.ts'
import {
  changesQuerySchema,
  changesSchema,
  diffParamsSchema,
  diffSchema,
  exportQuerySchema,
  fileQuerySchema,
  importQuerySchema,
  restoredSchema,
  createSnapshotSchema,
  createWorkspaceSchema,
  forkedSchema,
  forkSchema,
  idempotencyHeaderSchema,
  listQuerySchema,
  patchSnapshotSchema,
  patchWorkspaceSchema,
  rollbackSchema,
  snapshotListSchema,
  snapshotParamsSchema,
  snapshotSchema,
  workspaceListSchema,
  workspaceParamsSchema,
  workspaceSchema,
} from './schema.ts'
import type { Workspaces } from './service.ts'

const binary = z.string().openapi({ format: 'binary' })
const ofChange = [...ofWorkspace, 'workspace_conflict', 'too_many_requests'] as const
const ofFork = [
  ...ofFetch,
  'snapshot_not_found',
  'workspace_not_found',
  'workspace_name_taken',
  'workspace_limit_reached',
  'idempotency_conflict',
  'account_owes',
] as const

const createRouteOf = createRoute({
  method: 'post',
  path: '/v1/workspaces',
  operationId: 'createWorkspace',
  needs: 'write:workspaces',
  tags: ['workspaces'],
  refuses: [...database, ...ofFork, 'template_build_failed', 'capacity_exhausted'],
  summary: 'Make a workspace',
  description:
    'Files that outlive the sandboxes on them. Start one with POST /v1/sandboxes {"workspace": "<id or name>"}.',
  request: {
    headers: idempotencyHeaderSchema,
    body: { content: { 'application/json': { schema: createWorkspaceSchema } } },
  },
  responses: { 201: json('It is there', workspaceSchema) },
})

const listRoute = createRoute({
  method: 'get',
  path: '/v1/workspaces',
  operationId: 'listWorkspaces',
  needs: 'read:workspaces',
  tags: ['workspaces'],
  refuses: database,
  summary: 'List workspaces, newest first',
  request: { query: listQuerySchema },
  responses: { 200: json('A page of workspaces', workspaceListSchema) },
})

const getRoute = createRoute({
  method: 'get',
  path: '/v1/workspaces/{id}',
  operationId: 'getWorkspace',
  needs: 'read:workspaces',
  tags: ['workspaces'],
  refuses: ofWorkspace,
  summary: 'Look at a workspace',
  description: 'By id or by name, as everywhere below /v1/workspaces.',
  request: { params: workspaceParamsSchema },
  responses: { 200: json('The workspace', workspaceSchema) },
})

const patchRoute = createRoute({
  method: 'patch',
  path: '/v1/workspaces/{id}',
  operationId: 'patchWorkspace',
  needs: 'write:workspaces',
  tags: ['workspaces'],
  refuses: [...ofChange, 'workspace_name_taken'],
  summary: 'Rename a workspace, or change its settings',
  request: {
    params: workspaceParamsSchema,
    body: { content: { 'application/json': { schema: patchWorkspaceSchema } }, required: true },
  },
  responses: { 200: json('The workspace', workspaceSchema) },
})

const removeRoute = createRoute({
  method: 'delete',
  path: '/v1/workspaces/{id}',
  operationId: 'removeWorkspace',
  needs: 'write:workspaces',
  tags: ['workspaces'],
  refuses: [...ofChange, ...driver, 'workspace_in_use', 'snapshot_in_use'],
  summary: 'Remove a workspace with its snapshots',
  description:
    'Refused while a sandbox holds it and while a template is made of one of its snapshots. Forks of it live on; what they share with it stays until the last of them is gone.',
  request: { params: workspaceParamsSchema },
  responses: { 204: { description: 'Nobody sees it any more' } },
})

const snapshotRoute = createRoute({
  method: 'post',
  path: '/v1/workspaces/{id}/snapshots',
  operationId: 'createSnapshot',
  needs: 'write:workspaces',
  tags: ['workspaces'],
  refuses: [
    ...ofChange,
    ...ofFetch,
    'snapshot_name_taken',
    'snapshot_not_found',
    'idempotency_conflict',
    'account_owes',
  ],
  summary: 'Take a snapshot',
  description: 'Of a workspace at rest or of one a sandbox runs on, which stands still for the moment it takes.',
  request: {
    params: workspaceParamsSchema,
    headers: idempotencyHeaderSchema,
    body: { content: { 'application/json': { schema: createSnapshotSchema } } },
  },
  responses: { 201: json('It is taken and on disk', snapshotSchema) },
})

const listSnapshotsRoute = createRoute({
  method: 'get',
  path: '/v1/workspaces/{id}/snapshots',
  operationId: 'listSnapshots',
  needs: 'read:workspaces',
  tags: ['workspaces'],
  refuses: ofWorkspace,
  summary: 'The history of a workspace, newest first',
  request: { params: workspaceParamsSchema, query: listQuerySchema },
  responses: { 200: json('A page of snapshots', snapshotListSchema) },
})

const rollbackRoute = createRoute({
  method: 'post',
  path: '/v1/workspaces/{id}/rollback',
  operationId: 'rollbackWorkspace',
  needs: 'write:workspaces',
  tags: ['workspaces'],
  refuses: [...ofChange, ...ofFetch, 'workspace_in_use', 'snapshot_not_found'],
  summary: 'Bring a workspace back to a snapshot',
  description:
    'What changed since the last snapshot becomes one first, unless `autoSnapshot` is off. Refused while a sandbox holds it: see POST /v1/sandboxes/{id}/rollback.',
  request: {
    params: workspaceParamsSchema,
    body: { content: { 'application/json': { schema: rollbackSchema } }, required: true },
  },
  responses: { 200: json('The workspace as it is now', workspaceSchema) },
})

const forkRoute = createRoute({
  method: 'post',
  path: '/v1/workspaces/{id}/forks',
  operationId: 'forkWorkspace',
  needs: 'write:workspaces',
  tags: ['workspaces'],
  refuses: [...ofChange, ...ofFork],
  summary: 'Make new workspaces that begin as this one is now',
  description: 'What changed since the last snapshot becomes one first.',
  request: {
    params: workspaceParamsSchema,
    headers: idempotencyHeaderSchema,
    body: { content: { 'application/json': { schema: forkSchema } } },
  },
  responses: { 201: json('The new workspaces', forkedSchema) },
})

const forkSnapshotRoute = createRoute({
  method: 'post',
  path: '/v1/snapshots/{id}/forks',
  operationId: 'forkSnapshot',
  needs: 'write:workspaces',
  tags: ['snapshots'],
  refuses: [...database, ...ofFork],
  summary: 'Make new workspaces that begin as this snapshot is',
  request: {
    params: snapshotParamsSchema,
    headers: idempotencyHeaderSchema,
    body: { content: { 'application/json': { schema: forkSchema } } },
  },
  responses: { 201: json('The new workspaces', forkedSchema) },
})

const getSnapshotRoute = createRoute({
  method: 'get',
  path: '/v1/snapshots/{id}',
  operationId: 'getSnapshot',
  needs: 'read:workspaces',
  tags: ['snapshots'],
  refuses: ofSnapshot,
  summary: 'Look at a snapshot',
  request: { params: snapshotParamsSchema },
  responses: { 200: json('The snapshot', snapshotSchema) },
})

const patchSnapshotRoute = createRoute({
  method: 'patch',
  path: '/v1/snapshots/{id}',
  operationId: 'patchSnapshot',
  needs: 'write:workspaces',
  tags: ['snapshots'],
  refuses: [...ofSnapshot, 'snapshot_name_taken'],
  summary: 'Name a snapshot, which keeps it for ever, or change its comment',
  request: {
    params: snapshotParamsSchema,
    body: { content: { 'application/json': { schema: patchSnapshotSchema } }, required: true },
  },
  responses: { 200: json('The snapshot', snapshotSchema) },
})

const removeSnapshotRoute = createRoute({
  method: 'delete',
  path: '/v1/snapshots/{id}',
  operationId: 'removeSnapshot',
  needs: 'write:workspaces',
  tags: ['snapshots'],
  refuses: [...ofSnapshot, 'snapshot_in_use'],
  summary: 'Remove a snapshot',
  description: 'Refused for the one a workspace stands on. What later snapshots need of it stays until they are gone.',
  request: { params: snapshotParamsSchema },
  responses: { 204: { description: 'Nobody sees it any more' } },
})

const changesRoute = createRoute({
  method: 'get',
  path: '/v1/snapshots/{id}/changes',
  operationId: 'listChanges',
  needs: 'read:workspaces',
  tags: ['snapshots'],
  refuses: [...ofSnapshot, ...ofFetch],
  summary: 'All paths that a snapshot changed against its parent',
  request: { params: snapshotParamsSchema, query: changesQuerySchema },
  responses: { 200: json('A page of changes', changesSchema) },
})

const diffRoute = createRoute({
  method: 'get',
  path: '/v1/snapshots/{id}/diff/{other}',
  operationId: 'diffSnapshots',
  needs: 'read:workspaces',
  tags: ['snapshots'],
  refuses: [...ofSnapshot, ...ofFetch],
  summary: 'What changed from one snapshot to another: files, packages and tools',
  request: { params: diffParamsSchema, query: changesQuerySchema },
  responses: { 200: json('The counts, and a page of paths', diffSchema) },
})

const fileRoute = createRoute({
  method: 'get',
  path: '/v1/snapshots/{id}/files',
  operationId: 'readSnapshotFile',
  needs: 'read:files',
  tags: ['snapshots'],
  refuses: [...ofSnapshot, ...ofFetch, 'file_not_found', 'not_a_file', 'path_invalid'],
  summary: 'Read one file of a snapshot',
  request: { params: snapshotParamsSchema, query: fileQuerySchema },
  responses: { 200: { description: 'Its bytes', content: { 'application/octet-stream': { schema: binary } } } },
})

const exportRoute = createRoute({
  method: 'get',
  path: '/v1/snapshots/{id}/image',
  operationId: 'exportSnapshot',
  needs: 'read:files',
  tags: ['snapshots'],
  refuses: [...ofSnapshot, ...ofFetch, 'snapshot_not_saved'],
  summary: 'A snapshot as an OCI image',
  description:
    'An OCI archive, streamed. Saving comes first where it is still to be done; so does packing the template, which may take minutes for `host`.',
  request: { params: snapshotParamsSchema, query: exportQuerySchema },
  responses: { 200: { description: 'The archive', content: { 'application/x-tar': { schema: binary } } } },
})

const importRoute = createRoute({
  method: 'post',
  path: '/v1/workspaces/import',
  operationId: 'importWorkspace',
  needs: 'write:workspaces',
  tags: ['workspaces'],
  refuses: [...database, ...ofFork, 'image_invalid', 'body_too_large', 'disk_full', 'too_many_requests'],
  summary: 'Make a workspace of an OCI archive',
  description: 'As `skopeo copy … oci-archive:file.tar` makes it. Its layers keep their digests.',
  request: { query: importQuerySchema, body: { required: true, content: { 'application/x-tar': { schema: binary } } } },
  responses: { 201: json('It is there', workspaceSchema) },
})

const restoreRoute = createRoute({
  method: 'post',
  path: '/v1/workspaces/restore',
  operationId: 'restoreWorkspaces',
  needs: 'write:workspaces',
  tags: ['workspaces'],
  refuses: [...database, ...ofWorkspace, ...ofFetch],
  summary: 'Find workspaces that storage holds and this server does not know',
  description: 'Done by itself at the start of a server that knows no workspace at all.',
  responses: { 200: json('What was found', restoredSchema) },
})

export function addWorkspaceRoutes(api: Api, workspaces: Workspaces): void {
  api.openapi(createRouteOf, async (c) => {
    const idempotencyKey = c.req.valid('header')['idempotency-key']
    return answerMade(c, await workspaces.create(c.req.valid('json'), c.var.caller, { idempotencyKey }), 201)
  })
  // Before those with an id, which these words would be taken for.
  api.openapi(importRoute, async (c) => {
    const made = await workspaces.importImage(nodeBody(c), c.req.valid('query'), c.var.caller)
    return c.json(made, 201)
  })
  api.openapi(restoreRoute, async (c) => c.json(await workspaces.restore(c.var.caller), 200))
  api.openapi(changesRoute, async (c) =>
    c.json(await workspaces.changes(c.req.valid('param').id, c.var.caller, c.req.valid('query')), 200),
  )
  api.openapi(diffRoute, async (c) => {
    const { id, other } = c.req.valid('param')
    return c.json(await workspaces.diff(id, other, c.var.caller, c.req.valid('query')), 200)
  })
  api.openapi(fileRoute, async (c) => {
    const { path } = c.req.valid('query')
    const bytes = await workspaces.readFile(c.req.valid('param').id, path, c.var.caller)
    return sendStream(c, await begun(bytes), {
      headers: download(path.split('/').at(-1) ?? '', 'application/octet-stream'),
    })
  })
  api.openapi(exportRoute, async (c) => {
    const { id } = c.req.valid('param')
    const bytes = await workspaces.exportImage(id, c.var.caller, { form: c.req.valid('query').layers })
    return sendStream(c, bytes, { headers: download(`${id}.tar`, 'application/x-tar') })
  })
  api.openapi(listRoute, async (c) => c.json(await workspaces.list(c.var.caller, c.req.valid('query')), 200))
  api.openapi(getRoute, async (c) => c.json(await workspaces.get(c.req.valid('param').id, c.var.caller), 200))
  api.openapi(patchRoute, async (c) =>
    c.json(await workspaces.patch(c.req.valid('param').id, c.req.valid('json'), c.var.caller), 200),
  )
  api.openapi(removeRoute, async (c) => {
    await workspaces.remove(c.req.valid('param').id, c.var.caller)
    return c.body(null, 204)
  })
  api.openapi(snapshotRoute, async (c) => {
    const idempotencyKey = c.req.valid('header')['idempotency-key']
    const { id } = c.req.valid('param')
    return answerMade(c, await workspaces.snapshot(id, c.req.valid('json'), c.var.caller, { idempotencyKey }), 201)
  })
  api.openapi(listSnapshotsRoute, async (c) =>
    c.json(await workspaces.listSnapshots(c.req.valid('param').id, c.var.caller, c.req.valid('query')), 200),
  )
  api.openapi(rollbackRoute, async (c) => {
    const { snapshotId } = c.req.valid('json')
    return c.json(await workspaces.rollback(c.req.valid('param').id, snapshotId, c.var.caller), 200)
  })
  api.openapi(forkRoute, async (c) => {
    const idempotencyKey = c.req.valid('header')['idempotency-key']
    const { id } = c.req.valid('param')
    const data = await workspaces.forkWorkspace(id, c.req.valid('json'), c.var.caller, { idempotencyKey })
    return c.json({ data }, 201)
  })
  api.openapi(forkSnapshotRoute, async (c) => {
    const idempotencyKey = c.req.valid('header')['idempotency-key']
    const data = await workspaces.fork(c.req.valid('param').id, c.req.valid('json'), c.var.caller, { idempotencyKey })
    return c.json({ data }, 201)
  })
  api.openapi(getSnapshotRoute, async (c) =>
    c.json(await workspaces.getSnapshot(c.req.valid('param').id, c.var.caller), 200),
  )
  api.openapi(patchSnapshotRoute, async (c) =>
    c.json(await workspaces.patchSnapshot(c.req.valid('param').id, c.req.valid('json'), c.var.caller), 200),
  )
  api.openapi(removeSnapshotRoute, async (c) => {
    await workspaces.removeSnapshot(c.req.valid('param').id, c.var.caller)
    return c.body(null, 204)
  })
}

/** Waits for the first bytes, so that a refusal is an answer and not a cut connection. */
async function begun(bytes: AsyncIterable<Uint8Array>): Promise<AsyncIterable<Uint8Array>> {
  const iterator = bytes[Symbol.asyncIterator]()
  const first = await iterator.next()
  return (async function* () {
    try {
      for (let next = first; !next.done; next = await iterator.next()) yield next.value
    } finally {
      await iterator.return?.()
    }
  })()
}

function download(name: string, type: string): Record<string, string> {
  return {
    'Content-Type': type,
    'Content-Disposition': `attachment; filename*=UTF-8''${encodeURIComponent(name).replaceAll("'", '%27')}`,
    'X-Content-Type-Options': 'nosniff',
  }
}

/** `close` ends what the workspaces are saved to, after them. */
export function workspacesFeature(workspaces: Workspaces, { close }: { close?: () => Promise<void> } = {}): Feature {
  return {
    name: 'workspaces',
    routes: (api) => addWorkspaceRoutes(api, workspaces),
    metrics(metrics) {
      const taken = metrics.counter('delta_snapshots_total', 'Snapshots taken, by what led to them')
      workspaces.events.on('workspace.snapshotted', ({ reason }) => taken.add({ reason }))
      const saves = metrics.counter('delta_snapshot_saves_total', 'Snapshots saved, and tries that failed')
      workspaces.events.on('snapshot.saved', () => saves.add({ outcome: 'saved' }))
      workspaces.events.on('snapshot.save_failed', () => saves.add({ outcome: 'failed' }))
    },
    async stop() {
      await workspaces.stop()
      await close?.()
    },
  }
}
