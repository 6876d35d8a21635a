import { z } from '@hono/zod-openapi'
import { sandboxIdParamSchema } from '../../access/schema.ts'

export const portLimits = {
  /** Requests and WebSockets under way to one sandbox; one more is refused. */
  openPerSandbox: 256,
  /** And to all of them. */
  open: 2_048,
  /** Kept-alive connections to servers inside that wait for the next request, of one sandbox. */
  idlePerSandbox: 64,
  /** Many servers give an idle connection up after 2 s or 5 s; a request must not meet its end. */
  idleMs: 1_500,
  /** From the request, or the last of its body, to the answer's header. */
  answerMs: 120_000,
  /** Between two pieces of an answer, or of a WebSocket. */
  silenceMs: 600_000,
  /** A client may take nothing of an answer, or send nothing of its body, for this long. */
  clientMs: 120_000,
  /** Ports made public in one sandbox. */
  publicPorts: 64,
} as const

const portSchema = z.int().min(1).max(65_535).openapi({ example: 3000 })

export const putPortsSchema = z
  .strictObject({
    public: z
      .array(portSchema)
      .max(portLimits.publicPorts)
      .openapi({ description: 'Ports that need no access token; replaces the list' }),
  })
  .openapi('PutPorts')

export const portsSchema = z
  .object({
    urlTemplate: z.string().openapi({
      description: 'The address of a port, with `{port}` for its number',
      example: 'http://{port}-sbx-k3v9x0m2qp7a8b1c4d5e.localhost:8000/',
    }),
    data: z
      .array(
        z.object({
          port: portSchema,
          url: z.string(),
          public: z.boolean(),
          listening: z.boolean().nullable().openapi({ description: 'Null where the sandbox does not run' }),
        }),
      )
      .openapi({ description: 'Public ones and those something listens on' }),
  })
  .openapi('Ports')
export type Ports = z.output<typeof portsSchema>

export const portPathParamSchema = sandboxIdParamSchema.extend({
  port: z.string().openapi({ param: { name: 'port', in: 'path' }, type: 'integer', minimum: 1, maximum: 65_535 }),
  path: z.string().openapi({ param: { name: 'path', in: 'path' }, description: 'Any path, with its slashes' }),
})
