import { z } from '@hono/zod-openapi'
import { modelLimits } from './limits.ts'
import { providerNames } from './provider.ts'
import { ownKeyProviders } from './names.ts'

const tokensPerMillion = (what: string) =>
  z.number().openapi({ description: `Tokens for 1,000,000 tokens of ${what}`, example: 200 })

const rateFields = {
  input: tokensPerMillion('input'),
  cacheRead: tokensPerMillion('input from the provider’s cache'),
  cacheWrite: tokensPerMillion('input that the provider keeps for five minutes'),
  cacheWriteHour: tokensPerMillion('input that the provider keeps for an hour'),
  output: tokensPerMillion('output, thinking included'),
}

const reasonSchema = z
  .object({ code: z.string(), message: z.string(), remediation: z.string() })
  .nullable()
  .openapi({ description: 'Why it can not be used now' })

export const modelSchema = z
  .object({
    id: z.string().openapi({ example: 'anthropic/claude-sonnet-5-5' }),
    provider: z.enum(providerNames),
    name: z.string().openapi({ description: 'As the provider knows it' }),
    usable: z.boolean(),
    reason: reasonSchema,
    ownKey: z.boolean().openapi({ description: 'With a key of the account, which pays its provider itself' }),
    prices: z.object(rateFields).nullable(),
    longPrices: z
      .array(
        z.object({ overTokens: z.int().openapi({ description: 'Of calls with more input than this' }), ...rateFields }),
      )
      .openapi({ description: 'Of all of a call, its output included' }),
    contextTokens: z.int().nullable().openapi({ description: 'Where it is known' }),
    maxOutputTokens: z.int().nullable().openapi({ description: 'Where it is known' }),
  })
  .openapi('Model')
export type ModelView = z.output<typeof modelSchema>

export const providerSchema = z
  .object({
    provider: z.enum(providerNames),
    usable: z.boolean(),
    reason: reasonSchema,
    ownKey: z.boolean(),
  })
  .openapi('ModelProvider')
export type ProviderView = z.output<typeof providerSchema>

export const modelListSchema = z
  .object({
    data: z.array(modelSchema),
    providers: z.array(providerSchema),
    default: z.string().nullable().openapi({ description: 'Of tasks that name none' }),
  })
  .openapi('ModelList')
export type ModelListView = z.output<typeof modelListSchema>

export const modelKeyParamsSchema = z.object({
  provider: z.enum(ownKeyProviders).openapi({ param: { name: 'provider', in: 'path' } }),
})

const { min, max } = modelLimits.keyChars

export const setModelKeySchema = z
  .strictObject({
    apiKey: z
      .string()
      .min(min)
      .max(max)
      // What could stand in a header and nothing else.
      .regex(/^[!-~]+$/, 'a key without spaces')
      .openapi({ description: 'The provider’s key. It is sealed at rest and never shown again', example: 'sk-ant-…' }),
  })
  .openapi('SetModelKey')

export const modelKeySchema = z
  .object({
    provider: z.enum(ownKeyProviders),
    last: z.string().openapi({ description: 'Its last four characters', example: 'x3Qa' }),
    setBy: z.string(),
    setAt: z.iso.datetime(),
  })
  .openapi('ModelKey')
export type ModelKeyView = z.output<typeof modelKeySchema>

export const modelKeyListSchema = z.object({ data: z.array(modelKeySchema) }).openapi('ModelKeyList')
