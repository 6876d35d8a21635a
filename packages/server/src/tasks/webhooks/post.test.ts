import { createServer } from 'node:net'
import type { AddressInfo } from 'node:net'
import { afterEach, expect, test } from 'vitest'
import { systemClock } from '../../kernel/clock.ts'
import { fetchBy } from '../../kernel/http/fetch-by.ts'
import { post } from './post.ts'
import { testNetwork } from './testing.ts'

const ends: (() => void)[] = []
afterEach(() => {
  for (const end of ends.splice(0)) end()
})

/** Says that once to whoever connects; undefined: closes without a word. */
async function startOdd(answer: string | undefined): Promise<string> {
  const server = createServer((socket) => {
    socket.on('error', () => {})
    socket.once('data', () => (answer === undefined ? socket.destroy() : socket.write(answer)))
  })
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve))
  ends.push(() => server.close())
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}/`
}

test.each([
  ['changes the protocol', 'HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: Upgrade\r\n\r\n'],
  ['closes without an answer', undefined],
])('a server that %s is an error, for webhooks and for pages alike', async (_what, answer) => {
  const { network } = testNetwork(systemClock)
  const url = new URL(await startOdd(answer))
  const { signal } = new AbortController()
  await expect(post(network, { url, headers: {}, body: '{}', signal })).rejects.toThrow()
  const fetched = fetchBy(network.connect)(url, { signal })
  await expect(fetched).rejects.toThrow()
})
