import { z } from 'zod'
import type { ToolDescription } from '../../models/door.ts'
import { shortened } from './bounded.ts'
import { nearest } from './nearest.ts'
import type { Tool } from './tool.ts'

const mostIssues = 8
const issueChars = 300
const valueChars = 60
const schemaChars = 3_000

export type ReadCall = { ok: true; tool: Tool; input: unknown } | { ok: false; text: string }

/** A call as the model wrote it, or a text that tells the model what to change. */
export function readCall(tools: ReadonlyMap<string, Tool>, name: string, inputText: string): ReadCall {
  const tool = tools.get(name)
  if (!tool) return { ok: false, text: unknownTool(tools, name) }
  const parsed = parseObject(inputText)
  if (!parsed.ok) return { ok: false, text: describeFault(tool, inputText) ?? '' }
  const read = tool.input.safeParse(parsed.value)
  if (read.success) return { ok: true, tool, input: read.data }
  return { ok: false, text: issuesText(tool, parsed.value, read.error) }
}

/** What is wrong with a call's arguments; undefined where nothing is. */
export function describeFault(tool: Tool, inputText: string): string | undefined {
  const parsed = parseObject(inputText)
  if (!parsed.ok) return `${parsed.reason} Nothing was done. ${signatureOf(tool)}`
  const read = tool.input.safeParse(parsed.value)
  return read.success ? undefined : issuesText(tool, parsed.value, read.error)
}

function unknownTool(tools: ReadonlyMap<string, Tool>, name: string): string {
  const names = [...tools.keys()]
  const [near] = nearest(name.slice(0, 200), names, { textOf: (one) => one, most: 1, least: 0.3 })
  const hint = near === undefined ? '' : ` Did you mean ${near}?`
  return `There is no tool ${JSON.stringify(shortened(name, 64))}.${hint} There are: ${names.join(', ')}.`
}

type Parsed = { ok: true; value: object } | { ok: false; reason: string }

function parseObject(text: string): Parsed {
  // Some models write nothing where there are no arguments.
  if (text.trim() === '') return { ok: true, value: {} }
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch (error) {
    const why = shortened(String((error as Error).message).replaceAll(/\s+/g, ' '), 200)
    const cut = isCut(text)
      ? ' It ends in the middle: send less in one call, such as a long file in several parts.'
      : ' Inside texts write line ends as \\n, quotes as \\" and backslashes as \\\\.'
    return { ok: false, reason: `The arguments are not valid JSON (${why}).${cut}` }
  }
  if (typeof value === 'object' && value !== null && !Array.isArray(value)) return { ok: true, value }
  return { ok: false, reason: 'The arguments are not a JSON object: send one, such as {"name": "value"}.' }
}

/** Whether it stops before its last brace. */
function isCut(text: string): boolean {
  return text.trimStart().startsWith('{') && !text.trimEnd().endsWith('}')
}

function issuesText(tool: Tool, value: unknown, error: z.ZodError): string {
  const lines = error.issues.slice(0, mostIssues).map(({ path, message }) => {
    const at = path.map(String).join('.')
    const sent = at === '' ? '' : ` (you sent ${shownValue(valueAt(value, path))})`
    return `- ${shortened(`${at === '' ? '' : `${at}: `}${message}`, issueChars)}${sent}`
  })
  const more = error.issues.length > mostIssues ? [`- and ${error.issues.length - mostIssues} more`] : []
  const head = `The arguments of ${tool.name} are not right, so nothing was done:`
  return [head, ...lines, ...more, signatureOf(tool)].join('\n')
}

function valueAt(value: unknown, path: readonly PropertyKey[]): unknown {
  let at = value
  for (const part of path) {
    if (typeof at !== 'object' || at === null) return undefined
    at = (at as Record<PropertyKey, unknown>)[part]
  }
  return at
}

function shownValue(value: unknown): string {
  return value === undefined ? 'nothing' : shortened(JSON.stringify(value), valueChars)
}

function signatureOf(tool: Tool): string {
  return `Call ${tool.name} again with arguments of this JSON schema: ${shortened(JSON.stringify(schemaOf(tool)), schemaChars)}`
}

const schemas = new WeakMap<Tool, Readonly<Record<string, unknown>>>()

/** Made once for each tool. */
function schemaOf(tool: Tool): Readonly<Record<string, unknown>> {
  const known = schemas.get(tool)
  if (known) return known
  const { $schema: _dialect, ...made } = z.toJSONSchema(tool.input, { io: 'input' })
  const schema = tool.inputSchema ?? made
  schemas.set(tool, schema)
  return schema
}

export function describeTool(tool: Tool): ToolDescription {
  return { name: tool.name, description: tool.description, inputSchema: schemaOf(tool) }
}
