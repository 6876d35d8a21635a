import { createCipheriv, createHash } from 'node:crypto'
import fc from 'fast-check'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import type { BlobSource, BlobStore, Bytes, Digest } from './blobs.ts'

export interface OpenedStore {
  store: BlobStore
  /** Another one on the same place, as after a restart. */
  again(): Promise<BlobStore>
  /** Every object that lies there, as it lies there. */
  objects(): Promise<{ key: string; bytes: Buffer }[]>
  /** Writes behind the store's back. */
  overwrite(key: string, bytes: Buffer): Promise<void>
  close(): Promise<void>
}

export interface StoreConformanceOptions {
  /** Sizes around which the store cuts what it is given, each tried with one byte less and one more. */
  bounds: number[]
  /** @default 20 */
  runs?: number
}

export function digestOf(bytes: Uint8Array): Digest {
  return `sha256:${createHash('sha256').update(bytes).digest('hex')}`
}

/** Noise, the same for the same seed. */
export function someBytes(size: number, seed = 1): Buffer {
  const key = createHash('sha256').update(`${seed}`).digest()
  return createCipheriv('aes-256-ctr', key, Buffer.alloc(16)).update(Buffer.alloc(size))
}

export function blobOf(bytes: Buffer, chunkBytes = 64 * 1024): BlobSource {
  return { digest: digestOf(bytes), size: bytes.length, open: (start) => chunksOf(bytes.subarray(start), chunkBytes) }
}

export async function* chunksOf(bytes: Buffer, chunkBytes: number): Bytes {
  for (let at = 0; at < bytes.length; at += chunkBytes) yield bytes.subarray(at, at + chunkBytes)
}

export async function collect(source: Bytes): Promise<Buffer> {
  const chunks: Uint8Array[] = []
  for await (const chunk of source) chunks.push(chunk)
  return Buffer.concat(chunks)
}

async function listed<T>(items: AsyncIterable<T>): Promise<T[]> {
  const found: T[] = []
  for await (const item of items) found.push(item)
  return found
}

/** What every store promises, whatever lies behind it and whether it encrypts. */
export function testBlobStore(name: string, open: () => Promise<OpenedStore>, options: StoreConformanceOptions): void {
  describe(name, () => {
    let opened: OpenedStore
    let store: BlobStore
    beforeEach(async () => {
      opened = await open()
      store = opened.store
    })
    afterEach(() => opened.close())

    const bytes = someBytes(300_000)
    const digest = digestOf(bytes)

    describe('blobs', () => {
      test('what was put comes back, with its size, also after a restart', async () => {
        expect(await store.put(blobOf(bytes))).toEqual({ stored: true })
        for (const each of [store, await opened.again()]) {
          expect(await each.has(digest)).toBe(bytes.length)
          expect(digestOf(await collect(each.get(digest)))).toBe(digest)
        }
      })

      test('what is there already is not sent again', async () => {
        await store.put(blobOf(bytes))
        const blob = { ...blobOf(bytes), open: () => expect.unreachable('it was opened') }
        expect(await store.put(blob)).toEqual({ stored: false })
      })

      test('an empty blob is a blob', async () => {
        await store.put(blobOf(Buffer.alloc(0)))
        expect(await store.has(digestOf(Buffer.alloc(0)))).toBe(0)
        expect(await collect(store.get(digestOf(Buffer.alloc(0))))).toHaveLength(0)
      })

      test('progress ends at the size and never goes back', async () => {
        const seen: number[] = []
        await store.put(blobOf(bytes), { onProgress: (sent) => seen.push(sent) })
        expect(seen.at(-1)).toBe(bytes.length)
        expect(seen.toSorted((a, b) => a - b)).toEqual(seen)
      })

      test.each([
        ['other bytes', someBytes(300_000, 2)],
        ['too few', bytes.subarray(1)],
        ['too many', Buffer.concat([bytes, Buffer.from('x')])],
        ['none', Buffer.alloc(0)],
      ])('%s under a digest are refused and leave nothing', async (_, wrong) => {
        const put = store.put({ digest, size: bytes.length, open: () => chunksOf(wrong, 10_000) })
        await expect(put).rejects.toMatchObject({ code: 'blob_damaged', context: { digest } })
        expect(await store.has(digest)).toBeNull()
        expect(await opened.objects()).toEqual([])
        expect(await store.put(blobOf(bytes))).toEqual({ stored: true })
      })

      test('a source that fails fails the put and leaves nothing', async () => {
        const failing = async function* () {
          yield bytes.subarray(0, 100_000)
          throw new Error('the disk went away')
        }
        await expect(store.put({ digest, size: bytes.length, open: failing })).rejects.toThrow('the disk went away')
        expect(await opened.objects()).toEqual([])
      })

      test('a put that is given up leaves nothing, and can be done again', async () => {
        const giveUp = new AbortController()
        const slow = async function* () {
          yield bytes.subarray(0, 100_000)
          giveUp.abort(new Error('given up'))
          yield bytes.subarray(100_000)
        }
        const put = store.put({ digest, size: bytes.length, open: slow }, { signal: giveUp.signal })
        await expect(put).rejects.toThrow('given up')
        expect(await store.has(digest)).toBeNull()
        expect(await store.put(blobOf(bytes))).toEqual({ stored: true })
      })

      test('the same blob put ten times at once is stored once', async () => {
        const answers = await Promise.all(Array.from({ length: 10 }, () => store.put(blobOf(bytes))))
        expect(answers.some(({ stored }) => stored)).toBe(true)
        expect(await opened.objects()).toHaveLength(1)
        expect(digestOf(await collect(store.get(digest)))).toBe(digest)
      })

      test('a missing blob is named', async () => {
        await expect(collect(store.get(digest))).rejects.toMatchObject({ code: 'blob_missing', context: { digest } })
        expect(await store.has(digest)).toBeNull()
      })

      test('removing takes it away, and removing what is missing succeeds', async () => {
        await store.put(blobOf(bytes))
        await store.remove(digest)
        await store.remove(digest)
        expect(await store.has(digest)).toBeNull()
        expect(await opened.objects()).toEqual([])
      })

      test('the list names each blob with its size and when it came', async () => {
        expect(await listed(store.list())).toEqual([])
        const blobs = [1, 2, 3].map((seed) => blobOf(someBytes(1_000 * seed, seed)))
        for (const blob of blobs) await store.put(blob)
        await store.putDocument('manifests/a.json', '{}')
        const found = await listed(store.list())
        const shown = found.map((blob) => ({ digest: blob.digest, size: blob.size }))
        expect(shown).toHaveLength(3)
        expect(shown).toEqual(expect.arrayContaining(blobs.map((blob) => ({ digest: blob.digest, size: blob.size }))))
        for (const { modifiedAt } of found) expect(modifiedAt).toBeGreaterThan(1_600_000_000_000)
      })

      test('reading can be given up at any point', async () => {
        await store.put(blobOf(bytes))
        for await (const _ of store.get(digest)) break
        const signal = AbortSignal.abort(new Error('given up'))
        await expect(collect(store.get(digest, { signal }))).rejects.toThrow('given up')
      })

      test.each(['sha256:../../etc/passwd', 'sha256:AB', 'md5:00', `sha256:${'A'.repeat(64)}`])(
        '%s is no digest',
        async (wrong) => {
          const refused = wrong as Digest
          await expect(store.has(refused)).rejects.toMatchObject({ code: 'storage_refused' })
          await expect(collect(store.get(refused))).rejects.toMatchObject({ code: 'storage_refused' })
          await expect(store.remove(refused)).rejects.toMatchObject({ code: 'storage_refused' })
          const put = store.put({ ...blobOf(bytes), digest: refused })
          await expect(put).rejects.toMatchObject({ code: 'storage_refused' })
        },
      )
    })

    describe('what was changed behind its back', () => {
      const damages: [string, (bytes: Buffer) => Buffer][] = [
        ['a bit turned at the start', (found) => turned(found, 0)],
        ['a bit turned in the middle', (found) => turned(found, Math.floor(found.length / 2))],
        ['a bit turned at the end', (found) => turned(found, found.length - 1)],
        ['the last byte cut off', (found) => found.subarray(0, -1)],
        ['the second half cut off', (found) => found.subarray(0, found.length / 2)],
        ['all cut off', () => Buffer.alloc(0)],
        ['a byte more', (found) => Buffer.concat([found, Buffer.from('x')])],
        ['two stretches swapped', (found) => swapped(found)],
      ]
      test.each(damages)('%s: the blob is named, and its end never handed out', async (_, damage) => {
        await store.put(blobOf(bytes))
        const [object] = await opened.objects()
        await opened.overwrite(object!.key, damage(object!.bytes))
        let handedOut = 0
        const reading = (async () => {
          for await (const chunk of store.get(digest)) handedOut += chunk.length
        })()
        await expect(reading).rejects.toMatchObject({ code: 'blob_damaged', context: { digest } })
        expect(handedOut).toBeLessThan(bytes.length)
      })

      test('one blob in the place of another is noticed', async () => {
        const other = someBytes(300_000, 2)
        await store.put(blobOf(bytes))
        await store.put(blobOf(other))
        const hex = (of: Digest) => of.slice('sha256:'.length)
        const objects = await opened.objects()
        const find = (of: Digest) => objects.find(({ key }) => key.endsWith(hex(of)))!
        await opened.overwrite(find(digest).key, find(digestOf(other)).bytes)
        await expect(collect(store.get(digest))).rejects.toMatchObject({ code: 'blob_damaged', context: { digest } })
      })
    })

    describe('documents', () => {
      test('are replaced as a whole, read, listed and removed', async () => {
        expect(await store.getDocument('manifests/wsp_1/snp_1.json')).toBeNull()
        await store.putDocument('manifests/wsp_1/snp_1.json', '{"a":1}')
        await store.putDocument('manifests/wsp_1/snp_1.json', '{"ä":"€ 𝄞"}')
        await store.putDocument('manifests/wsp_1', 'a name that is also the start of another')
        await store.putDocument('manifests/wsp_2/snp_1.json', '')
        await store.putDocument('other', 'x')
        const again = await opened.again()
        expect(await again.getDocument('manifests/wsp_1/snp_1.json')).toBe('{"ä":"€ 𝄞"}')
        expect(await again.getDocument('manifests/wsp_2/snp_1.json')).toBe('')
        expect(await listed(again.listDocuments('manifests/wsp_1/'))).toEqual(['manifests/wsp_1/snp_1.json'])
        expect(await listed(again.listDocuments(''))).toEqual([
          'manifests/wsp_1',
          'manifests/wsp_1/snp_1.json',
          'manifests/wsp_2/snp_1.json',
          'other',
        ])
        await again.removeDocument('other')
        await again.removeDocument('other')
        expect(await again.getDocument('other')).toBeNull()
        expect(await listed(again.list())).toEqual([])
      })

      test('one of 1 MiB is kept, a larger one refused', async () => {
        const text = 'x'.repeat(1024 * 1024)
        await store.putDocument('large', text)
        expect(await store.getDocument('large')).toBe(text)
        await expect(store.putDocument('large', `${text}x`)).rejects.toMatchObject({ code: 'storage_refused' })
        expect(await store.getDocument('large')).toBe(text)
      })

      test.each(['', '/a', 'a//b', 'a/', '../a', 'a/../b', '.a', 'a b', 'ä', 'a%2Fb', 'a\0b', 'x'.repeat(181)])(
        "'%s' can not be a name",
        async (refused) => {
          await expect(store.putDocument(refused, 'x')).rejects.toMatchObject({ code: 'storage_refused' })
          await expect(store.getDocument(refused)).rejects.toMatchObject({ code: 'storage_refused' })
          await expect(async () => store.removeDocument(refused)).rejects.toMatchObject({ code: 'storage_refused' })
        },
      )
    })

    test('any size around the bounds, in chunks of any size, comes back', async () => {
      const nearBounds = options.bounds.flatMap((bound) => [bound - 1, bound, bound + 1])
      const sizes = fc.oneof(fc.constantFrom(...nearBounds), fc.integer({ min: 0, max: Math.max(...nearBounds) }))
      const blobs = fc.tuple(sizes, fc.integer({ min: 700, max: 300_000 }), fc.nat())
      await fc.assert(
        fc.asyncProperty(blobs, async ([size, chunkBytes, seed]) => {
          const blob = blobOf(someBytes(size, seed), chunkBytes)
          await store.put(blob)
          expect(await store.has(blob.digest)).toBe(size)
          expect(digestOf(await collect(store.get(blob.digest)))).toBe(blob.digest)
        }),
        { numRuns: options.runs ?? 20, examples: nearBounds.map((size) => [[size, 65_536, size]]) },
      )
    })
  })
}

function turned(bytes: Buffer, at: number): Buffer {
  const copy = Buffer.from(bytes)
  copy[at]! ^= 1
  return copy
}

function swapped(bytes: Buffer): Buffer {
  const stretch = Math.floor(bytes.length / 4)
  const part = (number: number) => bytes.subarray(stretch * number, stretch * (number + 1))
  return Buffer.concat([part(0), part(2), part(1), part(3), bytes.subarray(stretch * 4)])
}
