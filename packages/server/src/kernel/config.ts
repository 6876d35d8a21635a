import { isIP } from 'node:net'
import { join, resolve } from 'node:path'
import { z } from 'zod'
import { DeltaError } from './errors.ts'

export interface Config {
  port: number
  host: string
  /** Further names under which the server may be addressed. `*` allows any, which gives up the guard against DNS rebinding. */
  hosts: string[]
  /** Absolute. */
  dataDir: string
  databasePath: string
  databaseUrl: string | undefined
  /** Of the one API key, as hexadecimal digits. */
  apiKeySha256: string
  runtime: string | undefined
  /** Most sandboxes that hold a box at once; a create beyond it is refused. @default 1000 */
  maxSandboxes: number
  /** Boxes kept ready, so that a create takes a few milliseconds; 0: none. Each takes about half a megabyte. @default 8 */
  poolSize: number
  /** Where the sandboxes' sockets lie, as this process sees it. */
  wireDir: string
  egress: EgressConfig
  logLevel: 'debug' | 'info' | 'warn' | 'error'
  /** Under which name ports are reached, with a scheme and port where a proxy stands before the server: `https://apps.example.com`. */
  portsDomain: string
  /** `development` opens CORS and nothing else. */
  environment: 'development' | 'production'
}

/** How sandboxes reach the outside; the operator's part of it. */
export interface EgressConfig {
  /** Addresses that are allowed though they are not public. */
  allowCidrs: { address: string; prefix: number; family: 4 | 6 }[]
  /** Names with addresses of the operator's choice. */
  hosts: Map<string, string[]>
  /** An HTTP proxy through which everything goes. */
  proxy: { host: string; port: number; authorization?: string } | undefined
}

const text = z.string().trim().min(1)

const variables = z.object({
  PORT: z.coerce.number().int().min(0).max(65_535).default(8_000),
  HOST: text.default('127.0.0.1'),
  DELTA_HOSTS: z.string().default(''),
  DELTA_DATA_DIR: text.default('data'),
  DATABASE_URL: z.url({ protocol: /^postgres(ql)?$/, error: 'must be a postgres:// URL' }).optional(),
  DELTA_API_KEY_SHA256: z
    .string({ error: 'is missing: it is the SHA-256 of the API key' })
    .regex(/^[0-9a-f]{64}$/, 'must be 64 lower-case hexadecimal digits'),
  DELTA_RUNTIME: z.enum(['crun', 'runc', 'runsc']).optional(),
  DELTA_MAX_SANDBOXES: z.coerce.number().int().min(1).max(4_000).default(1_000),
  DELTA_POOL_SIZE: z.coerce.number().int().min(0).max(256).default(8),
  DELTA_WIRE_DIR: text.optional(),
  DELTA_EGRESS_ALLOW_CIDRS: z.string().default('').transform(readCidrs),
  DELTA_EGRESS_HOSTS: z.string().default('').transform(readHosts),
  DELTA_EGRESS_PROXY: z
    .url({ protocol: /^http$/, error: 'must be an http:// URL, with credentials where it needs some' })
    .transform(readProxy)
    .optional(),
  DELTA_PORTS_DOMAIN: z
    .string()
    .regex(
      /^(https?:\/\/)?[a-z0-9]([a-z0-9.-]{0,200}[a-z0-9])?(:[0-9]{1,5})?$/i,
      'must be a host name, such as apps.example.com',
    )
    .default('localhost'),
  LOG_LEVEL: z.enum(['debug', 'info', 'warn', 'error']).default('info'),
  DELTA_ENV: z.enum(['development', 'production']).default('production'),
})

function items(list: string): string[] {
  return list
    .split(',')
    .map((item) => item.trim())
    .filter((item) => item !== '')
}

/** `10.1.0.0/16, fd00::/8, 203.0.113.7`: an address alone is itself. */
function readCidrs(list: string, context: z.core.$RefinementCtx): EgressConfig['allowCidrs'] {
  return items(list).map((item) => {
    const [address = '', length, ...more] = item.split('/')
    const family = isIP(address) as 0 | 4 | 6
    const bits = family === 4 ? 32 : 128
    const prefix = length === undefined ? bits : /^[0-9]{1,3}$/.test(length) ? Number(length) : Infinity
    if (family !== 0 && !address.includes('%') && prefix <= bits && more.length === 0)
      return { address, prefix, family }
    context.addIssue({ code: 'custom', message: `has '${item}', which is no address and no CIDR such as 10.1.0.0/16` })
    return { address: '0.0.0.0', prefix: 32, family: 4 }
  })
}

/** `mirror.example=10.1.2.3, mirror.example=10.1.2.4`: a name with several addresses is there several times. */
function readHosts(list: string, context: z.core.$RefinementCtx): EgressConfig['hosts'] {
  const hosts = new Map<string, string[]>()
  for (const item of items(list)) {
    const [, name, address = ''] = /^([a-z0-9._-]+)=(.+)$/i.exec(item) ?? []
    if (name === undefined || isIP(address) === 0 || address.includes('%')) {
      context.addIssue({ code: 'custom', message: `has '${item}', which is not name=address` })
      continue
    }
    const key = name.toLowerCase()
    hosts.set(key, [...(hosts.get(key) ?? []), address])
  }
  return hosts
}

function readProxy(url: string): NonNullable<EgressConfig['proxy']> {
  const { hostname, port, username, password } = new URL(url)
  const host = hostname.replace(/^\[(.*)\]$/, '$1')
  if (username === '') return { host, port: Number(port || 80) }
  const credentials = `${decodeURIComponent(username)}:${decodeURIComponent(password)}`
  return { host, port: Number(port || 80), authorization: `Basic ${Buffer.from(credentials).toString('base64')}` }
}

type Environment = Record<string, string | undefined>

/** Reads every setting once. An empty variable counts as one that is not set. */
export function readConfig(env: Environment): Config {
  const set = Object.fromEntries(Object.entries(env).filter(([, value]) => value !== ''))
  const result = variables.safeParse(set)
  if (!result.success) throw configInvalid(result.error.issues)
  const found = result.data
  const dataDir = resolve(found.DELTA_DATA_DIR)
  return {
    port: found.PORT,
    host: found.HOST,
    hosts: found.DELTA_HOSTS.split(',')
      .map((name) => name.trim().toLowerCase())
      .filter((name) => name !== ''),
    dataDir,
    databasePath: join(dataDir, 'delta.db'),
    databaseUrl: found.DATABASE_URL,
    apiKeySha256: found.DELTA_API_KEY_SHA256,
    runtime: found.DELTA_RUNTIME,
    maxSandboxes: found.DELTA_MAX_SANDBOXES,
    poolSize: found.DELTA_POOL_SIZE,
    wireDir: resolve(found.DELTA_WIRE_DIR ?? join(dataDir, 'wire')),
    egress: {
      allowCidrs: found.DELTA_EGRESS_ALLOW_CIDRS,
      hosts: found.DELTA_EGRESS_HOSTS,
      proxy: found.DELTA_EGRESS_PROXY,
    },
    logLevel: found.LOG_LEVEL,
    portsDomain: found.DELTA_PORTS_DOMAIN,
    environment: found.DELTA_ENV,
  }
}

/** The environment of this process. */
export function readProcessConfig(): Config {
  return readConfig(process.env)
}

/** A PostgreSQL server for tests, on which databases may be created. */
export function testPostgresUrl(): string | undefined {
  return process.env['DELTA_TEST_POSTGRES_URL'] || undefined
}

// Values are not repeated: DATABASE_URL holds a password.
function configInvalid(issues: z.core.$ZodIssue[]): DeltaError {
  const faults = issues.map((issue) => `${issue.path.join('.')} ${issue.message}`)
  return new DeltaError('config_invalid', `The configuration is not valid: ${faults.join('; ')}`)
}
