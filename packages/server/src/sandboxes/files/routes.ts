import { z } from '@hono/zod-openapi'
import type { Api, ApiContext } from '../../kernel/http/api.ts'
import { json } from '../../kernel/http/document.ts'
import { createRoute } from '../../kernel/http/route.ts'
import { nodeBody } from '../../kernel/http/body.ts'
import { sendStream } from '../../kernel/http/stream.ts'
import { eventStream, eventStreamHeaders } from '../../kernel/http/event-stream.ts'
import { ofGuest } from '../refusal-codes.ts'
import { sandboxIdParamSchema } from '../schema.ts'
import { downloadName, queryBytes } from './rules.ts'
import {
  chmodBodySchema,
  directoryBodySchema,
  entryListSchema,
  entrySchema,
  listQuerySchema,
  moveBodySchema,
  pathQuerySchema,
  removeQuerySchema,
  statQuerySchema,
  watchQuerySchema,
  writeQuerySchema,
} from './schema.ts'
import { modifiedTime } from './service.ts'
import type { FileAnswer, Files, Place } from './service.ts'

const tags = ['files']
const ofPath = [
  ...ofGuest,
  'path_invalid',
  'file_not_found',
  'not_a_directory',
  'permission_denied',
  'symlink_loop',
  'name_too_long',
  'file_busy',
  'file_io_failed',
] as const
const ofNewPath = [...ofPath, 'file_exists', 'user_not_found'] as const
const params = sandboxIdParamSchema
const binary = (description: string) => z.string().openapi({ format: 'binary', description })
const entryAnswer = (description: string) => ({ description, content: { 'application/json': { schema: entrySchema } } })
const header = (name: string, description: string) =>
  ({ name, in: 'header', required: false, schema: { type: 'string' }, description }) as const

const readRoute = createRoute({
  method: 'get',
  path: '/v1/sandboxes/{id}/files',
  operationId: 'readFile',
  needs: { right: 'read:files', resource: 'sandbox' },
  tags,
  refuses: [...ofPath, 'not_a_file', 'is_a_directory', 'range_not_satisfiable'],
  summary: 'Read a file',
  description:
    'One range is honoured; several are answered with the whole file. HEAD tells size and ETag without the content.',
  parameters: [
    header('Range', 'bytes=0-99, bytes=100- or bytes=-100'),
    header('If-None-Match', '304 where the ETag is this'),
    header('If-Range', 'The range only of the file with this ETag, else all of it'),
  ],
  request: { params, query: pathQuerySchema },
  responses: {
    200: { description: 'All of it', content: { 'application/octet-stream': { schema: binary('The bytes') } } },
    206: { description: 'The range', content: { 'application/octet-stream': { schema: binary('The bytes') } } },
    304: { description: 'It is still the file named by If-None-Match' },
  },
})

const writeRoute = createRoute({
  method: 'put',
  path: '/v1/sandboxes/{id}/files',
  operationId: 'writeFile',
  needs: { right: 'write:files', resource: 'sandbox' },
  tags,
  refuses: [...ofNewPath, 'is_a_directory', 'not_a_file', 'file_too_large', 'precondition_failed'],
  summary: 'Write a file',
  description:
    'Of any size, streamed. It appears under its name when all of it has arrived; before, and when the upload breaks, the old file stays.',
  parameters: [
    header('If-Match', 'Only if the file there has this ETag'),
    header('If-None-Match', '`*`: only if there is none'),
  ],
  request: {
    params,
    query: writeQuerySchema,
    body: { required: true, content: { 'application/octet-stream': { schema: binary('The bytes') } } },
  },
  responses: { 200: entryAnswer('The file') },
})

const removeRoute = createRoute({
  method: 'delete',
  path: '/v1/sandboxes/{id}/files',
  operationId: 'removeFile',
  needs: { right: 'write:files', resource: 'sandbox' },
  tags,
  refuses: [...ofPath, 'directory_not_empty'],
  summary: 'Remove a file or directory',
  request: { params, query: removeQuerySchema },
  responses: { 204: { description: 'Removed' } },
})

const listRoute = createRoute({
  method: 'get',
  path: '/v1/sandboxes/{id}/entries',
  operationId: 'listEntries',
  needs: { right: 'read:files', resource: 'sandbox' },
  tags,
  refuses: ofPath,
  summary: 'List a directory',
  description: 'Depth first, names in byte order. Symbolic links are shown, not entered.',
  request: { params, query: listQuerySchema },
  responses: { 200: json('One page', entryListSchema) },
})

const statRoute = createRoute({
  method: 'get',
  path: '/v1/sandboxes/{id}/entry',
  operationId: 'getEntry',
  needs: { right: 'read:files', resource: 'sandbox' },
  tags,
  refuses: ofPath,
  summary: 'Describe a file or directory',
  request: { params, query: statQuerySchema },
  responses: { 200: entryAnswer('The entry') },
})

const chmodRoute = createRoute({
  method: 'patch',
  path: '/v1/sandboxes/{id}/entry',
  operationId: 'changeMode',
  needs: { right: 'write:files', resource: 'sandbox' },
  tags,
  refuses: ofPath,
  summary: 'Change permissions',
  request: {
    params,
    query: pathQuerySchema,
    body: { required: true, content: { 'application/json': { schema: chmodBodySchema } } },
  },
  responses: { 200: entryAnswer('The entry') },
})

const mkdirRoute = createRoute({
  method: 'post',
  path: '/v1/sandboxes/{id}/directories',
  operationId: 'makeDirectory',
  needs: { right: 'write:files', resource: 'sandbox' },
  tags,
  refuses: ofNewPath,
  summary: 'Make a directory',
  request: { params, body: { required: true, content: { 'application/json': { schema: directoryBodySchema } } } },
  responses: { 201: entryAnswer('The directory') },
})

const moveRoute = createRoute({
  method: 'post',
  path: '/v1/sandboxes/{id}/move',
  operationId: 'moveEntry',
  needs: { right: 'write:files', resource: 'sandbox' },
  tags,
  refuses: [...ofNewPath, 'is_a_directory', 'directory_not_empty'],
  summary: 'Move or rename',
  request: { params, body: { required: true, content: { 'application/json': { schema: moveBodySchema } } } },
  responses: { 200: entryAnswer('The entry at its new path') },
})

const watchRoute = createRoute({
  method: 'get',
  path: '/v1/sandboxes/{id}/watch',
  operationId: 'watchFiles',
  needs: { right: 'read:files', resource: 'sandbox' },
  tags,
  refuses: ofPath,
  summary: 'Follow changes below a path',
  request: { params, query: watchQuerySchema },
  responses: {
    200: {
      description: 'Events',
      content: {
        'text/event-stream': {
          schema: z.string().openapi({
            description:
              '`ready` once it watches; `change` {kind: create, write, remove, rename or chmod, path, isDirectory}; `overflow`: some were lost, look again',
          }),
        },
      },
    },
  },
})

const packRoute = createRoute({
  method: 'get',
  path: '/v1/sandboxes/{id}/archive',
  operationId: 'downloadArchive',
  needs: { right: 'read:files', resource: 'sandbox' },
  tags,
  refuses: ofPath,
  summary: 'Download a directory as tar',
  description:
    'Streamed. A connection that ends without the end of the chunked body means that the archive is not whole.',
  request: { params, query: pathQuerySchema },
  responses: {
    200: {
      description: 'Its contents, with paths relative to it',
      content: { 'application/x-tar': { schema: binary('The archive') } },
    },
  },
})

const unpackRoute = createRoute({
  method: 'put',
  path: '/v1/sandboxes/{id}/archive',
  operationId: 'uploadArchive',
  needs: { right: 'write:files', resource: 'sandbox' },
  tags,
  refuses: [...ofNewPath, 'archive_invalid', 'file_too_large'],
  summary: 'Unpack a tar into a directory',
  description:
    'Done by `user`, as the archive arrives: what was unpacked before a fault stays. The directory is made if needed.',
  request: {
    params,
    query: pathQuerySchema,
    body: { required: true, content: { 'application/x-tar': { schema: binary('The archive') } } },
  },
  responses: { 200: entryAnswer('The directory') },
})

export function addFileRoutes(api: Api, files: Files): void {
  api.openapi(readRoute, async (c) => {
    const answer = await files.read(placeOf(c), {
      withBody: c.req.method !== 'HEAD',
      range: c.req.header('range'),
      ifRange: c.req.header('if-range'),
      ifNoneMatch: c.req.header('if-none-match'),
    })
    return sendFile(c, answer)
  })

  api.openapi(writeRoute, async (c) => {
    const { mode, owner, parents, overwrite } = c.req.valid('query')
    const entry = await files.write(placeOf(c), nodeBody(c), {
      mode,
      owner,
      parents: parents === 'true',
      overwrite: overwrite === 'true',
      ifMatch: c.req.header('if-match'),
      ifNoneMatch: c.req.header('if-none-match'),
    })
    return c.json(entry, 200, { etag: entry.etag })
  })

  api.openapi(removeRoute, async (c) => {
    await files.remove(placeOf(c), { recursive: c.req.valid('query').recursive === 'true' })
    return c.body(null, 204)
  })

  api.openapi(listRoute, async (c) => c.json(await files.list(placeOf(c), c.req.valid('query')), 200))

  api.openapi(statRoute, async (c) =>
    c.json(await files.stat(placeOf(c), { follow: c.req.valid('query').follow === 'true' }), 200),
  )

  api.openapi(chmodRoute, async (c) => c.json(await files.changeMode(placeOf(c), c.req.valid('json').mode), 200))

  api.openapi(mkdirRoute, async (c) => {
    const { path, ...options } = c.req.valid('json')
    return c.json(await files.makeDirectory({ ...placeOf(c), path }, options), 201)
  })

  api.openapi(moveRoute, async (c) => {
    const { from, to, overwrite } = c.req.valid('json')
    return c.json(await files.move({ ...placeOf(c), path: from }, to, { overwrite }), 200)
  })

  api.openapi(watchRoute, async (c) => {
    const { events, leave } = await files.watch(placeOf(c), { recursive: c.req.valid('query').recursive === 'true' })
    c.set('endless', true)
    if (c.env?.outgoing?.destroyed) leave()
    return sendStream(c, eventStream(events, leave), { headers: eventStreamHeaders })
  })

  api.openapi(packRoute, async (c) => {
    const place = placeOf(c)
    const headers = {
      'content-type': 'application/x-tar',
      'content-disposition': downloadName(String(place.path ?? ''), '.tar'),
      'x-content-type-options': 'nosniff',
    }
    const body = c.req.method === 'HEAD' ? await files.checkFolder(place).then(nothing) : await files.pack(place)
    return sendBody(c, body, { status: 200, headers })
  })

  api.openapi(unpackRoute, async (c) => c.json(await files.unpack(placeOf(c), nodeBody(c)), 200))
}

function placeOf(c: ApiContext): Place {
  return {
    sandboxId: c.get('sandboxId') ?? c.req.param('id')!,
    caller: c.get('caller'),
    path: queryBytes(c.req.url, 'path'),
  }
}

async function sendFile(c: ApiContext, answer: FileAnswer): Promise<Response> {
  const { entry } = answer
  const headers: Record<string, string> = {
    etag: entry.etag,
    'last-modified': modifiedTime(entry).toUTCString(),
    'accept-ranges': 'bytes',
  }
  if (answer.kind === 'unchanged') return c.body(null, 304, headers)
  headers['content-type'] = 'application/octet-stream'
  headers['content-disposition'] = downloadName(entry.path)
  // What a sandbox holds must never be taken for a page of this server.
  headers['x-content-type-options'] = 'nosniff'
  if (answer.kind === 'part') {
    const { from, length } = answer.range
    headers['content-length'] = String(length)
    headers['content-range'] = `bytes ${from}-${from + length - 1}/${entry.size}`
    return sendBody(c, answer.body ?? nothing(), { status: 206, headers })
  }
  // Files of the kernel's say 0 and have content all the same; only reading tells.
  if (entry.size > 0 || answer.body === undefined) headers['content-length'] = String(entry.size)
  return sendBody(c, answer.body ?? nothing(), { status: 200, headers })
}

function sendBody(
  c: ApiContext,
  body: AsyncIterableIterator<Buffer>,
  options: { status: number; headers: Record<string, string> },
): Promise<Response> {
  // Hono answers HEAD by a copy of the response, which for one that was sent around it would be sent again.
  if (c.req.method === 'HEAD') return Promise.resolve(new Response(null, options))
  // It may have gone while the file was being opened; nobody will be told of that any more.
  if (c.env?.outgoing?.destroyed) void body.return?.()
  return sendStream(c, body, options)
}

async function* nothing(): AsyncGenerator<Buffer> {}
