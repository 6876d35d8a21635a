import { join } from 'node:path'
import { Delta } from '@delta-agents/sdk'
import { expect, test } from 'vitest'
import { startPostgres } from '../scripts/postgres.ts'
import { isLongForm, longFormOnly } from './debian.ts'
import { type ModelPlatform, startModelPlatform } from './model.ts'
import { httpPid } from './processes.ts'
import { judgeBooks, readBooks } from './task-books.ts'
import { createSpenders } from './task-spenders.ts'
import { seeded } from './workload.ts'

const firstSeed = Number(process.env['DELTA_TEST_SEED'] ?? Date.now() % 1_000_000_000)
const eventuallyMs = 120_000

/** The long form is run once; what the server does with its rows is the same on every runtime. */
const { agents, kills } = isLongForm ? { agents: 500, kills: 6 } : { agents: 40, kills: 2 }

interface Course {
  seed: number
  agents: number
  kills: number
  env?: NodeJS.ProcessEnv
}

test(
  `of ${agents} agents that spend at once over ${kills} kills none spends more than it has, and every task ends once (DELTA_TEST_SEED=${firstSeed})`,
  { timeout: 600_000 },
  () => live({ seed: firstSeed, agents, kills }),
)

test('the same on PostgreSQL', { timeout: 600_000 }, async ({ skip }) => {
  skip(!isLongForm, longFormOnly)
  const postgres = await startPostgres()
  try {
    // Another server could be alive: what one that was killed held is left alone for 20 s and more.
    const env = { DATABASE_URL: postgres.url, SECRET_KEY: 'a key for tests of killed servers, long enough' }
    await live({ seed: firstSeed + 1, agents: 150, kills: 3, env })
  } finally {
    postgres.stop()
  }
})

async function live({ seed, agents: count, kills: times, env = {} }: Course): Promise<void> {
  const random = seeded(seed)
  const on = await startModelPlatform(220, {
    env: { DELTA_POOL_SIZE: '0', DELTA_GRANT_TOKENS: '10000000', ...env },
    kept: 100_000,
  })
  const story: string[] = []
  try {
    const delta = new Delta({ url: on.delta.url, apiKey: on.platform().key, maxRetries: 30 })
    const spenders = createSpenders({ delta, peer: on.peer, random, count })
    await spenders.makeAgents()
    const failed = { by: undefined as unknown }
    const work = spenders.work().catch((error: unknown) => {
      failed.by = error
      throw error
    })
    // Heard at the latest when it is waited for; meanwhile it is not an unhandled rejection.
    work.catch(() => {})
    const isPast = (questions: number) => {
      if (failed.by !== undefined) throw failed.by
      return spenders.asked() >= questions
    }
    const replies = spenders.expectedReplies()
    for (let kill = 1; kill <= times; kill += 1) {
      // Less than its share, so that the last one too comes while they work.
      const share = (replies / (times + 1)) * (0.5 + random.below(50) / 100)
      const questions = spenders.asked() + share
      await until(() => isPast(questions))
      await new Promise((resolve) => setTimeout(resolve, random.below(40)))
      const how = random.chance(0.5) ? 'the HTTP process' : 'everything'
      story.push(`${kill}: ${how} after ${spenders.asked()} of about ${replies} questions`)
      await crashes[how](on)
    }
    await work
    await expect.poll(spenders.settled, { timeout: eventuallyMs, interval: 1_000 }).toBe(true)
    await on.platform().stop()
    const books = await readBooks({ path: join(on.platform().dataDir, 'server/delta.db'), url: env['DATABASE_URL'] })
    const found = judgeBooks(books, spenders, { kills: times })
    // A course in which nothing was cut, or nobody ran out, would show nothing.
    expect(found.unknownHolds).toBeGreaterThan(0)
    expect(found.canceled).toBeGreaterThan(0)
    expect(found.finished).toBeGreaterThan(count / 2)
    expect(found.timesOut).toBeGreaterThan(0)
    await on.end()
  } catch (cause) {
    const left = await on.end().catch((error: unknown) => error)
    throw new Error(
      `DELTA_TEST_SEED=${seed}\n${story.join('\n')}\n${String(left ?? '')}\n${on.platform().log().slice(-8_000)}`,
      { cause },
    )
  }
}

async function until(isSo: () => boolean): Promise<void> {
  for (const deadline = performance.now() + eventuallyMs; !isSo();) {
    if (performance.now() > deadline) throw new Error(`It was not so within ${eventuallyMs} ms`)
    await new Promise((resolve) => setTimeout(resolve, 2))
  }
}

/** By SIGKILL, in the middle of whatever it does. */
const crashes: Record<'the HTTP process' | 'everything', (on: ModelPlatform) => Promise<void>> = {
  'the HTTP process': (on) => on.crash(),
  async everything(on) {
    process.kill(await httpPid(on.platform().pid), 'SIGKILL')
    await on.restart('SIGKILL')
  },
}
