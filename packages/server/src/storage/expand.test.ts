import { execFileSync } from 'node:child_process'
import { gzipSync, zstdCompressSync } from 'node:zlib'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { chunksOf, collect, digestOf, someBytes } from './conformance.ts'
import { expandLayer } from './expand.ts'

const oci = 'application/vnd.oci.image.layer.v1.tar'
const tar = Buffer.concat([someBytes(500_000), Buffer.alloc(1_500_000, 'tar ')])
const maxBytes = tar.length

const forms: [string, (bytes: Buffer) => Buffer][] = [
  [`${oci}+zstd`, (bytes) => zstdCompressSync(bytes)],
  [`${oci}+gzip`, (bytes) => gzipSync(bytes)],
  ['application/vnd.docker.image.rootfs.diff.tar.gzip', (bytes) => gzipSync(bytes)],
  [oci, (bytes) => bytes],
]
const packed = forms.slice(0, 2)

describe.each(forms)('%s', (mediaType, pack) => {
  test('gives the tar, whatever the chunks', async () => {
    for (const chunkBytes of [1_000, 65_536, 10_000_000]) {
      const blob = chunksOf(pack(tar), chunkBytes)
      const found = await collect(expandLayer(blob, { mediaType, diffId: digestOf(tar), maxBytes }))
      expect(found.equals(tar)).toBe(true)
    }
  })

  test('one byte more than allowed is refused before it is handed out', async () => {
    let handedOut = 0
    const expanding = (async () => {
      const options = { mediaType, maxBytes: maxBytes - 1 }
      for await (const chunk of expandLayer(chunksOf(pack(tar), 65_536), options)) handedOut += chunk.length
    })()
    await expect(expanding).rejects.toMatchObject({
      code: 'layer_too_large',
      context: { limitBytes: maxBytes - 1 },
    })
    expect(handedOut).toBeLessThan(maxBytes)
  })

  test('another tar than its description says is refused, and its end never handed out', async () => {
    let handedOut = 0
    const expanding = (async () => {
      const options = { mediaType, diffId: digestOf(Buffer.from('another')), maxBytes }
      for await (const chunk of expandLayer(chunksOf(pack(tar), 65_536), options)) handedOut += chunk.length
    })()
    await expect(expanding).rejects.toMatchObject({ code: 'layer_invalid' })
    expect(handedOut).toBeLessThan(maxBytes)
  })

  test('reading can be given up', async () => {
    for await (const _ of expandLayer(chunksOf(pack(tar), 1_000), { mediaType, maxBytes })) break
  })
})

describe.each(packed)('%s, in parts', (mediaType, pack) => {
  test('several frames in one layer are all read, wherever the chunks end', async () => {
    const parts = [someBytes(70_000, 1), Buffer.from('short'), Buffer.alloc(0), someBytes(130_000, 2)]
    const whole = Buffer.concat(parts)
    const blob = Buffer.concat(parts.map(pack))
    await fc.assert(
      fc.asyncProperty(fc.integer({ min: 1, max: blob.length }), async (chunkBytes) => {
        fc.pre(blob.length / chunkBytes < 5_000)
        const expanding = expandLayer(chunksOf(blob, chunkBytes), { mediaType, diffId: digestOf(whole), maxBytes })
        expect(digestOf(await collect(expanding))).toBe(digestOf(whole))
      }),
      { numRuns: 20, examples: [[pack(parts[0]!).length], [pack(parts[0]!).length + 1], [blob.length]] },
    )
  })

  test.each([
    ['nothing at all', () => Buffer.alloc(0)],
    ['an end that is missing', (whole: Buffer) => whole.subarray(0, -1)],
    ['half of it', (whole: Buffer) => whole.subarray(0, whole.length / 2)],
    ['one byte of it', (whole: Buffer) => whole.subarray(0, 1)],
    ['something that was never packed', () => someBytes(10_000)],
    ['garbage behind it', (whole: Buffer) => Buffer.concat([whole, Buffer.from('garbage that is no frame')])],
    ['a garbled middle', (whole: Buffer) => Buffer.concat([whole.subarray(0, 9_000), someBytes(9_000), whole])],
  ])('%s is refused', async (_, damage) => {
    const blob = chunksOf(damage(pack(tar)), 65_536)
    await expect(collect(expandLayer(blob, { mediaType, maxBytes: 1e9 }))).rejects.toMatchObject({
      code: 'layer_invalid',
    })
  })

  test('a bomb is held back by its reader: what was not asked for is not unpacked', async () => {
    const bomb = pack(Buffer.alloc(100_000_000))
    expect(bomb.length).toBeLessThan(500_000)
    const before = process.memoryUsage().arrayBuffers
    let handedOut = 0
    for await (const chunk of expandLayer(chunksOf(bomb, bomb.length), { mediaType, maxBytes: 1e9 })) {
      handedOut += chunk.length
      if (handedOut > 1_000_000) break
    }
    expect(process.memoryUsage().arrayBuffers - before).toBeLessThan(30_000_000)
  })
})

test('frames that are to be skipped are skipped', async () => {
  const skippable = Buffer.from('502a4d1804000000deadbeef', 'hex')
  const half = [tar.subarray(0, 700_000), tar.subarray(700_000)] as const
  const blob = Buffer.concat([skippable, zstdCompressSync(half[0]), skippable, zstdCompressSync(half[1]), skippable])
  const expanding = expandLayer(chunksOf(blob, 1_000), { mediaType: `${oci}+zstd`, diffId: digestOf(tar), maxBytes })
  expect((await collect(expanding)).equals(tar)).toBe(true)
})

test('what the zstd and gzip programs make is read', async () => {
  for (const [program, args, mediaType] of [
    ['zstd', ['-19', '-c'], `${oci}+zstd`],
    ['gzip', ['-9', '-c'], `${oci}+gzip`],
  ] as const) {
    const blob = execFileSync(program, args, { input: tar, maxBuffer: 2 * tar.length })
    const expanding = expandLayer(chunksOf(blob, 4_096), { mediaType, diffId: digestOf(tar), maxBytes })
    expect((await collect(expanding)).equals(tar)).toBe(true)
  }
})

test('a frame that asks for a window of 128 MiB is refused', async () => {
  const blob = chunksOf(execFileSync('zstd', ['--long=27', '-c'], { input: tar, maxBuffer: 2 * tar.length }), 65_536)
  await expect(collect(expandLayer(blob, { mediaType: `${oci}+zstd`, maxBytes }))).rejects.toMatchObject({
    code: 'layer_invalid',
  })
})

test.each(['application/json', `${oci}+xz`, `${oci}+zstd; x=y`, ''])(
  "the media type '%s' is not known",
  async (mediaType) => {
    const expanding = expandLayer(chunksOf(tar, 65_536), { mediaType, maxBytes })
    await expect(collect(expanding)).rejects.toMatchObject({ code: 'layer_invalid' })
  },
)
