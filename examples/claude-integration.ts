// A program of your own that talks to Claude in Anthropic's format and gives it a sandbox as its computer. The loop is yours; DELTA runs what the model writes.
// With the server running: ANTHROPIC_API_KEY=… node examples/claude-integration.ts
import { Sandbox } from '@delta-agents/sdk'

type Block =
  | { type: 'text'; text: string }
  | { type: 'tool_use'; id: string; name: string; input: { command: string } }
  | { type: 'tool_result'; tool_use_id: string; content: string; is_error: boolean }
type Message = { role: 'user' | 'assistant'; content: Block[] }

const { ANTHROPIC_API_KEY: apiKey, ANTHROPIC_BASE_URL: baseUrl = 'https://api.anthropic.com/v1' } = process.env
if (!apiKey) throw new Error('Set ANTHROPIC_API_KEY')
const model = process.env['CLAUDE_MODEL'] ?? 'claude-haiku-4-5'
const bash = {
  name: 'bash',
  description: 'Run a shell command in a Linux sandbox that keeps its files in /workspace.',
  input_schema: { type: 'object', properties: { command: { type: 'string' } }, required: ['command'] },
}
/** Of one command's output, both ends together. */
const outputChars = 20_000

/** One reply, put together from its stream. */
async function ask(messages: Message[]): Promise<Block[]> {
  const response = await fetch(`${baseUrl}/messages`, {
    method: 'POST',
    headers: { 'content-type': 'application/json', 'x-api-key': apiKey!, 'anthropic-version': '2023-06-01' },
    body: JSON.stringify({ model, max_tokens: 4_096, stream: true, tools: [bash], messages }),
  })
  if (!response.ok) throw new Error(`Claude answered ${response.status}: ${await response.text()}`)
  const blocks: Block[] = []
  let input = ''
  for (const line of (await response.text()).split('\n')) {
    if (!line.startsWith('data: ')) continue
    const event = JSON.parse(line.slice('data: '.length))
    if (event.type === 'error') throw new Error(event.error.message)
    if (event.type === 'content_block_start') blocks.push(event.content_block)
    const block = blocks.at(-1)
    if (event.type === 'content_block_delta' && event.delta.type === 'text_delta' && block?.type === 'text')
      block.text += event.delta.text
    if (event.type === 'content_block_delta' && event.delta.type === 'input_json_delta')
      input += event.delta.partial_json
    if (event.type === 'content_block_stop' && block?.type === 'tool_use') {
      block.input = JSON.parse(input || '{}')
      input = ''
    }
  }
  return blocks
}

await using sandbox = await Sandbox.create({ timeoutMs: 600_000, network: { egress: 'none' } })
const text = process.argv[2] ?? 'How many prime numbers are below 1000? Compute it.'
const messages: Message[] = [{ role: 'user', content: [{ type: 'text', text }] }]
for (let step = 0; step < 20; step += 1) {
  const content = await ask(messages)
  messages.push({ role: 'assistant', content })
  const results: Block[] = []
  for (const block of content) {
    if (block.type === 'text') console.log(block.text)
    if (block.type !== 'tool_use') continue
    console.log(`$ ${block.input.command}`)
    const { stdout, stderr, exitCode } = await sandbox.commands.run(block.input.command, { timeoutMs: 120_000 })
    const output = `${stdout}${stderr}`
    const half = outputChars / 2
    const shown = output.length > outputChars ? `${output.slice(0, half)}\n…\n${output.slice(-half)}` : output
    console.log(shown.trimEnd())
    const told = `${shown}\n[exit code ${exitCode}]`
    results.push({ type: 'tool_result', tool_use_id: block.id, content: told, is_error: exitCode !== 0 })
  }
  if (results.length === 0) break
  messages.push({ role: 'user', content: results })
}
