import { once } from 'node:events'
import { type AddressInfo, createServer, type Socket } from 'node:net'
import { PassThrough } from 'node:stream'
import { afterEach, expect, test } from 'vitest'
import { connectInPlace, readInPlace } from './in-place.ts'

const cleanUp: (() => void)[] = []
afterEach(() => {
  for (const each of cleanUp.splice(0)) each()
})

async function pair(): Promise<{ near: Socket; far: Socket }> {
  const server = createServer({ allowHalfOpen: true }).listen(0, '127.0.0.1')
  await once(server, 'listening')
  const near = connectInPlace({ port: (server.address() as AddressInfo).port, host: '127.0.0.1', allowHalfOpen: true })
  const [[far]] = (await Promise.all([once(server, 'connection'), once(near, 'connect')])) as [[Socket], unknown]
  server.close()
  cleanUp.push(
    () => near.destroy(),
    () => far.destroy(),
  )
  return { near, far }
}

test('what came before somebody listened is heard, in order, and then the end', async () => {
  const { near, far } = await pair()
  const sent = Buffer.alloc(3 * 1024 * 1024, 'abcdefghijklmnopqrstuvwxyz0123456789')
  far.end(sent)
  await new Promise((resolve) => setTimeout(resolve, 20))
  expect(near.bytesRead).toBe(0)
  const got: Buffer[] = []
  readInPlace(near, (bytes) => void got.push(Buffer.from(bytes)))
  await once(near, 'end')
  expect(Buffer.concat(got).equals(sent)).toBe(true)
})

test('all sockets read into the same memory, each when it is its turn', async () => {
  const [one, two] = await Promise.all([pair(), pair()])
  const kept: Buffer[] = []
  const heard: string[] = []
  for (const { near } of [one, two]) {
    readInPlace(near, (bytes) => {
      kept.push(bytes)
      heard.push(String(bytes))
    })
  }
  one.far.write('1111')
  await expect.poll(() => heard).toEqual(['1111'])
  two.far.write('2222')
  await expect.poll(() => heard).toEqual(['1111', '2222'])
  // Who keeps them has others' bytes.
  expect(String(kept[0])).toBe('2222')
})

test('a socket that is paused reads nothing until it goes on', async () => {
  const { near, far } = await pair()
  let heard = 0
  readInPlace(near, (bytes) => {
    heard += bytes.length
    near.pause()
  })
  const sent = Buffer.alloc(1024 * 1024)
  far.write(sent)
  await expect.poll(() => heard).toBeGreaterThan(0)
  const before = heard
  await new Promise((resolve) => setTimeout(resolve, 20))
  expect(heard).toBe(before)
  const goOn = setInterval(() => near.resume(), 1)
  cleanUp.push(() => clearInterval(goOn))
  await expect.poll(() => heard).toBe(sent.length)
})

test('any other stream can be read so too', async () => {
  const stream = new PassThrough()
  stream.pause()
  stream.write('first')
  const heard: string[] = []
  readInPlace(stream, (bytes) => void heard.push(String(bytes)))
  await expect.poll(() => heard).toEqual(['first'])
})
