import type { AttemptRule, Attempts, AttemptState } from '../people/attempts.ts'
import { pauseMs } from '../people/attempts.ts'
import type { SharedCounts } from './shared-counts.ts'

// The time is Redis's own: servers' clocks differ.
const timeMs = `local t = redis.call('TIME') local now = t[1] * 1000 + math.floor(t[2] / 1000)`
const lookScript = `${timeMs}
local v = redis.call('HMGET', KEYS[1], 'failures', 'lastMs')
return { tonumber(v[1] or 0), now - tonumber(v[2] or 0) }`
const failedScript = `${timeMs}
redis.call('HINCRBY', KEYS[1], 'failures', 1)
redis.call('HSET', KEYS[1], 'lastMs', now)
return redis.call('PEXPIRE', KEYS[1], ARGV[1])`

/**
 * What went wrong at any of several servers. Each counts its own beside it, and the longer wait holds: neither a Redis that is away nor one that lost
 * everything gives anybody their tries back.
 */
export function createSharedAttempts({ shared, own }: { shared: SharedCounts; own: Attempts }): Attempts {
  return {
    async look(name, rule) {
      const mine = await own.look(name, rule)
      const all = await shared.count(
        async (client) => stateOf(await client.eval(lookScript, 1, keyOf(name)), rule),
        () => mine,
      )
      return { failures: Math.max(mine.failures, all.failures), waitMs: Math.max(mine.waitMs, all.waitMs) }
    },
    async failed(name, rule) {
      await own.failed(name, rule)
      await shared.count<unknown>(
        (client) => client.eval(failedScript, 1, keyOf(name), rule.forgetMs),
        () => undefined,
      )
    },
    async forget(name) {
      await own.forget(name)
      await shared.count<unknown>(
        (client) => client.del(keyOf(name)),
        () => undefined,
      )
    },
  }
}

function keyOf(name: string): string {
  return `delta:attempts:${name}`
}

function stateOf(answer: unknown, rule: AttemptRule): AttemptState {
  const [failures, agoMs] = Array.isArray(answer) ? answer.map(Number) : []
  if (failures === undefined || agoMs === undefined || failures === 0) return { failures: 0, waitMs: 0 }
  return { failures, waitMs: Math.max(0, pauseMs(failures, rule) - agoMs) }
}
