import { z } from '@hono/zod-openapi'
import type { KnownCaller } from '../../access/callers/door.ts'
import type { ApprovalView } from '../../approvals/schema.ts'
import type { Action, ApprovalKind, Approvals } from '../../approvals/service.ts'
import { DeltaError } from '../../kernel/errors.ts'
import type { Sandboxes } from '../service.ts'
import { isOver } from '../states.ts'
import { formatRule, webPorts } from './rule-text.ts'
import { mayConnect } from './rules.ts'
import type { RequestEgress } from './schema.ts'

/** Rows are read with it too: what is done is what stands there, or nothing. */
const actionSchema = z.strictObject({
  kind: z.literal('egress'),
  sandboxId: z.string(),
  host: z.string(),
  ports: z.array(z.int().min(1).max(65_535)).min(1),
})

/** Lets a sandbox reach one more host: what a person decides on after a program inside was refused it. */
export function egressApproval({ allowEgress }: Pick<Sandboxes, 'allowEgress'>): ApprovalKind {
  return {
    kind: 'egress',
    describe(action) {
      const { sandboxId, host, ports } = actionSchema.parse(action)
      const at = `port${ports.length === 1 ? '' : 's'} ${ports.join(' and ')}`
      return `Programs in the sandbox ${sandboxId} may connect to ${host} at ${at}, from then on, until its network is changed again.`
    },
    async execute(action, { accountId }) {
      const { sandboxId, host, ports } = actionSchema.parse(action)
      const hosts = ports.map((port) => formatRule({ host, wildcard: false, ports: [port] }))
      await allowEgress(sandboxId, { hosts, presets: [] }, { accountId })
    },
    // A policy to which the same is added twice is the same.
    afterDeath: 'again',
  }
}

interface AskDeps {
  sandboxes: Pick<Sandboxes, 'get'>
  approvals: Pick<Approvals, 'ask'>
}

export async function askForHost(
  sandboxId: string,
  { host, port, reason, ttlMs }: RequestEgress,
  caller: KnownCaller,
  { sandboxes, approvals }: AskDeps,
): Promise<{ approval: ApprovalView; made: boolean }> {
  const { state, network } = await sandboxes.get(sandboxId, caller)
  if (isOver(state)) {
    throw new DeltaError('sandbox_state_conflict', `Sandbox ${sandboxId} is ${state}`, {
      context: { sandboxId, state },
    })
  }
  const ports = port === undefined ? [...webPorts] : [port]
  if (ports.every((one) => mayConnect(network.egress, { host, port: one }).allowed)) {
    throw new DeltaError('egress_allowed_already', `The policy of ${sandboxId} allows ${host} already`)
  }
  const action: Action = { kind: 'egress', sandboxId, host, ports }
  return approvals.ask({ action, reason, ttlMs, sandboxId }, caller)
}
