import { describe, expect, test } from 'vitest'
import fc from 'fast-check'
import { taskLimits } from './limits.ts'
import type { StoredMessage } from './record.ts'
import { compactTo, conversationOf, goesInCircles, modeOf, type Past, readReply, unanswered } from './rules.ts'

const past = (...prints: string[]): Past[] => prints.map((print, step) => ({ step, print, isError: false }))
const times = (count: number, ...prints: string[]) => Array.from({ length: count }, () => prints).flat()

test('of the images of a conversation the newest are seen, of older ones that they are left out', () => {
  const image = (at: number) =>
    ({ type: 'image', digest: `sha256:${at}`, mediaType: 'image/png', width: 1, height: 1 }) as const
  const messages: StoredMessage[] = [
    { seq: 1, step: 0, message: { role: 'user', parts: [image(0), { type: 'text', text: 'Look' }] }, createdAt: 0 },
    {
      seq: 2,
      step: 1,
      message: {
        role: 'tool',
        parts: Array.from({ length: taskLimits.imagesSeen }, (_, at) => ({
          type: 'tool_result' as const,
          callId: `c${at}`,
          tool: 'fetch',
          content: [image(at + 1)],
          isError: false,
        })),
      },
      createdAt: 0,
    },
  ]
  const told = conversationOf({ compactedTo: 0, summary: null }, messages)
  expect(told[0]!.parts).toEqual([
    { type: 'text', text: '[DELTA] (an older image, left out)' },
    { type: 'text', text: 'Look' },
  ])
  expect(told[1]).toEqual(messages[1]!.message)
})

describe('going in circles', () => {
  test.each<[string, Past[], string | undefined]>([
    ['the same so often', past(...times(taskLimits.sameCalls, 'a')), 'loop_detected'],
    ['once less', past(...times(taskLimits.sameCalls - 1, 'a')), undefined],
    ['something else in between', past(...times(2, 'a'), 'b', ...times(4, 'a')), undefined],
    ['two that take turns', past('x', ...times(taskLimits.sameCalls, 'a', 'b')), 'loop_detected'],
    ['three that do', past('x', 'y', ...times(taskLimits.sameCalls, 'a', 'b', 'c')), 'loop_detected'],
    ['three, once less', past(...times(taskLimits.sameCalls - 1, 'a', 'b', 'c')), undefined],
    ['all of one reply', past(...times(20, 'a')).map((one) => ({ ...one, step: 1 })), undefined],
    ['failures', past(...'abcdefghijkl').map((one) => ({ ...one, isError: true })), 'repeated_failures'],
    [
      'all failures of one reply',
      past(...'abcdefghijkl').map((one) => ({ ...one, isError: true, step: 1 })),
      undefined,
    ],
    ['a success among them', past(...'abcdefghijkl').map((one, at) => ({ ...one, isError: at !== 5 })), undefined],
    ['nothing', [], undefined],
  ])('%s', (_what, calls, expected) => {
    expect(goesInCircles(calls)).toBe(expected)
  })

  test('what differs each time is none', () => {
    const prints = fc.uniqueArray(fc.string(), { maxLength: 40 })
    fc.assert(fc.property(prints, (all) => goesInCircles(past(...all)) === undefined))
  })
})

test('its own word, else that for all, else the tool’s', () => {
  const tool = { name: 'pay', mode: 'auto' } as const
  expect(modeOf({}, tool)).toBe('auto')
  expect(modeOf({ '*': 'off' }, tool)).toBe('off')
  expect(modeOf({ '*': 'off', pay: 'ask' }, tool)).toBe('ask')
  expect(modeOf({}, { name: 'constructor', mode: 'ask' })).toBe('ask')
})

test('of a reply that was cut the last call is left out, and only where it is the last part', () => {
  const call = { type: 'tool_call', callId: 'c', tool: 't', input: '{}' } as const
  const text = { type: 'text', text: 'x' } as const
  expect(readReply([text, call], 'end').calls).toEqual([call])
  expect(readReply([call, text, call], 'cut')).toEqual({ parts: [call, text], calls: [call], isCut: true })
  expect(readReply([call, text], 'cut').calls).toEqual([call])
})

const roles = fc.array(fc.constantFrom('user' as const, 'assistant' as const, 'tool' as const), { maxLength: 40 })
const messagesOf = (all: ('user' | 'assistant' | 'tool')[]): StoredMessage[] =>
  all.map((role, at) => ({ seq: at + 1, step: at, createdAt: 0, message: { role, parts: [] } }))

test('what is kept word for word begins with the model’s own words, and is never less than before', () => {
  fc.assert(
    fc.property(roles, fc.nat(40), (all, compactedTo) => {
      const messages = messagesOf(all)
      const upTo = compactTo(messages, { compactedTo })
      if (upTo === undefined) return
      expect(upTo).toBeGreaterThan(compactedTo)
      expect(messages.find(({ seq }) => seq > upTo)!.message.role).toBe('assistant')
      const told = conversationOf({ compactedTo: upTo, summary: 'S' }, messages)
      expect(told[0]!.role).toBe('user')
      expect(told.length).toBe(1 + messages.filter(({ seq }) => seq > upTo).length)
    }),
  )
})

test('calls that nobody has told the model anything of', () => {
  const call = { type: 'tool_call', callId: 'c', tool: 't', input: '{}' } as const
  const said: StoredMessage = { seq: 1, step: 1, createdAt: 0, message: { role: 'assistant', parts: [call] } }
  const result = { type: 'tool_result', callId: 'c', tool: 't', content: [], isError: false } as const
  expect(unanswered([said])).toEqual([call])
  expect(unanswered([said, { ...said, seq: 2, message: { role: 'tool', parts: [result] } }])).toEqual([])
  expect(unanswered([])).toEqual([])
})
