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
    poolSize: 8,
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

test('the operator’s part of egress: ranges, names and a proxy', () => {
  const { egress } = readConfig({
    DELTA_API_KEY_SHA256,
    DELTA_EGRESS_ALLOW_CIDRS: '10.1.0.0/16, fd00::/8,203.0.113.7,',
    DELTA_EGRESS_HOSTS: 'Mirror.example=10.1.2.3, mirror.example=fd00::1',
    DELTA_EGRESS_PROXY: 'http://us%3Aer:pa%40ss@proxy.example:3128',
  })
  expect(egress.allowCidrs).toEqual([
    { address: '10.1.0.0', prefix: 16, family: 4 },
    { address: 'fd00::', prefix: 8, family: 6 },
    { address: '203.0.113.7', prefix: 32, family: 4 },
  ])
  expect(egress.hosts).toEqual(new Map([['mirror.example', ['10.1.2.3', 'fd00::1']]]))
  expect(egress.proxy).toEqual({
    host: 'proxy.example',
    port: 3128,
    authorization: `Basic ${Buffer.from('us:er:pa@ss').toString('base64')}`,
  })
  expect(readConfig({ DELTA_API_KEY_SHA256, DELTA_EGRESS_PROXY: 'http://[fd00::1]' }).egress.proxy).toEqual({
    host: 'fd00::1',
    port: 80,
  })
})

test.each([
  ['DELTA_EGRESS_ALLOW_CIDRS', '10.0.0.0/33', "'10.0.0.0/33'"],
  ['DELTA_EGRESS_ALLOW_CIDRS', 'example.com', "'example.com'"],
  ['DELTA_EGRESS_ALLOW_CIDRS', '10.0.0.0/8/8', 'no CIDR'],
  ['DELTA_EGRESS_ALLOW_CIDRS', '10.0.0.0/', 'no CIDR'],
  ['DELTA_EGRESS_HOSTS', 'mirror=host', 'not name=address'],
  ['DELTA_EGRESS_HOSTS', 'mirror', 'not name=address'],
  ['DELTA_EGRESS_PROXY', 'socks5://proxy:1080', 'must be an http:// URL'],
])('%s=%s is refused at the start', (name, value, words) => {
  expect(() => readConfig({ DELTA_API_KEY_SHA256, [name]: value })).toThrow(words)
})
