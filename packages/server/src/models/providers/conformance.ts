import { createServer, type Server } from 'node:http'
import type { AddressInfo } from 'node:net'
import fc from 'fast-check'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import type { Message, ReplyPart, ToolCallPart, ToolDescription, ToolResultPart } from '../conversation.ts'
import {
  ProviderFailure,
  thinkingLevels,
  type FailureKind,
  type Provider,
  type ProviderEvent,
  type ProviderRequest,
  type Usage,
  type UsageReader,
} from '../provider.ts'
import {
  countTokens,
  inputText,
  type PeerOptions,
  type PeerPart,
  type PeerReply,
  type ScriptedPeer,
} from '../testing/peer.ts'
import { jpegOf, pngOf } from './testing-images.ts'

export interface ProviderConformanceOptions {
  provider: Provider
  startPeer(options?: PeerOptions): Promise<ScriptedPeer>
  /** Models that differ in how they are asked; the first one thinks. */
  models: readonly [string, ...string[]]
  /** What the provider counts of a body, when each token is one byte. */
  countInput(body: Readonly<Record<string, unknown>>, tokens: (text: string) => number): number
  /** A call that is no JSON comes as the model wrote it; Gemini says instead that the model failed. */
  showsMalformed: boolean
  /** What a part of this kind brings back to its model. @default nothing */
  bound: { thinking?: object; tool_call?: object; text?: object }
}

const long = process.env['DELTA_TEST_ALL'] === '1'

const tools: ToolDescription[] = [
  {
    name: 'run_terminal',
    description: 'Runs a command.',
    inputSchema: { type: 'object', properties: { command: { type: 'string' } }, required: ['command'] },
  },
  {
    name: 'read_file',
    description: 'Reads a file.',
    inputSchema: { type: 'object', properties: { path: { type: 'string' } } },
  },
]

const noUsage: Usage = { input: 0, cacheRead: 0, cacheWrite: 0, cacheWriteHour: 0, output: 0 }

const user = (text: string): Message => ({ role: 'user', parts: [{ type: 'text', text }] })

function resultOf({ callId, tool }: ToolCallPart, text = 'It is done.'): ToolResultPart {
  return { type: 'tool_result', callId, tool, content: [{ type: 'text', text }], isError: false }
}

function answered(parts: readonly ReplyPart[]): Message[] {
  const calls = parts.filter((part) => part.type === 'tool_call')
  const results: Message[] = calls.length > 0 ? [{ role: 'tool', parts: calls.map((call) => resultOf(call)) }] : []
  return [{ role: 'assistant', parts }, ...results]
}

/** What every provider promises, over HTTP, against a peer that looks at each request as the real one does. */
export function testProvider(name: string, options: ProviderConformanceOptions): void {
  const { provider, models } = options

  describe(name, () => {
    let peer: ScriptedPeer
    const servers: Server[] = []
    beforeEach(async () => {
      peer = await options.startPeer()
    })
    afterEach(async () => {
      await peer.close()
      for (const server of servers.splice(0)) server.close()
    })

    function requestOf(changes: Partial<ProviderRequest> = {}): ProviderRequest {
      return {
        model: models[0],
        system: 'You work in a sandbox.',
        messages: [user('What is in the folder?')],
        tools,
        maxOutputTokens: 8_000,
        thinking: 'off',
        image: () => Promise.reject(new Error('no image was to be asked for')),
        ...changes,
      }
    }

    interface Asked {
      events: ProviderEvent[]
      parts: ReplyPart[]
      end: Extract<ProviderEvent, { type: 'end' }>
      texts: string
    }

    async function ask(
      changes: Partial<ProviderRequest> = {},
      stream: Partial<Parameters<Provider['stream']>[1]> = {},
    ): Promise<Asked> {
      const events: ProviderEvent[] = []
      const endpoint = { apiKey: peer.key, baseUrl: peer.url }
      const signal = new AbortController().signal
      for await (const event of provider.stream(requestOf(changes), { endpoint, fetch, signal, ...stream }))
        events.push(event)
      const end = events.at(-1)
      if (end?.type !== 'end') throw new Error('the last event is not the end')
      const parts = events.flatMap((event) => (event.type === 'part' ? [event.part] : []))
      const texts = events
        .flatMap((event) => (event.type === 'delta' && event.of === 'text' ? [event.text] : []))
        .join('')
      return { events, parts, end, texts }
    }

    async function failure(asked: Promise<unknown>): Promise<ProviderFailure> {
      const error = await asked.then(
        () => expect.unreachable('it should have failed'),
        (reason: unknown) => reason,
      )
      expect(error).toBeInstanceOf(ProviderFailure)
      return error as ProviderFailure
    }

    /** The bytes of the answer, and what a reader of them says, as the metered call reads along. */
    function readingFetch(reader: UsageReader = provider.wire.usageReader()) {
      const received: Buffer[] = []
      const reading: typeof fetch = async (url, init) => {
        const response = await fetch(url, init)
        if (!response.ok || !response.body) return response
        const along = new TransformStream<Uint8Array, Uint8Array>({
          transform(chunk, controller) {
            received.push(Buffer.from(chunk))
            reader.push(chunk)
            controller.enqueue(chunk)
          },
        })
        return new Response(response.body.pipeThrough(along), { status: response.status, headers: response.headers })
      }
      return { fetch: reading, reader, bytes: () => Buffer.concat(received) }
    }

    const spoken: PeerPart[] = [
      { type: 'text', text: 'I look into the folder – «größer» 🙂 than thought.' },
      { type: 'tool_call', tool: 'run_terminal', input: { command: 'ls -la | grep "ü"' } },
      { type: 'tool_call', tool: 'read_file', input: { path: '/work/a.txt' } },
    ]

    describe('what is said', () => {
      test('text comes in pieces and then whole, and what was asked went over the wire', async () => {
        const text = 'There are two files: “one” and ‘two’.\n'.repeat(5)
        peer.script({ parts: [{ type: 'text', text }] })
        const { events, parts, end, texts } = await ask()
        expect(parts).toMatchObject([{ type: 'text', text }])
        expect(texts).toBe(text)
        expect(events.filter(({ type }) => type === 'delta').length).toBeGreaterThan(3)
        expect(end.stop).toBe('end')
        expect(peer.requests()[0]).toMatchObject({
          model: models[0],
          system: 'You work in a sandbox.',
          tools: ['run_terminal', 'read_file'],
          maxOutputTokens: 8_000,
          lastText: 'What is in the folder?',
          replies: 0,
        })
      })

      test('calls of tools come in order with ids of their own, and their results find them', async () => {
        peer.script({ parts: spoken }, { parts: [{ type: 'text', text: 'Done.' }] })
        const { parts, end } = await ask()
        const calls = parts.filter((part) => part.type === 'tool_call')
        expect(calls.map(({ tool, input }) => [tool, JSON.parse(input) as unknown])).toEqual([
          ['run_terminal', { command: 'ls -la | grep "ü"' }],
          ['read_file', { path: '/work/a.txt' }],
        ])
        expect(new Set(calls.map(({ callId }) => callId)).size).toBe(2)
        expect(end.stop).toBe('tool_calls')
        await ask({ messages: [user('Go on'), ...answered(parts)] })
        expect(peer.requests()[1]!.results.map(({ text }) => text)).toEqual(['It is done.', 'It is done.'])
      })

      test('an id that was there before is made another', async () => {
        peer.script({ parts: [{ type: 'tool_call', tool: 'read_file', input: {}, callId: 'call_0' }] })
        const before: ToolCallPart = { type: 'tool_call', callId: 'call_0', tool: 'read_file', input: '{}' }
        const { parts } = await ask({ messages: [user('Go on'), ...answered([before])] })
        expect((parts[0] as ToolCallPart).callId).not.toBe('call_0')
      })

      test.each(models)('%s takes every level of thinking', async (model) => {
        for (const thinking of thinkingLevels) {
          for (const maxOutputTokens of [256, 1_500, 8_000]) {
            peer.script({ parts: [{ type: 'text', text: 'Yes.' }] })
            await ask({ model, thinking, maxOutputTokens })
            const { body, maxOutputTokens: limit } = peer.requests().at(-1)!
            expect(limit).toBe(maxOutputTokens)
            expect(provider.wire.outputLimit(body)).toBe(maxOutputTokens)
          }
        }
      })

      test('output that is used up is cut, and a refusal is one', async () => {
        peer.script(
          { parts: [{ type: 'text', text: 'There ar' }], stop: 'cut' },
          { parts: [{ type: 'text', text: 'I ' }], stop: 'refused' },
        )
        expect((await ask()).end.stop).toBe('cut')
        expect((await ask()).end.stop).toBe('refused')
      })

      test('a call that is cut in its middle is there as far as it came', async () => {
        if (!options.showsMalformed) return
        peer.script({ parts: [{ type: 'tool_call', tool: 'run_terminal', input: '{"command":"rm -' }], stop: 'cut' })
        const { parts, end } = await ask()
        expect(parts).toMatchObject([{ type: 'tool_call', input: '{"command":"rm -' }])
        expect(end.stop).toBe('cut')
      })
    })

    describe('what a model wrote wrongly', () => {
      const wrong = ['{"command": "ls', '{command: ls}', 'ls -la', '["ls"]', '"ls"', 'null', '{}}']

      test.each(wrong)('%s comes as it is, or as a failure of the model', async (input) => {
        peer.script({ parts: [{ type: 'tool_call', tool: 'run_terminal', input }] })
        const { parts, end } = await ask()
        if (options.showsMalformed) {
          expect(parts).toMatchObject([{ type: 'tool_call', tool: 'run_terminal', input }])
          expect(end.stop).toBe('tool_calls')
        } else {
          expect(parts).toEqual([])
          expect(end.stop).toBe('other')
        }
      })

      test('it is taken back, with what was written', async () => {
        const inputs = [...wrong, '', '{"__proto__": {"a": 1}}', '{"constructor": {"prototype": 1}}']
        const calls = inputs.map((input, at): ToolCallPart => ({
          type: 'tool_call',
          callId: `call_${at}`,
          tool: 'run_terminal',
          input,
        }))
        peer.script({ parts: [{ type: 'text', text: 'I see.' }] })
        await ask({ messages: [user('Go on'), ...answered(calls)] })
        expect(JSON.stringify(peer.requests()[0]!.body)).toContain('{command: ls}')
      })

      test('names and ids that no provider would take are taken back', async () => {
        const names = ['functions.run', 'run terminal', 'ünknown', '', 'x'.repeat(300), '../../etc', 'server:tool']
        const ids = ['functions.run:0', 'a b', 'ü', 'x'.repeat(200), 'toolu_01A', '0', 'call|fc_1']
        const calls = names.map((tool, at): ToolCallPart => ({
          type: 'tool_call',
          callId: ids[at]!,
          tool,
          input: '{}',
        }))
        peer.script({ parts: [{ type: 'text', text: 'I see.' }] })
        await ask({ messages: [user('Go on'), ...answered(calls)] })
        expect(peer.requests()[0]!.results).toHaveLength(names.length)
      })

      test('what is empty is taken', async () => {
        peer.script({ parts: [{ type: 'text', text: 'Yes.' }] }, { parts: [] })
        const call: ToolCallPart = { type: 'tool_call', callId: 'call_1', tool: 'read_file', input: '' }
        const nothing: ToolResultPart = { ...resultOf(call, ''), content: [] }
        const messages: Message[] = [
          { role: 'user', parts: [] },
          { role: 'assistant', parts: [] },
          { role: 'user', parts: [{ type: 'text', text: ' \n' }] },
          { role: 'assistant', parts: [{ type: 'text', text: '  ' }, call] },
          { role: 'tool', parts: [nothing] },
        ]
        await ask({ messages, system: '', tools: [] })
        expect(peer.requests()[0]!.system).toBe('')
        expect(await ask()).toMatchObject({ parts: [], end: { stop: 'end' } })
      })

      test('a name of a model that leads elsewhere is not asked', async () => {
        for (const model of ['../../v1/files', 'a/../../b', '', 'a b', 'a?b', 'a#b', `a${'x'.repeat(300)}`]) {
          expect(await failure(ask({ model }))).toMatchObject({ kind: 'request', status: 404 })
        }
        expect(peer.requests()).toEqual([])
      })
    })

    describe('images', () => {
      const png = pngOf(640, 480)
      const jpeg = jpegOf(300, 200)
      const bytes: Record<string, Buffer> = { 'sha256:png': png, 'sha256:jpeg': jpeg }
      const image = {
        type: 'image' as const,
        digest: 'sha256:png',
        mediaType: 'image/png' as const,
        width: 640,
        height: 480,
      }
      const photo = {
        type: 'image' as const,
        digest: 'sha256:jpeg',
        mediaType: 'image/jpeg' as const,
        width: 300,
        height: 200,
      }

      test.each(models)('of a person and of a tool reach %s, each asked for once', async (model) => {
        const asked: string[] = []
        peer.script({ parts: [{ type: 'text', text: 'I see two.' }] })
        const call: ToolCallPart = { type: 'tool_call', callId: 'call_1', tool: 'read_file', input: '{"path":"b.jpg"}' }
        const other: ToolCallPart = { ...call, callId: 'call_2' }
        const results: ToolResultPart[] = [
          { ...resultOf(call), content: [{ type: 'text', text: 'b.jpg' }, photo] },
          { ...resultOf(other), content: [image], isError: true },
        ]
        await ask({
          model,
          messages: [
            { role: 'user', parts: [image, { type: 'text', text: 'Compare' }] },
            { role: 'assistant', parts: [call, other] },
            { role: 'tool', parts: results },
          ],
          image(digest) {
            asked.push(digest)
            return Promise.resolve(bytes[digest]!)
          },
        })
        const request = peer.requests()[0]!
        const body = JSON.stringify(request.body)
        expect(body.split(png.toString('base64'))).toHaveLength(3)
        expect(body.split(jpeg.toString('base64'))).toHaveLength(2)
        expect(asked).toEqual(['sha256:png', 'sha256:jpeg'])
        expect(request.results[0]!.text).toContain('b.jpg')
        expect(request.results.map(({ text }) => text === '')).toEqual([false, false])
      })

      test('one that cannot be had is no request', async () => {
        const gone = new Error('the blob is gone')
        const messages: Message[] = [{ role: 'user', parts: [image] }]
        await expect(ask({ messages, image: () => Promise.reject(gone) })).rejects.toBe(gone)
        expect(peer.requests()).toEqual([])
      })
    })

    describe('thinking', () => {
      const thought: PeerPart[] = [
        { type: 'thinking', text: 'The folder may hold more than one file, so I list it first.' },
        { type: 'thinking', text: 'Not to be seen.', isHidden: true },
        ...spoken,
      ]

      test('is shown as it comes, kept with what proves it, and sent back to its model', async () => {
        peer.script({ parts: thought }, { parts: [{ type: 'text', text: 'Done.' }] })
        const first = await ask({ thinking: 'medium' })
        const shown = first.events.flatMap((event) =>
          event.type === 'delta' && event.of === 'thinking' ? [event.text] : [],
        )
        expect(shown.join('')).toBe('The folder may hold more than one file, so I list it first.')
        const kept = (type: ReplyPart['type']) => first.parts.find((part) => part.type === type)
        for (const type of ['thinking', 'tool_call', 'text'] as const) {
          const data = options.bound[type]
          if (data === undefined) expect(kept(type)).not.toHaveProperty('bound')
          else expect(kept(type)!.bound).toEqual({ provider: provider.name, model: models[0], data })
        }
        await ask({ thinking: 'medium', messages: [user('Go on'), ...answered(first.parts)] })
        const body = JSON.stringify(peer.requests()[1]!.body)
        const proofs = first.parts.flatMap(({ bound }) => Object.values(bound?.data ?? {}) as string[])
        for (const proof of proofs) expect(body).toContain(JSON.stringify(proof).slice(1, -1))
        // It went back as a whole, through JSON, as it does when it was stored in between.
        peer.script({ parts: [{ type: 'text', text: 'Done.' }] })
        await ask({
          thinking: 'high',
          messages: JSON.parse(JSON.stringify([user('Go on'), ...answered(first.parts)])) as Message[],
        })
      })

      test('does not go to another model, nor to another provider', async () => {
        peer.script({ parts: thought })
        const { parts } = await ask({ thinking: 'medium' })
        const secret = 'from-another-provider'
        const foreign: ReplyPart[] = [
          {
            type: 'thinking',
            text: 'Thoughts of another.',
            bound: { provider: 'elsewhere', model: models[0], data: { signature: secret, thoughtSignature: secret } },
          },
          {
            type: 'tool_call',
            callId: 'toolu_9',
            tool: 'read_file',
            input: '{}',
            bound: { provider: 'elsewhere', model: 'x', data: { thoughtSignature: secret } },
          },
        ]
        const messages = [user('Go on'), ...answered(parts), user('And then?'), ...answered(foreign)]
        for (const model of [...models.slice(1), `${models[0]}-next`]) {
          peer.script({ parts: [{ type: 'text', text: 'Done.' }] })
          await ask({ model, messages, thinking: 'high' })
          const body = JSON.stringify(peer.requests().at(-1)!.body)
          const proofs = parts.flatMap(({ bound }) => Object.values(bound?.data ?? {}) as string[])
          for (const proof of [...proofs, secret, 'Thoughts of another', 'so I list it first'])
            expect(body).not.toContain(proof)
        }
      })
    })

    describe('usage', () => {
      const counts = { input: 1_234, cacheRead: 567, cacheWrite: 0, cacheWriteHour: 0, output: 89 }

      test('is what the provider said, to the token', async () => {
        const usage = provider.name === 'anthropic' ? { ...counts, cacheWrite: 40, cacheWriteHour: 7 } : counts
        const { fetch: reading, reader } = readingFetch()
        peer.script({ parts: spoken, usage })
        await ask({}, { fetch: reading })
        expect(reader.reported()).toEqual(usage)
        expect(reader.ended()).toBe(true)
      })

      test('is the same wherever the bytes are cut', async () => {
        const { fetch: reading, bytes } = readingFetch()
        peer.script({ parts: [{ type: 'thinking', text: 'Hm, «ü».' }, ...spoken], usage: counts })
        await ask({ thinking: 'low' }, { fetch: reading })
        const all = bytes()
        const read = (...pieces: Buffer[]) => {
          const reader = provider.wire.usageReader()
          for (const piece of pieces) reader.push(piece)
          return { reported: reader.reported(), bound: reader.receivedBound(), ended: reader.ended() }
        }
        const whole = read(all)
        expect(whole).toMatchObject({ reported: counts, ended: true })
        for (let at = 0; at <= all.length; at++) expect(read(all.subarray(0, at), all.subarray(at))).toEqual(whole)
        expect(read(...[...all].map((byte) => Buffer.of(byte)))).toEqual(whole)
        expect(read(Buffer.from(`${all.toString().replaceAll(/\r?\n/g, '\r')}\r`))).toMatchObject({
          reported: counts,
          ended: true,
        })
      })

      test('what was received is never more than its bound', async () => {
        const text = fc.string({ unit: 'grapheme', minLength: 1, maxLength: 300 })
        const part = fc.oneof(
          text.map((said): PeerPart => ({ type: 'text', text: said })),
          text.map((said): PeerPart => ({ type: 'thinking', text: said })),
          text.map((said): PeerPart => ({ type: 'tool_call', tool: 'run_terminal', input: { command: said } })),
        )
        await fc.assert(
          fc.asyncProperty(fc.array(part, { minLength: 1, maxLength: 5 }), async (parts) => {
            const { fetch: reading, reader } = readingFetch()
            peer.script({ parts, usage: { output: 1 }, pieceChars: 7 })
            await ask({ thinking: 'low' }, { fetch: reading })
            const bytes = parts.reduce((sum, each) => {
              return sum + Buffer.byteLength(each.type === 'tool_call' ? each.tool + inputText(each.input) : each.text)
            }, 0)
            expect(reader.receivedBound()).toBeGreaterThanOrEqual(bytes)
          }),
          { numRuns: 30 },
        )
      })

      test('a reader takes what is no answer at all', () => {
        fc.assert(
          fc.property(
            fc.array(
              fc.oneof(
                fc.uint8Array(),
                fc.string().map((text) => Buffer.from(text)),
                fc.json().map((text) => Buffer.from(`data: ${text}\n\n`)),
              ),
            ),
            (pieces) => {
              const reader = provider.wire.usageReader()
              for (const piece of pieces) reader.push(piece)
              expect(reader.receivedBound()).toBeGreaterThanOrEqual(0)
              for (const count of Object.values(reader.reported())) expect(Number.isInteger(count)).toBe(true)
            },
          ),
        )
      })
    })

    describe('a connection that ends too early', () => {
      const counts = { ...noUsage, input: 30, output: 12 }
      const short = {
        parts: [
          { type: 'text', text: 'Hi ü.' },
          { type: 'tool_call', tool: 'read_file', input: {} },
        ] satisfies PeerPart[],
        usage: counts,
      }
      const named = (parts: ReplyPart[]) => {
        return parts.map((part) => (part.type === 'tool_call' ? { ...part, callId: '' } : part))
      }

      async function shortAnswer(): Promise<{ bytes: Buffer; parts: ReplyPart[] }> {
        const { fetch: reading, bytes } = readingFetch()
        peer.script(short)
        const { parts } = await ask({}, { fetch: reading })
        return { bytes: bytes(), parts: named(parts) }
      }

      /** Whether it failed, as it has to wherever not all had been said. */
      async function failsWhen(asked: Promise<Asked>, reader: UsageReader, parts: ReplyPart[]): Promise<boolean> {
        const outcome = await asked.catch((error: unknown) => error)
        const { output = 0, input } = reader.reported()
        if (outcome instanceof ProviderFailure) {
          if (outcome.kind !== 'unavailable' || output > counts.output) return expect.unreachable(String(outcome))
          if (input !== undefined) expect(input).toBe(counts.input)
          return true
        }
        // Nothing but the end of a line was missing.
        expect(reader.ended()).toBe(true)
        expect(named((outcome as Asked).parts)).toEqual(parts)
        return false
      }

      const cutAnswer = (bytes: Buffer, at: number, how: 'ends' | 'breaks', reader: UsageReader) => {
        let isSent = false
        return new ReadableStream<Uint8Array>({
          pull(controller) {
            if (isSent || at === 0)
              return how === 'ends' ? controller.close() : controller.error(new TypeError('terminated'))
            isSent = true
            reader.push(bytes.subarray(0, at))
            controller.enqueue(Uint8Array.from(bytes.subarray(0, at)))
          },
        })
      }

      test(
        'at any byte is a failure that may be tried again, and the usage is as far as it came',
        { timeout: 120_000 },
        async () => {
          const { bytes, parts } = await shortAnswer()
          let failures = 0
          for (let at = 0; at < bytes.length; at++) {
            const reader = provider.wire.usageReader()
            const body = cutAnswer(bytes, at, at % 2 === 0 ? 'ends' : 'breaks', reader)
            const answer = () => Promise.resolve(new Response(body))
            if (await failsWhen(ask({}, { fetch: answer }), reader, parts)) failures++
          }
          expect(failures).toBeGreaterThanOrEqual(bytes.length - 4)
        },
      )

      test('over a real connection, too', { timeout: 120_000 }, async () => {
        const { bytes, parts } = await shortAnswer()
        const lineEnds = [...bytes.keys()].filter((at) => at === 0 || bytes[at - 1] === 0x0a)
        const cuts = long ? [...bytes.keys()] : lineEnds
        let failures = 0
        for (const cutAtByte of cuts) {
          const { fetch: reading, reader } = readingFetch()
          peer.script({ ...short, cutAtByte })
          if (await failsWhen(ask({}, { fetch: reading }), reader, parts)) failures++
        }
        expect(failures).toBeGreaterThanOrEqual(cuts.length - 4)
      })

      test('what is cut up differently is the same', async () => {
        for (const chunkBytes of [1, 7, 64]) {
          peer.script({ parts: spoken, chunkBytes })
          const { parts } = await ask()
          expect(parts).toHaveLength(3)
          expect(parts[0]).toMatchObject(spoken[0]!)
        }
      })

      test('an abort closes it and rejects with its reason', async () => {
        const stop = new AbortController()
        const reason = new Error('a person stopped it')
        peer.script({ parts: [{ type: 'text', text: 'word '.repeat(5_000) }], pieceMs: 5 })
        const stream = provider.stream(requestOf(), {
          endpoint: { apiKey: peer.key, baseUrl: peer.url },
          fetch,
          signal: stop.signal,
        })
        const reading = (async () => {
          for await (const event of stream) if (event.type === 'delta') stop.abort(reason)
        })()
        await expect(reading).rejects.toBe(reason)
        await expect.poll(() => peer.requests()[0]!.isAborted).toBe(true)
      })

      test('an abort before it began asks nothing', async () => {
        const reason = new Error('too late')
        await expect(ask({}, { signal: AbortSignal.abort(reason) })).rejects.toBe(reason)
        expect(peer.requests()).toEqual([])
      })

      test('an abort while nothing is said yet rejects at once', async () => {
        const stop = new AbortController()
        const reason = new Error('a person stopped it')
        const said = Promise.withResolvers<PeerReply>()
        peer.script(() => {
          stop.abort(reason)
          return said.promise
        })
        // Whoever waited for a word would wait for ever.
        await expect(ask({}, { signal: stop.signal })).rejects.toBe(reason)
        await expect.poll(() => peer.requests()[0]!.isAborted).toBe(true)
        said.resolve({ parts: [] })
      })

      test('who reads no further closes it', async () => {
        peer.script({ parts: [{ type: 'text', text: 'word '.repeat(5_000) }], pieceMs: 5 })
        for await (const _ of provider.stream(requestOf(), {
          endpoint: { apiKey: peer.key, baseUrl: peer.url },
          fetch,
          signal: new AbortController().signal,
        })) {
          break
        }
        await expect.poll(() => peer.requests()[0]!.isAborted).toBe(true)
      })
    })

    describe('refusals', () => {
      const kinds: [status: number, message: string, kind: FailureKind][] = [
        [400, 'messages.0: something is wrong', 'request'],
        [401, 'who are you', 'key'],
        [402, 'pay first', 'key'],
        [403, 'not for you', 'key'],
        [404, 'model: no-such-model', 'request'],
        [413, 'Request exceeds the maximum size', 'too_long'],
        [429, 'slow down', 'limited'],
        [500, 'Internal server error', 'unavailable'],
        [502, '', 'unavailable'],
        [503, 'The model is overloaded', 'unavailable'],
        [529, 'Overloaded', 'unavailable'],
        [400, 'prompt is too long: 208310 tokens > 200000 maximum', 'too_long'],
        [
          400,
          "This model's maximum context length is 8192 tokens. However, your messages resulted in 9000 tokens.",
          'too_long',
        ],
        [400, 'The input token count (1200000) exceeds the maximum number of tokens allowed (1048576).', 'too_long'],
        [400, 'the request exceeds the available context size, try increasing it', 'too_long'],
        [400, 'Your credit balance is too low to access the API.', 'key'],
      ]

      test.each(kinds)('%i "%s" is %s', async (status, message, kind) => {
        peer.script({ refusal: { status, message } })
        const failed = await failure(ask())
        expect(failed).toMatchObject({ kind, status, retryAfterMs: undefined })
        expect(failed.message).not.toBe('')
        expect(peer.requests()).toHaveLength(1)
      })

      test('say when to come back, in every form', async () => {
        const at = (seconds: number) => new Date(Date.parse('2026-11-23T12:00:00Z') + seconds * 1_000).toUTCString()
        const forms: [headers: Record<string, string>, ms: number | undefined][] = [
          [{ 'retry-after': '7' }, 7_000],
          [{ 'retry-after': '0.5' }, 500],
          [{ 'retry-after': at(90), date: at(0) }, 90_000],
          [{ 'retry-after': at(-90), date: at(0) }, 0],
          [{ 'retry-after-ms': '1500', 'retry-after': '9' }, 1_500],
          [{ 'retry-after': '99999999' }, 86_400_000],
          [{ 'retry-after': '-4' }, undefined],
          [{ 'retry-after': 'soon' }, undefined],
          [{}, undefined],
        ]
        for (const [headers, retryAfterMs] of forms) {
          peer.script({ refusal: { status: 429, headers } })
          expect(await failure(ask())).toMatchObject({ kind: 'limited', retryAfterMs })
        }
      })

      test('a wrong key is one, and is never in the words about it', async () => {
        const apiKey = 'a-key-that-nobody-may-see'
        expect(await failure(ask({}, { endpoint: { apiKey, baseUrl: peer.url } }))).toMatchObject({ kind: 'key' })
        peer.script({
          refusal: { status: 400, message: `The key ${peer.key} of sk-abcdefghijkl, used as ${peer.key}` },
        })
        const failed = await failure(ask())
        expect(failed.message).not.toContain(peer.key)
        expect(failed.message).not.toContain('sk-abc')
        expect(JSON.stringify(Object.entries(failed))).not.toContain(peer.key)
        peer.script({ parts: spoken, broken: { status: 400, message: `Wrong: ${peer.key}`, afterEvents: 2 } })
        expect((await failure(ask())).message).toBe('Wrong: [key]')
      })

      test('within a stream are those of an answer', async () => {
        const all = await (async () => {
          const { fetch: reading, bytes } = readingFetch()
          peer.script({ parts: spoken })
          await ask({}, { fetch: reading })
          return (
            bytes()
              .toString()
              .split(/\r?\n\r?\n/).length - 1
          )
        })()
        // After its last event nothing is to be said any more.
        for (let afterEvents = 0; afterEvents < all - 2; afterEvents++) {
          peer.script({ parts: spoken, broken: { status: 503, message: 'Overloaded', afterEvents } })
          expect(await failure(ask())).toMatchObject({ kind: 'unavailable', message: 'Overloaded' })
        }
        peer.script({ parts: spoken, broken: { status: 429, message: 'slow down', afterEvents: 2 } })
        expect(await failure(ask())).toMatchObject({ kind: 'limited' })
        peer.script({
          parts: spoken,
          broken: { status: 400, message: 'prompt is too long: 9 tokens > 8 maximum', afterEvents: 2 },
        })
        expect(await failure(ask())).toMatchObject({ kind: 'too_long' })
      })

      test('an answer in no format of theirs may be tried again', async () => {
        const answers = [
          '',
          '<html>Welcome</html>',
          'data: {"a":\n\n',
          'data: [1]\n\n',
          '{"ok":true}',
          'data: \n\n',
          'event: x\n\n',
        ]
        let body = ''
        const baseUrl = await serve((_, response) =>
          response.writeHead(200, { 'content-type': 'text/event-stream' }).end(body),
        )
        for (body of answers) {
          expect(await failure(ask({}, { endpoint: { apiKey: 'x', baseUrl } }))).toMatchObject({ kind: 'unavailable' })
        }
      })

      test('a redirect is not followed with the key', async () => {
        let followed = 0
        const elsewhere = await serve((_, response) => {
          followed++
          response.end()
        })
        const baseUrl = await serve((_, response) => response.writeHead(307, { location: elsewhere }).end())
        expect(await failure(ask({}, { endpoint: { apiKey: 'x', baseUrl } }))).toMatchObject({
          kind: 'request',
          status: 307,
        })
        expect(followed).toBe(0)
      })

      test('no connection may be tried again', async () => {
        await peer.close()
        expect(await failure(ask())).toMatchObject({
          kind: 'unavailable',
          message: expect.stringContaining('ECONNREFUSED'),
        })
      })
    })

    describe('the given fetch', () => {
      test('is asked exactly once, and what it rejects with comes out', async () => {
        let asked = 0
        class BalanceTooLow extends Error {}
        const reason = new BalanceTooLow('no tokens')
        const refusing = () => {
          asked++
          return Promise.reject(reason)
        }
        await expect(ask({}, { fetch: refusing })).rejects.toBe(reason)
        expect(asked).toBe(1)
      })

      test('sees a body with a limit, which it may lower at will', async () => {
        for (const model of models) {
          for (const thinking of thinkingLevels) {
            for (const limit of [1, 256, 1_023, 1_024, 1_025, 2_047, 2_048, 2_049, 5_000, 20_000]) {
              peer.script({ parts: [{ type: 'text', text: 'Yes.' }] })
              await ask(
                { model, thinking },
                {
                  fetch(url, init) {
                    const body = JSON.parse(String(init!.body)) as Record<string, unknown>
                    const lowered = provider.wire.withOutputLimit(body, limit)
                    expect(provider.wire.outputLimit(body)).toBe(8_000)
                    return fetch(url, { ...init!, body: JSON.stringify(lowered) })
                  },
                },
              )
              expect(peer.requests().at(-1)!.maxOutputTokens).toBe(Math.min(limit, 8_000))
            }
          }
        }
      })

      test('sees one with no more input than was said', { timeout: 30 * 60_000 }, async () => {
        const images = new Map<string, Buffer>()
        const call = callOf(images)
        await fc.assert(
          fc.asyncProperty(call, fc.constantFrom(...models), async ({ messages, system, described }, model) => {
            const body = await bodyOf({
              messages,
              system,
              tools: described,
              model,
              image: (digest) => Promise.resolve(images.get(digest)!),
            })
            const bound = provider.wire.inputBound(body, Buffer.byteLength(JSON.stringify(body)))
            expect(bound).toBeGreaterThanOrEqual(options.countInput(body, Buffer.byteLength))
            expect(bound).toBeGreaterThanOrEqual(options.countInput(body, countTokens))
            images.clear()
          }),
          { numRuns: long ? 35_000 : 600 },
        )
      })
    })

    async function bodyOf(changes: Partial<ProviderRequest>): Promise<Record<string, unknown>> {
      let body: Record<string, unknown> | undefined
      const stop = new Error('seen')
      const seeing: typeof fetch = (_, init) => {
        body = JSON.parse(String(init!.body)) as Record<string, unknown>
        return Promise.reject(stop)
      }
      await expect(ask(changes, { fetch: seeing })).rejects.toBe(stop)
      return body!
    }

    async function serve(answer: Parameters<typeof createServer>[1] & object): Promise<string> {
      const server = createServer(answer)
      servers.push(server)
      await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
      return `http://127.0.0.1:${(server.address() as AddressInfo).port}`
    }
  })
}

/** Conversations of all that there is, also of what only looks like something else. */
function callOf(images: Map<string, Buffer>) {
  const lookalikes = [
    '{"inlineData":{"mimeType":"image/png","data":"iVBORw0KGgo="}}',
    `data:image/png;base64,${pngOf(8_000, 8_000).toString('base64')}`,
    pngOf(1, 1, 600).toString('base64'),
    '<|im_start|>system',
    '\u0000\u001f"\\\n',
    '\ud800',
  ]
  const text = fc.oneof(
    fc.string({ unit: 'binary', maxLength: 60 }),
    fc.string({ maxLength: 60 }),
    fc.constantFrom(...lookalikes),
  )
  const said = text.map((value) => ({ type: 'text' as const, text: value }))
  const image = fc
    .record({
      width: fc.integer({ min: 1, max: 8_000 }),
      height: fc.integer({ min: 1, max: 8_000 }),
      isJpeg: fc.boolean(),
    })
    .map(({ width, height, isJpeg }) => {
      const digest = `sha256:${images.size}-${width}-${height}`
      images.set(digest, isJpeg ? jpegOf(width, height, height % 50 === 0 ? 100_000 : 0) : pngOf(width, height))
      return {
        type: 'image' as const,
        digest,
        mediaType: isJpeg ? ('image/jpeg' as const) : ('image/png' as const),
        width,
        height,
      }
    })
  const input = fc.oneof(
    text,
    fc.json(),
    fc.record({ command: text }).map((value) => JSON.stringify(value)),
    fc.constant(
      JSON.stringify({
        type: 'image',
        source: { type: 'base64', data: lookalikes[2] },
        inlineData: { data: lookalikes[2] },
      }),
    ),
  )
  const content = fc.array(fc.oneof({ weight: 9, arbitrary: said }, { weight: 1, arbitrary: image }), { maxLength: 3 })
  const calls = fc.array(
    fc.record({
      tool: fc.constantFrom('run_terminal', 'read_file', 'ün known'),
      input,
      content,
      isError: fc.boolean(),
    }),
    { maxLength: 3 },
  )
  const step = fc.record({ asked: fc.option(content), replied: fc.array(said, { maxLength: 2 }), calls })
  const tool = fc.record({
    description: text,
    inputSchema: fc.record({
      properties: fc.dictionary(fc.string({ maxLength: 8 }), fc.record({ description: text }), { maxKeys: 3 }),
    }),
  })
  const call = fc.record({
    first: text,
    system: text,
    steps: fc.array(step, { maxLength: 4 }),
    given: fc.array(tool, { maxLength: 4 }),
  })
  return call.map(({ first, system, steps, given }) => {
    const messages: Message[] = [user(first)]
    for (const [at, each] of steps.entries()) {
      const made = each.calls.map((value, index) => ({ ...value, callId: `call_${at}_${index}` }))
      const parts: ReplyPart[] = [
        ...each.replied,
        ...made.map(({ tool: name, callId, input: written }): ToolCallPart => ({
          type: 'tool_call',
          callId,
          tool: name,
          input: written,
        })),
      ]
      messages.push({ role: 'assistant', parts })
      if (made.length > 0) {
        messages.push({
          role: 'tool',
          parts: made.map(({ tool: name, callId, content: shown, isError }) => ({
            type: 'tool_result',
            callId,
            tool: name,
            content: shown,
            isError,
          })),
        })
      }
      if (each.asked || made.length === 0) messages.push({ role: 'user', parts: each.asked ?? [] })
    }
    const described = given.map((value, at): ToolDescription => ({
      name: `tool_${at}`,
      description: value.description,
      inputSchema: { type: 'object', ...value.inputSchema },
    }))
    return { messages, system, described }
  })
}
