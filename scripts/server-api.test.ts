import { beforeAll, expect, test } from 'vitest'
import { errorTable } from '../packages/server/src/kernel/errors.ts'
import { serverApi, serverDocument } from './server-api.mjs'

const api = serverApi()
let operations: Map<string, { responses?: Record<string, unknown> }>
let errorCodes: unknown
beforeAll(async () => {
  const document = await serverDocument(api)
  operations = new Map(
    Object.entries(document.paths ?? {}).flatMap(([path, methods]) =>
      Object.entries(methods).map(([method, operation]) => [
        `${method.toUpperCase()} ${path.replaceAll(/\{(.+?)\}/g, ':$1')}`,
        operation,
      ]),
    ),
  )
  const text = JSON.stringify(document.components)
  errorCodes = Object.keys(errorTable).filter((code) => !text.includes(`"${code}"`))
})

/** The document itself, and the pages that a browser is shown: HTML and its forms, no API. */
const isUndescribed = (route: string) => route === 'GET /openapi.json' || /^(GET|POST) \/auth\//.test(route)
/** Any method, and WebSockets: served before the router (`Feature.front`), by path as by host name. */
const before = ['GET /v1/sandboxes/:id/ports/:port/:path']

test('every route is in /openapi.json, and everything in it is a route', () => {
  const routes = api.routes.filter(({ method }) => method !== 'ALL').map(({ method, path }) => `${method} ${path}`)
  expect(routes.length).toBeGreaterThan(80)
  const described = routes.filter((route) => !isUndescribed(route))
  expect([...new Set([...described, ...before])].toSorted()).toEqual([...operations.keys()].toSorted())
})

test('those that stream events or become a WebSocket say so', () => {
  const answering = (text: string) =>
    [...operations].filter(([, { responses }]) => JSON.stringify(responses).includes(text)).map(([route]) => route)
  expect(answering('text/event-stream').toSorted()).toEqual([
    'GET /v1/agents/:id/execs/:execId/events',
    'GET /v1/agents/:id/watch',
    'GET /v1/approvals/events',
    'GET /v1/ledger/events',
    'GET /v1/sandboxes/:id/execs/:execId/events',
    'GET /v1/sandboxes/:id/watch',
    'GET /v1/tasks/:id/events',
    'GET /v1/templates/:template/log',
    'GET /v1/token-requests/events',
    'POST /v1/agents/:id/code',
    'POST /v1/agents/:id/exec',
    'POST /v1/agents/:id/execs',
    'POST /v1/sandboxes/:id/code',
    'POST /v1/sandboxes/:id/execs',
  ])
  expect(answering('"101"').toSorted()).toEqual([
    'GET /v1/agents/:id/terminals/:terminalId/connect',
    'GET /v1/sandboxes/:id/terminals/:terminalId/connect',
  ])
})

test('every operation says that it may answer with an error, and every code of an error is told', () => {
  const silent = [...operations].filter(([, { responses = {} }]) => !('default' in responses)).map(([route]) => route)
  // It answers 200 and 503 with what it found, whatever happens.
  expect(silent).toEqual(['GET /health'])
  expect(errorCodes).toEqual([])
})
