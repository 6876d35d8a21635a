import { execFile } from 'node:child_process'
import { join } from 'node:path'
import { afterEach, expect, test } from 'vitest'
import { startOpenaiPeer } from '../packages/server/src/models/testing/openai-peer.ts'
import { callTool, say, type ScriptedPeer } from '../packages/server/src/models/testing/peer.ts'
import { liveLine } from './live-providers.ts'

const peers: ScriptedPeer[] = []
afterEach(async () => {
  for (const peer of peers.splice(0)) await peer.close()
})

/** The environment of whoever runs the tests may have keys: none is used here. */
function run(env: NodeJS.ProcessEnv = {}): Promise<{ exitCode: number; said: string }> {
  const program = join(import.meta.dirname, 'live.ts')
  const options = { env: { PATH: process.env['PATH'], TMPDIR: process.env['TMPDIR'], ...env } }
  return new Promise((resolve) => {
    const child = execFile(process.execPath, [program], options, (_, stdout) =>
      resolve({ exitCode: child.exitCode ?? -1, said: stdout }),
    )
  })
}

async function peerEnv() {
  const peer = await startOpenaiPeer()
  peers.push(peer)
  const env = { OPENAI_BASE_URL: peer.url, OPENAI_API_KEY: peer.key, DELTA_TEST_OPENAI_MODEL: 'stand-in' }
  return { peer, env }
}

const numbers = say('one, two, three, eighteen, nineteen, twenty, and each of them in English words')

test('without any key nothing is run, which is said of each provider, and nothing fails', async () => {
  expect(await run()).toEqual({
    exitCode: 0,
    said:
      'not run: no key of anthropic (ANTHROPIC_API_KEY)\n' +
      'not run: no key of google (GEMINI_API_KEY)\n' +
      'not run: no server of openai (OPENAI_BASE_URL)\n' +
      'live: 0 passed, 0 failed, 3 providers not run\n',
  })
})

test('what there is is asked', async () => {
  const { peer, env } = await peerEnv()
  peer.script(numbers, callTool('weather', { city: 'Paris' }), say('There is hail in Paris.'))
  const { exitCode, said } = await run(env)
  expect(said).toMatch(/^ok {3}openai\/stand-in: text in \d+ pieces, \d+ tokens out$/m)
  expect(said).toMatch(/^ok {3}openai\/stand-in: a call of a tool and its result, \d+ tokens out$/m)
  expect(said).toMatch(/live: 2 passed, 0 failed, 2 providers not run\n$/)
  expect(exitCode).toBe(0)
})

test('a model that reports more than was held, and one that calls nothing, fail', async () => {
  const { peer, env } = await peerEnv()
  peer.script({ ...numbers, usage: { input: 1_000_000 } }, say('It is fine.'))
  const { exitCode, said } = await run(env)
  expect(said).toMatch(/^FAIL openai\/stand-in: text: It used more than was held/m)
  expect(said).toMatch(/^FAIL openai\/stand-in: tool: It called no tool/m)
  expect(exitCode).toBe(1)
})

test('a run of all tests says in one line what was not asked', () => {
  expect(liveLine({})).toBe(
    'live models: not run, no provider was asked; not set: ANTHROPIC_API_KEY, GEMINI_API_KEY, OPENAI_BASE_URL',
  )
  expect(liveLine({ ANTHROPIC_API_KEY: 'x', OPENAI_BASE_URL: 'y' })).toBe(
    'live models: not run, npm run test:live asks those that there are; not set: GEMINI_API_KEY',
  )
})
