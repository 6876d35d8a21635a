import { expect, test } from 'vitest'
import { ops } from './messages.ts'
import { connectPeer, exitFields, openedExec } from './testing/peer.ts'
import type { ExecRequest } from './messages.ts'

const request: ExecRequest = {
  execId: 'exe_1',
  argv: ['/bin/echo', 'hi'],
  env: { PATH: '/bin' },
  cwd: '/',
  user: 'user',
  timeoutMs: 0,
  keepStdin: false,
}

test('an exec opens, its output arrives in order and its exit follows', async () => {
  const { guest, peer } = await connectPeer()
  const opening = guest.exec(request)
  const { channel, reader } = await peer.expectOpen(ops.exec)
  expect(channel).toBe(1)
  expect(reader.str('execId')).toBe('exe_1')
  expect(reader.u8('flags')).toBe(4)
  peer.send('opened', channel, openedExec(42))
  peer.data(channel, 1, 0, 'hi\n')
  peer.data(channel, 2, 3, 'oh\n')
  peer.close(channel, 0, '', exitFields(0, 3, 0, 6))
  const stream = await opening
  expect(stream.pid).toBe(42)
  const seen = []
  for await (const { stream: name, offset, bytes } of stream.output) seen.push([name, offset, bytes.toString()])
  expect(seen).toEqual([
    ['stdout', 0, 'hi\n'],
    ['stderr', 3, 'oh\n'],
  ])
  expect(await stream.exit).toEqual({
    kind: 'exited',
    value: 3,
    timedOut: false,
    oomKilled: false,
    outputBytes: 6,
    durationMs: 5,
  })
  guest.close()
  await guest.closed
})
