import type { Database } from '../kernel/db/database.ts'
import { compiledOnce } from '../kernel/db/compile.ts'
import { type OwnKeyProvider, ownKeyProviders } from './names.ts'

interface Row {
  account_id: string
  provider: OwnKeyProvider
  sealed: string
  last: string
  set_by: string
  set_at: number
}

/** An account's own key of a provider. */
export interface ModelKeyRecord {
  provider: OwnKeyProvider
  sealed: string
  /** Its last characters. */
  last: string
  setBy: string
  setAt: number
}

export type ModelKeyStore = ReturnType<typeof createModelKeyStore>

export function createModelKeyStore(database: Database) {
  const db = database.of<{ model_keys: Row }>()
  const { sql } = db
  const ofAccount = (accountId: string) => sql.selectFrom('model_keys').selectAll().where('account_id', '=', accountId)
  const keys = Object.fromEntries(
    ownKeyProviders.map((provider) => [
      provider,
      compiledOnce((accountId) => ofAccount(accountId).where('provider', '=', provider)),
    ]),
  ) as Record<OwnKeyProvider, ReturnType<typeof compiledOnce<Row>>>

  return {
    async put(accountId: string, { provider, sealed, last, setBy, setAt }: ModelKeyRecord): Promise<void> {
      const changed = { sealed, last, set_by: setBy, set_at: setAt }
      await db.run(
        sql
          .insertInto('model_keys')
          .values({ account_id: accountId, provider, ...changed })
          .onConflict((conflict) => conflict.columns(['account_id', 'provider']).doUpdateSet(changed))
          .compile(),
      )
    },

    async find(accountId: string, provider: OwnKeyProvider): Promise<ModelKeyRecord | undefined> {
      // Before every call of a model.
      const [row] = await db.lookUp(keys[provider](accountId))
      return row && recordOf(row)
    },

    async list(accountId: string): Promise<ModelKeyRecord[]> {
      return (await db.all(ofAccount(accountId).orderBy('provider').compile())).map(recordOf)
    },

    async remove(accountId: string, provider: OwnKeyProvider): Promise<boolean> {
      const query = sql.deleteFrom('model_keys').where('account_id', '=', accountId).where('provider', '=', provider)
      return (await db.run(query.compile())).changed === 1
    },
  }
}

function recordOf({ provider, sealed, last, set_by: setBy, set_at: setAt }: Row): ModelKeyRecord {
  return { provider, sealed, last, setBy, setAt }
}
