import { once } from 'node:events'
import { request as httpRequest } from 'node:http'
import type { IncomingMessage } from 'node:http'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { createWriter } from '../../guest/codec.ts'
import type { Writer } from '../../guest/codec.ts'
import { ops } from '../../guest/messages.ts'
import { GuestError, guestErrorNames } from '../../guest/errors.ts'
import { DeltaError } from '../../kernel/errors.ts'
import { startTestServer } from '../execs/testing-server.ts'
import type { TestServer } from '../execs/testing-server.ts'
import { fileRefusal } from './refusals.ts'

let server: TestServer
beforeEach(async () => {
  server = await startTestServer()
})
afterEach(() => server.close())

const path = '/v1/sandboxes/sbx_model/files?path=/f'

function entry(writer: Writer, { type = 1, size = 10 } = {}): Writer {
  return writer.str('/f').u8(type).u64(size).u32(0o644).u32(0).u32(0).str('root').str('root').i64(0n).u64(1).u8(0)
}

async function refused(response: Response): Promise<[number, string]> {
  const { error } = (await response.json()) as { error: { code: string; remediation: string } }
  expect(error.remediation).toBeTruthy()
  return [response.status, error.code]
}

/** Answers a read with an entry of a size and then other bytes. */
function readsAs(size: number, pieces: string[], end: 'close' | 'fail' | 'lose' = 'close'): void {
  server.guest.onAsked = ({ op, peer, channel }) => {
    if (op !== ops.read) return false
    peer.send('opened', channel, entry(createWriter(), { size }))
    let offset = 0
    for (const piece of pieces) {
      peer.data(channel, 0, offset, piece)
      offset += piece.length
    }
    if (end === 'close') peer.close(channel)
    if (end === 'fail') peer.close(channel, 12, 'read error')
    if (end === 'lose') setImmediate(() => server.guest.lose())
    return true
  }
}

async function outcome(): Promise<{ ended: boolean; text: string }> {
  const request = httpRequest(server.url + path, { headers: server.headers })
  request.end()
  const [response] = (await once(request, 'response')) as [IncomingMessage]
  let text = ''
  const ended = await new Promise<boolean>((resolve) => {
    response.on('data', (chunk: Buffer) => (text += chunk.toString()))
    response.on('end', () => resolve(true)).on('error', () => resolve(false))
  })
  return { ended, text }
}

describe('a download', () => {
  test('of less than was announced, one that fails and one whose sandbox is lost are all broken off', async () => {
    readsAs(10, ['12345'])
    expect((await outcome()).ended).toBe(false)
    readsAs(10, ['12345'], 'fail')
    expect((await outcome()).ended).toBe(false)
    readsAs(10, ['12345'], 'lose')
    expect((await outcome()).ended).toBe(false)
  })

  test('of more than was announced ends where it said', async () => {
    readsAs(10, ['1234567890', 'more'])
    expect(await outcome()).toEqual({ ended: true, text: '1234567890' })
  })

  test('whose guest breaks the protocol is refused or broken off, and the next is served', async () => {
    server.guest.onAsked = ({ op, peer, channel }) => {
      if (op !== ops.read) return false
      peer.send('opened', channel, createWriter().u32(0xffff_ffff))
      return true
    }
    expect(await refused(await server.get(path))).toEqual([502, 'guest_protocol_error'])
    readsAs(2, ['ok'])
    expect(await (await server.get(path)).text()).toBe('ok')
  })

  test('whose connection was gone already is asked again, once', async () => {
    let asked = 0
    server.guest.onAsked = ({ op, peer, channel }) => {
      if (op !== ops.read) return false
      asked += 1
      if (asked === 1) server.guest.lose()
      else {
        peer.send('opened', channel, entry(createWriter(), { size: 2 }))
        peer.data(channel, 0, 0, 'ok')
        peer.close(channel)
      }
      return true
    }
    expect([await (await server.get(path)).text(), asked]).toEqual(['ok', 2])
  })
})

describe('a sandbox that was stopped while it was asked', () => {
  test.each([
    ['PUT', '/files?path=/f', 'content'],
    ['GET', '/files?path=/f', undefined],
    ['DELETE', '/files?path=/f', undefined],
    ['POST', '/move', '{"from":"/a","to":"/b"}'],
    ['GET', '/archive?path=/f', undefined],
    ['PUT', '/archive?path=/f', 'content'],
    ['POST', '/execs', '{"cmd":"true"}'],
    ['POST', '/execs', '{"cmd":"true","background":true}'],
    ['GET', '/execs', undefined],
    ['POST', '/execs/exe_a/signal', '{"signal":15}'],
  ])('is told as such, with the reason: %s %s', async (method, where, body) => {
    const own = await startTestServer()
    try {
      own.guest.onAsked = () => {
        const context = { state: 'stopped', reason: 'stop_requested' }
        own.guest.refuse = new DeltaError('sandbox_not_running', 'Sandbox sbx_model is stopped (stop_requested)', {
          context,
        })
        own.guest.lose()
        return true
      }
      const response = await own.send(method, `/v1/sandboxes/sbx_model${where}`, {
        ...(body !== undefined && { body }),
      })
      const { error } = (await response.json()) as { error: { code: string; cause: string; context: object } }
      expect([response.status, error.code]).toEqual([409, 'sandbox_ended'])
      expect(error.cause).toBe('Sandbox sbx_model is stopped (stop_requested)')
      expect(error.context).toMatchObject({ state: 'stopped', reason: 'stop_requested' })
    } finally {
      await own.close()
    }
  })
})

describe('an upload', () => {
  test('into a full disk is 507 while it is still being sent', async () => {
    server.guest.onAsked = ({ op, peer, channel }) => {
      if (op !== ops.write) return false
      peer.send('opened', channel)
      setTimeout(() => peer.close(channel, 7, 'No space left on device'), 20)
      return true
    }
    const response = await server.send('PUT', path, { body: Buffer.alloc(8 * 1024 * 1024) })
    expect(await refused(response)).toEqual([507, 'disk_full'])
  })

  test('whose connection is lost is not tried twice', async () => {
    let asked = 0
    server.guest.onAsked = ({ op }) => {
      if (op !== ops.write) return false
      asked += 1
      server.guest.lose()
      return true
    }
    expect([await refused(await server.send('PUT', path, { body: 'x' })), asked]).toEqual([
      [502, 'guest_unreachable'],
      1,
    ])
  })
})

test('every refusal of a guest is told with a code of the API and a remediation', () => {
  for (const name of guestErrorNames) {
    const told = fileRefusal(new GuestError(name, 'why'), '/f')
    expect(told, name).toBeInstanceOf(DeltaError)
    expect((told as DeltaError).status, name).toBeGreaterThanOrEqual(400)
  }
})

describe('a guest that never answers, as one that is paused', () => {
  const sandbox = '/v1/sandboxes/sbx_model'
  test.each([
    ['GET', '/files?path=/f', undefined],
    ['HEAD', '/archive?path=/f', undefined],
    ['PUT', '/files?path=/f', 'content'],
    ['DELETE', '/files?path=/f', undefined],
    ['GET', '/entries?path=/', undefined],
    ['GET', '/entry?path=/f', undefined],
    ['PATCH', '/entry?path=/f', '{"mode":"0644"}'],
    ['POST', '/directories', '{"path":"/d"}'],
    ['POST', '/move', '{"from":"/a","to":"/b"}'],
    ['GET', '/watch?path=/', undefined],
    ['GET', '/archive?path=/f', undefined],
    ['PUT', '/archive?path=/f', 'content'],
    ['POST', '/execs', '{"cmd":"true"}'],
    ['POST', '/execs', '{"cmd":"true","background":true}'],
    ['GET', '/execs', undefined],
    ['GET', '/execs/exe_a', undefined],
    ['POST', '/execs/exe_a/signal', '{"signal":15}'],
  ])('is given up: %s %s', async (method, where, body) => {
    const silent = await startTestServer({ answerMs: 40 })
    try {
      silent.guest.onAsked = () => true
      const response = await silent.send(method, sandbox + where, { ...(body !== undefined && { body }) })
      if (method === 'HEAD') expect(response.status).toBe(504)
      else expect(await refused(response)).toEqual([504, 'guest_timed_out'])
    } finally {
      await silent.close()
    }
  })
})
