/** What of an OpenAPI 3.1 document decides types. */
export interface OpenApiDocument {
  components?: { schemas?: Record<string, JsonSchema> }
  paths?: Record<string, Record<string, OpenApiOperation>>
}

export interface OpenApiOperation {
  operationId?: string
  summary?: string
  parameters?: OpenApiParameter[]
  requestBody?: { required?: boolean; content?: Record<string, { schema?: JsonSchema }> }
  responses?: Record<string, { content?: Record<string, { schema?: JsonSchema }> }>
}

export interface OpenApiParameter {
  name: string
  in: string
  required?: boolean
  schema?: JsonSchema
}

export interface JsonSchema {
  $ref?: string
  type?: string | string[]
  enum?: unknown[]
  const?: unknown
  properties?: Record<string, JsonSchema>
  required?: string[]
  additionalProperties?: boolean | JsonSchema
  items?: JsonSchema
  prefixItems?: JsonSchema[]
  anyOf?: JsonSchema[]
  oneOf?: JsonSchema[]
  allOf?: JsonSchema[]
  nullable?: boolean
  format?: string
  description?: string
}

/** TypeScript for every schema and operation of the document; the same document always gives the same text. */
export function typesOf(document: OpenApiDocument): string {
  const schemas = Object.entries(document.components?.schemas ?? {}).toSorted(byName)
  const operations = Object.entries(document.paths ?? {}).flatMap(([path, methods]) =>
    Object.entries(methods).map(([method, operation]): [string, OpenApiOperation] => [
      operation.operationId ?? `${method.toUpperCase()} ${path}`,
      operation,
    ]),
  )
  const parts = [
    '// Generated from the OpenAPI document by scripts/generate-sdk-types.mjs. Do not edit.\n',
    ...schemas.map(
      ([name, schema]) => `${comment(schema.description, '')}export type ${typeName(name)} = ${typeOf(schema, '')}\n`,
    ),
    `export interface Operations {\n${operations.toSorted(byName).map(operationOf).join('')}}\n`,
  ]
  return parts.join('\n')
}

const byName = ([left]: [string, unknown], [right]: [string, unknown]) => (left < right ? -1 : left > right ? 1 : 0)

function operationOf([name, operation]: [string, OpenApiOperation]): string {
  const parameters = (place: string) => (operation.parameters ?? []).filter((parameter) => parameter.in === place)
  const lines = [
    `    path: ${parametersOf(parameters('path'))}`,
    `    query: ${parametersOf(parameters('query'))}`,
    `    header: ${parametersOf(parameters('header'))}`,
    `    body: ${contentOf(operation.requestBody?.content)}`,
    `    responses: {\n${Object.entries(operation.responses ?? {})
      .map(([status, { content }]) => `      ${propertyName(status)}: ${contentOf(content, '      ')}\n`)
      .join('')}    }`,
  ]
  return `${comment(operation.summary, '  ')}  ${propertyName(name)}: {\n${lines.join('\n')}\n  }\n`
}

function parametersOf(parameters: OpenApiParameter[]): string {
  if (parameters.length === 0) return 'Record<never, never>'
  const fields = parameters.map(({ name, required, schema }) => {
    return `      ${propertyName(name)}${required ? '' : '?'}: ${typeOf(schema ?? {}, '      ')}\n`
  })
  return `{\n${fields.join('')}    }`
}

/** JSON where there is some: the other kinds of one answer are streams and raw bytes. */
function contentOf(content: Record<string, { schema?: JsonSchema }> | undefined, indent = '    '): string {
  if (content === undefined) return 'undefined'
  const json = content['application/json']
  return json?.schema ? typeOf(json.schema, indent) : 'Uint8Array'
}

function typeOf(schema: JsonSchema, indent: string): string {
  const type = bareTypeOf(schema, indent)
  return schema.nullable === true ? `${type} | null` : type
}

function bareTypeOf(schema: JsonSchema, indent: string): string {
  if (schema.$ref !== undefined) return typeName(schema.$ref.slice(schema.$ref.lastIndexOf('/') + 1))
  if (schema.const !== undefined) return JSON.stringify(schema.const)
  if (schema.enum !== undefined) return schema.enum.map((value) => JSON.stringify(value)).join(' | ')
  const choices = schema.anyOf ?? schema.oneOf
  if (choices !== undefined) return choices.map((choice) => grouped(typeOf(choice, indent))).join(' | ')
  if (schema.allOf !== undefined) return schema.allOf.map((part) => grouped(typeOf(part, indent))).join(' & ')
  if (Array.isArray(schema.type))
    return schema.type.map((type) => grouped(typeOf({ ...schema, type }, indent))).join(' | ')
  return simpleTypeOf(schema, indent)
}

function simpleTypeOf(schema: JsonSchema, indent: string): string {
  switch (schema.type) {
    case 'string':
      return schema.format === 'binary' ? 'Uint8Array' : 'string'
    case 'integer':
    case 'number':
      return 'number'
    case 'boolean':
      return 'boolean'
    case 'null':
      return 'null'
    case 'array':
      return schema.prefixItems
        ? `[${schema.prefixItems.map((item) => typeOf(item, indent)).join(', ')}]`
        : `${grouped(typeOf(schema.items ?? {}, indent))}[]`
    case 'object':
      return objectOf(schema, indent)
    default:
      return schema.properties ? objectOf(schema, indent) : 'unknown'
  }
}

function objectOf(schema: JsonSchema, indent: string): string {
  const more = schema.additionalProperties
  const rest = typeof more === 'object' ? typeOf(more, indent) : 'unknown'
  const properties = Object.entries(schema.properties ?? {})
  if (properties.length === 0) return more === false ? 'Record<never, never>' : `Record<string, ${rest}>`
  const required = new Set(schema.required)
  const inner = `${indent}  `
  const fields = properties.map(([name, property]) => {
    const optional = required.has(name) ? '' : '?'
    return `${comment(property.description, inner)}${inner}${propertyName(name)}${optional}: ${typeOf(property, inner)}\n`
  })
  const open = typeof more === 'object' ? `${inner}[name: string]: unknown\n` : ''
  return `{\n${fields.join('')}${open}${indent}}`
}

const grouped = (type: string) => (/ [|&] /.test(type) && !type.startsWith('{') ? `(${type})` : type)
const propertyName = (name: string) => (/^[A-Za-z_$][\w$]*$/.test(name) ? name : `'${name.replaceAll("'", "\\'")}'`)
const typeName = (name: string) => name.replaceAll(/[^A-Za-z0-9_$]/g, '_')

function comment(text: string | undefined, indent: string): string {
  if (text === undefined || text === '') return ''
  return `${indent}/** ${text.replaceAll('*/', '*\\/').replaceAll(/\s+/g, ' ')} */\n`
}
