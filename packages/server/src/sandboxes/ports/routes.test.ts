import { expect, test } from 'vitest'
import { testDatabases } from '../../kernel/db/testing.ts'
import { DeltaError, type ErrorCode } from '../../kernel/errors.ts'
import { ofGuest, ofKnown } from '../refusal-codes.ts'
import { apiKey, sandboxId, startInside, startPorts, startRawInside } from './testing.ts'

testDatabases('refusals of ports', (open) => {
  async function start() {
    const platform = await startPorts(open)
    const ask = async (path: string, { key = apiKey }: { key?: string } = {}) => {
      const answer = await fetch(`http://localhost:${platform.port}${path}`, {
        headers: { authorization: `Bearer ${key}` },
      })
      const { error } = (await answer.json()) as { error: { code: string } }
      platform.documented('GET', path, { status: answer.status, code: error.code })
      return error.code
    }
    return { platform, ask, at: (port: number) => `/v1/sandboxes/${sandboxId}/ports/${port}/x` }
  }

  test('whatever opening a sandbox meets is in the description of a request to a port', async () => {
    const { platform, ask, at } = await start()
    for (const code of ofGuest) {
      platform.refusedBecause.error = new DeltaError(code, 'No')
      expect(await ask(at(3000))).toBe(code)
    }
    await platform.close()
  })

  test('so is what ports add to it', async () => {
    const { platform, ask, at } = await start()
    const nothing = await startInside(() => {})
    await nothing.close()
    const wrong = await startRawInside((socket) => socket.end('no HTTP'))
    const said: ErrorCode[] = ['unauthorized', 'port_not_listening', 'port_bad_answer']
    const asked = [await ask(at(3000), { key: 'wrong' }), await ask(at(nothing.port)), await ask(at(wrong.port))]
    expect(asked).toEqual(said)
    for (const code of ['port_limit_reached', 'port_timed_out', 'request_timeout', 'port_forbidden'] as const) {
      const { status } = new DeltaError(code, 'No')
      platform.documented('GET', at(3000), { status, code })
    }
    await wrong.close()
    await platform.close()
  })

  test('and what listing and changing public ports meets', async () => {
    const { platform } = await start()
    const path = `/v1/sandboxes/${sandboxId}/ports`
    for (const code of [...ofKnown, 'sandbox_state_conflict'] as const) {
      const { status } = new DeltaError(code, 'No')
      if (code !== 'sandbox_state_conflict') platform.documented('GET', path, { status, code })
      platform.documented('PUT', path, { status, code })
    }
    await platform.close()
  })
})
