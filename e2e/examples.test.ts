import { execFile, spawn } from 'node:child_process'
import { dirname, resolve } from 'node:path'
import { promisify } from 'node:util'
import { Delta } from '@delta-agents/sdk'
import { expect, test } from 'vitest'
import { delta, key, url } from './target.ts'

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

test('agents with tokens of their own: a bot asks, main says yes, a person confirms, and the balance has moved', async () => {
  await delta.account.invite('confirms@e2e.example')
  const link = new URL((await delta.auth.createLink('confirms@e2e.example')).url)
  const session = await delta.auth.acceptInvitation({
    token: link.searchParams.get('t')!,
    password: 'a password of the tests',
  })
  const person = new Delta({ url, apiKey: delta.auth.keep(session), maxRetries: 0 })
  const example = spawn(process.execPath, ['examples/agents.ts'], {
    cwd: root,
    env,
    stdio: ['ignore', 'pipe', 'inherit'],
  })
  const ended = new Promise<number | null>((done) => example.on('close', done))
  let shown = ''
  let confirmed: Promise<unknown> | undefined
  for await (const chunk of example.stdout) {
    shown += String(chunk)
    const id = /delta approve yes (apr_\w+)/.exec(shown)?.[1]
    if (id === undefined) continue
    confirmed ??= person.approvals.get(id).then((approval) => {
      expect(approval).toMatchObject({ kind: 'tokens', state: 'pending' })
      expect(approval.description).toMatch(/gets 40 tokens of the agent agt_\w+, to spend/)
      return person.approvals.approve(approval)
    })
  }
  expect(await confirmed).toMatchObject({ state: 'executed' })
  expect(await ended).toBe(0)
  expect(shown).toMatch(/it knows 2 orders\n5 tokens: granted\nmain says yes; .*\n40 tokens: granted\n/)
  expect(shown).toMatch(/Shop has and had 35 tokens\nemail bot has and had 65 tokens\n$/)
})
