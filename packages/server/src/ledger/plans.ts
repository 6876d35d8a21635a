import { DeltaError } from '../kernel/errors.ts'
import { planNames } from '../kernel/settings.ts'
import type { PlanName } from '../kernel/settings.ts'

export type { PlanName }

export interface Plan {
  name: PlanName
  /** Agents that are not archived. */
  agents: number | null
  /** Hours of sandboxes in a month. */
  sandboxHours: number | null
  /** Micro-tokens granted for a month. */
  grant: number
}

const bounds: Readonly<Record<PlanName, Pick<Plan, 'agents' | 'sandboxHours'>>> = {
  free: { agents: 1, sandboxHours: 10 },
  developer: { agents: 3, sandboxHours: 100 },
  pro: { agents: 10, sandboxHours: 500 },
  enterprise: { agents: null, sandboxHours: null },
}

export function isPlanName(text: string): text is PlanName {
  return (planNames as readonly string[]).includes(text)
}

/** A name that is none, as an older or newer version may have stored it, is the smallest. */
export function planNamed(name: string, grant: number): Plan {
  const known = isPlanName(name) ? name : 'free'
  return { name: known, ...bounds[known], grant }
}

/** Throws `plan_limit_reached` where there would be more than the plan allows. */
export function checkPlan(plan: Plan, what: 'agents' | 'sandboxHours', wanted: number): void {
  const limit = plan[what]
  if (limit === null || wanted <= limit) return
  const words = what === 'agents' ? 'agents' : 'hours of sandboxes in a month'
  throw new DeltaError('plan_limit_reached', `The plan ${plan.name} allows ${limit} ${words}`, {
    context: { plan: plan.name, what, limit },
  })
}
