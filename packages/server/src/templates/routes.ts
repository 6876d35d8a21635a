import { z } from '@hono/zod-openapi'
import { nodeBody } from '../kernel/http/body.ts'
import { DeltaError } from '../kernel/errors.ts'
import type { ApiContext, Feature } from '../kernel/http/api.ts'
import { answerMade, json } from '../kernel/http/document.ts'
import { createRoute } from '../kernel/http/route.ts'
import { sendStream } from '../kernel/http/stream.ts'
import { parse } from '../kernel/http/validate.ts'
import { checkHostOf, checkReachOf } from '../sandboxes/egress/service.ts'
import {
  buildOptionsSchema,
  buildQuerySchema,
  createTemplateSchema,
  idempotencyHeaderSchema,
  importQuerySchema,
  logQuerySchema,
  registryAuthHeaderSchema,
  setTagSchema,
  tagParamsSchema,
  templateListSchema,
  templateParamsSchema,
  templateRefParamsSchema,
  templateSchema,
} from './schema.ts'
import type { Template } from './schema.ts'
import type { Templates } from './service.ts'

const tags = ['templates']
const ofDriver = ['driver_failed', 'driver_timed_out', 'driver_unavailable'] as const
const ofMaking = ['disk_full', 'capacity_exhausted', 'dockerfile_invalid'] as const
const binary = (description: string) => ({
  required: true,
  content: { 'application/x-tar': { schema: z.string().openapi({ format: 'binary', description }) } },
})
const accepted = json('It is being made; GET …/log tells how it goes', templateSchema)

const listRoute = createRoute({
  method: 'get',
  path: '/v1/templates',
  operationId: 'listTemplates',
  needs: 'read:workspaces',
  tags,
  refuses: ofDriver,
  summary: 'What sandboxes can start from',
  description:
    'Those of the machine, yours (of each name the newest version), and those of the catalogue that were not used yet.',
  responses: { 200: json('All templates', templateListSchema) },
})

const makeRoute = createRoute({
  method: 'post',
  path: '/v1/templates',
  operationId: 'createTemplate',
  needs: 'write:workspaces',
  tags,
  refuses: [...ofMaking, 'snapshot_not_found', 'idempotency_conflict'],
  summary: 'Make a template, or a new version of one, of an image, a Dockerfile or a snapshot',
  request: {
    headers: idempotencyHeaderSchema,
    body: { required: true, content: { 'application/json': { schema: createTemplateSchema } } },
  },
  responses: { 202: accepted },
})

const importRoute = createRoute({
  method: 'post',
  path: '/v1/templates/import',
  operationId: 'importTemplate',
  needs: 'write:workspaces',
  tags,
  refuses: [...ofMaking, 'body_too_large', 'too_many_requests'],
  summary: 'Make a template of an image that is sent',
  request: { query: importQuerySchema, body: binary('An OCI image layout as a tar, or what `docker save` writes') },
  responses: { 202: accepted },
})

const buildsRoute = createRoute({
  method: 'post',
  path: '/v1/templates/builds',
  operationId: 'buildTemplateFiles',
  needs: 'write:workspaces',
  tags,
  refuses: [...ofMaking, 'body_too_large', 'too_many_requests', 'archive_invalid', 'malformed_json'],
  summary: 'Make a template of a Dockerfile with its files',
  request: {
    headers: registryAuthHeaderSchema,
    query: buildQuerySchema,
    body: binary('The files as an uncompressed tar'),
  },
  responses: { 202: accepted },
})

const provideRoute = createRoute({
  method: 'post',
  path: '/v1/templates/{name}/build',
  operationId: 'buildTemplate',
  needs: 'write:workspaces',
  tags,
  refuses: [...ofDriver, 'template_not_found', 'template_build_failed', 'disk_full', 'capacity_exhausted'],
  summary: 'Make a template of the machine or of the catalogue and wait until it is ready, which may take minutes',
  request: { params: templateParamsSchema },
  responses: { 200: json('It is ready', templateSchema) },
})

const getRoute = createRoute({
  method: 'get',
  path: '/v1/templates/{template}',
  operationId: 'getTemplate',
  needs: 'read:workspaces',
  tags,
  refuses: [...ofDriver, 'template_not_found'],
  summary: 'One version of a template',
  request: { params: templateRefParamsSchema },
  responses: { 200: json('It', templateSchema) },
})

const versionsRoute = createRoute({
  method: 'get',
  path: '/v1/templates/{name}/versions',
  operationId: 'listTemplateVersions',
  needs: 'read:workspaces',
  tags,
  refuses: ['template_not_found'],
  summary: 'All versions of a template',
  request: { params: templateParamsSchema },
  responses: { 200: json('Newest first', templateListSchema) },
})

const deleteRoute = createRoute({
  method: 'delete',
  path: '/v1/templates/{template}',
  operationId: 'deleteTemplate',
  needs: 'write:workspaces',
  tags,
  refuses: ['template_not_found'],
  summary: 'Delete a version, or with a name alone all of them',
  description:
    'A build under way is canceled. Sandboxes that run on it go on; its disk goes when none stands on it any more.',
  request: { params: templateRefParamsSchema },
  responses: { 204: { description: 'It is gone' } },
})

const cancelRoute = createRoute({
  method: 'post',
  path: '/v1/templates/{template}/cancel',
  operationId: 'cancelTemplate',
  needs: 'write:workspaces',
  tags,
  refuses: ['template_not_found'],
  summary: 'Cancel the build of a version; of one that has ended nothing changes',
  request: { params: templateRefParamsSchema },
  responses: { 200: json('As it is now', templateSchema) },
})

const setTagRoute = createRoute({
  method: 'put',
  path: '/v1/templates/{name}/tags/{tag}',
  operationId: 'setTemplateTag',
  needs: 'write:workspaces',
  tags,
  refuses: ['template_not_found', 'template_not_ready'],
  summary: 'Let a tag name a version',
  request: {
    params: tagParamsSchema,
    body: { required: true, content: { 'application/json': { schema: setTagSchema } } },
  },
  responses: { 200: json('The version', templateSchema) },
})

const removeTagRoute = createRoute({
  method: 'delete',
  path: '/v1/templates/{name}/tags/{tag}',
  operationId: 'deleteTemplateTag',
  needs: 'write:workspaces',
  tags,
  refuses: ['template_not_found'],
  summary: 'Take a tag away; the version stays',
  request: { params: tagParamsSchema },
  responses: { 204: { description: 'It is gone' } },
})

const logRoute = createRoute({
  method: 'get',
  path: '/v1/templates/{template}/log',
  operationId: 'streamTemplateLog',
  needs: 'read:workspaces',
  tags,
  refuses: ['template_not_found'],
  summary: 'Follow the making of a version',
  request: { params: templateRefParamsSchema, query: logQuerySchema },
  responses: {
    200: {
      description: 'Its events',
      content: {
        'text/event-stream': {
          schema: z.string().openapi({
            description:
              '`line` {sequence, at, kind, text}, kind is step, stdout, stderr or note; `end`: the template as it is when nothing more comes. The id of an event is its number, to go on from by `from` or Last-Event-ID.',
          }),
        },
      },
    },
  },
})

export function templatesFeature({ templates }: { templates: Templates }): Feature {
  return {
    name: 'templates',
    routes(api) {
      api.openapi(listRoute, async (c) =>
        c.json({ data: await templates.list(c.get('caller')), nextCursor: null }, 200),
      )
      api.openapi(makeRoute, async (c) => {
        const idempotencyKey = c.req.valid('header')['idempotency-key']
        const wish = c.req.valid('json')
        if ('dockerfile' in wish.from) checkReachOf(c.get('caller'))(wish.from.network.egress, 'none')
        return answerMade(c, await templates.create(wish, fetching(c), { idempotencyKey }), 202)
      })
      api.openapi(importRoute, async (c) => {
        const { name, tag } = c.req.valid('query')
        return answerMade(c, await templates.importArchive({ name, tags: tag }, nodeBody(c), c.get('caller')), 202)
      })
      api.openapi(buildsRoute, async (c) => {
        const { name, tag, dockerfile, options: text } = c.req.valid('query')
        const auth = c.req.valid('header')['registry-auth']
        const options = { ...parse(buildOptionsSchema, optionsOf(text), 'query'), ...(auth && { auth }) }
        checkReachOf(c.get('caller'))(options.network.egress, 'none')
        return c.json(
          await templates.buildArchive({ name, tags: tag, dockerfile, options }, nodeBody(c), fetching(c)),
          202,
        )
      })
      api.openapi(provideRoute, async (c) =>
        c.json(await templates.provide(c.req.valid('param').name, c.get('caller')), 200),
      )
      api.openapi(versionsRoute, async (c) => {
        const data = await templates.versions(c.req.valid('param').name, c.get('caller'))
        return c.json({ data, nextCursor: null }, 200)
      })
      api.openapi(getRoute, async (c) =>
        c.json(await templates.get(c.req.valid('param').template, c.get('caller')), 200),
      )
      api.openapi(deleteRoute, async (c) => {
        await templates.remove(c.req.valid('param').template, c.get('caller'))
        return c.body(null, 204)
      })
      api.openapi(cancelRoute, async (c) =>
        c.json(await templates.cancelBuild(c.req.valid('param').template, c.get('caller')), 200),
      )
      api.openapi(setTagRoute, async (c) => {
        const { name, tag } = c.req.valid('param')
        return c.json(await templates.setTag(name, tag, c.req.valid('json').version, c.get('caller')), 200)
      })
      api.openapi(removeTagRoute, async (c) => {
        const { name, tag } = c.req.valid('param')
        await templates.removeTag(name, tag, c.get('caller'))
        return c.body(null, 204)
      })
      api.openapi(logRoute, async (c) => {
        const gone = new AbortController()
        c.env?.outgoing?.once('close', () => gone.abort())
        const from = lastEventOf(c) ?? c.req.valid('query').from
        const followed = await templates.follow(c.req.valid('param').template, from, c.get('caller'), gone.signal)
        return sendStream(c, eventsOf(followed, gone.signal), { headers: eventHeaders })
      })
    },
    stop: templates.stop,
  }
}

function fetching(c: ApiContext) {
  const caller = c.get('caller')
  return { ...caller, checkHost: checkHostOf(caller) }
}

const eventHeaders = {
  'content-type': 'text/event-stream; charset=utf-8',
  'cache-control': 'no-store',
  'x-accel-buffering': 'no',
}

async function* eventsOf(
  { lines, ended }: Awaited<ReturnType<Templates['follow']>>,
  signal: AbortSignal,
): AsyncGenerator<string> {
  let next = lines.next()
  try {
    for (;;) {
      const result = await orQuiet(next)
      if (result === 'quiet') {
        yield ': keepalive\n\n'
        continue
      }
      if (result.done) break
      yield eventText('line', result.value, result.value.sequence)
      next = lines.next()
    }
    if (!signal.aborted) yield eventText('end', await ended())
  } finally {
    await lines.return(undefined)
  }
}

/** A reader takes silence for a broken connection, and a step may say nothing for long. */
const quietMs = 15_000

async function orQuiet<T>(next: Promise<T>): Promise<T | 'quiet'> {
  let timer: NodeJS.Timeout | undefined
  const quiet = new Promise<'quiet'>((resolve) => {
    timer = setTimeout(() => resolve('quiet'), quietMs)
  })
  try {
    return await Promise.race([next, quiet])
  } finally {
    clearTimeout(timer)
  }
}

function eventText(event: string, data: Template | object, id?: number): string {
  return `event: ${event}\n${id === undefined ? '' : `id: ${id}\n`}data: ${JSON.stringify(data)}\n\n`
}

function lastEventOf(c: ApiContext): number | undefined {
  const id = c.req.header('last-event-id')
  return id !== undefined && /^[0-9]{1,9}$/.test(id) ? Number(id) : undefined
}

function optionsOf(text: string): unknown {
  try {
    return JSON.parse(text)
  } catch (cause) {
    throw new DeltaError('malformed_json', '`options` is not valid JSON', { cause: (cause as SyntaxError).message })
  }
}
