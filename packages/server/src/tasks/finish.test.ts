import { expect, test } from 'vitest'
import { createFinish } from './finish.ts'

test('a value is checked, and what is wrong with it said', () => {
  const { check } = createFinish({ type: 'object', properties: { count: { type: 'integer' } }, required: ['count'] })
  expect(check('{"value":{"count":3}}')).toEqual({ ok: true, value: { count: 3 } })
  expect(check('{"value":{"count":"3"}}')).toMatchObject({ ok: false, fault: expect.stringContaining('value.count') })
  expect(check('{"count":3}')).toEqual({ ok: false, fault: 'Give the value as `value`.' })
  expect(check('{"value":')).toMatchObject({ ok: false })
})

test.each([
  { type: 'string', pattern: '^(a+)+$' },
  { type: 'array', items: { anyOf: [{ type: 'string', pattern: 'a' }] } },
  { type: 'object', properties: { pattern: { type: 'string', pattern: 'a' } } },
  { type: 'object', patternProperties: { a: {} } },
  { $defs: { a: { type: 'string', pattern: 'a' } }, $ref: '#/$defs/a' },
])('somebody else’s regular expression is not run: %j', (schema) => {
  expect(() => createFinish(schema)).toThrow(/is not supported/)
})

test('a field may be called so', () => {
  const schema = { type: 'object', properties: { pattern: { type: 'string' } }, required: ['pattern'] }
  expect(createFinish(schema).check('{"value":{"pattern":"stripes"}}').ok).toBe(true)
})
