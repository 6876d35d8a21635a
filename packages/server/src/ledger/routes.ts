import { z } from '@hono/zod-openapi'
import { knownCallerOf } from '../access/callers/door.ts'
import type { Api, ApiContext, Feature } from '../kernel/http/api.ts'
import { json } from '../kernel/http/document.ts'
import { eventStream, eventStreamHeaders } from '../kernel/http/event-stream.ts'
import { lastEventId } from '../kernel/http/last-event.ts'
import { createRoute } from '../kernel/http/route.ts'
import { sendStream } from '../kernel/http/stream.ts'
import type { LedgerApi } from './api.ts'
import {
  followLedgerQuerySchema,
  forecastSchema,
  grantRequestSchema,
  holdListQuerySchema,
  holdListSchema,
  keyHeader,
  ledgerQuerySchema,
  ledgerSchema,
  planSchema,
  ratesSchema,
  refundRequestSchema,
  setPlanSchema,
  transferListQuerySchema,
  transferListSchema,
  transferRequestSchema,
  usageListSchema,
  usageQuerySchema,
  writtenSchema,
} from './schema.ts'
import type { Ledger } from './service.ts'

const tags = ['ledger']
const ofDatabase = ['database_busy', 'database_unavailable', 'database_failed'] as const
const ofWriting = [...ofDatabase, 'amount_invalid', 'key_conflict', 'ledger_full'] as const
const body = <Schema>(schema: Schema) => ({ content: { 'application/json': { schema } }, required: true }) as const

const getRoute = createRoute({
  method: 'get',
  path: '/v1/ledger',
  operationId: 'getLedger',
  needs: 'read:billing',
  tags,
  refuses: [...ofDatabase, 'purse_not_found'],
  summary: 'Who has how many tokens: the reserve, agents and tasks as a tree',
  description: 'With an agent’s token: its own purse and those below it.',
  request: { query: ledgerQuerySchema },
  responses: { 200: json('The tree', ledgerSchema) },
})

const transfersRoute = createRoute({
  method: 'get',
  path: '/v1/ledger/transfers',
  operationId: 'listTransfers',
  needs: 'read:billing',
  tags,
  refuses: ofDatabase,
  summary: 'The journal: every movement of tokens, newest first',
  description:
    'Nothing in it is ever changed; a correction is an entry of its own. Of a part of it a page may have fewer entries than were asked for, or none, and still a next page.',
  request: { query: transferListQuerySchema },
  responses: { 200: json('A page of it', transferListSchema) },
})

const holdsRoute = createRoute({
  method: 'get',
  path: '/v1/ledger/holds',
  operationId: 'listHolds',
  needs: 'read:billing',
  tags,
  refuses: ofDatabase,
  summary: 'Tokens that are, or were, set aside for work, newest first',
  request: { query: holdListQuerySchema },
  responses: { 200: json('A page of them', holdListSchema) },
})

const usageRoute = createRoute({
  method: 'get',
  path: '/v1/ledger/usage',
  operationId: 'getUsage',
  needs: 'read:billing',
  tags,
  refuses: ofDatabase,
  summary: 'What was used and what it cost, by agent, task, sandbox, meter and time',
  description: 'Whole hours (UTC). As JSON, or with `format=csv` or `Accept: text/csv` as a table.',
  request: { query: usageQuerySchema },
  responses: {
    200: {
      description: 'A page of it, or all of it as a table',
      content: { 'application/json': { schema: usageListSchema }, 'text/csv': { schema: z.string() } },
    },
  },
})

const eventsRoute = createRoute({
  method: 'get',
  path: '/v1/ledger/events',
  operationId: 'followLedger',
  needs: 'read:billing',
  tags,
  refuses: [...ofDatabase, 'too_many_requests'],
  summary: 'Follow the journal as it grows',
  description:
    'First an event named `position` with where the journal is, then one named `transfer` for each entry. With `Last-Event-ID`, or `from`, it goes on after that position.',
  request: { query: followLedgerQuerySchema },
  responses: { 200: { description: 'Events', content: { 'text/event-stream': { schema: z.string() } } } },
})

const forecastRoute = createRoute({
  method: 'get',
  path: '/v1/ledger/forecast',
  operationId: 'getForecast',
  needs: 'read:billing',
  tags,
  refuses: ofDatabase,
  summary: 'What will have been spent at the end of the period',
  description:
    'A straight line: what was spent on average since the first hour of this period in which anything was (at least an hour), until the period’s end.',
  responses: { 200: json('The forecast', forecastSchema) },
})

const ratesRoute = createRoute({
  method: 'get',
  path: '/v1/ledger/rates',
  operationId: 'getRates',
  needs: 'read:billing',
  tags,
  summary: 'What everything costs',
  responses: { 200: json('The rate card in force', ratesSchema) },
})

const transferRoute = createRoute({
  method: 'post',
  path: '/v1/ledger/transfers',
  operationId: 'createTransfer',
  // Whoever is limited to some agents gives to them by their own address.
  needs: { right: 'allocate', resource: 'agent' },
  tags,
  refuses: [...ofWriting, 'purse_not_found', 'purse_archived', 'transfer_to_itself', 'balance_too_low'],
  summary: 'Move tokens from purse to purse',
  description:
    'An agent gives of its own and of what lies below it, at most as much at once as its right `allocate:<tokens>` says. What the reserve gives is for a person in a session, or a key with `write:billing`.',
  request: { headers: keyHeader, body: body(transferRequestSchema) },
  responses: { 201: json('Moved', writtenSchema) },
})

const grantRoute = createRoute({
  method: 'post',
  path: '/v1/ledger/grants',
  operationId: 'createGrant',
  needs: 'write:operations',
  tags,
  refuses: [...ofWriting, 'account_not_found'],
  summary: 'Give tokens to an account’s reserve, as the operator',
  request: { headers: keyHeader, body: body(grantRequestSchema) },
  responses: { 201: json('Given', writtenSchema) },
})

const refundRoute = createRoute({
  method: 'post',
  path: '/v1/ledger/refunds',
  operationId: 'createRefund',
  needs: 'write:operations',
  tags,
  refuses: [...ofWriting, 'account_not_found', 'hold_not_found', 'refund_above_cost'],
  summary: 'Correct what was spent, in the payer’s favour, as the operator',
  description: 'To the purse that paid, or to what has taken its place. An entry of its own: what it corrects stays.',
  request: { headers: keyHeader, body: body(refundRequestSchema) },
  responses: { 201: json('Given back', writtenSchema) },
})

const planRoute = createRoute({
  method: 'get',
  path: '/v1/ledger/plan',
  operationId: 'getPlan',
  needs: 'read:billing',
  tags,
  refuses: ofDatabase,
  summary: 'The account’s plan',
  responses: { 200: json('The plan', planSchema) },
})

const setPlanRoute = createRoute({
  method: 'put',
  path: '/v1/ledger/plan',
  operationId: 'setPlan',
  needs: 'write:operations',
  tags,
  refuses: [...ofDatabase, 'account_not_found'],
  summary: 'Give an account another plan, as the operator',
  description: 'What it allows holds at once; what it grants, from the next period.',
  request: { body: body(setPlanSchema) },
  responses: { 200: json('The plan', planSchema) },
})

export interface LedgerFeatureDeps {
  ledger: Pick<Ledger, 'metrics' | 'stop'>
  ledgerApi: LedgerApi
}

export function ledgerFeature({ ledger, ledgerApi }: LedgerFeatureDeps): Feature {
  return {
    name: 'ledger',
    routes: (api) => addLedgerRoutes(api, ledgerApi),
    metrics: (metrics) => ledger.metrics(metrics),
    async stop() {
      ledgerApi.stop()
      await ledger.stop()
    },
  }
}

function addLedgerRoutes(api: Api, ledger: LedgerApi): void {
  const callerOf = (c: ApiContext) => knownCallerOf(c.var.caller)
  const keyOf = (header: { 'idempotency-key'?: string | undefined }) => header['idempotency-key']
  api.openapi(getRoute, async (c) => c.json(await ledger.tree(c.req.valid('query'), callerOf(c)), 200))
  api.openapi(transfersRoute, async (c) => c.json(await ledger.transfers(c.req.valid('query'), callerOf(c)), 200))
  api.openapi(holdsRoute, async (c) => c.json(await ledger.holds(c.req.valid('query'), callerOf(c)), 200))
  api.openapi(usageRoute, async (c) => {
    const query = c.req.valid('query')
    if (!wantsTable(c, query.format)) return c.json(await ledger.usage(query, callerOf(c)), 200)
    const answer = await sendStream(c, await ledger.usageTable(query, callerOf(c)), { headers: tableHeaders })
    // The handler's type knows JSON alone.
    return answer as never
  })
  api.openapi(eventsRoute, async (c) => {
    const { events, leave } = await ledger.follow(callerOf(c), c.req.valid('query').from ?? lastEventId(c))
    c.set('endless', true)
    // Who asks for the header alone, or has gone, reads none.
    if (c.req.method === 'HEAD' || c.env?.outgoing?.destroyed) leave()
    return sendStream(c, eventStream(events, leave), { headers: eventStreamHeaders })
  })
  api.openapi(forecastRoute, async (c) => c.json(await ledger.forecast(callerOf(c)), 200))
  api.openapi(ratesRoute, (c) => c.json(ledger.rates(), 200))
  api.openapi(transferRoute, async (c) => {
    const wish = c.req.valid('json')
    tell(c, { tokens: told(wish.tokens), from: wish.from, to: wish.to })
    return c.json(await ledger.transfer(wish, keyOf(c.req.valid('header')), callerOf(c)), 201)
  })
  api.openapi(grantRoute, async (c) => {
    const wish = c.req.valid('json')
    tell(c, { tokens: told(wish.tokens), sort: wish.sort }, wish.accountId)
    return c.json(await ledger.grant(wish, keyOf(c.req.valid('header')), callerOf(c)), 201)
  })
  api.openapi(refundRoute, async (c) => {
    const wish = c.req.valid('json')
    tell(c, { tokens: wish.tokens, holdId: wish.holdId }, wish.accountId)
    return c.json(await ledger.refund(wish, keyOf(c.req.valid('header')), callerOf(c)), 201)
  })
  api.openapi(planRoute, async (c) => c.json(await ledger.plan(callerOf(c)), 200))
  api.openapi(setPlanRoute, async (c) => {
    const wish = c.req.valid('json')
    tell(c, { plan: wish.plan }, wish.accountId)
    return c.json(await ledger.setPlan(wish, callerOf(c)), 200)
  })
}

/** For the audit log's entry of this request: of whose ledger it was, and what. */
function tell(c: ApiContext, details: Record<string, string | number>, accountId = c.var.caller.accountId): void {
  c.set('made', accountId)
  c.set('told', details)
}

/** What is no number may be anything. */
function told(tokens: unknown): number {
  return typeof tokens === 'number' ? tokens : 0
}

const tableHeaders = {
  'Content-Type': 'text/csv; charset=utf-8; header=present',
  'Content-Disposition': 'attachment; filename="usage.csv"',
  'Cache-Control': 'no-store',
}

function wantsTable(c: ApiContext, format: 'json' | 'csv' | undefined): boolean {
  if (format !== undefined) return format === 'csv'
  const accepted = (c.req.header('accept') ?? '').split(',').map((one) => one.split(';')[0]!.trim().toLowerCase())
  return accepted.includes('text/csv') && !accepted.includes('application/json')
}
