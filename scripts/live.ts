// Asks real models: a text as it streams, a call of a tool and the reply to its result, each held for, with the usage that the provider reports within what was held.
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { readConfig } from '../packages/server/src/kernel/config.ts'
import { rawQuery } from '../packages/server/src/kernel/db/compile.ts'
import type { Database } from '../packages/server/src/kernel/db/database.ts'
import { openDatabase } from '../packages/server/src/kernel/db/open.ts'
import { silentLogger } from '../packages/server/src/kernel/log.ts'
import type { Message, ModelReply, ToolDescription } from '../packages/server/src/models/door.ts'
import { providers } from '../packages/server/src/models/providers/providers.ts'
import type { Models } from '../packages/server/src/models/service.ts'
import { accountId, modelTestMigrations, startModels, testCall } from '../packages/server/src/models/testing/start.ts'
import { type LiveProvider, liveProviders, whyNotLive } from './live-providers.ts'

const callMs = 120_000
const counts = { passed: 0, failed: 0, notRun: 0 }
const folder = mkdtempSync(join(tmpdir(), 'delta-live-'))
process.on('exit', () => rmSync(folder, { recursive: true, force: true }))

const weather: ToolDescription = {
  name: 'weather',
  description: 'The weather in a city, now.',
  inputSchema: {
    type: 'object',
    properties: { city: { type: 'string' } },
    required: ['city'],
    additionalProperties: false,
  },
}

const user = (text: string): Message => ({ role: 'user', parts: [{ type: 'text', text }] })

function must(holds: boolean, what: string): asserts holds {
  if (!holds) throw new Error(what)
}

interface Opened {
  models: Models
  database: Database
  model: string
}

async function open(provider: LiveProvider): Promise<Opened> {
  const { ANTHROPIC_BASE_URL, ANTHROPIC_API_KEY, GEMINI_API_KEY, GEMINI_BASE_URL, OPENAI_API_KEY, OPENAI_BASE_URL } =
    process.env
  const keys = { ANTHROPIC_API_KEY, GEMINI_API_KEY, OPENAI_API_KEY }
  const places = { ANTHROPIC_BASE_URL, GEMINI_BASE_URL, OPENAI_BASE_URL }
  const unused = { DELTA_API_KEY_SHA256: '0'.repeat(64), SECRET_KEY: '0123456789abcdef0123456789abcdef' }
  const { models: settings } = readConfig({ ...keys, ...places, ...unused })
  const path = join(folder, `${provider.name}.db`)
  const database = await openDatabase({ path, log: silentLogger, migrations: modelTestMigrations })
  const begin = (meters: Parameters<typeof startModels>[2]) =>
    startModels(database, '', {
      ...meters,
      grant: 1e12,
      // Nothing is free here, so that everything is held for.
      settings: { ...settings, localModels: [] },
      deps: { providers },
    }).models
  const model = process.env[provider.modelVariable] || provider.model || (await firstOf(begin({}), provider))
  const rate = { unit: 'micro-tokens for a million tokens', perMillion: 1_000_000_000 }
  const name = `${provider.name}/${model}`
  const meters = { [`model:${name}:input`]: rate, [`model:${name}:output`]: rate }
  return { models: begin(provider.model === model ? {} : { meters }), database, model: name }
}

async function firstOf(models: Models, { name, modelVariable }: LiveProvider): Promise<string> {
  const { data } = await models.list(accountId)
  const found = data.find(({ provider }) => provider === name)
  must(found !== undefined, `The server names no model: set ${modelVariable}`)
  return found.name
}

/** What the provider counted of it is no more than what was held. */
async function paid({ database }: Opened, { attempts, usage, estimated }: ModelReply): Promise<void> {
  must(usage.input + usage.cacheRead > 0 && usage.output > 0, `It says it used ${JSON.stringify(usage)}`)
  must(!estimated, 'It did not say what it used')
  const rows = await database.all<{ id: string; wished: number; cost: number; absorbed: number }>(
    rawQuery('select id, wished, cost, absorbed from ledger_holds'),
  )
  const hold = rows.find(({ id }) => id === attempts.at(-1)?.holdId)
  must(hold !== undefined, 'Nothing was held')
  const shown = JSON.stringify(hold)
  must(hold.cost > 0 && hold.cost <= hold.wished && hold.absorbed === 0, `It used more than was held: ${shown}`)
}

async function asText(opened: Opened): Promise<string> {
  const messages = [user('Count from one to twenty in English words, with commas, and say nothing else.')]
  const call = testCall({ models: [opened.model], messages, signal: AbortSignal.timeout(callMs) })
  const reply = await opened.models.call(call)
  const said = reply.parts.map((part) => (part.type === 'text' ? part.text : '')).join('')
  must(/nineteen/i.test(said), `It said: ${said.slice(0, 200)}`)
  must(call.heard.length > 1, 'The text came in one piece')
  must(reply.stop === 'end', `It stopped by ${reply.stop}`)
  await paid(opened, reply)
  return `text in ${call.heard.length} pieces, ${reply.usage.output} tokens out`
}

async function asTool(opened: Opened): Promise<string> {
  const messages = [user('What is the weather in Paris? Use the tool, then answer in one sentence.')]
  const wish = { models: [opened.model], tools: [weather] }
  const first = await opened.models.call(testCall({ ...wish, messages, signal: AbortSignal.timeout(callMs) }))
  await paid(opened, first)
  const asked = first.parts.find((part) => part.type === 'tool_call')
  must(asked !== undefined && first.stop === 'tool_calls', `It called no tool and stopped by ${first.stop}`)
  const input = JSON.parse(asked.input) as { city?: unknown }
  must(asked.tool === 'weather' && /paris/i.test(String(input.city)), `It called ${asked.tool} with ${asked.input}`)
  const { callId } = asked
  const content = [{ type: 'text' as const, text: 'Hail, 3 °C' }]
  const result: Message = {
    role: 'tool',
    parts: [{ type: 'tool_result', callId, tool: 'weather', content, isError: false }],
  }
  const conversation: Message[] = [...messages, { role: 'assistant', parts: first.parts }, result]
  const second = await opened.models.call(
    testCall({ ...wish, messages: conversation, signal: AbortSignal.timeout(callMs) }),
  )
  const said = second.parts.map((part) => (part.type === 'text' ? part.text : '')).join('')
  must(/hail/i.test(said), `It said of the result: ${said.slice(0, 200)}`)
  await paid(opened, second)
  return `a call of a tool and its result, ${first.usage.output + second.usage.output} tokens out`
}

async function run(provider: LiveProvider): Promise<void> {
  const opened = await open(provider)
  try {
    for (const [name, work] of [
      ['text', asText],
      ['tool', asTool],
    ] as const) {
      try {
        process.stdout.write(`ok   ${opened.model}: ${await work(opened)}\n`)
        counts.passed += 1
      } catch (error) {
        process.stdout.write(`FAIL ${opened.model}: ${name}: ${wordsOf(error)}\n`)
        counts.failed += 1
      }
    }
  } finally {
    await opened.models.stop()
    await opened.database.close()
  }
}

function wordsOf(error: unknown): string {
  return (error instanceof Error ? error.message : String(error)).slice(0, 400)
}

for (const provider of liveProviders) {
  const why = whyNotLive(provider, process.env)
  if (why !== undefined) {
    process.stdout.write(`${why}\n`)
    counts.notRun += 1
    continue
  }
  await run(provider).catch((error: unknown) => {
    process.stdout.write(`FAIL ${provider.name}: ${wordsOf(error)}\n`)
    counts.failed += 1
  })
}
process.stdout.write(`live: ${counts.passed} passed, ${counts.failed} failed, ${counts.notRun} providers not run\n`)
process.exitCode = counts.failed === 0 ? 0 : 1
