import { readFileSync } from 'node:fs'
import { resolve } from 'node:path'
import { expect, test } from 'vitest'
import { settings } from '../packages/server/src/kernel/settings.ts'
import { documentOf, exampleOf } from './config-text.ts'
import { parseEnvFile } from './env-file.mjs'

const read = (path: string) => readFileSync(resolve(import.meta.dirname, '..', path), 'utf8')

test('env.example and docs/configuration.md say what the table says: node scripts/config.mjs --write', () => {
  expect(read('env.example')).toBe(exampleOf())
  expect(read('docs/configuration.md')).toBe(documentOf())
})

test('every line of env.example can be taken as it is', () => {
  const active = exampleOf().replaceAll(/^#(?=[A-Z])/gm, '')
  const values = parseEnvFile(active)
  expect(Object.keys(values)).toContain('DELTA_RATE_LIMIT_KEY')
  for (const name of Object.keys(values)) expect(settings).toHaveProperty(name)
})
