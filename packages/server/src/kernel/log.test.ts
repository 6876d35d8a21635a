import { expect, test } from 'vitest'
import { limits } from './limits.ts'
import { createLogger } from './log.ts'
import type { LogLevel } from './log.ts'

function startLog(level: LogLevel = 'debug') {
  const lines: string[] = []
  const log = createLogger({ level, write: (line) => lines.push(line), now: () => 0 })
  return { log, lines, last: () => JSON.parse(lines.at(-1)!) as Record<string, unknown> }
}

test('a line is one JSON object with time, level and event', () => {
  const { log, lines, last } = startLog()
  log.info('listening', { port: 8000, text: 'a\nb' })
  expect(lines[0]).toMatch(/^[^\n]+\n$/)
  expect(last()).toEqual({
    at: '1970-01-01T00:00:00.000Z',
    level: 'info',
    event: 'listening',
    port: 8000,
    text: 'a\nb',
  })
})

test('lines below the level are not written', () => {
  const { log, lines } = startLog('warn')
  log.debug('a')
  log.info('b')
  log.warn('c')
  log.error('d')
  expect(lines).toHaveLength(2)
})

test.each(['authorization', 'apiKey', 'accessToken', 'client_secret', 'PASSWORD', 'env', 'stdin', 'Cookie'])(
  'what sits under %s is never written, at any depth',
  (key) => {
    const { log, lines } = startLog()
    log.info('e', { [key]: 'hunter2', inner: { [key]: { deep: 'hunter2' } }, list: [{ [key]: 'hunter2' }] })
    log.child({ [key]: 'hunter2' }).info('f')
    expect(lines.join()).not.toContain('hunter2')
    expect(lines.join()).toContain('[redacted]')
  },
)

test('a key or token is not written, wherever it stands', () => {
  const key = `dk_${'a1B2c3D4'.repeat(6)}`
  const { log, lines, last } = startLog()
  const error = new Error(`There is no key ${key}`, { cause: `${'x'.repeat(limits.logTextChars - 10)} ${key}` })
  log.info('request', {
    path: `/v1/keys/${key}/rotate`,
    error,
    texts: ['eyJhbGciOiJFZERTQSJ9.eyJpc3MiOiJkZWx0YSJ9.c2ln'],
  })
  expect(last()).toMatchObject({ path: '/v1/keys/dk_[redacted]/rotate', texts: ['eyJ[redacted]'] })
  expect(lines.join()).not.toContain(key.slice(3, 12))
})

test('an error is written with its code, stack and causes', () => {
  const { log, last } = startLog()
  const cause = Object.assign(new Error('no such file'), { code: 'ENOENT' })
  log.error('failed', { error: new Error('outer', { cause }) })
  expect(last()['error']).toMatchObject({
    message: 'outer',
    stack: expect.any(String),
    cause: { code: 'ENOENT', message: 'no such file' },
  })
})

test('nothing that is logged can grow without bound or throw', () => {
  const { log, lines, last } = startLog()
  const loop: Record<string, unknown> = {}
  loop['self'] = loop
  log.info('e', {
    loop,
    long: 'x'.repeat(100_000),
    many: Array.from({ length: 1_000 }, (_, i) => i),
    big: 2n ** 70n,
    bytes: Buffer.alloc(1_000_000),
    date: new Date(Number.NaN),
  })
  expect(lines[0]!.length).toBeLessThan(limits.logTextChars * 2)
  expect(last()).toMatchObject({ big: '1180591620717411303424', bytes: '[1000000 bytes]', date: null })
})

test('a child carries its fields on every line', () => {
  const { log, last } = startLog()
  log.child({ sandboxId: 'sbx_1' }).child({ execId: 'exe_1' }).warn('slow', { ms: 5 })
  expect(last()).toMatchObject({ sandboxId: 'sbx_1', execId: 'exe_1', ms: 5, level: 'warn' })
})
