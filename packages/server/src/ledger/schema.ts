import { z } from '@hono/zod-openapi'
import { askFields } from '../approvals/schema.ts'
import { idempotencyHeader, pageQuery } from '../kernel/http/request-shapes.ts'
import { planNames } from '../kernel/settings.ts'
import { largestTokens, microPerToken, shownTokens } from './amounts.ts'
import type { TransferKind } from './book.ts'
import { readingLimits } from './reading-limits.ts'
import { tokensSchema } from './tokens.ts'

const tokens = tokensSchema('Whole tokens').openapi({ example: 500 })

const amount = (description: string, example = 12.5) =>
  z.number().openapi({ description: `${description}, in tokens`, example })

const reason = (description: string, example: string) => askFields.reason.openapi({ description, example })

/** The account's own rows are named by what they are, since each account has one of each. */
const party = z
  .string()
  .regex(/^(reserve|(agt|tsk)_[a-z0-9]{1,40})$/, '`reserve`, or the id of an agent or task')
  .openapi({ description: '`reserve`, or the id of an agent or task', example: 'agt_k3v9x0m2qp7a8b1c4d5e' })

const idOf = (prefix: string) => z.string().regex(new RegExp(`^${prefix}_[a-z0-9]{1,40}$`))

const agentId = z.string().nullable().openapi({ example: 'agt_k3v9x0m2qp7a8b1c4d5e' })
const taskId = z.string().nullable()
const sandboxId = z.string().nullable().openapi({ example: 'sbx_k3v9x0m2qp7a8b1c4d5e' })
const period = z.string().openapi({ description: 'A month in UTC', example: '2026-11' })

const balances = {
  granted: amount('What is left of the grant, which ends with the period and is spent first'),
  bought: amount('What does not end'),
  held: amount('What is set aside for work under way, beside the other two'),
  used: amount('What it has paid so far, less what was given back'),
}

export const purseSchema = z
  .object({
    id: z.string().openapi({ description: '`reserve`, or the id of the agent or task', example: 'reserve' }),
    kind: z.enum(['reserve', 'agent', 'task']),
    parentId: z.string().nullable().openapi({ description: 'Where its balance goes when it is archived' }),
    depth: z.int().openapi({ description: 'How far below the first of the list' }),
    state: z.enum(['open', 'closing', 'archived']).openapi({
      description: '`closing`: to be archived as soon as the last of what it holds is settled',
    }),
    ...balances,
    monthlyTokens: amount('What it is given from the reserve at the beginning of each month'),
  })
  .openapi('Purse')
export type PurseView = z.output<typeof purseSchema>

export const ledgerSchema = z
  .object({
    accountId: z.string(),
    period,
    endsAt: z.iso.datetime().openapi({ description: 'When the period ends, and with it what is granted' }),
    total: z.object(balances).openapi({ description: 'Of all that is shown' }),
    owed: amount('What nobody could pay yet; as long as it is not paid, nothing new is begun', 0).nullable().openapi({
      description: 'What nobody could pay yet; as long as it is not paid, nothing new is begun. Null for an agent',
    }),
    purses: z.array(purseSchema).openapi({
      description: 'The tree, each purse right before those below it. An agent sees its own and those below',
    }),
    whole: z.boolean().openapi({
      description: `Whether these are all; with more than ${readingLimits.purses} ask for a part by \`purseId\``,
    }),
  })
  .openapi('Ledger')
export type LedgerView = z.output<typeof ledgerSchema>

const query = <Schema extends z.ZodType>(name: string, schema: Schema, more: object = {}) =>
  schema.openapi({ param: { name, in: 'query' }, ...more })

const purseQuery = query('purseId', party.optional(), { description: 'Only of this purse and those below it' })

const isTrue = z.enum(['true', 'false']).transform((value) => value === 'true')

export const ledgerQuerySchema = z.object({
  purseId: purseQuery,
  archived: query('archived', isTrue.optional(), { type: 'boolean', description: 'Also those that are archived' }),
})

const instant = z.iso.datetime({ offset: true }).transform((text) => Date.parse(text))

const fromQuery = (description: string) =>
  query('from', instant.optional(), { type: 'string', format: 'date-time', description })
const toQuery = query('to', instant.optional(), {
  type: 'string',
  format: 'date-time',
  description: 'Before this. Without it: until now',
})

const transferKinds = [
  'grant',
  'transfer',
  'renew',
  'hold',
  'release',
  'commit',
  'absorb',
  'charge',
  'owe',
  'pay_owed',
  'refund',
  'expire',
  'archive',
] as const satisfies TransferKind[]

export const transferSchema = z
  .object({
    seq: z.int().openapi({ description: 'Its position in the account’s journal, which has no gap' }),
    at: z.iso.datetime(),
    kind: z.enum(transferKinds).openapi({ description: 'What happened' }),
    from: z.string().openapi({
      description:
        'A purse (`reserve`, the id of an agent or task), or the other end: `hold`, `grant`, `usage`, `refund`, `absorbed`, `owed`',
    }),
    to: z.string(),
    tokens: amount('How much'),
    sort: z.enum(['granted', 'bought']),
    holdId: z.string().nullable(),
    reference: z.string().nullable().openapi({ description: 'What it is about: an approval, a task, a hold' }),
    reason: z.string().nullable(),
  })
  .openapi('Transfer')
export type TransferView = z.output<typeof transferSchema>

export const transferListSchema = z
  .object({ data: z.array(transferSchema), nextCursor: z.string().nullable() })
  .openapi('TransferList')

export const transferListQuerySchema = z.object({
  ...pageQuery(readingLimits.listed),
  purseId: purseQuery,
  kind: query('kind', z.enum(transferKinds).optional()),
  from: fromQuery('Not before this'),
  to: toQuery,
})
export type TransferListQuery = z.output<typeof transferListQuerySchema>

export const holdStates = ['open', 'committed', 'released', 'unknown'] as const

export const holdSchema = z
  .object({
    id: z.string().openapi({ example: 'hld_k3v9x0m2qp7a8b1c4d5e' }),
    purseId: z.string().openapi({ description: 'Who pays' }),
    state: z.enum(holdStates).openapi({
      description:
        '`unknown`: whoever held it died after the work had begun, so it was settled at what had been seen of it, else whole',
    }),
    kind: z.string().openapi({ description: 'What it is for', example: 'sandbox' }),
    agentId,
    taskId,
    sandboxId,
    tokens: amount('How much is, or was, set aside'),
    cost: amount('What was spent of it').nullable(),
    refunded: amount('What was given back of that', 0),
    at: z.iso.datetime(),
    endedAt: z.iso.datetime().nullable(),
  })
  .openapi('Hold')
export type HoldView = z.output<typeof holdSchema>

export const holdListSchema = z
  .object({ data: z.array(holdSchema), nextCursor: z.string().nullable() })
  .openapi('HoldList')

export const holdListQuerySchema = z.object({
  ...pageQuery(readingLimits.listed),
  purseId: purseQuery,
  state: query('state', z.enum(holdStates).optional()),
})
export type HoldListQuery = z.output<typeof holdListQuerySchema>

export const usageGroups = ['agent', 'task', 'sandbox', 'kind', 'meter', 'hour', 'day'] as const
export type UsageGroup = (typeof usageGroups)[number]

const groupBy = z
  .string()
  .max(100)
  .transform((text) => [...new Set(text.split(','))])
  .pipe(z.array(z.enum(usageGroups)).max(usageGroups.length))
  .refine((groups) => !(groups.includes('hour') && groups.includes('day')), 'by hour or by day, not both')

export const usageQuerySchema = z.object({
  ...pageQuery(readingLimits.listed, { cursorChars: readingLimits.usageCursorChars }),
  groupBy: query('groupBy', groupBy.optional(), {
    type: 'string',
    example: 'agent,meter,day',
    description: `Any of ${usageGroups.map((group) => `\`${group}\``).join(', ')}, separated by commas. Without it: by \`meter\``,
  }),
  from: fromQuery('Not before the hour of this. Without it: from the beginning of this month (UTC)'),
  to: toQuery,
  agentId: query('agentId', idOf('agt').optional()),
  taskId: query('taskId', idOf('tsk').optional()),
  sandboxId: query('sandboxId', idOf('sbx').optional()),
  kind: query(
    'kind',
    z
      .string()
      .regex(/^[a-z_]{1,40}$/)
      .optional(),
    { example: 'sandbox' },
  ),
  meter: query(
    'meter',
    z
      .string()
      .regex(/^[a-z0-9_:./-]{1,100}$/i)
      .optional(),
    { example: 'sandbox_cpu_seconds' },
  ),
  format: query('format', z.enum(['json', 'csv']).optional(), {
    description: '`csv`: all of it as a table, as with `Accept: text/csv`. Then `limit` and `cursor` mean nothing',
  }),
})
export type UsageQuery = z.output<typeof usageQuerySchema>

const grouped = ' Null where it is not grouped by that, and where there is none'
export const usageSchema = z
  .object({
    from: z.iso
      .datetime()
      .nullable()
      .openapi({ description: 'The beginning of the hour or day.' + grouped }),
    agentId: agentId.openapi({ description: grouped.trim() }),
    taskId: taskId.openapi({ description: grouped.trim() }),
    sandboxId: sandboxId.openapi({ description: grouped.trim() }),
    kind: z
      .string()
      .nullable()
      .openapi({ description: '`sandbox`, `egress`, `storage`, `model` or `message`.' + grouped, example: 'sandbox' }),
    meter: z
      .string()
      .nullable()
      .openapi({ description: 'As in the rate card.' + grouped, example: 'sandbox_cpu_seconds' }),
    quantity: z
      .number()
      .nullable()
      .openapi({ description: 'In the meter’s unit. Null where it is not grouped by meter' }),
    tokens: amount('What it cost'),
    estimated: amount('How much of that is an estimate, since its end was not seen', 0),
  })
  .openapi('Usage')
export type UsageView = z.output<typeof usageSchema>

export const usageListSchema = z
  .object({ data: z.array(usageSchema), nextCursor: z.string().nullable() })
  .openapi('UsageList')

export const followLedgerQuerySchema = z.object({
  from: z
    .string()
    .regex(/^[0-9]{1,15}$/, 'the id of an event')
    .transform(Number)
    .optional()
    .openapi({ param: { name: 'from', in: 'query' }, type: 'integer', description: 'As `Last-Event-ID`' }),
})

const forecastFields = {
  spent: amount('What was spent in this period so far'),
  perDay: amount('What was spent on average in a day, from the first hour of this period with any'),
  expected: amount('What will have been spent at the period’s end, if it goes on like that'),
  available: amount('What there is now, with what is held'),
  short: amount('What will be missing by the period’s end', 0),
  runsOutAt: z.iso
    .datetime()
    .nullable()
    .openapi({ description: 'When there will be nothing left; null: not in this period' }),
}

export const forecastSchema = z
  .object({
    period,
    at: z.iso.datetime().openapi({ description: 'When this was reckoned' }),
    endsAt: z.iso.datetime(),
    total: z.object(forecastFields).openapi({ description: 'Of all that you may see' }),
    agents: z
      .array(z.object({ agentId: z.string(), ...forecastFields }))
      .openapi({ description: `Those who spent most first, at most ${readingLimits.forecastAgents}` }),
  })
  .openapi('Forecast')
export type ForecastView = z.output<typeof forecastSchema>

export const ratesSchema = z
  .object({
    version: z.string(),
    tokenUsd: z.number().openapi({ description: 'What a token is worth, in US$', example: 0.01 }),
    data: z.array(
      z.object({
        meter: z.string().openapi({ example: 'sandbox_cpu_seconds' }),
        unit: z.string().openapi({ example: 'processor × second' }),
        perMillion: amount('What 1,000,000 units cost', 40),
      }),
    ),
  })
  .openapi('RateCard')
export type RatesView = z.output<typeof ratesSchema>

export const keyHeader = idempotencyHeader(
  'A repeat with the same key and the same body is not done again: it is answered as before, with `repeated`. Kept as long as the account',
)

export const transferRequestSchema = z
  .strictObject({
    tokens,
    from: party,
    to: party,
    reason: reason('Why; kept in the journal', 'For the release'),
  })
  .openapi('MakeTransfer')
export type TransferRequest = z.output<typeof transferRequestSchema>

const accountId = z
  .string()
  .regex(/^acc_[a-z0-9]{1,40}$/)
  .optional()
  .openapi({ description: 'Whose. Without it: your own', example: 'acc_k3v9x0m2qp7a8b1c4d5e' })

export const grantRequestSchema = z
  .strictObject({
    tokens,
    sort: z.enum(['granted', 'bought']).openapi({ description: '`granted` ends with the period, `bought` does not' }),
    reason: reason('Why; kept in the journal', 'Invoice 2026-117'),
    accountId,
  })
  .openapi('MakeGrant')
export type GrantRequest = z.output<typeof grantRequestSchema>

export const refundRequestSchema = z
  .strictObject({
    holdId: z
      .string()
      .regex(/^hld_[a-z0-9]{1,40}$/)
      .openapi({ description: 'Of what was spent; kept as the reference', example: 'hld_k3v9x0m2qp7a8b1c4d5e' }),
    tokens: z
      .number()
      .positive()
      .max(largestTokens)
      .refine((value) => isWholeMicro(value), 'at most six places')
      .openapi({ description: 'At most what it cost, with at most six places', example: 0.25 }),
    reason: reason('Why; kept in the journal', 'The model’s answer was cut'),
    accountId,
  })
  .openapi('MakeRefund')
export type RefundRequest = z.output<typeof refundRequestSchema>

function isWholeMicro(value: number): boolean {
  return shownTokens(Math.round(value * microPerToken)) === value
}

/** What was written in the journal. */
export const writtenSchema = z
  .object({
    seq: z.int().openapi({ description: 'The position of its last line in the journal' }),
    tokens: amount('What moved'),
    repeated: z.boolean().openapi({ description: 'It had been done before, with this Idempotency-Key' }),
  })
  .openapi('Written')
export type WrittenView = z.output<typeof writtenSchema>

const bound = (description: string) =>
  z
    .int()
    .nullable()
    .openapi({ description: `${description}; null: no limit` })

export const planSchema = z
  .object({
    plan: z.enum(planNames),
    agents: bound('Agents at once'),
    sandboxHours: bound('Hours of sandboxes in a month'),
    grantTokens: z.number().openapi({ description: 'Granted at the beginning of each month' }),
  })
  .openapi('Plan')
export type PlanView = z.output<typeof planSchema>

export const setPlanSchema = z.strictObject({ plan: z.enum(planNames), accountId }).openapi('SetPlan')
