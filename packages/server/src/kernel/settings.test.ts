import { expect, test } from 'vitest'
import { describeSettings, parseSettings, settings, unknownSettings } from './settings.ts'
import type { Setting } from './settings.ts'

const needed = { DELTA_API_KEY_SHA256: 'ab'.repeat(32), SECRET_KEY: 'kZ0pXq7T3vYbN5mRw8eHs2aLc9dGf4uJ' }
const faultsOf = (env: Record<string, string>) => {
  const parsed = parseSettings({ ...needed, ...env })
  return 'faults' in parsed ? parsed.faults : []
}

test('all that is wrong is said at once, by name and without values', () => {
  const faults = faultsOf({
    PORT: 'hunter2',
    REDIS_URL: 'http://:hunter2@redis',
    LOG_LEVEL: 'hunter2',
    SMTP_URL: 'smtp://mail',
    DELTA_STORAGE: 's3://my-bucket',
  })
  const names = ['PORT', 'REDIS_URL', 'LOG_LEVEL', 'MAIL_FROM', 'DELTA_S3_ACCESS_KEY_ID', 'DELTA_S3_SECRET_ACCESS_KEY']
  expect(faults.map((fault) => fault.split(' ')[0]).toSorted()).toEqual(names.toSorted())
  expect(faults.join()).not.toContain('hunter2')
})

test.each([
  ['DELTA_CORS_ORIGINS', '*', /only exact origins/],
  ['DELTA_CORS_ORIGINS', 'https://app.example.com/', /no origin/],
  ['DELTA_CORS_ORIGINS', 'https://*.example.com, null', /no origin/],
  ['DELTA_CORS_ORIGINS', 'HTTPS://app.example.com', /no origin/],
  ['DELTA_TRUSTED_PROXIES', '10.0.0.0/33', /no CIDR/],
  ['DELTA_RATE_LIMIT_KEY', '-1', /DELTA_RATE_LIMIT_KEY/],
  ['DELTA_DEBUG', 'maybe', /DELTA_DEBUG/],
])('%s=%s is refused', (name, value, words) => {
  expect(faultsOf({ [name]: value }).join()).toMatch(words)
})

test('of a secret it is shown whether it is set and nothing else', () => {
  const env = { ...needed, REDIS_URL: 'redis://:hunter2@redis', PORT: '9000', HOST: '' }
  const shown = describeSettings(env)
  expect(JSON.stringify(shown)).not.toContain('hunter2')
  expect(JSON.stringify(shown)).not.toContain(needed.SECRET_KEY)
  const of = (name: string) => shown.find((one) => one.name === name)
  expect(of('REDIS_URL')).toMatchObject({ secret: true, isSet: true, value: null })
  expect(of('PORT')).toMatchObject({ secret: false, isSet: true, value: '9000', default: '8000' })
  expect(of('HOST')).toMatchObject({ isSet: false, value: '127.0.0.1' })
})

test('whatever can hold a password is a secret', () => {
  const all: [string, Setting][] = Object.entries(settings)
  const open = all.filter(([, { secret }]) => !secret)
  expect(open.filter(([name]) => /KEY$|KEY_ID$|TOKEN|SECRET|PASSWORD/.test(name)).map(([name]) => name)).toEqual([
    'DELTA_SECRET_KEY_LOST',
    'DELTA_RATE_LIMIT_KEY',
    'DELTA_GRANT_TOKENS',
  ])
  expect(open.filter(([, { what }]) => what.includes('password')).map(([name]) => name)).toEqual([])
})

test('what nobody reads is named with the nearest that somebody does', () => {
  const env = { DELTA_PORT_DOMAIN: 'x', DELTA_URL: 'x', DELTA_TEST_ALL: '1', DELTA_DEBUG: '1', PATH: '/bin' }
  expect(unknownSettings(env)).toEqual([{ name: 'DELTA_PORT_DOMAIN', nearest: 'DELTA_PORTS_DOMAIN' }])
})
