import { resolve } from 'node:path'
import { expect, test } from 'vitest'
import { readConfig } from './config.ts'
import { DeltaError } from './errors.ts'

const DELTA_API_KEY_SHA256 = 'ab'.repeat(32)

test('everything but the key has a default', () => {
  expect(readConfig({ DELTA_API_KEY_SHA256 })).toEqual({
    port: 8000,
    host: '127.0.0.1',
    hosts: [],
    dataDir: resolve('data'),
    databasePath: resolve('data/delta.db'),
    databaseUrl: undefined,
    apiKeySha256: DELTA_API_KEY_SHA256,
    runtime: undefined,
    maxSandboxes: 1_000,
    poolSize: 8,
    wireDir: resolve('data/wire'),
    egress: { allowCidrs: [], hosts: new Map(), proxy: undefined },
    logLevel: 'info',
    portsDomain: 'localhost',
    environment: 'production',
  })
})

test('what is set is taken, and an empty variable is not set', () => {
  const config = readConfig({
    DELTA_API_KEY_SHA256,
    PORT: '9000',
    HOST: '0.0.0.0',
    DELTA_HOSTS: ' Delta.example.com, *.boxes.example.com,',
    DELTA_DATA_DIR: '/srv/delta',
    DATABASE_URL: 'postgres://u:p@db/delta',
    DELTA_RUNTIME: '',
    LOG_LEVEL: 'debug',
  })
  expect(config).toMatchObject({
    port: 9000,
    host: '0.0.0.0',
    dataDir: '/srv/delta',
    runtime: undefined,
    maxSandboxes: 1_000,
    logLevel: 'debug',
  })
  expect(config.hosts).toEqual(['delta.example.com', '*.boxes.example.com'])
  expect(config.databaseUrl).toBe('postgres://u:p@db/delta')
})

test.each([
  ['PORT', '80000'],
  ['PORT', 'eighty'],
  ['PORT', '-1'],
  ['DATABASE_URL', 'mysql://u:hunter2@db/x'],
  ['DATABASE_URL', 'hunter2'],
  ['DELTA_RUNTIME', 'docker'],
  ['LOG_LEVEL', 'loud'],
  ['DELTA_API_KEY_SHA256', 'hunter2'],
])('%s=%s is refused by name, without its value', (name, value) => {
  const read = () => readConfig({ DELTA_API_KEY_SHA256, [name]: value })
  expect(read).toThrow(DeltaError)
  expect(read).toThrow(expect.objectContaining({ code: 'config_invalid', message: expect.stringContaining(name) }))
  expect(read).not.toThrow(/hunter2/)
})

test('a missing key says what it is', () => {
  expect(() => readConfig({})).toThrow(/DELTA_API_KEY_SHA256 is missing: it is the SHA-256 of the API key/)
})
