import { z } from 'zod'
import type { ToolDescription } from '../models/door.ts'

export const finishName = 'finish'

export type Checked = { ok: true; value: unknown } | { ok: false; fault: string }

export interface Finish {
  description: ToolDescription
  /** What the model gave as the task's value. */
  check(input: string): Checked
}

/** The tool with which a task gives its value. Throws where the schema is none. */
export function createFinish(schema: Readonly<Record<string, unknown>>): Finish {
  refusePatterns(schema)
  const shape = z.fromJSONSchema(schema)
  const description = {
    name: finishName,
    description: 'Ends the task with its value. Call it once, alone, when everything is done.',
    inputSchema: { type: 'object', properties: { value: schema }, required: ['value'], additionalProperties: false },
  }
  return {
    description,
    check(input) {
      let given: unknown
      try {
        given = JSON.parse(input)
      } catch (error) {
        return { ok: false, fault: `The arguments are no JSON: ${(error as Error).message}` }
      }
      if (typeof given !== 'object' || given === null || !('value' in given)) {
        return { ok: false, fault: 'Give the value as `value`.' }
      }
      const parsed = shape.safeParse(given.value)
      if (parsed.success) return { ok: true, value: given.value }
      const faults = parsed.error.issues.map(({ path, message }) => `value.${path.join('.')}: ${message}`)
      return { ok: false, fault: `The value does not fit its schema: ${faults.slice(0, 20).join('; ')}` }
    },
  }
}

const ofNames = new Set(['properties', '$defs', 'definitions', 'dependentSchemas'])
const ofValues = new Set(['enum', 'const', 'default', 'examples', 'required'])

/** Somebody else's regular expression may take for ever, and nothing else would be served meanwhile. */
function refusePatterns(schema: unknown): void {
  if (Array.isArray(schema)) return schema.forEach(refusePatterns)
  if (typeof schema !== 'object' || schema === null) return
  for (const [name, value] of Object.entries(schema)) {
    if (name === 'pattern' || name === 'patternProperties') {
      throw new RangeError(`\`${name}\` is not supported: say in \`description\` what the text looks like`)
    }
    if (ofValues.has(name)) continue
    if (ofNames.has(name) && typeof value === 'object' && value !== null) Object.values(value).forEach(refusePatterns)
    else refusePatterns(value)
  }
}
