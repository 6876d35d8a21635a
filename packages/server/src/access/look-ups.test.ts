import { expect, test } from 'vitest'
import { agentMigrations } from '../agents/migrations.ts'
import { createAgentStore } from '../agents/store.ts'
import { rawQuery } from '../kernel/db/compile.ts'
import type { Database } from '../kernel/db/database.ts'
import { testDatabases } from '../kernel/db/testing.ts'
import { keyMigrations } from './keys/migrations.ts'
import { createKeyStore } from './keys/store.ts'
import { accessMigrations } from './migrations.ts'
import { peopleMigrations } from './people/migrations.ts'
import { createPeopleStore } from './people/store.ts'

testDatabases('what a request is recognised by', (open) => {
  // SQLite serves nobody else while it looks: through a table that grows it would take ever longer.
  test('is looked up by an index, never through a whole table', async () => {
    const database = await open([...accessMigrations, ...peopleMigrations, ...keyMigrations, ...agentMigrations])
    if (database.kind !== 'sqlite') return
    const looked: Parameters<Database['lookUp']>[0][] = []
    const watched: Database = {
      ...(database as Database),
      lookUp(query) {
        looked.push(query)
        return database.lookUp(query)
      },
      of: <Tables>() => watched as Database<Tables>,
    }
    const [keys, people, agents] = [createKeyStore(watched), createPeopleStore(watched), createAgentStore(watched)]
    await keys.byHash('0'.repeat(64))
    await keys.byId('key_a')
    await people.standing('ses_a', 'acc_a', 1)
    await people.holder('ses_a', 'acc_a', 1)
    await agents.lookUpLine('agt_a')
    expect(looked).toHaveLength(5)
    for (const { sql, parameters } of looked) {
      // Or each look would also prepare the statement anew.
      expect(sql).not.toMatch(/limit \?/i)
      const plan = await database.all<{ detail: string }>(
        rawQuery(`explain query plan ${sql}`, [...(parameters as string[])]),
      )
      expect(plan.length).toBeGreaterThan(0)
      expect(plan.filter(({ detail }) => detail.startsWith('SCAN'))).toEqual([])
      // Where nothing of a key is remembered, an index would be as many pages again.
      if (sql.includes('"hash"')) {
        expect(plan.map(({ detail }) => detail)).toContain('SEARCH api_keys USING INTEGER PRIMARY KEY (rowid=?)')
      }
    }
  })
})
