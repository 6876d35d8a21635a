import { execFileSync } from 'node:child_process'
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { zstdDecompressSync } from 'node:zlib'
import { afterEach, beforeEach, expect, test } from 'vitest'
import type { Bytes } from './blobs.ts'
import { compressLayer } from './compress.ts'
import { chunksOf, collect, digestOf, someBytes } from './conformance.ts'
import { expandLayer } from './expand.ts'

const mediaType = 'application/vnd.oci.image.layer.v1.tar+zstd'

let folder = ''
beforeEach(() => {
  folder = mkdtempSync(join(tmpdir(), 'delta-layers-'))
})
afterEach(() => rmSync(folder, { recursive: true, force: true }))

/** Half noise, half text, as a layer is. */
const tar = Buffer.concat([someBytes(2_000_000), Buffer.from('all work and no play '.repeat(100_000))])

test('a layer is zstd, with the digests and sizes of both sides', async () => {
  const layer = await compressLayer(chunksOf(tar, 300_000), { folder })
  const file = readFileSync(layer.path)
  expect(layer).toEqual({
    path: layer.path,
    digest: digestOf(file),
    diffId: digestOf(tar),
    size: file.length,
    tarSize: tar.length,
  })
  expect(file.length).toBeLessThan(tar.length * 0.6)
  expect(zstdDecompressSync(file).equals(tar)).toBe(true)
  expect(readdirSync(folder)).toHaveLength(1)
})

test('the zstd program reads it', async () => {
  const layer = await compressLayer(chunksOf(tar, 1_000_000), { folder })
  const unpacked = execFileSync('zstd', ['-dc', layer.path], { maxBuffer: 2 * tar.length })
  expect(unpacked.equals(tar)).toBe(true)
})

test('however the tar is cut into chunks, the layer is the same', async () => {
  const layers = []
  for (const chunkBytes of [7_001, 65_536, 3_000_000]) {
    layers.push(await compressLayer(chunksOf(tar, chunkBytes), { folder }))
  }
  expect(new Set(layers.map(({ digest }) => digest)).size).toBe(1)
})

test('what comes before a piece of the tar does not change its frame, whoever compresses it', async () => {
  const pieces = [
    Buffer.alloc(4 * 1024 * 1024, 'all play '),
    someBytes(4 * 1024 * 1024),
    tar.subarray(1_900_000, 2_100_000),
  ]
  const fileOf = async (bytes: Buffer) => readFileSync((await compressLayer(chunksOf(bytes, 300_000), { folder })).path)
  const alone = []
  for (const piece of pieces) alone.push(await fileOf(piece))
  expect((await fileOf(Buffer.concat(pieces))).equals(Buffer.concat(alone))).toBe(true)
})

test('a source that reads into the same memory again and again is packed as it was', async () => {
  for (const whole of [tar.subarray(1_900_000, 2_100_000), tar]) {
    const memory = Buffer.alloc(30_000)
    const source = async function* (): Bytes {
      for (let at = 0; at < whole.length; at += memory.length) {
        const part = whole.subarray(at, at + memory.length)
        part.copy(memory)
        yield memory.subarray(0, part.length)
        memory.fill(0)
      }
    }
    expect((await compressLayer(source(), { folder })).diffId).toBe(digestOf(whole))
  }
})

test('a tar of whole pieces opens again', async () => {
  const whole = Buffer.alloc(8 * 1024 * 1024, 'all play ')
  const layer = await compressLayer(chunksOf(whole, 1_000_000), { folder })
  const blob = chunksOf(readFileSync(layer.path), 1_000)
  const frames = await collect(expandLayer(blob, { mediaType, diffId: layer.diffId, maxBytes: whole.length }))
  expect(frames.equals(whole)).toBe(true)
})

test('an empty tar is a layer that unpacks to nothing', async () => {
  const layer = await compressLayer(chunksOf(Buffer.alloc(0), 1), { folder })
  const blob = chunksOf(readFileSync(layer.path), 1_000)
  expect(await collect(expandLayer(blob, { mediaType, diffId: layer.diffId, maxBytes: 0 }))).toHaveLength(0)
})

test('the source is held back while the worker is behind', async () => {
  const chunk = someBytes(1024 * 1024)
  let given = 0
  let early = 0
  const source = async function* (): Bytes {
    // No worker has started by then; whoever holds nothing back has taken it all.
    setImmediate(() => {
      early = given
    })
    for (; given < 64; given++) yield chunk
  }
  const layer = await compressLayer(source(), { folder })
  expect(layer.tarSize).toBe(64 * 1024 * 1024)
  expect(early).toBeLessThanOrEqual(16)
})

// On either side of what is packed without a thread.
test.each([100_000, 1_000_000])('a source that fails after %i bytes leaves no file', async (bytes) => {
  const source = async function* (): Bytes {
    yield tar.subarray(0, bytes)
    throw new Error('the box is gone')
  }
  await expect(compressLayer(source(), { folder })).rejects.toThrow('the box is gone')
  expect(readdirSync(folder)).toEqual([])
})

test.each([0, 1_000_000])('a source that hangs after %i bytes can be given up, and is told', async (bytes) => {
  const giveUp = new AbortController()
  let given = bytes === 0
  let told = false
  const source: Bytes = {
    [Symbol.asyncIterator]: () => ({
      next: () => {
        if (!given) {
          given = true
          return Promise.resolve({ done: false, value: tar.subarray(0, bytes) })
        }
        setImmediate(() => giveUp.abort(new Error('given up')))
        return new Promise(() => {})
      },
      return: async () => {
        told = true
        return { done: true, value: undefined }
      },
    }),
  }
  await expect(compressLayer(source, { folder, signal: giveUp.signal })).rejects.toThrow('given up')
  expect(told).toBe(true)
  expect(readdirSync(folder)).toEqual([])
})

test('a folder that is not there is said, also while the source hangs', async () => {
  const source: Bytes = { [Symbol.asyncIterator]: () => ({ next: () => new Promise(() => {}) }) }
  const missing = join(folder, 'missing')
  await expect(compressLayer(source, { folder: missing })).rejects.toMatchObject({ code: 'storage_unavailable' })
})
