import { z } from '@hono/zod-openapi'
import { egressVias } from '../../guest/messages.ts'
import { askFields } from '../../approvals/schema.ts'
import { presetNames } from './presets.ts'
import { formatRule, parseRule, ruleLimits, webPorts } from './rule-text.ts'

export const egressPageLimit = { max: 500, default: 100 } as const

const hostRule = z
  .string()
  .min(1)
  .transform((text, context) => {
    const rule = parseRule(text)
    if (rule.ok) return formatRule(rule.value)
    context.addIssue({ code: 'custom', message: rule.reason, input: text })
    return z.NEVER
  })
  .openapi({
    type: 'string',
    description:
      'A host name, `*.` and a name for all below it, or a literal address; ports 80 and 443, unless `:port` or `:*` (every port) follows',
    example: 'git.example.com:22',
  })

const hostListSchema = z.strictObject({
  hosts: z
    .array(hostRule)
    .max(ruleLimits.hosts, `hosts: at most ${ruleLimits.hosts}`)
    .transform((hosts) => [...new Set(hosts)])
    .default([]),
  presets: z
    .array(z.enum(presetNames, `presets: there are ${presetNames.join(', ')}`))
    .max(16)
    .transform((names) => [...new Set(names)])
    .default([])
    .openapi({
      description: 'Named lists: `packages` (package registries), `git` (code hosts), `models` (model APIs)',
    }),
})

const egressText = 'What programs inside may connect to: nothing, everything public, or a list'

/** What a caller sends. */
export const setNetworkSchema = z
  .strictObject({
    egress: z.union([z.enum(['none', 'all'], 'egress is none, all or a list'), hostListSchema]).openapi({
      description: egressText,
      example: { hosts: ['api.example.com'], presets: ['packages'] },
    }),
  })
  .openapi('SetNetwork')

/** What a caller sees. */
export const networkSchema = z
  .object({
    egress: z
      .union([z.enum(['none', 'all']), z.object({ hosts: z.array(z.string()), presets: z.array(z.enum(presetNames)) })])
      .openapi({ description: egressText }),
  })
  .openapi('Network')
export type Network = z.output<typeof networkSchema>

export const allowSchema = hostListSchema
  .refine(({ hosts, presets }) => hosts.length + presets.length > 0, { message: 'name at least one host or preset' })
  .openapi('AllowEgress')
export type AllowEgress = z.output<typeof allowSchema>

/** One host and no pattern: a person decides on just that. */
export const requestEgressSchema = z
  .strictObject({
    host: z
      .string()
      .min(1)
      .transform((text, context) => {
        const rule = parseRule(text)
        if (rule.ok && !rule.value.wildcard && rule.value.ports === webPorts) return rule.value.host
        const message = rule.ok ? 'names one host, without * and port' : rule.reason
        context.addIssue({ code: 'custom', message, input: text })
        return z.NEVER
      })
      .openapi({ type: 'string', description: 'A host name or a literal address', example: 'fonts.example.com' }),
    port: z.int().min(1).max(65_535).optional().openapi({ description: 'Without it: 80 and 443' }),
    ...askFields,
  })
  .openapi('RequestEgress')
export type RequestEgress = z.output<typeof requestEgressSchema>

export const egressOutcomes = ['allowed', 'refused', 'failed'] as const
export type EgressOutcome = (typeof egressOutcomes)[number]

export const egressConnectionSchema = z
  .object({
    id: z.string().openapi({ example: 'egc_k3v9x0m2qp7a8b1c4d5e' }),
    at: z.iso.datetime().openapi({ description: 'When it was asked for' }),
    host: z.string(),
    port: z.int(),
    address: z
      .string()
      .nullable()
      .openapi({ description: 'What the host connected to; null where it did not, or a proxy did' }),
    via: z.enum(egressVias).openapi({
      description: '`connect` and `http`: through the proxy inside. `tcp`: by a program that knows of no proxy',
    }),
    outcome: z.enum(egressOutcomes),
    reason: z.string().openapi({
      description: 'How it ended, or why it did not begin',
      example: 'closed',
    }),
    bytesUp: z.int().openapi({ description: 'From the sandbox' }),
    bytesDown: z.int(),
    durationMs: z.int(),
    count: z.int().openapi({
      description: 'Above 1: so many that were refused or failed in a short time, of which this is the last',
    }),
  })
  .openapi('EgressConnection')
export type EgressConnectionView = z.output<typeof egressConnectionSchema>

export const egressListSchema = z
  .object({ data: z.array(egressConnectionSchema), nextCursor: z.string().nullable() })
  .openapi('EgressConnectionList')
