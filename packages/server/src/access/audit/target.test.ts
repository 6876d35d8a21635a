import { describe, expect, test } from 'vitest'
import { newId } from '../../kernel/ids.ts'
import { notAnId, targetOf } from './target.ts'

test('an id of any kind is kept, also one of the first installation', () => {
  for (const id of [newId('sbx'), newId('key'), newId('apr'), 'key_default', 'acc_default'])
    expect(targetOf(id, '/v1/things/x')).toBe(id)
  expect(targetOf(undefined, '/v1/things')).toBeUndefined()
})

describe('a name is kept where a path takes names', () => {
  test.each([
    ['my-project', '/v1/workspaces/my-project'],
    ['datasets', '/v1/volumes/datasets'],
    ['tools:Stable', '/v1/templates/tools:Stable'],
    ['tools@12', '/v1/templates/tools@12/log'],
  ])('%s in %s', (name, path) => {
    expect(targetOf(name, path)).toBe(name)
    expect(targetOf(name, `/v1/keys/${name}`)).toBe(notAnId)
    expect(targetOf(name)).toBe(notAnId)
  })
})

test.each(['', 'My password', 'Hunter2', 'a/b', 'pässword', 'sbx_Abc', 'a\n', 'a'.repeat(65), 'a@b@c'])(
  'any other text is not: %j',
  (text) => {
    for (const path of ['/v1/keys/x', '/v1/sandboxes/x', '/v1/workspaces/x', '/v1/templates/x'])
      expect(targetOf(text, path)).toBe(notAnId)
  },
)

test('what only looks like an id, of a kind that there is not, is not', () => {
  expect(targetOf('pwd_abc', '/v1/keys/pwd_abc')).toBe(notAnId)
})
