import { z } from '@hono/zod-openapi'
import { bearerChars } from '../door.ts'
import { rightSchema, scopeFields } from '../keys/schema.ts'

const minute = 60_000

export const agentTokenLimits = {
  ttlMs: { min: 1_000, max: 15 * minute, default: 15 * minute },
  rights: 64,
  /** From the key or session down: a main agent, its bots, and theirs. */
  depth: 4,
  /** A longer one would not be read as `Authorization`. */
  tokenChars: bearerChars,
} as const

export const createAgentTokenSchema = z
  .strictObject({
    agentId: z
      .string()
      .regex(/^agt_[a-z0-9]{1,40}$/, 'an id such as agt_k3v9x0m2qp7a8b1c4d5e')
      .openapi({ description: 'Who it is for', example: 'agt_k3v9x0m2qp7a8b1c4d5e' }),
    agentKind: z
      .enum(['main', 'bot', 'messenger'])
      .optional()
      .openapi({ description: 'Refused where the agent is of another kind' }),
    rights: z
      .array(rightSchema)
      .max(agentTokenLimits.rights)
      .openapi({ description: 'A part of what its maker and the agent have now; nothing of keys, people and money' }),
    ...scopeFields,
    ttlMs: z
      .int()
      .min(agentTokenLimits.ttlMs.min)
      .max(agentTokenLimits.ttlMs.max)
      .default(agentTokenLimits.ttlMs.default)
      .openapi({ description: 'Milliseconds it is good for; never longer than what it is made with' }),
  })
  .openapi('CreateAgentToken')
export type CreateAgentToken = z.output<typeof createAgentTokenSchema>

export const agentTokenSchema = z
  .object({
    id: z.string().openapi({ example: 'tok_k3v9x0m2qp7a8b1c4d5e' }),
    token: z.string().openapi({ description: 'Shown only here; whoever holds it is that agent until it ends' }),
    agentId: z.string(),
    agentKind: z.enum(['main', 'bot', 'messenger']),
    rights: z.array(z.string()),
    agents: z.array(z.string()).nullable(),
    sandboxes: z.array(z.string()).nullable(),
    expiresAt: z.iso.datetime(),
  })
  .openapi('AgentToken')
export type AgentTokenView = z.output<typeof agentTokenSchema>

export const revokeAgentTokenSchema = z
  .strictObject({ token: z.string().min(1).max(agentTokenLimits.tokenChars) })
  .openapi('RevokeAgentToken')
