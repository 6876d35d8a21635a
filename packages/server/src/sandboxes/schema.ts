import { z } from '@hono/zod-openapi'
import { idempotencyHeader, pageQuery } from '../kernel/http/request-shapes.ts'
import { mountsSchema } from '../workspaces/volumes/schema.ts'
import { networkSchema, setNetworkSchema } from './egress/schema.ts'
import { sandboxStates } from './states.ts'

/** Bounds of what a caller may ask for. What the machine has is the driver's business. */
export const sandboxLimits = {
  timeoutMs: { min: 1, max: 86_400_000, default: 300_000 },
  cpu: { min: 0.05, max: 256, default: 1 },
  memoryMb: { min: 32, max: 1_048_576, default: 512 },
  diskMb: { min: 32, max: 1_048_576, default: 4_096 },
  processes: { min: 8, max: 32_768, default: 512 },
  metadataEntries: 64,
  metadataKeyChars: 128,
  metadataValueChars: 1_024,
  envEntries: 256,
  envNameChars: 256,
  /** All names and values together, in UTF-8. The kernel gives a process 128 KiB for one variable and far more for all. */
  envTotalBytes: 65_536,
  idleTimeoutMs: { min: 1_000, max: 86_400_000 },
  listLimit: { max: 500, default: 50 },
  logsLimit: { max: 1_000, default: 100 },
} as const

export const defaultTemplate = 'host'
export const runtimes = ['crun', 'runc', 'runsc'] as const
export const onTimeoutActions = ['kill', 'stop', 'pause'] as const
export type OnTimeout = (typeof onTimeoutActions)[number]

const metadataSchema = z
  .record(z.string().min(1).max(sandboxLimits.metadataKeyChars), z.string().max(sandboxLimits.metadataValueChars))
  .refine((metadata) => Object.keys(metadata).length <= sandboxLimits.metadataEntries, {
    message: `at most ${sandboxLimits.metadataEntries} entries`,
  })
  .refine(
    (metadata) => Object.entries(metadata).every(([key, value]) => !key.includes('\0') && !value.includes('\0')),
    {
      message: 'must not contain NUL characters',
    },
  )
  .openapi({ description: 'Your own labels; lists can be filtered by them', example: { task: 'report-7' } })

const envSchema = z
  .record(
    z
      .string()
      .max(sandboxLimits.envNameChars)
      .regex(/^[A-Za-z_][A-Za-z0-9_]*$/, 'a variable name is letters, digits and _, and does not start with a digit'),
    z.string().refine((value) => !value.includes('\0'), { message: 'must not contain NUL characters' }),
  )
  .refine((env) => Object.keys(env).length <= sandboxLimits.envEntries, {
    message: `at most ${sandboxLimits.envEntries} variables`,
  })
  .refine((env) => envBytes(env) <= sandboxLimits.envTotalBytes, {
    message: `at most ${sandboxLimits.envTotalBytes} bytes in all`,
  })
  .openapi({ description: 'Variables of every command in the sandbox; never returned' })

const timeoutSchema = z
  .int()
  .min(sandboxLimits.timeoutMs.min)
  .max(sandboxLimits.timeoutMs.max)
  .openapi({ description: 'Milliseconds of running until `onTimeout` happens' })

const idleTimeoutSchema = z.int().min(sandboxLimits.idleTimeoutMs.min).max(sandboxLimits.idleTimeoutMs.max).openapi({
  description:
    'Milliseconds without a command, file access, terminal or request to a port, after which it stops as if asked to; the next one starts it again',
})

export const createSandboxSchema = z
  .strictObject({
    template: z
      .string()
      .regex(
        /^[a-z0-9][a-z0-9._-]{0,63}(:[A-Za-z0-9_][A-Za-z0-9._-]{0,63}|@[1-9][0-9]{0,8})?$/,
        'a template is named by 1 to 64 of a-z 0-9 . _ -, perhaps with :tag or @version, or by its id or that of a snapshot',
      )
      .default(defaultTemplate),
    timeoutMs: timeoutSchema.default(sandboxLimits.timeoutMs.default),
    onTimeout: z.enum(onTimeoutActions).default('kill'),
    autoResume: z
      .boolean()
      .default(true)
      .openapi({ description: 'Whether a command or file access brings a paused or stopped sandbox back' }),
    metadata: metadataSchema.default({}),
    env: envSchema.default({}),
    network: setNetworkSchema.default({ egress: 'none' }),
    cpu: z
      .number()
      .min(sandboxLimits.cpu.min)
      .max(sandboxLimits.cpu.max)
      .default(sandboxLimits.cpu.default)
      .openapi({ description: 'Cores' }),
    memoryMb: z
      .int()
      .min(sandboxLimits.memoryMb.min)
      .max(sandboxLimits.memoryMb.max)
      .default(sandboxLimits.memoryMb.default),
    diskMb: z.int().min(sandboxLimits.diskMb.min).max(sandboxLimits.diskMb.max).default(sandboxLimits.diskMb.default),
    processes: z
      .int()
      .min(sandboxLimits.processes.min)
      .max(sandboxLimits.processes.max)
      .default(sandboxLimits.processes.default)
      .openapi({ description: 'Most processes and threads at once' }),
    volumes: mountsSchema.default([]),
    runtime: z
      .enum(runtimes)
      .optional()
      .openapi({ description: 'How it is isolated; the server’s configured runtime where it is left out' }),
    workspace: z
      .string()
      .min(1)
      .max(64)
      .refine((text) => !text.includes('\0'), { message: 'must not contain NUL characters' })
      .optional()
      .openapi({
        description:
          'Id or name of the workspace whose files it works on, one sandbox at a time. Template and disk size are then the workspace’s',
      }),
    ifHeld: z.enum(['refuse', 'join']).optional().openapi({
      description: '`join`: where a sandbox runs on the workspace already, the answer is that one, with 200',
    }),
    idleTimeoutMs: idleTimeoutSchema.optional(),
  })
  .openapi('CreateSandbox')
export type CreateSandbox = z.output<typeof createSandboxSchema>

export const patchSandboxSchema = z
  .strictObject({
    timeoutMs: timeoutSchema.optional().openapi({ description: 'Counts from now' }),
    onTimeout: z.enum(onTimeoutActions).optional(),
    autoResume: z.boolean().optional(),
    metadata: metadataSchema.optional().openapi({ description: 'Replaces all of it' }),
    idleTimeoutMs: idleTimeoutSchema.nullable().optional().openapi({ description: 'Null: it never idles out' }),
  })
  .openapi('PatchSandbox')
export type PatchSandbox = z.output<typeof patchSandboxSchema>

const isolationSchema = z
  .object({
    driver: z.string().openapi({ example: 'oci' }),
    runtime: z.string().openapi({ example: 'crun' }),
    runtimeVersion: z.string().optional().openapi({ description: 'Of the configured runtime', example: '1.8.1' }),
    kernel: z
      .enum(['shared', 'own'])
      .openapi({ description: '`shared`: the host’s, so not for tenants who attack it. `own`: gVisor’s' }),
    userNamespace: z
      .string()
      .optional()
      .openapi({ description: 'The host’s uids of its box, first + count', example: '1879113728+65536' }),
    cgroup: z.string().openapi({ description: 'How memory, processor and processes are limited', example: 'v2' }),
    pool: z.string().openapi({ description: '`btrfs`: a disk quota each. `folder`: none', example: 'btrfs' }),
  })
  .openapi({ description: 'What keeps it apart from the host and from the others, as far as it is known' })

export const sandboxSchema = z
  .object({
    id: z.string().openapi({ example: 'sbx_k3v9x0m2qp7a8b1c4d5e' }),
    state: z.enum(sandboxStates),
    template: z.string(),
    runtime: z.string(),
    metadata: z.record(z.string(), z.string()),
    cpu: z.number(),
    memoryMb: z.int(),
    diskMb: z.int(),
    processes: z.int(),
    timeoutMs: z.int(),
    onTimeout: z.enum(onTimeoutActions),
    autoResume: z.boolean(),
    workspaceId: z
      .string()
      .nullable()
      .openapi({ description: 'The workspace it works on; null: its disk goes with it' }),
    idleTimeoutMs: z.int().nullable(),
    agentId: z.string().nullable().openapi({ description: 'The agent whose computer it is, who pays for it' }),
    network: networkSchema,
    volumes: z.array(z.object({ volumeId: z.string(), path: z.string(), readOnly: z.boolean() })),
    createdAt: z.iso.datetime(),
    startedAt: z.iso.datetime().nullable(),
    endAt: z.iso.datetime().nullable().openapi({ description: 'When `onTimeout` happens; null unless it runs' }),
    reason: z.string().nullable().openapi({ description: 'Why it is in this state', example: 'created' }),
    detail: z.string().nullable().openapi({ description: 'The error behind the reason, where there was one' }),
    unsettled: z.literal(true).optional().openapi({
      description:
        'Present while the server compares what it last knew with what is there, after its restart or a failure: the state may be another one in a moment',
    }),
    isolation: isolationSchema,
    timings: z
      .array(z.object({ phase: z.string(), micros: z.int() }))
      .optional()
      .openapi({ description: 'What creating it spent its time on; only in the answer of create' }),
  })
  .openapi('Sandbox')
export type Sandbox = z.output<typeof sandboxSchema>

export const rollbackSandboxSchema = z
  .strictObject({ snapshotId: z.string().min(1).max(64) })
  .openapi('RollbackSandbox')

export const sandboxListSchema = z
  .object({ data: z.array(sandboxSchema), nextCursor: z.string().nullable() })
  .openapi('SandboxList')

export const sandboxMetricsSchema = z
  .object({
    cpuMs: z.number(),
    memoryBytes: z.number(),
    memoryPeakBytes: z.number(),
    memoryLimitBytes: z.number(),
    processes: z.int(),
    diskBytes: z.number().nullable().openapi({
      description: 'Written since the last snapshot of its disk and still held; null where the pool keeps no quota',
    }),
    diskLimitBytes: z.number().openapi({ description: 'How many these may be' }),
    oomKills: z.int(),
    uptimeMs: z.number(),
  })
  .openapi('SandboxMetrics')
export type SandboxMetrics = z.output<typeof sandboxMetricsSchema>

export const sandboxLogSchema = z
  .object({
    at: z.iso.datetime(),
    kind: z.literal('transition'),
    from: z.enum(sandboxStates).nullable(),
    to: z.enum(sandboxStates),
    reason: z.string(),
    detail: z.string().nullable(),
  })
  .openapi('SandboxLog')
export type SandboxLog = z.output<typeof sandboxLogSchema>

export const sandboxLogsSchema = z
  .object({ data: z.array(sandboxLogSchema), nextCursor: z.string().nullable() })
  .openapi('SandboxLogs')

export const listQuerySchema = z.object({
  state: z
    .string()
    .max(200)
    .transform((text) => text.split(','))
    .pipe(z.array(z.enum(sandboxStates)).min(1))
    .optional()
    .openapi({ param: { name: 'state', in: 'query' }, type: 'string', example: 'running,paused' }),
  agentId: z
    .string()
    .max(64)
    .optional()
    .openapi({ param: { name: 'agentId', in: 'query' }, description: 'Only computers of this agent' }),
  ...pageQuery(sandboxLimits.listLimit),
})

export const logsQuerySchema = z.object(pageQuery(sandboxLimits.logsLimit))

export { sandboxIdParamSchema } from '../access/schema.ts'

export const idempotencyHeaderSchema = idempotencyHeader(
  'Asking again with the same key and body gives the first answer instead of a second sandbox',
)

function envBytes(env: Record<string, string>): number {
  return Object.entries(env).reduce((sum, [name, value]) => sum + name.length + Buffer.byteLength(value) + 2, 0)
}

export { ofGuest } from './refusal-codes.ts'
