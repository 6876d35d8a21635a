import { mkdtemp, readdir, rm, stat, utimes, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Session } from '@delta-agents/sdk'
import { afterEach, beforeEach, expect, test } from 'vitest'
import { createLogins, loginsFolder } from './logins.ts'

const url = 'https://delta.example.com'
let home: string
beforeEach(async () => {
  home = await mkdtemp(join(tmpdir(), 'delta-logins-'))
})
afterEach(() => rm(home, { recursive: true }))

function session(number: number, expiresInMs: number): Session {
  return {
    accessToken: `access ${number}`,
    refreshToken: `refresh ${number}`,
    expiresAt: new Date(Date.now() + expiresInMs).toISOString(),
    sessionId: 'ses_a',
    userId: 'usr_a',
    accountId: 'acc_a',
  }
}

/** As the server does it: each token is good once. */
function server() {
  const used: string[] = []
  return {
    used,
    async refresh(token: string) {
      if (used.includes(token)) throw new Error('session_ended')
      used.push(token)
      await new Promise((done) => setTimeout(done, 20))
      return session(used.length, 600_000)
    },
  }
}

test('a login is kept for its server alone, where nobody else reads it', async () => {
  const folder = join(home, 'delta')
  const logins = createLogins(folder)
  expect(await logins.get(url)).toBeUndefined()
  await logins.put(url, { kind: 'key', key: 'delta_secret' })
  expect(await logins.key(url, server())).toBe('delta_secret')
  expect(await logins.key('https://evil.example', server())).toBeUndefined()
  const modes = [folder, join(folder, 'logins.json')].map(async (path) => (await stat(path)).mode & 0o777)
  expect(await Promise.all(modes)).toEqual([0o700, 0o600])
  await logins.put(url, undefined)
  expect(await logins.get(url)).toBeUndefined()
  expect(await readdir(folder)).toEqual(['logins.json'])
})

test('of many commands at once one refreshes the session, and the others take what it got', async () => {
  const auth = server()
  await createLogins(home).put(url, { kind: 'session', email: 'a@b.c', session: session(0, 1_000) })
  const keys = await Promise.all(Array.from({ length: 8 }, () => createLogins(home).key(url, auth)))
  expect(new Set(keys)).toEqual(new Set(['access 1']))
  expect(auth.used).toEqual(['refresh 0'])
  expect(await createLogins(home).get(url)).toMatchObject({ session: { refreshToken: 'refresh 1' } })
})

test('a token that lasts is sent as it is', async () => {
  const auth = server()
  await createLogins(home).put(url, { kind: 'session', email: 'a@b.c', session: session(0, 600_000) })
  expect(await createLogins(home).key(url, auth)).toBe('access 0')
  expect(auth.used).toEqual([])
})

test('a lock whose holder died is taken over', async () => {
  const lock = join(home, 'logins.lock')
  await writeFile(lock, '')
  await utimes(lock, new Date(0), new Date(0))
  await createLogins(home).put(url, { kind: 'key', key: 'delta_secret' })
  expect(await createLogins(home).key(url, server())).toBe('delta_secret')
})

test('a file that cannot be read is said, not written over', async () => {
  await writeFile(join(home, 'logins.json'), '{')
  await expect(createLogins(home).get(url)).rejects.toThrow('cannot be read')
  await expect(createLogins(home).put(url, undefined)).rejects.toThrow('cannot be read')
})

test.each([
  [{ HOME: '/home/a' }, '/home/a/.config/delta'],
  [{ HOME: '/home/a', XDG_CONFIG_HOME: '/home/a/settings' }, '/home/a/settings/delta'],
  [{}, undefined],
])('with %o they lie in %s', (env, folder) => {
  expect(loginsFolder(env)).toBe(folder)
})
