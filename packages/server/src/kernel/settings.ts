import { isIP } from 'node:net'
import { z } from 'zod'

/** One variable of the environment. */
export interface Setting {
  type: z.ZodType
  form: 'text' | 'number' | 'choice' | 'URL' | 'list' | 'true or false' | 'path' | 'name' | 'key'
  /** Taken where nothing is set. */
  default?: string
  /** What holds without a value that could be written down. */
  without?: string
  unit?: string
  what: string
  /** Never shown, since it is a secret or may have a password in it. */
  secret?: true
  /** Read by the privileged helper too, or by it alone. @default the server */
  readBy?: 'helper' | 'both'
  /** Set by the helper for the server; not for people. */
  internal?: true
  group: SettingGroup
}

export type SettingGroup = (typeof settingGroups)[number]
export const settingGroups = [
  'server',
  'people',
  'limits',
  'tokens',
  'models',
  'sandboxes',
  'network',
  'storage',
  'machine',
] as const

/** How much an account may have; what each allows is in docs/ledger.md. */
export const planNames = ['free', 'developer', 'pro', 'enterprise'] as const
export type PlanName = (typeof planNames)[number]

const text = z.string().trim().min(1)

const secretRule = 'must have at least 32 bytes, as `openssl rand -base64 32` makes them'

const count = (least: number, most: number) => z.coerce.number().int().min(least).max(most)
const isTrue = z.enum(['true', 'false', '1', '0']).transform((value) => ['true', '1'].includes(value))
/** The helper has looked at it before this process began. */
const helpers = z.string().optional()

const modelKey = z
  .string()
  .trim()
  .regex(/^[!-~]{8,512}$/, 'must be a key without spaces, at least 8 characters')
  .optional()
/** Without a path it has the one that the provider's own has. */
const baseUrl = (path: string) =>
  z
    .url({ protocol: /^https?$/, error: 'must be an http:// or https:// URL' })
    .refine(isBase, 'must have neither a user nor a query')
    .transform((url) => endpointUrl(url, path))
    .optional()

const otlpUrl = z
  .url({ protocol: /^https?$/, error: 'must be an http:// or https:// URL' })
  .refine(isBase, 'must have neither a user nor a query')
  .optional()

/** All that can be set, and the only place where it is. `env.example` and docs/configuration.md are made of it. */
export const settings = {
  PORT: {
    group: 'server',
    type: count(0, 65_535),
    form: 'number',
    default: '8000',
    what: 'Where the server listens; 0: a free port',
  },
  HOST: {
    group: 'server',
    type: text.refine(isHost, 'must be an address or a host name alone, such as 127.0.0.1'),
    form: 'text',
    default: '127.0.0.1',
    what: 'The address it listens on; `0.0.0.0` or `::` for every one',
  },
  DELTA_PUBLIC_URL: {
    group: 'server',
    type: z
      .url({ protocol: /^https?$/, error: 'must be an http:// or https:// URL' })
      .refine(isOrigin, 'must be scheme, host and port alone, such as https://delta.example.com')
      .optional(),
    form: 'URL',
    without: 'made of HOST and PORT',
    what: 'Where people reach the server; links in mails begin with it',
  },
  DELTA_HOSTS: {
    group: 'server',
    type: z
      .string()
      .refine(
        (list) => items(list).every(isGoneBy),
        'must be host names without scheme, port and path, such as delta.example.com or *.example.com',
      ),
    form: 'list',
    default: '',
    what: 'Further names under which the server may be addressed, such as `*.example.com`; `*` allows any, which gives up the guard against DNS rebinding',
  },
  DELTA_CORS_ORIGINS: {
    group: 'server',
    type: z.string().transform(readOrigins),
    form: 'list',
    default: '',
    what: 'Origins whose pages may call the API, also with cookies; each exactly as a browser sends it, such as `https://app.example.com`',
  },
  DELTA_TRUSTED_PROXIES: {
    group: 'server',
    type: z.string().transform(readCidrs),
    form: 'list',
    default: '',
    what: 'Addresses and CIDRs of proxies before the server. Of `X-Forwarded-For` from these the rightmost address counts that is none of theirs; from others the header is nothing',
  },
  DELTA_DATA_DIR: {
    group: 'server',
    type: text,
    form: 'path',
    default: 'data',
    readBy: 'both',
    what: 'The data folder. The server itself sees `server` in it',
  },
  DATABASE_URL: {
    group: 'server',
    type: z.url({ protocol: /^postgres(ql)?$/, error: 'must be a postgres:// URL' }).optional(),
    form: 'URL',
    without: 'SQLite in the data folder',
    secret: true,
    readBy: 'both',
    what: 'A PostgreSQL database, `postgres://user:password@host/name`',
  },
  REDIS_URL: {
    group: 'server',
    type: z.url({ protocol: /^rediss?$/, error: 'must be a redis:// or rediss:// URL' }).optional(),
    form: 'URL',
    without: 'each server counts alone',
    secret: true,
    what: 'A Redis in which several servers count requests and log-in attempts together, `redis://user:password@host:6379/0`',
  },
  LOG_LEVEL: {
    group: 'server',
    type: z.enum(['debug', 'info', 'warn', 'error']),
    form: 'choice',
    default: 'info',
    what: 'The least that is logged: `debug`, `info`, `warn` or `error`',
  },
  OTEL_EXPORTER_OTLP_ENDPOINT: {
    group: 'server',
    type: otlpUrl,
    form: 'URL',
    without: 'no traces',
    what: 'Where traces of tasks are sent by OTLP over HTTP, such as `http://127.0.0.1:4318`; `/v1/traces` is put behind it. It may be anywhere',
  },
  OTEL_EXPORTER_OTLP_TRACES_ENDPOINT: {
    group: 'server',
    type: otlpUrl,
    form: 'URL',
    without: 'made of OTEL_EXPORTER_OTLP_ENDPOINT',
    what: 'The same, whole: nothing is put behind it',
  },
  OTEL_EXPORTER_OTLP_HEADERS: {
    group: 'server',
    type: z.string().transform(readOtlpHeaders),
    form: 'list',
    default: '',
    secret: true,
    what: 'Headers that the receiver of traces wants, `api-key=…,x-team=…`, values as in a URL',
  },
  OTEL_SERVICE_NAME: {
    group: 'server',
    type: z.string().trim().min(1).max(200),
    form: 'name',
    default: 'delta',
    what: 'What the server is called in traces',
  },
  DELTA_DEBUG: {
    group: 'server',
    type: isTrue,
    form: 'true or false',
    default: 'false',
    what: 'Logs everything, whatever LOG_LEVEL says. What is answered stays the same',
  },
  DELTA_ENV: {
    group: 'server',
    type: z.enum(['development', 'production']),
    form: 'choice',
    default: 'production',
    what: '`development` lets pages of any origin call the API, without cookies',
  },

  SECRET_KEY: {
    group: 'people',
    type: z
      .string({
        error:
          'is missing: several servers on one database share it, so with DATABASE_URL it is yours to set, to at least 32 bytes, as `openssl rand -base64 32` makes them',
      })
      .refine(isSecret, secretRule),
    form: 'key',
    without: 'made at the first start, in the data folder; with DATABASE_URL it must be set',
    secret: true,
    readBy: 'both',
    what: 'What every other secret of the installation derives from, at least 32 bytes',
  },
  DELTA_SECRET_KEY_LOST: {
    group: 'people',
    type: isTrue,
    form: 'true or false',
    default: 'false',
    what: 'At one start: the SECRET_KEY that the database was used with is lost, and the present one is it from now on. See accounts.md for what that ends',
  },
  JWT_SECRET_KEY: {
    group: 'people',
    type: z.string().refine(isSecret, secretRule).optional(),
    form: 'key',
    without: 'derived from SECRET_KEY',
    secret: true,
    what: 'What session tokens are signed with, at least 32 bytes',
  },
  DELTA_REGISTRATION: {
    group: 'people',
    type: z.enum(['open', 'invited']),
    form: 'choice',
    default: 'open',
    what: '`open`: whoever reaches the server may register; `invited`: only whom somebody has invited',
  },
  SMTP_URL: {
    group: 'people',
    type: z.url({ protocol: /^smtps?$/, error: 'must be an smtp:// or smtps:// URL' }).optional(),
    form: 'URL',
    without: 'mails stay in the server, where the operator reads them',
    secret: true,
    what: 'The mail server, `smtp://user:password@host:587`; needs MAIL_FROM',
  },
  MAIL_FROM: {
    group: 'people',
    type: z
      .string()
      .trim()
      .regex(
        /^([^<>"\p{Cc}]{0,100}<)?[^\s<>",;\p{Cc}]{1,64}@[a-z0-9.-]{1,190}>?$/iu,
        'must be an address, such as DELTA <delta@example.com>',
      )
      .optional(),
    form: 'text',
    what: 'Whom mails are from, `DELTA <delta@example.com>`',
  },

  DELTA_RATE_LIMIT_KEY: {
    group: 'limits',
    type: count(0, 1_000_000),
    form: 'number',
    default: '1000',
    unit: 'requests a second',
    what: 'Of one key, session or agent; at once, twice as many. 0: no limit',
  },
  DELTA_RATE_LIMIT_ACCOUNT: {
    group: 'limits',
    type: count(0, 1_000_000),
    form: 'number',
    default: '2000',
    unit: 'requests a second',
    what: 'Of one account, all its callers together. 0: no limit',
  },
  DELTA_RATE_LIMIT_ADDRESS: {
    group: 'limits',
    type: count(0, 1_000_000),
    form: 'number',
    default: '100',
    unit: 'requests a second',
    what: 'From one address (of IPv6: one /64) without a caller that is known. 0: no limit',
  },

  DELTA_GRANT_TOKENS: {
    group: 'tokens',
    type: count(0, 1_000_000_000),
    form: 'number',
    default: '1000',
    unit: 'tokens a month',
    what: 'What each account is granted at the beginning of a month, to be spent within it; 0: nothing',
  },
  DELTA_DEFAULT_PLAN: {
    group: 'tokens',
    type: z.enum(planNames),
    form: 'choice',
    default: 'free',
    what: 'The plan of a new account: `free`, `developer`, `pro` or `enterprise`. The first account, which is the operator’s, begins with `enterprise`',
  },
  DELTA_RATE_CARD: {
    group: 'tokens',
    type: helpers,
    form: 'path',
    without: 'the card in docs/ledger.md',
    readBy: 'helper',
    what: 'A JSON file with what everything costs',
  },
  DELTA_RATE_CARD_TEXT: {
    group: 'tokens',
    type: z.string().optional(),
    form: 'text',
    // Long, and shown by GET /v1/ledger/rates.
    secret: true,
    internal: true,
    what: 'What the file DELTA_RATE_CARD holds: the server itself sees no file beside its own',
  },

  ANTHROPIC_API_KEY: {
    group: 'models',
    type: modelKey,
    form: 'key',
    without: 'its models are used by accounts with keys of their own',
    secret: true,
    what: 'For the models of Anthropic',
  },
  ANTHROPIC_BASE_URL: {
    group: 'models',
    type: baseUrl('/v1'),
    form: 'URL',
    without: 'https://api.anthropic.com/v1',
    what: 'Another server that speaks as Anthropic does, for that key; it may be anywhere',
  },
  GEMINI_API_KEY: {
    group: 'models',
    type: modelKey,
    form: 'key',
    without: 'its models are used by accounts with keys of their own',
    secret: true,
    what: 'For the Gemini models of Google',
  },
  GEMINI_BASE_URL: {
    group: 'models',
    type: baseUrl('/v1beta'),
    form: 'URL',
    without: 'https://generativelanguage.googleapis.com/v1beta',
    what: 'Another server that speaks as Gemini does, for that key; it may be anywhere',
  },
  OPENAI_BASE_URL: {
    group: 'models',
    type: baseUrl('/v1'),
    form: 'URL',
    without: 'there are no such models',
    what: 'A server that speaks as OpenAI does, such as Ollama, vLLM or llama.cpp: `http://127.0.0.1:11434/v1`; it may be anywhere',
  },
  OPENAI_API_KEY: {
    group: 'models',
    type: modelKey,
    form: 'key',
    without: 'it is asked without',
    secret: true,
    what: 'For the server at OPENAI_BASE_URL',
  },
  DELTA_LOCAL_MODELS: {
    group: 'models',
    type: z.string().transform(items).optional(),
    form: 'list',
    without: '`*` where OPENAI_API_KEY is not set, else none',
    what: 'Models of the server at OPENAI_BASE_URL that cost nothing where the rate card does not say otherwise: `llama3.2, qwen3:8b`; `*`: all of them',
  },
  DELTA_MODEL: {
    group: 'models',
    type: z
      .string()
      .trim()
      .regex(
        /^(anthropic|google|openai)\/[A-Za-z0-9][A-Za-z0-9_.:/@+-]{0,119}$/,
        'must be a provider and a model, such as anthropic/claude-sonnet-5-5',
      )
      .optional(),
    form: 'text',
    without: 'each task names its own',
    what: 'The model of tasks that name none: `anthropic/claude-sonnet-5-5`, `google/gemini-3.8-flash`, `openai/llama3.2`',
  },

  DELTA_RUNTIME: {
    group: 'sandboxes',
    type: z.enum(['crun', 'runc', 'runsc']).optional(),
    form: 'choice',
    without: 'crun where it is installed, else runc',
    readBy: 'both',
    what: 'The OCI runtime: `crun`, `runc` or `runsc`',
  },
  DELTA_MAX_SANDBOXES: {
    group: 'sandboxes',
    type: count(1, 4_000),
    form: 'number',
    default: '1000',
    unit: 'sandboxes',
    what: 'Most sandboxes that hold a box at once; a create beyond it is refused',
  },
  DELTA_POOL_SIZE: {
    group: 'sandboxes',
    type: count(0, 256),
    form: 'number',
    default: '8',
    unit: 'boxes',
    what: 'Boxes kept ready, so that a create takes a few milliseconds; 0: none. Each takes about half a megabyte',
  },
  DELTA_LAYERS_MAX: {
    group: 'sandboxes',
    type: count(2, 120),
    form: 'number',
    default: '100',
    unit: 'layers',
    what: 'Layers that a saved snapshot may be made up of; the one after them is saved as one layer',
  },
  DELTA_PORTS_DOMAIN: {
    group: 'sandboxes',
    type: z
      .string()
      .regex(
        /^(https?:\/\/)?[a-z0-9]([a-z0-9.-]{0,200}[a-z0-9])?(:[0-9]{1,5})?$/i,
        'must be a host name, such as apps.example.com',
      ),
    form: 'name',
    default: 'localhost',
    what: 'Under which name ports of sandboxes are reached, with scheme and port where a proxy stands before the server: `https://apps.example.com`',
  },

  DELTA_EGRESS_ALLOW_CIDRS: {
    group: 'network',
    type: z.string().transform(readCidrs),
    form: 'list',
    default: '',
    what: 'Addresses and CIDRs that sandboxes may be allowed to reach though they are not public',
  },
  DELTA_EGRESS_HOSTS: {
    group: 'network',
    type: z.string().transform(readHosts),
    form: 'list',
    default: '',
    what: 'Names with addresses of your choice: `mirror.example=10.1.2.3`; one with several is there several times',
  },
  DELTA_EGRESS_PROXY: {
    group: 'network',
    type: z
      .url({ protocol: /^http$/, error: 'must be an http:// URL, with credentials where it needs some' })
      .transform(readProxy)
      .optional(),
    form: 'URL',
    without: 'none',
    secret: true,
    what: 'An HTTP proxy through which everything of sandboxes goes, and what the server asks of models and tells webhooks, `http://user:password@host:3128`',
  },
  DELTA_REGISTRIES: {
    group: 'network',
    type: z.string().transform(readRegistries),
    form: 'list',
    default: '',
    secret: true,
    what: 'Registries of images with private addresses, without TLS or with an account: `http://localhost:5000`, `https://name:password@registry.example`',
  },

  DELTA_STORAGE: {
    group: 'storage',
    type: z
      .string()
      .regex(
        /^(folder|s3:\/\/[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](\/[A-Za-z0-9_./-]{0,400})?)$/,
        'must be folder or s3://bucket/prefix',
      ),
    form: 'text',
    default: 'folder',
    what: 'Where saved layers lie: `folder`, which is in the data folder, or `s3://bucket/prefix`',
  },
  DELTA_STORAGE_KEY: {
    group: 'storage',
    type: z
      .string()
      .refine(
        (key) => storageKey(key).length === 32,
        'must be 32 bytes in base64, as `openssl rand -base64 32` makes them',
      )
      .transform(storageKey)
      .optional(),
    form: 'key',
    without: 'not encrypted by the server',
    secret: true,
    what: '32 bytes in base64 with which everything is encrypted before it is stored',
  },
  DELTA_S3_ENDPOINT: {
    group: 'storage',
    type: z.url({ protocol: /^https?$/, error: 'must be an https:// or http:// URL' }).optional(),
    form: 'URL',
    without: 'AWS',
    what: 'Another service than AWS that speaks S3',
  },
  DELTA_S3_REGION: {
    group: 'storage',
    type: text,
    form: 'name',
    default: 'us-east-1',
    what: 'The region of the bucket',
  },
  DELTA_S3_ACCESS_KEY_ID: {
    group: 'storage',
    type: text.optional(),
    form: 'key',
    secret: true,
    what: 'Needed by `s3://`',
  },
  DELTA_S3_SECRET_ACCESS_KEY: {
    group: 'storage',
    type: text.optional(),
    form: 'key',
    secret: true,
    what: 'Needed by `s3://`',
  },
  DELTA_S3_SESSION_TOKEN: {
    group: 'storage',
    type: text.optional(),
    form: 'key',
    without: 'none',
    secret: true,
    what: 'Of temporary credentials',
  },
  DELTA_S3_PATH_STYLE: {
    group: 'storage',
    type: isTrue.optional(),
    form: 'true or false',
    without: 'true where there is an endpoint',
    what: 'The bucket in the path, not in the host name',
  },
  DELTA_S3_SSE: {
    group: 'storage',
    type: z
      .string()
      .regex(/^(AES256|aws:kms(:.+)?)$/, 'must be AES256, aws:kms or aws:kms:<key>')
      .optional(),
    form: 'text',
    without: 'as the bucket says',
    what: 'How the service encrypts at rest: `AES256`, `aws:kms` or `aws:kms:<key>`',
  },

  DELTA_POOL: {
    group: 'machine',
    type: helpers,
    form: 'choice',
    default: 'auto',
    readBy: 'helper',
    what: 'How disks of sandboxes are kept: `auto`, `btrfs` or `folder`',
  },
  DELTA_POOL_MAX_GB: {
    group: 'machine',
    type: helpers,
    form: 'number',
    without: 'what the disk has',
    unit: 'GB',
    readBy: 'helper',
    what: 'Most that the pool of disks may take',
  },
  DELTA_POOL_RESERVE: {
    group: 'machine',
    type: helpers,
    form: 'number',
    default: '5',
    unit: 'percent',
    readBy: 'helper',
    what: 'Of the disk, what the pool leaves free; 0 to 50',
  },
  DELTA_UID_BASE: {
    group: 'machine',
    type: helpers,
    form: 'number',
    default: '1879048192',
    unit: 'uid',
    readBy: 'helper',
    what: 'The first uid that sandboxes may get',
  },
  DELTA_UID_COUNT: {
    group: 'machine',
    type: helpers,
    form: 'number',
    default: '268435456',
    unit: 'uids',
    readBy: 'helper',
    what: 'How many uids there are for sandboxes, 65,536 for each',
  },
  DELTA_MEMORY_RESERVE_MB: {
    group: 'machine',
    type: helpers,
    form: 'number',
    default: '128',
    unit: 'MiB',
    readBy: 'helper',
    what: 'Of memory, with less of which left on the machine no sandbox is made',
  },
  DELTA_STOP_ALL: {
    group: 'machine',
    type: helpers,
    form: 'true or false',
    default: 'false',
    readBy: 'helper',
    what: 'Whether SIGTERM ends every sandbox, as Ctrl-C does',
  },
  DELTA_GUEST: {
    group: 'machine',
    type: helpers,
    form: 'path',
    without: 'beside the helper',
    readBy: 'helper',
    what: 'The program that runs inside sandboxes',
  },
  DELTA_NODE: {
    group: 'machine',
    type: helpers,
    form: 'path',
    without: 'beside the helper, else on PATH',
    readBy: 'helper',
    what: 'Node, 24 or newer',
  },
  DELTA_SERVER: {
    group: 'machine',
    type: helpers,
    form: 'path',
    without: 'beside the helper',
    readBy: 'helper',
    what: 'The file of the server',
  },
  DELTA_API_KEY_SHA256: {
    group: 'machine',
    type: z
      .string({ error: 'is missing: it is the SHA-256 of the API key' })
      .regex(/^[0-9a-f]{64}$/, 'must be 64 lower-case hexadecimal digits'),
    form: 'key',
    secret: true,
    internal: true,
    what: 'Of the key in the data folder',
  },
  DELTA_WIRE_DIR: {
    group: 'machine',
    type: text.optional(),
    form: 'path',
    internal: true,
    what: "Where the sandboxes' sockets lie, as the server sees it",
  },
} as const satisfies Record<string, Setting>

/** Of the command line, the SDK and the tests: known, but nothing to the server. */
const others = ['DELTA_URL', 'DELTA_API_KEY', 'DELTA_REGISTRY_PASSWORD', 'DELTA_CONFIG_DIR']
const othersStart = /^DELTA_(TEST|E2E)_/

export type SettingName = keyof typeof settings
export type Environment = Record<string, string | undefined>

export interface SettingInfo {
  name: string
  group: SettingGroup
  form: Setting['form']
  unit: string | null
  what: string
  default: string | null
  secret: boolean
  isSet: boolean
  /** In force; null for a secret, and where there is neither a value nor a default. */
  value: string | null
}

const entries: [string, Setting][] = Object.entries(settings)

/** What is in force, secrets left out. An empty variable counts as one that is not set. */
export function describeSettings(env: Environment): SettingInfo[] {
  return entries.map(([name, setting]) => {
    const given = env[name] || undefined
    const { group, form, unit = null, what, secret = false } = setting
    const fallback = setting.default || setting.without || null
    const value = secret ? null : (given ?? (setting.default || null))
    return { name, group, form, unit, what, default: fallback, secret, isSet: given !== undefined, value }
  })
}

/** Variables that nobody reads, most likely mistyped. */
export function unknownSettings(env: Environment): { name: string; nearest: string }[] {
  const known = [...Object.keys(settings), ...others]
  return Object.keys(env)
    .filter((name) => name.startsWith('DELTA_') && !known.includes(name) && !othersStart.test(name))
    .map((name) => ({ name, nearest: known.toSorted((a, b) => distance(name, a) - distance(name, b))[0] ?? '' }))
}

/** Letters to add, leave out or change. */
function distance(from: string, to: string): number {
  let row = Array.from({ length: to.length + 1 }, (_, index) => index)
  for (const [i, letter] of from.slice(0, 100).split('').entries()) {
    const next = [i + 1]
    for (const [j, other] of [...to].entries()) {
      next.push(Math.min(next[j]! + 1, row[j + 1]! + 1, row[j]! + (letter === other ? 0 : 1)))
    }
    row = next
  }
  return row.at(-1)!
}

type Types = { [Name in SettingName]: (typeof settings)[Name]['type'] }
const variables = z.object(Object.fromEntries(entries.map(([name, { type }]) => [name, type])) as Types)
export type Settings = z.output<typeof variables>

/** All values, or all that is wrong with them, in words that repeat none: it may be a password. */
export function parseSettings(env: Environment): { settings: Settings } | { faults: string[] } {
  const given = Object.fromEntries(
    entries
      .map(([name, setting]) => [name, env[name] || setting.default] as const)
      .filter(([, value]) => value !== undefined),
  )
  const result = variables.safeParse(given)
  const faults = [...(result.error?.issues ?? []).map(faultOf), ...missing(given)]
  return result.success && faults.length === 0 ? { settings: result.data } : { faults }
}

function faultOf({ path, message }: z.core.$ZodIssue): string {
  return `${path.join('.')} ${message}`
}

/** What one setting needs of another. */
function missing(given: Environment): string[] {
  const needed: [needs: string, name: string][] = []
  if (given['SMTP_URL'] !== undefined) needed.push(['SMTP_URL', 'MAIL_FROM'])
  if (given['DELTA_STORAGE']?.startsWith('s3://')) {
    needed.push(['DELTA_STORAGE', 'DELTA_S3_ACCESS_KEY_ID'], ['DELTA_STORAGE', 'DELTA_S3_SECRET_ACCESS_KEY'])
  }
  return needed
    .filter(([, name]) => given[name] === undefined)
    .map(([needs, name]) => `${name} is missing: ${needs} needs it`)
}

function isSecret(value: string): boolean {
  return Buffer.byteLength(value) >= 32 && new Set(value).size >= 8
}

function isOrigin(value: string): boolean {
  const url = URL.parse(value)
  return url !== null && url.pathname === '/' && url.search + url.hash + url.username + url.password === ''
}

const hostName = /^(?=.{1,253}$)[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?(\.[a-z0-9_]([a-z0-9_-]*[a-z0-9_])?)*$/i

function isHost(value: string): boolean {
  return isIP(value) !== 0 || hostName.test(value)
}

/** As it stands in a request's Host header, without the port: what is anything else would never fit one. */
function isGoneBy(name: string): boolean {
  const address = /^\[(.+)\]$/.exec(name)?.[1]
  return name === '*' || hostName.test(name.replace(/^\*\./, '')) || (address !== undefined && isIP(address) === 6)
}

export function items(list: string): string[] {
  return list
    .split(',')
    .map((item) => item.trim())
    .filter((item) => item !== '')
}

/** Exactly as a browser sends them: any origin at all would be given what a person's cookies open. */
function readOrigins(list: string, context: z.core.$RefinementCtx): string[] {
  return items(list).filter((item) => {
    const url = URL.parse(item)
    if (url !== null && /^https?:$/.test(url.protocol) && url.origin === item) return true
    const message =
      item === '*'
        ? "has '*', and only exact origins can be listed"
        : `has '${item}', which is no origin such as https://app.example.com`
    context.addIssue({ code: 'custom', message })
    return false
  })
}

export type Cidrs = { address: string; prefix: number; family: 4 | 6 }[]

export interface ProxyConfig {
  host: string
  port: number
  authorization?: string
}

export interface RegistryConfig {
  /** As a reference to an image names it, with the port where there is one. */
  host: string
  scheme: 'http' | 'https'
  credentials?: { username: string; password: string }
}

/** `10.1.0.0/16, fd00::/8, 203.0.113.7`: an address alone is itself. */
function readCidrs(list: string, context: z.core.$RefinementCtx): Cidrs {
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
function readHosts(list: string, context: z.core.$RefinementCtx): Map<string, string[]> {
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

/** `registry.internal:5000, http://localhost:5000, https://name:password@registry.example`. A value is not repeated: it may hold a password. */
function readRegistries(list: string, context: z.core.$RefinementCtx): RegistryConfig[] {
  return items(list).flatMap((item, index) => {
    const url = URL.parse(/^https?:\/\//.test(item) ? item : `https://${item}`)
    if (!url || url.hostname === '' || url.pathname !== '/' || url.search !== '' || url.hash !== '') {
      context.addIssue({ code: 'custom', message: `has an entry, number ${index + 1}, which is no host of a registry` })
      return []
    }
    const scheme = url.protocol === 'http:' ? ('http' as const) : ('https' as const)
    const [username, password] = [decodeURIComponent(url.username), decodeURIComponent(url.password)]
    return [{ host: url.host, scheme, ...(username !== '' && { credentials: { username, password } }) }]
  })
}

function readProxy(url: string): ProxyConfig {
  const { hostname, port, username, password } = new URL(url)
  const host = hostname.replace(/^\[(.*)\]$/, '$1')
  if (username === '') return { host, port: Number(port || 80) }
  const credentials = `${decodeURIComponent(username)}:${decodeURIComponent(password)}`
  return { host, port: Number(port || 80), authorization: `Basic ${Buffer.from(credentials).toString('base64')}` }
}

function isBase(value: string): boolean {
  const url = URL.parse(value)
  return url !== null && url.search + url.hash + url.username + url.password === ''
}

/** `api-key=…,x-team=…`. Nothing is repeated: a value is a secret, and one without its name looks like a name. */
function readOtlpHeaders(list: string, context: z.core.$RefinementCtx): Record<string, string> {
  const headers = items(list).map((item, index): [string, string] => {
    const [, name = '', value = ''] = /^([^=]+)=(.*)$/s.exec(item) ?? []
    const read = unescaped(value.trim())
    if (/^[!#$%&'*+.^_`|~0-9a-z-]{1,100}$/i.test(name.trim()) && /^[ -~]{1,4000}$/.test(read))
      return [name.trim().toLowerCase(), read]
    context.addIssue({ code: 'custom', message: `has an entry, number ${index + 1}, which is not name=value` })
    return ['', '']
  })
  return Object.fromEntries(headers)
}

function unescaped(value: string): string {
  try {
    return decodeURIComponent(value)
  } catch {
    return ''
  }
}

function endpointUrl(value: string, path: string): string {
  const { origin, pathname } = new URL(value)
  return origin + (pathname === '/' ? path : pathname.replace(/\/+$/, ''))
}

function storageKey(base64: string): Buffer {
  return Buffer.from(base64, 'base64')
}
