import { randomUUID } from 'node:crypto'
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import type { Clock } from '../../kernel/clock.ts'
import { systemClock } from '../../kernel/clock.ts'
import type { S3Config } from '../../kernel/config.ts'
import { silentLogger } from '../../kernel/log.ts'
import { createBlobStore } from '../blob-store.ts'
import type { BlobStore } from '../blobs.ts'
import { blobOf, chunksOf, collect, digestOf, someBytes, testBlobStore } from '../conformance.ts'
import type { OpenedStore } from '../conformance.ts'
import type { Cipher } from '../encryption/cipher.ts'
import { createSeal } from '../encryption/seal.ts'
import { openS3, orphanAgeMs } from './s3.ts'
import type { S3Deps } from './s3.ts'
import { startFaultProxy } from './testing/fault-proxy.ts'
import type { Fault, FaultProxy, Seen } from './testing/fault-proxy.ts'
import { startS3Server } from './testing/server.ts'
import type { S3Server } from './testing/server.ts'
import { faultsOfSignature } from './testing/signature.ts'

const mib = 1024 * 1024
/** The smallest a service takes. */
const partBytes = 5 * mib

let server: S3Server
let proxy: FaultProxy
beforeAll(async () => {
  server = await startS3Server()
  proxy = await startFaultProxy(server.url)
}, 120_000)
afterAll(async () => {
  await proxy?.stop()
  await server?.stop()
})

/** Does not wait, but remembers how long it would have. */
function hurriedClock(): Clock & { pauses: number[] } {
  const pauses: number[] = []
  return {
    ...systemClock,
    pauses,
    async sleep(durationMs, signal) {
      signal?.throwIfAborted()
      pauses.push(durationMs)
    },
  }
}

const storeOf = (config: S3Config, options: Partial<S3Deps> & { cipher?: Cipher | undefined } = {}) => {
  const { cipher, ...deps } = options
  const objects = openS3({ config, clock: hurriedClock(), log: silentLogger, partBytes, random: () => 0, ...deps })
  return createBlobStore({ objects, cipher })
}

async function open(cipher?: Cipher): Promise<OpenedStore> {
  const prefix = `${randomUUID()}/`
  const stores: BlobStore[] = []
  const openStore = () => {
    const store = storeOf(server.config(prefix), { cipher })
    stores.push(store)
    return store
  }
  return {
    store: openStore(),
    again: async () => openStore(),
    objects: () => server.objects(prefix),
    overwrite: (key, bytes) => server.write(key, bytes),
    close: async () => {
      for (const store of stores) await store.close()
    },
  }
}

const cipher = createSeal(someBytes(32, 7))
const bounds = [1, partBytes, 2 * partBytes]
testBlobStore('S3', () => open(), { bounds, runs: 3 })
testBlobStore('encrypted S3', () => open(cipher), { bounds, runs: 3 })

describe('faults between us and the service', () => {
  const bytes = someBytes(2 * partBytes + 100_000)
  const digest = digestOf(bytes)
  const small = someBytes(100_000)
  let prefix = ''
  let clock = hurriedClock()
  let store: BlobStore
  beforeEach(() => {
    prefix = `${randomUUID()}/`
    clock = hurriedClock()
    store = storeOf(server.config(prefix, proxy.url), { clock })
    proxy.plan(() => undefined)
  })
  afterEach(() => store.close())

  /** Each kind of request fails so the first `times` times. */
  const eachFirst = (fault: Fault, times = 1) => {
    const failures = new Map<string, number>()
    return ({ method, url }: Seen) => {
      const kind = `${method} ${url}`
      const count = (failures.get(kind) ?? 0) + 1
      failures.set(kind, count)
      return count <= times ? fault : undefined
    }
  }
  const isPart = ({ method, url }: Seen) => method === 'PUT' && url.includes('partNumber=')
  const isRead = ({ method, url }: Seen) => method === 'GET' && !url.includes('?list') && !url.includes('uploads')

  const passing: [string, Fault, number][] = [
    ['503 SlowDown', { kind: 'answer', status: 503, code: 'SlowDown' }, 3],
    ['429', { kind: 'answer', status: 429, code: 'TooManyRequests' }, 2],
    ['500 InternalError', { kind: 'answer', status: 500, code: 'InternalError' }, 2],
    ['502 of something between, in HTML', { kind: 'answer', status: 502, body: '<html>Bad Gateway</html>' }, 2],
    ['a connection cut in the request', { kind: 'cut request', afterBytes: 70_000 }, 2],
    ['an answer that is lost', { kind: 'lose answer' }, 1],
    ['a connection cut in the answer', { kind: 'cut answer', afterBytes: 10 }, 1],
  ]
  test.each(passing)('%s delays and loses nothing', async (_, fault, times) => {
    proxy.plan(eachFirst(fault, times))
    for (const content of [small, bytes]) {
      await store.put(blobOf(content))
      expect(await store.has(digestOf(content))).toBe(content.length)
      expect((await collect(store.get(digestOf(content)))).equals(content)).toBe(true)
    }
    await store.putDocument('a', 'text')
    expect(await store.getDocument('a')).toBe('text')
    expect(clock.pauses.length).toBeGreaterThan(3)
    expect((await server.objects(prefix)).map(({ key }) => key)).toHaveLength(3)
    // Of an upload whose beginning was not heard of nobody knows the id; age will take it.
    expect((await server.uploads(prefix)).length).toBeLessThanOrEqual(
      ['lose answer', 'cut answer'].includes(fault.kind) ? 1 : 0,
    )
  })

  test('pauses grow, are bounded, and never shorter than the service wishes', async () => {
    proxy.plan(({ method }) => (method === 'HEAD' ? { kind: 'answer', status: 503 } : undefined))
    await expect(store.has(digest)).rejects.toMatchObject({ code: 'storage_unavailable' })
    expect(clock.pauses).toEqual([125, 250, 500, 1_000, 2_000, 4_000, 8_000])
    clock.pauses.length = 0
    const wish = (seconds: string): Fault => ({ kind: 'answer', status: 429, headers: { 'retry-after': seconds } })
    proxy.plan(eachFirst(wish('7')))
    expect(await store.has(digest)).toBeNull()
    proxy.plan(eachFirst(wish('86400')))
    expect(await store.has(digest)).toBeNull()
    expect(clock.pauses).toEqual([7_000, 60_000])
  })

  test('an outage ends a put as unavailable, and the next one goes on with the parts that are there', async () => {
    proxy.plan((request) =>
      isPart(request) && !request.url.includes('partNumber=1&') ? { kind: 'answer', status: 503 } : undefined,
    )
    await expect(store.put(blobOf(bytes))).rejects.toMatchObject({ code: 'storage_unavailable' })
    expect(await store.has(digest)).toBeNull()
    expect(await server.uploads(prefix)).toHaveLength(1)
    // After a restart, which knows nothing.
    const again = storeOf(server.config(prefix, proxy.url))
    proxy.plan(() => undefined)
    const progress: number[] = []
    await again.put(blobOf(bytes), { onProgress: (sent) => progress.push(sent) })
    expect(
      proxy.seen
        .filter(isPart)
        .map(({ url }) => /partNumber=(\d+)/.exec(url)![1])
        .sort(),
    ).toEqual(['2', '3'])
    expect(progress).toHaveLength(3)
    expect((await collect(again.get(digest))).equals(bytes)).toBe(true)
    expect(await server.uploads(prefix)).toEqual([])
    await again.close()
  })

  test('an encrypted upload goes on as well, since the same bytes come again', async () => {
    const config = server.config(prefix, proxy.url)
    proxy.plan((request) => (request.url.includes('partNumber=3') ? { kind: 'answer', status: 503 } : undefined))
    const first = storeOf(config, { cipher })
    await expect(first.put(blobOf(bytes))).rejects.toMatchObject({ code: 'storage_unavailable' })
    await first.close()
    proxy.plan(() => undefined)
    const again = storeOf(config, { cipher })
    await again.put(blobOf(bytes))
    expect(proxy.seen.filter(isPart)).toHaveLength(1)
    expect((await collect(again.get(digest))).equals(bytes)).toBe(true)
    await again.close()
  })

  test('a part that is there but is another is sent again', async () => {
    const other = Buffer.from(bytes)
    other[0]! ^= 1
    const hex = digest.slice('sha256:'.length)
    const key = `sha256/${hex.slice(0, 2)}/${hex}`
    proxy.plan((request) => (request.url.includes('partNumber=3') ? { kind: 'answer', status: 503 } : undefined))
    // Below where digests are verified, as a disk that garbles would do it.
    const objects = openS3({ config: server.config(prefix, proxy.url), clock, log: silentLogger, partBytes })
    const put = objects.put({ key, size: other.length, open: () => chunksOf(other, mib) })
    await expect(put).rejects.toMatchObject({ code: 'storage_unavailable' })
    await objects.close()
    proxy.plan(() => undefined)
    await store.put(blobOf(bytes))
    expect(
      proxy.seen
        .filter(isPart)
        .map(({ url }) => /partNumber=(\d+)/.exec(url)![1])
        .sort(),
    ).toEqual(['1', '3'])
    expect((await collect(store.get(digest))).equals(bytes)).toBe(true)
  })

  test('of a source that lied nothing stays, no part either', async () => {
    const lying = { ...blobOf(bytes), open: () => chunksOf(someBytes(bytes.length, 2), mib) }
    await expect(store.put(lying)).rejects.toMatchObject({ code: 'blob_damaged' })
    expect(await server.uploads(prefix)).toEqual([])
    expect(await server.objects(prefix)).toEqual([])
  })

  test('a download cut again and again goes on from where it was', async () => {
    await store.put(blobOf(bytes))
    proxy.plan((request) => (isRead(request) ? { kind: 'cut answer', afterBytes: mib } : undefined))
    expect((await collect(store.get(digest))).equals(bytes)).toBe(true)
    const reads = proxy.seen.filter(isRead)
    expect(reads.length).toBeGreaterThanOrEqual(10)
    expect(reads[0]!.headers.range).toBeUndefined()
    expect(reads[1]!.headers.range).toMatch(/^bytes=\d+-$/)
    expect(reads[1]!.headers['if-match']).toBeDefined()
  })

  test('a download that gets nowhere ends as unavailable', async () => {
    await store.put(blobOf(small))
    proxy.plan((request) => (isRead(request) ? { kind: 'cut answer', afterBytes: 0 } : undefined))
    await expect(collect(store.get(digestOf(small)))).rejects.toMatchObject({ code: 'storage_unavailable' })
    expect(proxy.seen.filter(isRead)).toHaveLength(8)
  })

  test('a slow service is waited for', async () => {
    await store.put(blobOf(small))
    proxy.plan(() => ({ kind: 'slow', pieceBytes: 10_000, pauseMs: 5 }))
    expect((await collect(store.get(digestOf(small)))).equals(small)).toBe(true)
    expect(clock.pauses).toEqual([])
  })

  test.each([0, 60_000, 99_999])(
    'a bit turned on the way down at byte %i is noticed, and the blob named',
    async (at) => {
      await store.put(blobOf(small))
      proxy.plan((request) => (isRead(request) ? { kind: 'turn a bit', at } : undefined))
      await expect(collect(store.get(digestOf(small)))).rejects.toMatchObject({
        code: 'blob_damaged',
        context: { digest: digestOf(small) },
      })
    },
  )

  test.each([
    ['whole', small],
    ['in parts', bytes],
  ])('an ETag of other bytes is not believed: what was sent %s is sent again', async (_, content) => {
    const wrong: Fault = { kind: 'change header', name: 'etag', value: `"${'0'.repeat(32)}"` }
    const failing = eachFirst(wrong)
    proxy.plan((request) => (request.method === 'PUT' ? failing(request) : undefined))
    await store.put(blobOf(content))
    const bodies = proxy.seen.filter(({ method }) => method === 'PUT').length
    expect(bodies).toBe(content === small ? 2 : 6)
    expect((await collect(store.get(digestOf(content)))).equals(content)).toBe(true)
    proxy.plan(({ method }) => (method === 'PUT' ? wrong : undefined))
    const other = blobOf(Buffer.concat([content, Buffer.from('x')]))
    await expect(store.put(other)).rejects.toMatchObject({ code: 'storage_unavailable' })
  })

  test('an ETag under KMS is no digest, and no reason to doubt', async () => {
    const headers: Fault = { kind: 'change header', name: 'x-amz-server-side-encryption', value: 'aws:kms' }
    proxy.plan(({ method }) => (method === 'PUT' ? headers : undefined))
    expect(await store.put(blobOf(small))).toEqual({ stored: true })
  })

  const refusals: [string, Fault][] = [
    ['ExpiredToken', { kind: 'answer', status: 403, code: 'ExpiredToken' }],
    ['AccessDenied', { kind: 'answer', status: 403, code: 'AccessDenied' }],
    ['NoSuchBucket', { kind: 'answer', status: 404, code: 'NoSuchBucket' }],
    ['PermanentRedirect', { kind: 'answer', status: 301, code: 'PermanentRedirect' }],
  ]
  test.each(refusals)('%s is refused at once, by name', async (code, fault) => {
    proxy.plan(({ method }) => (method === 'HEAD' ? { ...fault, body: '' } : fault))
    const refused = { code: 'storage_refused', message: expect.stringContaining(code) }
    await expect(store.putDocument('a', 'x')).rejects.toMatchObject(refused)
    await expect(store.getDocument('a')).rejects.toMatchObject(refused)
    expect(clock.pauses).toEqual([])
  })

  test('wrong credentials and a missing bucket are refused by the service itself', async () => {
    const config = server.config(prefix)
    for (const wrong of [{ secretAccessKey: 'wrong' }, { accessKeyId: 'AKIANOBODY' }, { bucket: 'no-such-bucket' }]) {
      const other = storeOf({ ...config, ...wrong })
      await expect(other.getDocument('a')).rejects.toMatchObject({ code: 'storage_refused' })
      await other.close()
    }
  })

  test('the secret is in no error', async () => {
    const secretAccessKey = 'a-wrong-secret-nobody-should-see'
    const other = storeOf({ ...server.config(prefix), secretAccessKey })
    const error = await other.getDocument('a').catch((cause: unknown) => cause)
    expect(error).toMatchObject({ code: 'storage_refused' })
    expect(JSON.stringify((error as { toBody(id: string): unknown }).toBody('req_1'))).not.toContain(secretAccessKey)
    await other.close()
  })

  test('nobody there is unavailable, not a loss', async () => {
    const other = storeOf({ ...server.config(prefix), endpoint: 'http://127.0.0.1:1' })
    await expect(other.put(blobOf(small))).rejects.toMatchObject({ code: 'storage_unavailable' })
    await other.close()
  })

  test('giving up ends at once, also between two tries', async () => {
    const giveUp = new AbortController()
    const slow: Clock = { ...systemClock, sleep: (_, signal) => systemClock.sleep(3_600_000, signal) }
    const patient = storeOf(server.config(prefix, proxy.url), { clock: slow })
    proxy.plan((_, number) => {
      if (number === 0) setTimeout(() => giveUp.abort(new Error('given up')), 20)
      return { kind: 'answer', status: 503 }
    })
    await expect(patient.put(blobOf(small), { signal: giveUp.signal })).rejects.toThrow('given up')
    await patient.close()
  })

  test('an upload is a fresh one where the service has no list of them', async () => {
    proxy.plan(({ method, url }) =>
      method === 'GET' && url.includes('uploads') ? { kind: 'answer', status: 501, code: 'NotImplemented' } : undefined,
    )
    await store.put(blobOf(bytes))
    expect((await collect(store.get(digest))).equals(bytes)).toBe(true)
  })

  test('uploads that nobody goes on with are dropped after a week', async () => {
    proxy.plan((request) => (request.url.includes('partNumber=3') ? { kind: 'answer', status: 503 } : undefined))
    await expect(store.put(blobOf(bytes))).rejects.toMatchObject({ code: 'storage_unavailable' })
    const put = async (now: number) => {
      const later = storeOf(server.config(prefix), { clock: { ...hurriedClock(), now: () => now } })
      await later.put(blobOf(someBytes(10, now % 1_000_003)))
      await expect
        .poll(() => server.uploads(prefix), { timeout: 2_000 })
        .toHaveLength(now > systemClock.now() + orphanAgeMs ? 0 : 1)
      await later.close()
    }
    await put(systemClock.now())
    await put(systemClock.now() + orphanAgeMs + 60_000)
  })
})

describe('what is sent', () => {
  let prefix = ''
  const bytes = someBytes(2 * partBytes + 5)
  beforeEach(() => {
    prefix = `${randomUUID()}/`
    proxy.plan(() => undefined)
  })

  test('every request is signed, over the digest of its body', async () => {
    const config = server.config(prefix, proxy.url)
    const store = storeOf(config)
    await store.put(blobOf(bytes))
    await store.put(blobOf(bytes.subarray(0, 9)))
    await collect(store.get(digestOf(bytes)))
    await store.putDocument('a+b'.replace('+', '/'), 'x')
    for await (const _ of store.listDocuments('')) void _
    await store.remove(digestOf(bytes))
    expect(proxy.seen.map(({ method }) => method)).toEqual(
      expect.arrayContaining(['GET', 'PUT', 'POST', 'HEAD', 'DELETE']),
    )
    for (const request of proxy.seen) expect(faultsOfSignature(request, config.secretAccessKey)).toEqual([])
    // The verifier notices what is wrong.
    const part = proxy.seen.find(({ url }) => url.includes('partNumber=1'))!
    expect(faultsOfSignature(part, 'another secret')).toEqual(['the signature is not the one of this request'])
    expect(faultsOfSignature({ ...part, body: Buffer.from('x') }, config.secretAccessKey)).toHaveLength(1)
    expect(faultsOfSignature({ ...part, url: `${part.url}0` }, config.secretAccessKey)).toHaveLength(1)
    await store.close()
  })

  test('every body has its MD5', async () => {
    const store = storeOf(server.config(prefix, proxy.url))
    await store.put(blobOf(bytes))
    await store.putDocument('a', 'x')
    const bodies = proxy.seen.filter(({ method }) => method === 'PUT')
    expect(bodies).toHaveLength(4)
    for (const { headers } of bodies) expect(headers['content-md5']).toMatch(/^[A-Za-z0-9+/]{22}==$/)
    await store.close()
  })

  test('how the service is to encrypt is asked for; under KMS parts have checksums too', async () => {
    const refuse = ({ method }: Seen): Fault | undefined =>
      method === 'PUT' || method === 'POST' ? { kind: 'answer', status: 400, code: 'Enough' } : undefined
    const askedWith = async (sse: S3Config['sse'], size: number) => {
      const store = storeOf({ ...server.config(prefix, proxy.url), sse })
      proxy.plan(refuse)
      await expect(store.put(blobOf(bytes.subarray(0, size)))).rejects.toMatchObject({ code: 'storage_refused' })
      await store.close()
      return proxy.seen.findLast(({ method }) => method === 'PUT' || method === 'POST')!.headers
    }
    for (const size of [10, bytes.length]) {
      expect(await askedWith(undefined, size)).not.toHaveProperty('x-amz-server-side-encryption')
      expect(await askedWith({ algorithm: 'AES256' }, size)).toMatchObject({ 'x-amz-server-side-encryption': 'AES256' })
      expect(await askedWith({ algorithm: 'aws:kms', keyId: 'key-1' }, size)).toMatchObject({
        'x-amz-server-side-encryption': 'aws:kms',
        'x-amz-server-side-encryption-aws-kms-key-id': 'key-1',
        ...(size === 10 ? { 'x-amz-checksum-sha256': expect.any(String) } : { 'x-amz-checksum-algorithm': 'SHA256' }),
      })
    }
  })
})
