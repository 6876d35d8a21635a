import { expect, test } from 'vitest'
import { type OpenApiDocument, typesOf } from './openapi-types.ts'

const sample: OpenApiDocument = {
  components: {
    schemas: {
      Thing: {
        type: 'object',
        required: ['id', 'state', 'labels', 'parent'],
        properties: {
          id: { type: 'string', description: 'Ends */ early' },
          state: { enum: ['on', 'off', 3] },
          labels: { type: 'object', additionalProperties: { type: 'string' } },
          parent: { anyOf: [{ $ref: '#/components/schemas/Thing' }, { type: 'null' }] },
          size: { type: ['integer', 'null'] },
          tags: { type: 'array', items: { anyOf: [{ type: 'string' }, { type: 'number' }] } },
          pair: { type: 'array', prefixItems: [{ type: 'string' }, { type: 'boolean' }] },
          'odd-name': { const: true },
          nested: { type: 'object', properties: { deep: {} } },
        },
      },
      Nothing: { type: 'object', additionalProperties: false },
    },
  },
  paths: {
    '/v1/things/{id}': {
      put: {
        operationId: 'putThing',
        summary: 'Put it',
        parameters: [
          { name: 'id', in: 'path', required: true, schema: { type: 'string' } },
          { name: 'dry-run', in: 'query', schema: { type: 'boolean' } },
        ],
        requestBody: { content: { 'application/octet-stream': { schema: { type: 'string', format: 'binary' } } } },
        responses: {
          200: {
            content: {
              'text/event-stream': { schema: { type: 'string' } },
              'application/json': { schema: { $ref: '#/components/schemas/Thing' } },
            },
          },
          204: {},
        },
      },
      get: {},
    },
  },
}

test('schemas and operations become types', () => {
  expect(typesOf(sample)).toMatchInlineSnapshot(`
    "// Generated from the OpenAPI document by scripts/generate-sdk-types.mjs. Do not edit.

    export type Nothing = Record<never, never>

    export type Thing = {
      /** Ends *\\/ early */
      id: string
      state: "on" | "off" | 3
      labels: Record<string, string>
      parent: Thing | null
      size?: number | null
      tags?: (string | number)[]
      pair?: [string, boolean]
      'odd-name'?: true
      nested?: {
        deep?: unknown
      }
    }

    export interface Operations {
      'GET /v1/things/{id}': {
        path: Record<never, never>
        query: Record<never, never>
        header: Record<never, never>
        body: undefined
        responses: {
        }
      }
      /** Put it */
      putThing: {
        path: {
          id: string
        }
        query: {
          'dry-run'?: boolean
        }
        header: Record<never, never>
        body: Uint8Array
        responses: {
          '200': Thing
          '204': undefined
        }
      }
    }
    "
  `)
})

test('line 1 says that it is generated', () => {
  expect(typesOf({}).split('\n')[0]).toBe(
    '// Generated from the OpenAPI document by scripts/generate-sdk-types.mjs. Do not edit.',
  )
})

const reversed = (value: object) => Object.fromEntries(Object.entries(value).toReversed())

test('the order of the document does not matter', () => {
  const { components, paths } = sample
  const turned = { components: { schemas: reversed(components?.schemas ?? {}) }, paths: reversed(paths ?? {}) }
  expect(typesOf(turned as OpenApiDocument)).toBe(typesOf(sample))
})
