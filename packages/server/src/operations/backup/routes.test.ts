import { hash } from 'node:crypto'
import { expect, onTestFinished, test } from 'vitest'
import { defaultKeyId } from '../../access/api-key.ts'
import { requireDataFolderKey } from '../../access/people/routes.ts'
import type { Principal } from '../../access/principal.ts'
import { testDoor, testKeyPrincipal } from '../../access/testing.ts'
import { createApp } from '../../app.ts'
import { systemClock } from '../../kernel/clock.ts'
import { rawQuery } from '../../kernel/db/compile.ts'
import { silentLogger } from '../../kernel/log.ts'
import { createMetrics } from '../../kernel/metrics.ts'
import { backupsFeature } from './routes.ts'
import { openTestPlatform } from './testing.ts'

const owner: Principal = {
  kind: 'user',
  accountId: 'acc_default',
  userId: 'usr_a',
  sessionId: 'ses_a',
  role: 'owner',
  secondFactor: true,
}
const callers: Record<string, Principal> = {
  folder: testKeyPrincipal({ keyId: defaultKeyId }),
  made: testKeyPrincipal({ keyId: 'key_made' }),
  owner,
}

async function serve() {
  const platform = await openTestPlatform()
  onTestFinished(platform.end)
  const app = createApp({
    features: [backupsFeature({ backups: platform.backups, requireDataFolderKey })],
    access: testDoor(callers),
    log: silentLogger,
    clock: systemClock,
    metrics: createMetrics(),
    checkDatabase: async () => {},
    settings: { version: '0', host: '127.0.0.1', hosts: [], environment: 'production', installation: () => ({}) },
  })
  const ask = (who: string, path: string, init: RequestInit = {}) =>
    app.api.request(`http://127.0.0.1${path}`, {
      method: 'POST',
      ...init,
      headers: { authorization: `Bearer ${who}`, ...init.headers },
    })
  return { platform, ask }
}

test('a backup goes over HTTP and back, with its length ahead', async () => {
  const source = await serve()
  await source.platform.database.run(
    rawQuery(`insert into users (id, email, name, created_at) values ('usr_1', 'a@x', 'n', 1)`),
  )
  const answer = await source.ask('folder', '/v1/backups', { body: '{}' })
  expect(answer.status).toBe(200)
  const bytes = new Uint8Array(await answer.arrayBuffer())
  expect(Number(answer.headers.get('content-length'))).toBe(bytes.length)
  expect(answer.headers.get('delta-backup-unsaved')).toBe('0')

  const target = await serve()
  const staged = await target.ask('folder', '/v1/restores', { body: bytes })
  expect(staged.status).toBe(201)
  const { id, rows, secretKey, secrets } = (await staged.json()) as Record<string, unknown>
  expect([secretKey, secrets]).toEqual(['same', null])
  expect(rows).toBeGreaterThan(1)
  expect((await target.ask('folder', `/v1/restores/evt_${'a'.repeat(20)}/commit`)).status).toBe(404)
  expect((await target.ask('folder', `/v1/restores/${String(id)}/commit`)).status).toBe(202)
  await target.platform.start()
  expect(await target.platform.database.all(rawQuery('select id from users'))).toEqual([{ id: 'usr_1' }])
})

test('a sealed one says no length, and opens with its passphrase only', async () => {
  const { ask } = await serve()
  const passphrase = 'großes Geheimnis 漢字'
  const answer = await ask('folder', '/v1/backups', { body: JSON.stringify({ passphrase, secrets: true }) })
  expect(answer.headers.get('content-length')).toBe(null)
  const bytes = new Uint8Array(await answer.arrayBuffer())
  const target = await serve()
  const send = (text: string) =>
    target.ask('folder', '/v1/restores', {
      body: bytes,
      headers: { 'delta-passphrase': Buffer.from(text).toString('base64url') },
    })
  const refused = await send('grosses Geheimnis')
  expect([refused.status, await refused.json()]).toMatchObject([400, { error: { code: 'backup_passphrase_wrong' } }])
  const opened = await send(passphrase)
  expect([opened.status, await opened.json()]).toMatchObject([201, { secrets: { secretKey: expect.any(String) } }])
})

test.each(['made', 'owner'])(
  '%s may neither make a backup nor restore one, however many rights they have',
  async (who) => {
    const { ask, platform } = await serve()
    for (const path of [
      '/v1/backups',
      '/v1/restores?replace=true',
      `/v1/restores/evt_${hash('sha1', 'x').slice(0, 20)}/commit`,
    ]) {
      const answer = await ask(who, path, { body: '{}' })
      expect([answer.status, await answer.json()]).toMatchObject([
        403,
        { error: { code: 'data_folder_key_required', remediation: expect.stringContaining('the file `api-key`') } },
      ])
    }
    expect(platform.restarts).toBe(0)
  },
)
