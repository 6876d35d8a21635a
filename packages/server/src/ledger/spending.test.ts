import { expect, test } from 'vitest'
import { testDatabases } from '../kernel/db/testing.ts'
import { spendAndKill } from './testing/spending.ts'

testDatabases('500 callers who spend at once from one budget', (_open, _openServers, newPlace) => {
  test('never spend more than it has, and nothing that was acknowledged is lost, whenever the process is killed', async () => {
    const { url, path } = await newPlace()
    const place = { path, ...(url !== undefined && { url }) }
    const spent = await spendAndKill({ place, operations: 20_000, kills: 6, seed: 42 })
    expect(spent.operations).toBeGreaterThanOrEqual(20_000)
    expect(spent.killedWith.filter((operations) => operations > 100).length).toBeGreaterThan(3)
    expect(spent.commits).toBeGreaterThan(3_000)
    expect(spent.refused).toBeGreaterThan(100)
    // On PostgreSQL another server could still be alive: there they are settled later.
    if (url === undefined) expect(spent.settled).toBeGreaterThan(0)
  }, 300_000)
})
