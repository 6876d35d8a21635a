import { resolve } from 'node:path'
import { describe, expect, test } from 'vitest'
import { readConfig } from './config.ts'
import { DeltaError } from './errors.ts'

const DELTA_API_KEY_SHA256 = 'ab'.repeat(32)

const SECRET_KEY = 'kZ0pXq7T3vYbN5mRw8eHs2aLc9dGf4uJ'

test('everything but the keys has a default', () => {
  expect(readConfig({ DELTA_API_KEY_SHA256, SECRET_KEY })).toEqual({
    port: 8000,
    host: '127.0.0.1',
    hosts: [],
    dataDir: resolve('data'),
    databasePath: resolve('data/delta.db'),
    databaseUrl: undefined,
    redisUrl: undefined,
    rates: { key: 1_000, account: 2_000, address: 100 },
    trustedProxies: [],
    corsOrigins: [],
    apiKeySha256: DELTA_API_KEY_SHA256,
    secretKey: SECRET_KEY,
    secretKeyLost: false,
    jwtSecretKey: undefined,
    publicUrl: 'http://127.0.0.1:8000',
    mail: { smtpUrl: undefined, from: 'DELTA <delta@localhost>' },
    registration: 'open',
    ledger: { grantTokens: 1_000, defaultPlan: 'free', rateCardText: undefined },
    models: {
      anthropic: { apiKey: undefined, baseUrl: undefined },
      google: { apiKey: undefined, baseUrl: undefined },
      openai: { apiKey: undefined, baseUrl: undefined },
      defaultModel: undefined,
      localModels: ['*'],
    },
    runtime: undefined,
    maxSandboxes: 1_000,
    poolSize: 8,
    layersMax: 100,
    wireDir: resolve('data/wire'),
    egress: { allowCidrs: [], hosts: new Map(), proxy: undefined },
    storage: { folder: resolve('data/blobs'), s3: undefined, key: undefined },
    registries: [],
    logLevel: 'info',
    traces: undefined,
    portsDomain: 'localhost',
    environment: 'production',
  })
})

test('what is set is taken, and an empty variable is not set', () => {
  const config = readConfig({
    DELTA_API_KEY_SHA256,
    SECRET_KEY,
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
  ['DELTA_GRANT_TOKENS', '-1'],
  ['DELTA_GRANT_TOKENS', '0.5'],
  ['DELTA_GRANT_TOKENS', '1000000001'],
  ['DELTA_DEFAULT_PLAN', 'hunter2'],
])('%s=%s is refused by name, without its value', (name, value) => {
  const read = () => readConfig({ DELTA_API_KEY_SHA256, SECRET_KEY, [name]: value })
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
    SECRET_KEY,
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
  expect(readConfig({ DELTA_API_KEY_SHA256, SECRET_KEY, DELTA_EGRESS_PROXY: 'http://[fd00::1]' }).egress.proxy).toEqual(
    {
      host: 'fd00::1',
      port: 80,
    },
  )
})

test.each([
  ['DELTA_EGRESS_ALLOW_CIDRS', '10.0.0.0/33', "'10.0.0.0/33'"],
  ['DELTA_EGRESS_ALLOW_CIDRS', 'example.com', "'example.com'"],
  ['DELTA_EGRESS_ALLOW_CIDRS', '10.0.0.0/8/8', 'no CIDR'],
  ['DELTA_EGRESS_ALLOW_CIDRS', '10.0.0.0/', 'no CIDR'],
  ['DELTA_EGRESS_HOSTS', 'mirror=host', 'not name=address'],
  ['DELTA_EGRESS_HOSTS', 'mirror', 'not name=address'],
  ['DELTA_EGRESS_PROXY', 'socks5://proxy:1080', 'must be an http:// URL'],
  ['HOST', 'a b', 'HOST must be an address or a host name'],
  ['HOST', 'http://127.0.0.1', 'HOST must be an address or a host name'],
  ['HOST', '127.0.0.1:8000', 'HOST must be an address or a host name'],
  ['DELTA_HOSTS', 'http://evil', 'DELTA_HOSTS must be host names without scheme'],
  ['DELTA_HOSTS', 'delta.example.com, other.example.com:8000', 'DELTA_HOSTS must be host names without scheme'],
  ['DELTA_HOSTS', 'fd00::1', 'DELTA_HOSTS must be host names without scheme'],
  ['DELTA_HOSTS', '*example.com', 'DELTA_HOSTS must be host names without scheme'],
])('%s=%s is refused at the start', (name, value, words) => {
  expect(() => readConfig({ DELTA_API_KEY_SHA256, SECRET_KEY, [name]: value })).toThrow(words)
})

test.each([
  ['HOST', ['::', '0.0.0.0', 'fe80::1%eth0', 'localhost', 'my-server.example.com', 'box_1']],
  ['DELTA_HOSTS', ['*', '*.example.com', 'Delta.example.com,10.0.0.7, [fd00::1],', 'my_box.internal', '']],
] as const)('%s takes what can be one', (name, values) => {
  for (const value of values)
    expect(() => readConfig({ DELTA_API_KEY_SHA256, SECRET_KEY, [name]: value })).not.toThrow()
})

describe('the storage', () => {
  const keys = { DELTA_S3_ACCESS_KEY_ID: 'AKIA1', DELTA_S3_SECRET_ACCESS_KEY: 'hunter2' }

  test('a bucket with all that can be said of it', () => {
    const { storage } = readConfig({
      DELTA_API_KEY_SHA256,
      SECRET_KEY,
      ...keys,
      DELTA_DATA_DIR: '/srv/delta',
      DELTA_STORAGE: 's3://my-bucket/some/where/',
      DELTA_STORAGE_KEY: Buffer.alloc(32, 7).toString('base64'),
      DELTA_S3_ENDPOINT: 'https://minio.example:9000',
      DELTA_S3_REGION: 'eu-central-1',
      DELTA_S3_SESSION_TOKEN: 'token',
      DELTA_S3_SSE: 'aws:kms:arn:aws:kms:eu-central-1:1:key/2',
    })
    expect(storage).toEqual({
      folder: '/srv/delta/blobs',
      key: Buffer.alloc(32, 7),
      s3: {
        bucket: 'my-bucket',
        prefix: 'some/where/',
        endpoint: 'https://minio.example:9000',
        region: 'eu-central-1',
        accessKeyId: 'AKIA1',
        secretAccessKey: 'hunter2',
        sessionToken: 'token',
        pathStyle: true,
        sse: { algorithm: 'aws:kms', keyId: 'arn:aws:kms:eu-central-1:1:key/2' },
      },
    })
  })

  test('a bucket of AWS needs a name and credentials', () => {
    const { storage } = readConfig({ DELTA_API_KEY_SHA256, SECRET_KEY, ...keys, DELTA_STORAGE: 's3://my-bucket' })
    expect(storage.s3).toMatchObject({ bucket: 'my-bucket', prefix: '', endpoint: undefined, pathStyle: false })
    expect(storage.s3?.sse).toBeUndefined()
    for (const missing of Object.keys(keys)) {
      const read = () =>
        readConfig({ DELTA_API_KEY_SHA256, SECRET_KEY, ...keys, [missing]: '', DELTA_STORAGE: 's3://my-bucket' })
      expect(read).toThrow(expect.objectContaining({ code: 'config_invalid' }))
      expect(read).toThrow(new RegExp(missing))
    }
  })

  test('the style of the path can be said', () => {
    const set = { DELTA_API_KEY_SHA256, SECRET_KEY, ...keys, DELTA_STORAGE: 's3://my-bucket' }
    const style = (more: Record<string, string>) => readConfig({ ...set, ...more }).storage.s3?.pathStyle
    expect(style({ DELTA_S3_PATH_STYLE: 'true' })).toBe(true)
    expect(style({ DELTA_S3_PATH_STYLE: 'false', DELTA_S3_ENDPOINT: 'https://r2.example' })).toBe(false)
  })

  test.each([
    ['DELTA_STORAGE', 's3://'],
    ['DELTA_STORAGE', 's3://UPPER/x'],
    ['DELTA_STORAGE', '/some/folder'],
    ['DELTA_STORAGE_KEY', Buffer.alloc(31).toString('base64')],
    ['DELTA_STORAGE_KEY', 'hunter2'],
    ['DELTA_S3_ENDPOINT', 'ftp://minio'],
    ['DELTA_S3_SSE', 'aes'],
    ['DELTA_S3_PATH_STYLE', 'yes'],
  ])('%s=%s is refused by name, without its value', (name, value) => {
    const read = () => readConfig({ DELTA_API_KEY_SHA256, SECRET_KEY, [name]: value })
    expect(read).toThrow(expect.objectContaining({ code: 'config_invalid', message: expect.stringContaining(name) }))
    expect(read).not.toThrow(/hunter2/)
  })
})

test('registries of the operator may have a scheme, a port and an account, and a password is not repeated', () => {
  const of = (list: string) => readConfig({ DELTA_API_KEY_SHA256, SECRET_KEY, DELTA_REGISTRIES: list }).registries
  expect(of('r.internal:5000, http://localhost:80,https://me:p%40ss@r.example')).toEqual([
    { host: 'r.internal:5000', scheme: 'https' },
    { host: 'localhost', scheme: 'http' },
    { host: 'r.example', scheme: 'https', credentials: { username: 'me', password: 'p@ss' } },
  ])
  for (const wrong of ['https://me:secret@r.example/path', 'a b', 'http://']) {
    expect(() => of(wrong)).toThrow(/DELTA_REGISTRIES has an entry, number 1/)
    expect(() => of(wrong)).not.toThrow(/secret/)
  }
})

test.each([
  ['SECRET_KEY', '', /SECRET_KEY is missing.*DATABASE_URL/],
  ['SECRET_KEY', 'short', /SECRET_KEY must have at least 32 bytes/],
  ['SECRET_KEY', 'a'.repeat(64), /SECRET_KEY must have at least 32 bytes/],
  ['JWT_SECRET_KEY', 'short', /JWT_SECRET_KEY must have at least 32 bytes/],
  ['DELTA_PUBLIC_URL', 'delta.example.com', /DELTA_PUBLIC_URL must be an http/],
  ['DELTA_PUBLIC_URL', 'https://delta.example.com/path', /DELTA_PUBLIC_URL must be scheme, host and port/],
  ['DELTA_PUBLIC_URL', 'https://user:pass@delta.example.com', /DELTA_PUBLIC_URL must be scheme, host and port/],
  ['SMTP_URL', 'http://mail', /SMTP_URL must be an smtp/],
  ['SMTP_URL', 'smtp://mail', /MAIL_FROM is missing/],
  ['MAIL_FROM', 'a@b.example\nBcc: c@d.example', /MAIL_FROM must be an address/],
])('%s of %j is refused', (name, value, words) => {
  expect(() => readConfig({ DELTA_API_KEY_SHA256, SECRET_KEY, [name]: value })).toThrow(words)
})

test.each([
  [{}, 'http://127.0.0.1:8000'],
  [{ HOST: '0.0.0.0', PORT: '9000' }, 'http://localhost:9000'],
  [{ HOST: '::1' }, 'http://[::1]:8000'],
  [{ DELTA_PUBLIC_URL: 'https://delta.example.com/' }, 'https://delta.example.com'],
])('%o is reached at %s', (more, publicUrl) => {
  expect(readConfig({ DELTA_API_KEY_SHA256, SECRET_KEY, ...more }).publicUrl).toBe(publicUrl)
})

test('the server goes by the name of its public address', () => {
  const { hosts } = readConfig({
    DELTA_API_KEY_SHA256,
    SECRET_KEY,
    DELTA_HOSTS: 'other.example.com',
    DELTA_PUBLIC_URL: 'https://Delta.example.com:8443',
  })
  expect(hosts).toEqual(['other.example.com', 'delta.example.com'])
})

test('places of providers of models are whole URLs, and a server that needs no key costs nothing', () => {
  const base = { DELTA_API_KEY_SHA256, SECRET_KEY }
  const { models } = readConfig({
    ...base,
    ANTHROPIC_API_KEY: 'sk-ant-12345',
    ANTHROPIC_BASE_URL: 'http://127.0.0.1:9000',
    GEMINI_BASE_URL: 'https://gateway.example/gemini/v1beta/',
    OPENAI_BASE_URL: 'http://localhost:11434/',
    DELTA_MODEL: 'openai/qwen3:8b',
  })
  expect(models).toEqual({
    anthropic: { apiKey: 'sk-ant-12345', baseUrl: 'http://127.0.0.1:9000/v1' },
    google: { apiKey: undefined, baseUrl: 'https://gateway.example/gemini/v1beta' },
    openai: { apiKey: undefined, baseUrl: 'http://localhost:11434/v1' },
    defaultModel: 'openai/qwen3:8b',
    localModels: ['*'],
  })
  const withKey = { ...base, OPENAI_BASE_URL: 'http://localhost', OPENAI_API_KEY: 'sk-12345678' }
  expect(readConfig(withKey).models.localModels).toEqual([])
  expect(readConfig({ ...withKey, DELTA_LOCAL_MODELS: 'a, b/c:7' }).models.localModels).toEqual(['a', 'b/c:7'])
})

test.each([
  ['ANTHROPIC_API_KEY', 'two words'],
  ['OPENAI_BASE_URL', 'http://user:planted-password@localhost'],
  ['OPENAI_BASE_URL', 'file:///etc/passwd'],
  ['DELTA_MODEL', 'planted'],
])('%s of a wrong form stops the start without its value', (name, value) => {
  const read = () => readConfig({ DELTA_API_KEY_SHA256, SECRET_KEY, [name]: value })
  expect(read).toThrow(expect.objectContaining({ code: 'config_invalid', message: expect.stringContaining(name) }))
  expect(read).not.toThrow(expect.objectContaining({ message: expect.stringContaining(value) }))
})

describe('where traces go', () => {
  const tracesOf = (env: Record<string, string>) => readConfig({ DELTA_API_KEY_SHA256, SECRET_KEY, ...env }).traces

  test('the base gets a path, and the whole wins', () => {
    const base = { OTEL_EXPORTER_OTLP_ENDPOINT: 'http://127.0.0.1:4318/' }
    const rest = { headers: {}, serviceName: 'delta' }
    expect(tracesOf(base)).toEqual({ url: 'http://127.0.0.1:4318/v1/traces', ...rest })
    expect(tracesOf({ OTEL_EXPORTER_OTLP_ENDPOINT: 'https://otel.example/otlp' })?.url).toBe(
      'https://otel.example/otlp/v1/traces',
    )
    const whole = { OTEL_EXPORTER_OTLP_TRACES_ENDPOINT: 'https://otel.example/mine' }
    expect(tracesOf({ ...base, ...whole })?.url).toBe('https://otel.example/mine')
    expect(tracesOf(whole)?.url).toBe('https://otel.example/mine')
  })

  test('headers are read as in a URL', () => {
    const env = { OTEL_EXPORTER_OTLP_TRACES_ENDPOINT: 'https://otel.example/', OTEL_SERVICE_NAME: 'delta-eu' }
    expect(tracesOf({ ...env, OTEL_EXPORTER_OTLP_HEADERS: 'Authorization=Basic%20YTpi=, x-team=a%2Cb' })).toEqual({
      url: 'https://otel.example/',
      headers: { authorization: 'Basic YTpi=', 'x-team': 'a,b' },
      serviceName: 'delta-eu',
    })
  })

  test.each(['planted', 'a b=planted', 'a=', 'a=planted%0d%0ab', 'a=planted%'])(
    '%s is no header, and is not repeated',
    (list) => {
      const refused = () => tracesOf({ OTEL_EXPORTER_OTLP_HEADERS: list })
      expect(refused).toThrow(/OTEL_EXPORTER_OTLP_HEADERS/)
      expect(refused).not.toThrow(/planted/)
    },
  )
})
