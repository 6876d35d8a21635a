import { isIP } from 'node:net'
import { join, resolve } from 'node:path'
import { DeltaError } from './errors.ts'
import { describeSettings, items, parseSettings, unknownSettings } from './settings.ts'
import type { Cidrs, Environment, PlanName, ProxyConfig, RegistryConfig, SettingInfo, Settings } from './settings.ts'

export type { RegistryConfig } from './settings.ts'

export interface Config {
  port: number
  host: string
  /** Further names under which the server may be addressed. `*` allows any, which gives up the guard against DNS rebinding. */
  hosts: string[]
  /** Absolute. */
  dataDir: string
  databasePath: string
  databaseUrl: string | undefined
  /** Where several servers count requests and log-in attempts together. */
  redisUrl: string | undefined
  /** Requests a second; 0: as many as come. */
  rates: { key: number; account: number; address: number }
  /** Proxies whose `X-Forwarded-For` is believed. */
  trustedProxies: Cidrs
  /** Whose pages may call the API, also with cookies. */
  corsOrigins: string[]
  /** Of the one API key, as hexadecimal digits. */
  apiKeySha256: string
  /** What every other secret of the installation derives from; at least 32 bytes. */
  secretKey: string
  /** The one that the database was used with is lost: it is the present one from now on. */
  secretKeyLost: boolean
  /** What session tokens are signed with, where it is not to derive from `secretKey`. */
  jwtSecretKey: string | undefined
  /** Where people reach the server, without a slash at its end; links in mails begin with it. */
  publicUrl: string
  mail: MailConfig
  /** `open`: whoever reaches the server may register. `invited`: only whom somebody has invited. @default open */
  registration: 'open' | 'invited'
  ledger: LedgerConfig
  models: ModelsConfig
  runtime: string | undefined
  /** Most sandboxes that hold a box at once; a create beyond it is refused. @default 1000 */
  maxSandboxes: number
  /** Boxes kept ready, so that a create takes a few milliseconds; 0: none. Each takes about half a megabyte. @default 8 */
  poolSize: number
  /** Layers that a saved snapshot may be made up of; the one after them is saved as one layer. @default 100 */
  layersMax: number
  /** Where the sandboxes' sockets lie, as this process sees it. */
  wireDir: string
  egress: EgressConfig
  storage: StorageConfig
  /** Registries of images that the operator named: those with private addresses, without TLS, or with an account. */
  registries: RegistryConfig[]
  logLevel: 'debug' | 'info' | 'warn' | 'error'
  /** Where traces of tasks are sent; undefined: nowhere. */
  traces: TracesConfig | undefined
  /** Under which name ports are reached, with a scheme and port where a proxy stands before the server: `https://apps.example.com`. */
  portsDomain: string
  /** `development` opens CORS and nothing else. */
  environment: 'development' | 'production'
}

export interface MailConfig {
  /** Without it mails stay in the server, where the operator reads them. */
  smtpUrl: string | undefined
  from: string
}

/** What accounts begin with, and what everything costs. */
export interface LedgerConfig {
  /** Tokens granted to each account for a month. @default 1000 */
  grantTokens: number
  /** Of a new account. @default free */
  defaultPlan: PlanName
  /** JSON. @default the card that comes with the server */
  rateCardText: string | undefined
}

/** The operator's keys of providers of models, and where these are. */
export interface ModelsConfig {
  anthropic: ModelEndpointConfig
  google: ModelEndpointConfig
  /** Without a base URL there is none. */
  openai: ModelEndpointConfig
  /** `<provider>/<name>`, of tasks that name none. */
  defaultModel: string | undefined
  /** Of the OpenAI-compatible server, those that cost nothing; `*`: all. */
  localModels: string[]
}

export interface ModelEndpointConfig {
  apiKey: string | undefined
  /** Without a slash at its end. @default the provider's own */
  baseUrl: string | undefined
}

export interface TracesConfig {
  /** Whole. */
  url: string
  headers: Readonly<Record<string, string>>
  serviceName: string
}

/** How sandboxes reach the outside; the operator's part of it. */
export interface EgressConfig {
  /** Addresses that are allowed though they are not public. */
  allowCidrs: Cidrs
  /** Names with addresses of the operator's choice. */
  hosts: Map<string, string[]>
  /** An HTTP proxy through which everything goes. */
  proxy: ProxyConfig | undefined
}

/** Where blobs lie: in a folder of the data folder, or in a bucket. */
export interface StorageConfig {
  /** Absolute. */
  folder: string
  s3: S3Config | undefined
  /** 32 bytes with which everything is encrypted before it is stored. */
  key: Buffer | undefined
}

export interface S3Config {
  bucket: string
  /** Empty, or ending with a slash. */
  prefix: string
  /** Another service than AWS. */
  endpoint: string | undefined
  region: string
  accessKeyId: string
  secretAccessKey: string
  sessionToken: string | undefined
  /** The bucket in the path, not in the host name. @default true where there is an endpoint */
  pathStyle: boolean
  /** How the service encrypts at rest, where it is asked to. */
  sse: { algorithm: 'AES256' | 'aws:kms'; keyId?: string } | undefined
}

/** Who listens on every address is reached by people of this machine under the loopback's name. */
function publicUrlOf({ DELTA_PUBLIC_URL, HOST, PORT }: Settings): string {
  if (DELTA_PUBLIC_URL !== undefined) return new URL(DELTA_PUBLIC_URL).origin
  const host = ['0.0.0.0', '::'].includes(HOST) ? 'localhost' : isIP(HOST) === 6 ? `[${HOST}]` : HOST
  return `http://${host}:${PORT}`
}

/** Links lead to the public address, so the server goes by that name too. */
function hostsOf({ DELTA_HOSTS, DELTA_PUBLIC_URL }: Settings): string[] {
  const listed = items(DELTA_HOSTS).map((name) => name.toLowerCase())
  const own = DELTA_PUBLIC_URL === undefined ? [] : [new URL(DELTA_PUBLIC_URL).hostname]
  return [...new Set([...listed, ...own])]
}

function readMail({ SMTP_URL: smtpUrl, MAIL_FROM: from }: Settings): MailConfig {
  return { smtpUrl, from: from ?? 'DELTA <delta@localhost>' }
}

function readStorage(found: Settings, dataDir: string): StorageConfig {
  return { folder: join(dataDir, 'blobs'), s3: readS3(found), key: found.DELTA_STORAGE_KEY }
}

function readS3(found: Settings): S3Config | undefined {
  const [, bucket, path = ''] = /^s3:\/\/([^/]+)\/?(.*)$/.exec(found.DELTA_STORAGE) ?? []
  if (bucket === undefined) return undefined
  // Both are there: a bucket without them is refused before.
  const { DELTA_S3_ACCESS_KEY_ID: accessKeyId = '', DELTA_S3_SECRET_ACCESS_KEY: secretAccessKey = '' } = found
  const prefix = path.replaceAll(/^\/+|\/+$/g, '')
  const [algorithm, keyId] = /^(AES256|aws:kms)(?::(.+))?$/.exec(found.DELTA_S3_SSE ?? '')?.slice(1) ?? []
  return {
    bucket,
    prefix: prefix === '' ? '' : `${prefix}/`,
    endpoint: found.DELTA_S3_ENDPOINT,
    region: found.DELTA_S3_REGION,
    accessKeyId,
    secretAccessKey,
    sessionToken: found.DELTA_S3_SESSION_TOKEN,
    pathStyle: found.DELTA_S3_PATH_STYLE ?? found.DELTA_S3_ENDPOINT !== undefined,
    sse:
      algorithm === undefined
        ? undefined
        : { algorithm: algorithm as 'AES256' | 'aws:kms', ...(keyId !== undefined && { keyId }) },
  }
}

function readModels(found: Settings): ModelsConfig {
  const { OPENAI_API_KEY: apiKey, DELTA_LOCAL_MODELS } = found
  return {
    anthropic: { apiKey: found.ANTHROPIC_API_KEY, baseUrl: found.ANTHROPIC_BASE_URL },
    google: { apiKey: found.GEMINI_API_KEY, baseUrl: found.GEMINI_BASE_URL },
    openai: { apiKey, baseUrl: found.OPENAI_BASE_URL },
    defaultModel: found.DELTA_MODEL,
    // A server that wants no key bills nobody.
    localModels: DELTA_LOCAL_MODELS ?? (apiKey === undefined ? ['*'] : []),
  }
}

function readTraces(found: Settings): TracesConfig | undefined {
  const {
    OTEL_EXPORTER_OTLP_ENDPOINT: base,
    OTEL_EXPORTER_OTLP_HEADERS: headers,
    OTEL_SERVICE_NAME: serviceName,
  } = found
  const url = found.OTEL_EXPORTER_OTLP_TRACES_ENDPOINT ?? (base && `${base.replace(/\/+$/, '')}/v1/traces`)
  return url === undefined ? undefined : { url, headers, serviceName }
}

/** Reads every setting once. An empty variable counts as one that is not set. */
export function readConfig(env: Environment): Config {
  const parsed = parseSettings(env)
  if ('faults' in parsed)
    throw new DeltaError('config_invalid', `The configuration is not valid: ${parsed.faults.join('; ')}`)
  const found = parsed.settings
  const dataDir = resolve(found.DELTA_DATA_DIR)
  return {
    port: found.PORT,
    host: found.HOST,
    hosts: hostsOf(found),
    dataDir,
    databasePath: join(dataDir, 'delta.db'),
    databaseUrl: found.DATABASE_URL,
    redisUrl: found.REDIS_URL,
    rates: {
      key: found.DELTA_RATE_LIMIT_KEY,
      account: found.DELTA_RATE_LIMIT_ACCOUNT,
      address: found.DELTA_RATE_LIMIT_ADDRESS,
    },
    trustedProxies: found.DELTA_TRUSTED_PROXIES,
    corsOrigins: found.DELTA_CORS_ORIGINS,
    apiKeySha256: found.DELTA_API_KEY_SHA256,
    secretKey: found.SECRET_KEY,
    secretKeyLost: found.DELTA_SECRET_KEY_LOST,
    jwtSecretKey: found.JWT_SECRET_KEY,
    publicUrl: publicUrlOf(found),
    mail: readMail(found),
    registration: found.DELTA_REGISTRATION,
    ledger: {
      grantTokens: found.DELTA_GRANT_TOKENS,
      defaultPlan: found.DELTA_DEFAULT_PLAN,
      rateCardText: found.DELTA_RATE_CARD_TEXT,
    },
    models: readModels(found),
    runtime: found.DELTA_RUNTIME,
    maxSandboxes: found.DELTA_MAX_SANDBOXES,
    poolSize: found.DELTA_POOL_SIZE,
    layersMax: found.DELTA_LAYERS_MAX,
    wireDir: resolve(found.DELTA_WIRE_DIR ?? join(dataDir, 'wire')),
    egress: {
      allowCidrs: found.DELTA_EGRESS_ALLOW_CIDRS,
      hosts: found.DELTA_EGRESS_HOSTS,
      proxy: found.DELTA_EGRESS_PROXY,
    },
    storage: readStorage(found, dataDir),
    registries: found.DELTA_REGISTRIES,
    logLevel: found.DELTA_DEBUG ? 'debug' : found.LOG_LEVEL,
    traces: readTraces(found),
    portsDomain: found.DELTA_PORTS_DOMAIN,
    environment: found.DELTA_ENV,
  }
}

/** The environment of this process. */
export function readProcessConfig(): Config {
  return readConfig(process.env)
}

/** What is set in this process, for people: secrets are left out. */
export function describeProcessSettings(): SettingInfo[] {
  return describeSettings(process.env)
}

/** Variables of this process that nobody reads. */
export function unknownProcessSettings(): { name: string; nearest: string }[] {
  return unknownSettings(process.env)
}

/** Where tests look for programs. */
export function testPath(): string {
  return process.env['PATH'] ?? ''
}

/** A PostgreSQL server for tests, on which databases may be created. */
export function testPostgresUrl(): string | undefined {
  return process.env['DELTA_TEST_POSTGRES_URL'] || undefined
}
