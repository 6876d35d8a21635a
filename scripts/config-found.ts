import { readFileSync } from 'node:fs'
import { DeltaError } from '../packages/server/src/kernel/errors.ts'
import { readRateCard } from '../packages/server/src/ledger/rate-card.ts'
import { describeSettings, parseSettings, unknownSettings } from '../packages/server/src/kernel/settings.ts'
import type { Environment } from '../packages/server/src/kernel/settings.ts'

/** What a start with this environment would find. */
export function findConfig(env: Environment) {
  const parsed = parseSettings(env)
  // The helper gives these to the server where they are not set.
  const made = env['DATABASE_URL'] ? ['DELTA_API_KEY_SHA256'] : ['DELTA_API_KEY_SHA256', 'SECRET_KEY']
  const isMade = (fault: string) => made.some((name) => !env[name] && fault.startsWith(`${name} `))
  const faults = ('faults' in parsed ? parsed.faults : []).filter((fault) => !isMade(fault))
  faults.push(...faultsOfCard(env['DELTA_RATE_CARD']))
  return { settings: describeSettings(env), faults, unknown: unknownSettings(env) }
}

/** The helper hands the file over, and the server would refuse what is in it. */
function faultsOfCard(path: string | undefined): string[] {
  if (!path) return []
  try {
    readRateCard(readFileSync(path, 'utf8'))
    return []
  } catch (error) {
    if (error instanceof DeltaError) return [error.message]
    return [`DELTA_RATE_CARD names a file that can not be read: ${(error as Error).message}`]
  }
}
