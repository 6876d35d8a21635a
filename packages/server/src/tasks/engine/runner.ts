import { existsSync, readFileSync } from 'node:fs'
import { createServer } from 'node:http'
import type { IncomingMessage, ServerResponse } from 'node:http'
import type { AddressInfo } from 'node:net'
import { homedir } from 'node:os'
import { dirname, join } from 'node:path'
import { createInterface } from 'node:readline'
import { pathToFileURL } from 'node:url'
import type { Begin, FromRunner, FromServer } from './wire.ts'

// Runs in the agent's sandbox, by the Node that is there (18 or newer), as text given to it: so it imports nothing of ours. It starts the Claude Agent SDK that is installed there and takes
// its requests to models on the loopback, from where they go to the server over stdout. It has no key, and nothing that it says is believed.

const bodyBytesMax = 16 * 1024 * 1024
const pieceBytes = 256 * 1024
const keptChars = 200_000
const resultChars = 50_000

/** As far as it is used. */
interface Sdk {
  query(wish: { prompt: AsyncIterable<unknown>; options: Record<string, unknown> }): Query
  getSessionInfo(sessionId: string, options: { dir: string }): Promise<unknown>
}
interface Query extends AsyncIterable<Record<string, unknown>> {
  interrupt(): Promise<unknown>
}

const answers = new Map<number, ServerResponse>()
let lastId = 0
let query: Query | undefined
let missedPings = 0
let isInterrupted = false

function say(message: FromRunner): void {
  process.stdout.write(`${JSON.stringify(message)}\n`)
}

// Stdout is the wire.
console.log = console.error

function cut(text: string, chars: number): string {
  return text.length <= chars ? text : `${text.slice(0, chars)}\n… ${text.length - chars} more characters`
}

function kept(text: unknown): string {
  return typeof text === 'string' ? cut(text, keptChars - 100) : ''
}

function recordsIn(value: unknown): Record<string, unknown>[] {
  return Array.isArray(value) ? value.filter((one) => typeof one === 'object' && one !== null) : []
}

// ── requests to models ──

async function takeRequest(request: IncomingMessage, response: ServerResponse): Promise<void> {
  const id = (lastId += 1)
  answers.set(id, response)
  response.on('close', () => {
    if (answers.delete(id)) say({ type: 'gone', id })
  })
  const chunks: Buffer[] = []
  let bytes = 0
  for await (const chunk of request as AsyncIterable<Buffer>) {
    bytes += chunk.length
    if (bytes > bodyBytesMax) return void request.destroy()
    chunks.push(chunk)
  }
  const body = Buffer.concat(chunks)
  const { authorization, 'x-api-key': key, 'anthropic-beta': beta } = request.headers
  const headers: Record<string, string> = {}
  if (authorization !== undefined) headers['authorization'] = authorization
  if (typeof key === 'string') headers['x-api-key'] = key
  if (beta !== undefined) headers['anthropic-beta'] = String(beta)
  say({ type: 'request', id, method: request.method ?? '', path: request.url ?? '', headers, bytes })
  for (let at = 0; ; at += pieceBytes) {
    const isLast = at + pieceBytes >= body.length
    say({ type: 'body', id, data: body.subarray(at, at + pieceBytes).toString('base64'), isLast })
    if (isLast) return
  }
}

async function listen(): Promise<number> {
  const server = createServer((request, response) => {
    takeRequest(request, response).catch(() => response.destroy())
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  return (server.address() as AddressInfo).port
}

// ── the SDK ──

/** Where npm puts packages: of the folder, of the user, of everybody. */
function findSdk({ package: name, version }: Begin): { path?: string; found?: string } {
  const places = [
    join(process.cwd(), 'node_modules'),
    join(homedir(), 'node_modules'),
    join(homedir(), '.npm-global/lib/node_modules'),
    join(dirname(process.execPath), '../lib/node_modules'),
    '/usr/local/lib/node_modules',
    '/usr/lib/node_modules',
    ...(process.env['NODE_PATH'] ?? '').split(':').filter((place) => place !== ''),
  ]
  let found: string | undefined
  for (const place of places) {
    const folder = join(place, name)
    if (!existsSync(join(folder, 'package.json'))) continue
    const told = JSON.parse(readFileSync(join(folder, 'package.json'), 'utf8')) as { version?: unknown }
    if (told.version === version) return { path: join(folder, 'sdk.mjs') }
    found = String(told.version).slice(0, 64)
  }
  return found === undefined ? {} : { found }
}

function environment({ secret, model }: Begin, port: number): Record<string, string> {
  const own = Object.entries(process.env).filter(
    (one): one is [string, string] => one[1] !== undefined && !/^(ANTHROPIC|CLAUDE)/.test(one[0]),
  )
  return {
    ...Object.fromEntries(own),
    ANTHROPIC_BASE_URL: `http://127.0.0.1:${port}`,
    ANTHROPIC_AUTH_TOKEN: secret,
    ANTHROPIC_MODEL: model,
    ANTHROPIC_SMALL_FAST_MODEL: model,
    ANTHROPIC_DEFAULT_HAIKU_MODEL: model,
    ANTHROPIC_DEFAULT_SONNET_MODEL: model,
    ANTHROPIC_DEFAULT_OPUS_MODEL: model,
    CLAUDE_CODE_SUBAGENT_MODEL: model,
    // The server asks again by itself; of an answer that broke off the SDK asks once more.
    CLAUDE_CODE_MAX_RETRIES: '2',
    CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC: '1',
    DISABLE_TELEMETRY: '1',
    DISABLE_ERROR_REPORTING: '1',
    DISABLE_AUTOUPDATER: '1',
    DISABLE_FEEDBACK_COMMAND: '1',
    // Some templates work as root, which is nobody outside.
    IS_SANDBOX: '1',
  }
}

async function sessionOf(sdk: Sdk, { sessionId, forkedSessionId }: Begin): Promise<Record<string, unknown>> {
  const isThere = async (id: string) => (await sdk.getSessionInfo(id, { dir: process.cwd() })) !== undefined
  if (await isThere(sessionId)) return { resume: sessionId }
  if (forkedSessionId === undefined || !(await isThere(forkedSessionId))) return { sessionId }
  return { resume: forkedSessionId, forkSession: true, sessionId }
}

async function* promptOf({ prompt }: Begin): AsyncGenerator<unknown> {
  yield { type: 'user', message: { role: 'user', content: prompt }, parent_tool_use_id: null }
  // An input that is open can be interrupted.
  await new Promise(() => undefined)
}

function textOf(content: unknown): string {
  if (typeof content === 'string') return content
  return recordsIn(content)
    .map((part) => (typeof part['text'] === 'string' ? part['text'] : `[${String(part['type'])}]`))
    .join('\n')
}

/** What is said in the conversation itself; what the engine's own agents say to each other is not. */
function tell(message: Record<string, unknown>): void {
  if (message['parent_tool_use_id'] !== null) return
  const inner = message['message'] as { content?: unknown; model?: unknown } | undefined
  const blocks = recordsIn(inner?.content)
  if (message['type'] === 'assistant') {
    // An error in the form of words.
    if (inner?.model === '<synthetic>') return
    const parts = blocks.flatMap((block): (FromRunner & { type: 'said' })['parts'] => {
      const { type, text, thinking, id, name, input } = block
      if (type === 'text') return [{ type: 'text', text: kept(text) }]
      if (type === 'thinking') return [{ type: 'thinking', text: kept(thinking) }]
      if (type !== 'tool_use') return []
      const written = JSON.stringify(input ?? {})
      const shown = written.length < keptChars ? written : JSON.stringify({ left_out: `${written.length} characters` })
      return [{ type: 'tool_call', callId: String(id).slice(0, 200), tool: String(name).slice(0, 200), input: shown }]
    })
    for (const part of parts) say({ type: 'said', parts: [part] })
  } else if (message['type'] === 'user') {
    for (const { type, tool_use_id: callId, content, is_error: isError } of blocks) {
      if (type !== 'tool_result') continue
      const text = cut(textOf(content), resultChars)
      say({ type: 'results', results: [{ callId: String(callId).slice(0, 200), text, isError: isError === true }] })
    }
  }
}

async function work(begin: Begin): Promise<void> {
  const { path, found } = findSdk(begin)
  if (path === undefined) return say({ type: 'missing', ...(found !== undefined && { found }) })
  const sdk = (await import(pathToFileURL(path).href)) as Sdk
  const port = await listen()
  query = sdk.query({
    prompt: promptOf(begin),
    options: {
      model: begin.model,
      cwd: process.cwd(),
      env: environment(begin, port),
      // The sandbox is what holds it.
      permissionMode: 'bypassPermissions',
      allowDangerouslySkipPermissions: true,
      settingSources: [],
      strictMcpConfig: true,
      disallowedTools: begin.disallowedTools,
      thinking: begin.thinking,
      systemPrompt: { type: 'preset', preset: 'claude_code', append: begin.instructions },
      stderr: (text: string) => process.stderr.write(cut(text, 2_000)),
      ...(await sessionOf(sdk, begin)),
    },
  })
  if (isInterrupted) await query.interrupt()
  for await (const message of query) {
    tell(message)
    if (message['type'] !== 'result') continue
    const { subtype, is_error: isError, result, errors } = message
    const text = kept(result) || kept(Array.isArray(errors) ? errors.join('\n') : '')
    return say({ type: 'result', isError: isError === true, subtype: String(subtype).slice(0, 64), text })
  }
  throw new Error('It ended without a result')
}

// ── the server ──

// A server that died before it could say how to begin has nobody to work for.
const unbegun = setTimeout(() => process.exit(1), 60_000)

function hear(message: FromServer): void {
  missedPings = 0
  if (message.type === 'begin') {
    clearTimeout(unbegun)
    setInterval(() => {
      missedPings += 1
      // Nobody is there who would pay for what it does.
      if (missedPings >= 4) process.exit(1)
    }, message.pingMs).unref()
    work(message)
      .catch((error: unknown) => {
        // The SDK's own errors show its source before their words.
        const words = error instanceof Error ? error.message : String(error)
        say({ type: 'failed', message: words.slice(-2_000) })
      })
      // What was said before has left by then.
      .finally(() => process.stdout.write('', () => process.exit(0)))
  } else if (message.type === 'interrupt') {
    isInterrupted = true
    query?.interrupt().catch(() => undefined)
  } else if (message.type === 'head') {
    answers.get(message.id)?.writeHead(message.status, message.headers)
  } else if (message.type === 'data') {
    answers.get(message.id)?.write(Buffer.from(message.data, 'base64'))
  } else if (message.type === 'end') {
    const response = answers.get(message.id)
    answers.delete(message.id)
    if (message.cut) response?.destroy()
    else response?.end()
  }
}

createInterface({ input: process.stdin })
  .on('line', (line) => hear(JSON.parse(line) as FromServer))
  .on('close', () => process.exit(1))
