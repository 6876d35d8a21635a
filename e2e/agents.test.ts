import { type Agent, Delta, type Terminal } from '@delta-agents/sdk'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { cli, delta, refusal, url } from './target.ts'

let main: Agent

/** What it has, has set aside and has spent: its computer runs meanwhile. */
async function tokensOf(agent: Agent): Promise<number> {
  const { granted, bought, held, used } = (await agent.refresh()).balance!
  return granted + bought + held + used
}

const as = (apiKey: string) => new Delta({ url, apiKey, maxRetries: 0 })

beforeAll(async () => {
  main = await delta.agents.create({ name: 'Shop', config: { memoryMb: 128, tokenBudget: 60 } })
})

afterAll(async () => {
  const { workspaceId } = await main.archive()
  if (workspaceId !== null) await (await delta.workspaces.get(workspaceId)).remove()
})

test('an agent runs commands and keeps files on a computer of its own, made when it is first used', async () => {
  expect(main.info).toMatchObject({ kind: 'main', sandboxId: null })
  expect((await main.exec('echo hello > kept && whoami')).stdout).toBe('user\n')
  expect(await main.files.readText('kept')).toBe('hello\n')
  const { sandboxId } = await main.refresh()
  const sandbox = await delta.sandboxes.get(sandboxId!)
  expect(sandbox.info).toMatchObject({ agentId: main.id, memoryMb: 128 })
  // The next one has what the one before left.
  await sandbox.kill()
  expect((await main.exec('cat kept')).stdout).toBe('hello\n')
  expect((await main.refresh()).sandboxId).not.toBe(sandboxId)
})

test('the command line runs on it as on a sandbox, with the command’s exit code', async () => {
  expect(await cli(['agents', 'exec', main.id, 'cat kept; exit 7'])).toMatchObject({ exitCode: 7, stdout: 'hello\n' })
  expect((await cli(['agents', 'tree'])).stdout).toContain(`${main.id}  Shop  main`)
})

test('its terminal is one of its computer', async () => {
  const terminal: Terminal = await main.terminal.create({ cmd: ['/bin/sh', '-c', 'read line; echo "got $line"'] })
  const shown: string[] = []
  terminal.onData((bytes) => shown.push(new TextDecoder().decode(bytes)))
  await terminal.write('typed\n')
  await terminal.wait()
  expect(shown.join('')).toContain('got typed')
})

test('a bot has its budget from its parent, speaks for itself alone, and is stopped by name', async () => {
  const [bot, sibling] = await Promise.all(
    ['Orders', 'Returns'].map((name) =>
      delta.agents.createBot({
        name,
        parentAgent: main,
        type: 'email',
        task: 'Answer questions',
        tokenBudget: 20,
        memoryMb: 128,
        rights: ['write:exec', 'read:agents', 'delegate'],
      }),
    ),
  )
  expect(await tokensOf(main)).toBeCloseTo(20, 6)
  const rights = ['write:exec', 'read:agents', 'delegate']
  const { token } = await delta.agentTokens.create({ agentId: bot!.id, rights })
  const own = as(token)
  expect((await own.agents.list().all()).map(({ id }) => id)).toEqual([bot!.id])
  expect((await (await own.agents.get(bot!.id)).exec('hostname')).exitCode).toBe(0)
  for (const call of [
    () => own.agents.get(sibling!.id),
    () => own.agents.get(main.id),
    () => own.agentTokens.create({ agentId: sibling!.id, rights: [] }),
  ]) {
    expect((await refusal(call())).code).toBe('agent_not_found')
  }

  // What its parent loses it loses at once.
  await main.update({ rights: main.info.rights.filter((right) => right !== 'write:exec') })
  expect((await refusal((await own.agents.get(bot!.id)).exec('hostname'))).code).toBe('forbidden')
  await main.update({ rights: main.info.rights.concat('write:exec') })

  await bot!.pause()
  expect((await refusal(bot!.exec('true'))).code).toBe('agent_paused')
  expect((await refusal(own.agents.list().all())).code).toBe('unauthorized')
  await bot!.resume()
  expect((await bot!.exec('echo on')).stdout).toBe('on\n')

  await bot!.archive()
  expect((await refusal(bot!.exec('true'))).code).toBe('agent_archived')
  // Its computer is paid first.
  await expect.poll(async () => (await bot!.refresh()).state).toBe('archived')
  await sibling!.archive()
  expect(await tokensOf(bot!)).toBe(bot!.info.balance!.used)
  expect((await tokensOf(main)) + bot!.info.balance!.used).toBeCloseTo(60, 6)
  await (await delta.workspaces.get(bot!.info.workspaceId!)).remove()
})
