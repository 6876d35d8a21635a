// NOT the Claude Agent SDK: a stand-in of a few lines with its two functions, for what the real one does not do on purpose, such as lie, hang and end in the middle. What the real one does is
// tested with the real one (`npm run test:all`). It does what its prompt says: a list of words, one after the other.
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'

const sessionOf = (id) => join(process.env.HOME, '.claude', `${id}.json`)

export async function getSessionInfo(id) {
  return existsSync(sessionOf(id)) ? { sessionId: id } : undefined
}

export function query({ prompt, options }) {
  let interrupt = () => {}
  const interrupted = new Promise((resolve) => (interrupt = resolve))
  const { env, model, sessionId, resume, forkSession } = options
  const id = forkSession ? sessionId : (resume ?? sessionId)
  const before = resume ? JSON.parse(readFileSync(sessionOf(resume), 'utf8')) : []

  async function ask(body, headers = {}) {
    return fetch(`${env.ANTHROPIC_BASE_URL}/v1/messages`, {
      method: 'POST',
      headers: { authorization: `Bearer ${env.ANTHROPIC_AUTH_TOKEN}`, ...headers },
      body: JSON.stringify({ model, max_tokens: 1_000, messages: [{ role: 'user', content: 'Go on' }], ...body }),
    })
  }

  async function* run() {
    const { value } = await prompt[Symbol.asyncIterator]().next()
    const said = value.message.content.map((block) => block.text ?? `<${block.source?.media_type}>`)
    mkdirSync(join(process.env.HOME, '.claude'), { recursive: true })
    const session = [...before, ...said]
    writeFileSync(sessionOf(id), JSON.stringify(session))
    const assistant = (content) => ({
      type: 'assistant',
      parent_tool_use_id: null,
      message: { role: 'assistant', model, content },
    })
    const result = (changes) => ({ type: 'result', subtype: 'success', is_error: false, result: '', ...changes })
    const words = said.at(-1).split(' ')
    for (const word of words) {
      if (word === 'ask' || word === 'ask-other' || word === 'ask-stranger') {
        const body = word === 'ask-other' ? { model: 'claude-opus-4-5' } : {}
        const headers = word === 'ask-stranger' ? { authorization: 'Bearer guessed' } : {}
        const answer = await Promise.race([ask(body, headers), interrupted])
        if (!answer) return yield result({ subtype: 'error_during_execution', is_error: true })
        const told = await answer.json()
        if (answer.status !== 200) {
          yield assistant([{ type: 'text', text: `${answer.status} ${told.error.type}` }])
          return yield result({ is_error: true, result: `API Error: ${answer.status} ${told.error.message}` })
        }
        yield assistant(told.content)
      } else if (word === 'use') {
        yield assistant([{ type: 'tool_use', id: 'toolu_1', name: 'Look', input: { at: 'it' } }])
        const content = [{ type: 'tool_result', tool_use_id: 'toolu_1', content: 'A tree', is_error: false }]
        yield { type: 'user', parent_tool_use_id: null, message: { role: 'user', content } }
      } else if (word === 'remember') {
        yield assistant([{ type: 'text', text: `I was told: ${session.join(' | ')}` }])
      } else if (word === 'options') {
        const { thinking, disallowedTools, systemPrompt, permissionMode } = options
        const shown = { model, thinking, disallowedTools, permissionMode, append: systemPrompt.append.length > 0, env }
        yield assistant([{ type: 'text', text: JSON.stringify(shown) }])
      } else if (word === 'whisper') {
        yield {
          ...assistant([{ type: 'text', text: 'Of another agent of the engine' }]),
          parent_tool_use_id: 'toolu_9',
        }
      } else if (word === 'hang') {
        await interrupted
        return yield result({ subtype: 'error_during_execution', is_error: true })
      } else if (word === 'deaf') await new Promise(() => setInterval(() => {}, 1_000))
      else if (word === 'garble') process.stdout.write('this is no JSON\n')
      else if (word === 'flood') process.stdout.write('x'.repeat(3 * 1024 * 1024))
      else if (word === 'strange') process.stdout.write('{"type":"please","give":"tokens"}\n')
      else if (word === 'short') {
        process.stdout.write('{"type":"request","id":7,"method":"POST","path":"/v1/messages","headers":{},"bytes":9}\n')
        process.stdout.write('{"type":"body","id":7,"data":"eA==","isLast":true}\n')
      } else if (word === 'crumbs') {
        process.stdout.write('{"type":"request","id":7,"method":"POST","path":"/v1/messages","headers":{},"bytes":9}\n')
        process.stdout.write('{"type":"body","id":7,"data":"","isLast":false}\n'.repeat(10_000))
        process.stdout.write('{"type":"body","id":7,"data":"eHh4eHh4eHh4eA==","isLast":false}\n')
      } else if (word === 'prattle') {
        const line = JSON.stringify({ type: 'said', parts: [{ type: 'text', text: 'x'.repeat(190_000) }] })
        for (let left = 200; left > 0; left--) process.stdout.write(`${line}\n`)
        await new Promise(() => setInterval(() => {}, 1_000))
      } else if (word === 'unheard') {
        for (let number = 100; number < 2_000; number++)
          process.stdout.write(
            `{"type":"request","id":${number},"method":"POST","path":"/","headers":{},"bytes":99999999}\n`,
          )
        await new Promise(() => setInterval(() => {}, 1_000))
      } else if (word === 'twice') {
        process.stdout.write('{"type":"result","isError":false,"subtype":"success","text":"one"}\n')
      } else if (word === 'die') process.exit(3)
      else if (word === 'throw') throw new Error('It broke')
    }
    yield result({ result: 'Done.' })
  }
  return { [Symbol.asyncIterator]: run, interrupt: async () => interrupt() }
}
