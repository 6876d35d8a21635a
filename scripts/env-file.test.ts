import { spawnSync } from 'node:child_process'
import { chmodSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join, resolve } from 'node:path'
import { afterAll, expect, test } from 'vitest'
import { parseEnvFile, readEnvFile } from './env-file.mjs'

const folder = mkdtempSync(join(tmpdir(), 'delta-env-'))
afterAll(() => rmSync(folder, { recursive: true }))

test('names, values, quotes and comments', () => {
  const text = `# a comment
PORT=9000
export HOST = 0.0.0.0   # where it listens
SECRET_KEY="a # b"
MAIL_FROM='DELTA <d@example.com>'  # whom
SMTP_URL=smtp://u:p#ss@mail
EMPTY=
URL=postgres://u:$p@h/x?a=b\r
`
  expect(parseEnvFile(text)).toEqual({
    PORT: '9000',
    HOST: '0.0.0.0',
    SECRET_KEY: 'a # b',
    MAIL_FROM: 'DELTA <d@example.com>',
    SMTP_URL: 'smtp://u:p#ss@mail',
    EMPTY: '',
    URL: 'postgres://u:$p@h/x?a=b',
  })
})

test.each(['PORT', 'A B=1', '=1', 'SECRET_KEY="hunter2', '1A=hunter2'])(
  '%s is refused by its line, without it',
  (line) => {
    expect(() => parseEnvFile(`PORT=1\n${line}`)).toThrow('.env, line 2, is not NAME=value')
  },
)

test.each([
  ['config --offline', resolve('packages/cli/bin/delta.mjs'), ['config', '--offline'], 'error: '],
  ['the start', resolve('scripts/serve.mjs'), [], ''],
])('a wrong line is told in one readable line: %s', (_name, program, args, before) => {
  const cwd = mkdtempSync(join(folder, 'wrong-'))
  writeFileSync(join(cwd, '.env'), 'PORT=1\nnonsense\n', { mode: 0o600 })
  const { status, stderr } = spawnSync(process.execPath, [program, ...args], { cwd, encoding: 'utf8' })
  const said = stderr.split('\n').filter((line) => line !== '' && !/Warning|^\(Use/.test(line))
  expect([status, said[0]]).toEqual([1, `${before}.env, line 2, is not NAME=value`])
  expect(stderr).not.toMatch(/\bat |\\x0a|why:/)
})

test('config --offline ends with 1 and the reason where a value would keep the server from starting', () => {
  const cwd = mkdtempSync(join(folder, 'values-'))
  const env = { ...process.env, HOST: 'a b', DELTA_HOSTS: 'http://evil' }
  const args = [resolve('packages/cli/bin/delta.mjs'), 'config', '--offline']
  const { status, stderr } = spawnSync(process.execPath, args, { cwd, env, encoding: 'utf8' })
  expect([status, stderr]).toEqual([1, expect.stringMatching(/wrong: HOST must be [^]*wrong: DELTA_HOSTS must be /)])
})

test('the environment wins, also where it is empty', () => {
  const path = join(folder, 'wins')
  writeFileSync(path, 'PORT=1\nHOST=h\nLOG_LEVEL=debug\n', { mode: 0o600 })
  const env = { PORT: '2', HOST: '' }
  readEnvFile(path, env, (line) => expect.unreachable(line))
  expect(env).toEqual({ PORT: '2', HOST: '', LOG_LEVEL: 'debug' })
})

test('a file that others can read is warned of, and one that is not there is nothing', () => {
  const path = join(folder, 'open')
  writeFileSync(path, 'PORT=1\n')
  chmodSync(path, 0o644)
  const lines: string[] = []
  readEnvFile(path, {}, (line) => lines.push(line))
  expect(lines).toEqual([`${path} is open to other users and may hold secrets: chmod 600 ${path}`])
  readEnvFile(join(folder, 'none'), {}, (line) => expect.unreachable(line))
})
