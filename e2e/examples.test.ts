import { execFile } from 'node:child_process'
import { dirname, resolve } from 'node:path'
import { promisify } from 'node:util'
import { expect, test } from 'vitest'
import { key, url } from './target.ts'

const run = promisify(execFile)
const root = resolve(import.meta.dirname, '..')
const env = {
  ...process.env,
  DELTA_URL: url,
  DELTA_API_KEY: key,
  PATH: `${dirname(process.execPath)}:${process.env['PATH'] ?? ''}`,
}

test('the first task in TypeScript', async () => {
  const { stdout } = await run(process.execPath, ['examples/first-task.ts'], { cwd: root, env })
  expect(stdout).toContain('there are 15 primes up to 50 (exit code 0)\n2 3 5 7 11 13')
})

test('the first task with curl and the command line', async () => {
  const { stdout } = await run('bash', ['examples/first-task.sh'], { cwd: root, env })
  expect(stdout).toMatch(/sandbox sbx_\w+ runs\n.*"stdout":"1\+2\+3\\n".*\n1\+2\+3\n6\n/s)
})
