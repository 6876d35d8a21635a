import { expect, test } from 'vitest'
import { testDatabases } from '../../kernel/db/testing.ts'
import type { Message } from '../conversation.ts'
import { modelTestMigrations, startModels, testCall } from '../testing/start.ts'
import { recording } from './recording.ts'

testDatabases('a recording', (open) => {
  async function start() {
    const { models, ledger } = startModels(await open(modelTestMigrations), 'http://127.0.0.1:9', {
      settings: { anthropic: { apiKey: undefined, baseUrl: undefined } },
      deps: { providers: { recording } },
    })
    return { models, ledger }
  }

  const name = 'recording/fibonacci'
  const asked: Message = { role: 'user', parts: [{ type: 'text', text: 'Write it' }] }
  const answers = [
    'Wrote /workspace/fib.py: 12 lines.',
    'Lists differ: [1, 1, 1, 2, 3, 5] != …\nFAILED (failures=1)',
    'Changed fib.py',
    'Ran 3 tests in 0.001s\n\nOK',
  ]

  test('says what it says by how often it has spoken, costs nothing and is metered', async () => {
    const { models, ledger } = await start()
    const messages: Message[] = [asked]
    const tools: string[][] = []
    for (;;) {
      const call = testCall({ models: [name], messages })
      const { parts, stop, cost, usage } = await models.call(call)
      expect(cost).toBe(0)
      expect(usage.input).toBeGreaterThan(0)
      expect(usage.output).toBeGreaterThan(0)
      expect(call.told.map(({ state, estimated }) => [state, estimated])).toEqual([
        ['sent', undefined],
        ['ended', false],
      ])
      const said = parts.flatMap((part) => (part.type === 'text' ? [part.text] : []))
      expect(call.heard.join('')).toBe(said.join(''))
      const calls = parts.flatMap((part) => (part.type === 'tool_call' ? [part] : []))
      tools.push(calls.map(({ tool }) => tool))
      if (stop === 'end') break
      messages.push({ role: 'assistant', parts })
      const content = [{ type: 'text' as const, text: answers[tools.length - 1]! }]
      messages.push({
        role: 'tool',
        parts: calls.map(({ callId, tool }) => ({ type: 'tool_result', callId, tool, content, isError: false })),
      })
    }
    expect(tools).toEqual([
      ['write_file', 'write_file'],
      ['run_terminal'],
      ['edit_file', 'edit_file'],
      ['run_terminal'],
      [],
    ])
    expect(await ledger.balanceOf('acc_a', 'acc_a:reserve')).toMatchObject({ used: 0 })
  })

  test('says nothing of a run that went otherwise, nor after its end', async () => {
    const { models } = await start()
    const first = await models.call(testCall({ models: [name], messages: [asked] }))
    const content = [{ type: 'text' as const, text: 'disk_full' }]
    const result = { type: 'tool_result', callId: 'a', tool: 'write_file', content, isError: true } as const
    const failed: Message[] = [asked, { role: 'assistant', parts: first.parts }, { role: 'tool', parts: [result] }]
    await expect(models.call(testCall({ models: [name], messages: failed }))).rejects.toMatchObject({
      code: 'model_refused',
      message: expect.stringContaining('otherwise than when this was recorded'),
    })
    const long = Array.from({ length: 5 }, () => failed[1]!)
    await expect(models.call(testCall({ models: [name], messages: [asked, ...long, asked] }))).rejects.toMatchObject({
      code: 'model_refused',
      message: expect.stringContaining('at its end'),
    })
  })

  test('needs no key, is listed, and there is no other', async () => {
    const { models } = await start()
    const { data } = await models.list('acc_a')
    expect(data).toMatchObject([{ id: name, usable: true, ownKey: false, prices: { input: 0, output: 0 } }])
    expect(await models.resolve(name, 'acc_a')).toMatchObject({ model: name, price: 0 })
    await expect(models.resolve('recording/else', 'acc_a')).rejects.toMatchObject({ code: 'model_not_found' })
  })
})
