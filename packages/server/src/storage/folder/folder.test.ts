import { execFileSync } from 'node:child_process'
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs'
import type { FileHandle } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, describe, expect, test } from 'vitest'
import { createBlobStore } from '../blob-store.ts'
import { blobOf, chunksOf, collect, digestOf, someBytes, testBlobStore } from '../conformance.ts'
import type { OpenedStore } from '../conformance.ts'
import type { Cipher } from '../encryption/cipher.ts'
import { createSeal } from '../encryption/seal.ts'
import { openFolder } from './folder.ts'

let path = ''
beforeEach(() => {
  path = mkdtempSync(join(tmpdir(), 'delta-blobs-'))
})
afterEach(() => rmSync(path, { recursive: true, force: true }))

function filesBelow(folder: string): string[] {
  return readdirSync(folder, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name))
}

async function open(cipher?: Cipher): Promise<OpenedStore> {
  const openStore = async () => createBlobStore({ objects: await openFolder({ path }), cipher })
  const store = await openStore()
  return {
    store,
    again: openStore,
    objects: async () =>
      filesBelow(path).map((file) => ({ key: file.slice(path.length + 1), bytes: readFileSync(file) })),
    overwrite: async (key, bytes) => writeFileSync(join(path, key), bytes),
    close: store.close,
  }
}

const cipher = createSeal(someBytes(32, 7))
testBlobStore('a folder', () => open(), { bounds: [1, 256 * 1024, 600_000] })
testBlobStore('an encrypted folder', () => open(cipher), { bounds: [1, 256 * 1024, 2 * 256 * 1024] })

describe('encryption of a folder', () => {
  const bytes = Buffer.alloc(300_000, 'a secret of the house ')
  const digest = digestOf(bytes)

  test('neither blobs nor documents can be read in the files', async () => {
    const { store, objects } = await open(cipher)
    await store.put(blobOf(bytes))
    await store.putDocument('manifests/a.json', '{"secret":1}')
    const found = await objects()
    expect(found).toHaveLength(2)
    for (const object of found) expect(object.bytes.includes('secret')).toBe(false)
  })

  test('blobs from before stay readable, and are not stored again', async () => {
    await (await open()).store.put(blobOf(bytes))
    const { store } = await open(cipher)
    expect(await store.has(digest)).toBe(bytes.length)
    expect((await collect(store.get(digest))).equals(bytes)).toBe(true)
    expect(await store.put(blobOf(bytes))).toEqual({ stored: false })
    await store.remove(digest)
    expect(filesBelow(path)).toEqual([])
  })

  test('a document that was slipped in without the key is not seen', async () => {
    await (await open()).store.putDocument('manifests/a.json', 'slipped in')
    const { store } = await open(cipher)
    expect(await store.getDocument('manifests/a.json')).toBeNull()
  })

  test('a document in the place of another is refused', async () => {
    const { store, objects, overwrite } = await open(cipher)
    await store.putDocument('a', 'one')
    await store.putDocument('b', 'two')
    const [one, two] = await objects()
    await overwrite(one!.key, two!.bytes)
    await expect(store.getDocument(one!.key.slice(-1))).rejects.toMatchObject({ code: 'blob_damaged' })
  })

  test('another key, or none, is a clear error for blobs and documents', async () => {
    const { store } = await open(cipher)
    await store.put(blobOf(bytes))
    await store.putDocument('a', 'one')
    const other = (await open(createSeal(someBytes(32, 8)))).store
    await expect(collect(other.get(digest))).rejects.toMatchObject({ code: 'storage_key_wrong' })
    await expect(other.getDocument('a')).rejects.toMatchObject({ code: 'storage_key_wrong' })
    const none = (await open()).store
    await expect(collect(none.get(digest))).rejects.toMatchObject({ code: 'storage_key_wrong' })
  })
})

describe('the folder', () => {
  const bytes = someBytes(100_000)
  const digest = digestOf(bytes)

  test('a blob lies under its digest, readable by the server alone', async () => {
    const store = createBlobStore({ objects: await openFolder({ path }) })
    await store.put(blobOf(bytes))
    const hex = digest.slice('sha256:'.length)
    expect(filesBelow(path)).toEqual([join(path, 'sha256', hex.slice(0, 2), hex)])
    expect(readFileSync(filesBelow(path)[0]!)).toEqual(bytes)
  })

  test('what a killed process left half written goes at the next start, and nothing else', async () => {
    await createBlobStore({ objects: await openFolder({ path }) }).put(blobOf(bytes))
    writeFileSync(join(path, 'unfinished/3f2a'), 'half')
    const store = createBlobStore({ objects: await openFolder({ path }) })
    expect(readdirSync(join(path, 'unfinished'))).toEqual([])
    expect(digestOf(await collect(store.get(digest)))).toBe(digest)
  })

  test('the file is durable before it has its name, and the name before the put resolves', async () => {
    const steps: string[] = []
    const named = () => filesBelow(path).some((file) => file.includes('/sha256/'))
    const sync = async (file: FileHandle) => {
      steps.push(`${(await file.stat()).isFile() ? 'file' : 'folder'} ${named() ? 'after' : 'before'} the name`)
    }
    const store = createBlobStore({ objects: await openFolder({ path, sync }) })
    mkdirSync(join(path, 'sha256', digest.slice(7, 9)), { recursive: true })
    await store.put(blobOf(bytes))
    expect(steps).toEqual(['file before the name', 'folder after the name'])
    // A killed process may have named it without more.
    await store.put(blobOf(bytes))
    expect(steps.slice(2)).toEqual(['file after the name', 'folder after the name'])
  })

  describe('a file that was hashed while it was written', () => {
    let own = ''
    beforeEach(() => {
      own = join(path, 'own')
      writeFileSync(own, bytes, { mode: 0o600 })
    })
    const unread = () => {
      throw new Error('read')
    }

    test('is taken in without being read, durable before it has its name', async () => {
      const steps: string[] = []
      const named = () => filesBelow(path).some((file) => file.includes('/sha256/'))
      const sync = async (file: FileHandle) => {
        if ((await file.stat()).isFile()) steps.push(`named: ${named()}`)
      }
      const store = createBlobStore({ objects: await openFolder({ path: join(path, 'blobs'), sync }) })
      const sent: number[] = []
      const put = store.put(
        { digest, size: bytes.length, open: unread, path: own },
        { onProgress: (n) => sent.push(n) },
      )
      expect(await put).toEqual({ stored: true })
      expect([steps, sent]).toEqual([['named: false'], [bytes.length]])
      rmSync(own)
      expect((await collect(store.get(digest))).equals(bytes)).toBe(true)
    })

    test('is read where it is gone or has another size, and refused as anything else', async () => {
      const store = createBlobStore({ objects: await openFolder({ path: join(path, 'blobs') }) })
      const short = { ...blobOf(bytes), open: () => chunksOf(bytes.subarray(1), 10_000), path: own }
      writeFileSync(own, bytes.subarray(1))
      await expect(store.put(short)).rejects.toMatchObject({ code: 'blob_damaged' })
      expect(readdirSync(join(path, 'blobs/unfinished'))).toEqual([])
      expect(await store.put({ ...blobOf(bytes), path: join(path, 'gone') })).toEqual({ stored: true })
      expect((await collect(store.get(digest))).equals(bytes)).toBe(true)
    })

    test('is encrypted all the same where there is a key', async () => {
      const store = createBlobStore({ objects: await openFolder({ path: join(path, 'blobs') }), cipher })
      await store.put({ ...blobOf(bytes), path: own })
      expect(filesBelow(join(path, 'blobs')).some((file) => readFileSync(file).includes(bytes.subarray(0, 64)))).toBe(
        false,
      )
      expect((await collect(store.get(digest))).equals(bytes)).toBe(true)
    })
  })

  test('new folders are durable too', async () => {
    let folders = 0
    const sync = async (file: FileHandle) => {
      if ((await file.stat()).isDirectory()) folders += 1
    }
    await createBlobStore({ objects: await openFolder({ path, sync }) }).put(blobOf(bytes))
    expect(folders).toBe(3)
  })

  const brokenAt = (call: number) => {
    let calls = 0
    return async (file: FileHandle) => {
      calls += 1
      if (calls === call) throw Object.assign(new Error('EIO: i/o error, fsync'), { code: 'EIO' })
      await file.sync()
    }
  }

  test.each([1, 2, 3, 4])(
    'after fsync number %i failed nothing is written any more, and reading goes on',
    async (call) => {
      const healthy = createBlobStore({ objects: await openFolder({ path }) })
      await healthy.putDocument('kept', 'x')
      const store = createBlobStore({ objects: await openFolder({ path, sync: brokenAt(call) }) })
      await expect(store.put(blobOf(bytes))).rejects.toMatchObject({ code: 'storage_failed' })
      expect(await store.has(digest)).toBeNull()
      expect(readdirSync(join(path, 'unfinished'))).toEqual([])
      await expect(store.put(blobOf(bytes))).rejects.toMatchObject({ code: 'storage_failed' })
      await expect(store.putDocument('kept', 'y')).rejects.toMatchObject({ code: 'storage_failed' })
      expect(await store.getDocument('kept')).toBe('x')
    },
  )

  test('on a file system that is really full nothing is left, what was there stays, and removing makes room', () => {
    const program = join(import.meta.dirname, 'disk-full.program.ts')
    const steps = `mount -t tmpfs -o size=1m none ${path} && exec "${process.execPath}" "${program}" ${path}`
    const said = execFileSync('unshare', ['--mount', '--propagation', 'private', 'sh', '-c', steps], {
      encoding: 'utf8',
    })
    expect(JSON.parse(said)).toEqual({
      full: 'disk_full',
      packed: 'disk_full',
      leftovers: [],
      isSeen: null,
      isKept: true,
      after: { stored: true },
    })
  })

  test('a full disk is said as such, and writing goes on when there is room', async () => {
    let full = true
    const sync = async () => {
      if (full) throw Object.assign(new Error('ENOSPC: no space left on device'), { code: 'ENOSPC' })
    }
    const store = createBlobStore({ objects: await openFolder({ path, sync }) })
    await expect(store.put(blobOf(bytes))).rejects.toMatchObject({ code: 'disk_full' })
    expect(filesBelow(path)).toEqual([])
    full = false
    expect(await store.put(blobOf(bytes))).toEqual({ stored: true })
  })
})
