import { expect, test } from 'vitest'
import { testDatabases } from '../kernel/db/testing.ts'
import { createLogger } from '../kernel/log.ts'
import { accessMigrations } from './migrations.ts'
import { checkSecretKey } from './secret-key.ts'
import { createSecrets } from './secrets.ts'

const first = 'the first secret key of 32 bytes'
const second = 'another secret key of 32 bytes!!'

testDatabases('the secret key', (open) => {
  async function start() {
    const database = await open(accessMigrations)
    const logged: string[] = []
    const log = createLogger({ level: 'debug', write: (line) => logged.push(line) })
    const check = (secretKey: string, isLost = false) =>
      checkSecretKey({ database, secrets: createSecrets({ secretKey }), log, isLost })
    const rows = async () => {
      const { sql } = database.of<{ access_secrets: { name: string; value: string } }>()
      return JSON.stringify(await database.all(sql.selectFrom('access_secrets').selectAll().compile()))
    }
    return { check, logged, rows }
  }

  test('is the one that the database was used with, or the server does not start and says what to do', async () => {
    const { check, logged } = await start()
    await check(first)
    await check(first)
    await expect(check(second)).rejects.toThrow(/SECRET_KEY is not the one.*DELTA_SECRET_KEY_LOST=true.*reset-totp/)
    await check(first)
    expect(logged).toEqual([])
  })

  test('is another one where the operator says that it is lost, which the log tells', async () => {
    const { check, logged } = await start()
    await check(first)
    await check(second, true)
    expect(logged.join('')).toContain('secret_key_replaced')
    await check(second)
    await expect(check(first)).rejects.toThrow('SECRET_KEY is not the one')
  })

  test('of two servers that start with different ones one does not', async () => {
    const { check } = await start()
    const both = await Promise.allSettled([check(first), check(second)])
    expect(both.map(({ status }) => status).toSorted()).toEqual(['fulfilled', 'rejected'])
  })

  test('is in no row', async () => {
    const { check, rows } = await start()
    await check(first)
    expect(await rows()).toContain('fingerprint')
    expect(await rows()).not.toContain(first)
  })
})
