import { createHash } from 'node:crypto'
import { createReadStream, createWriteStream } from 'node:fs'
import { rm } from 'node:fs/promises'
import { join } from 'node:path'
import { Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import type { Clock } from '../kernel/clock.ts'
import { DeltaError } from '../kernel/errors.ts'
import { newId } from '../kernel/ids.ts'
import type { BlobStore, Digest } from '../storage/blobs.ts'
import { compressLayer } from '../storage/compress.ts'
import { expandLayer } from '../storage/expand.ts'
import type { LayerRecord } from './records.ts'
import { workspaceLimits } from './schema.ts'
import type { WorkspaceStore } from './store.ts'

export interface LayersDeps {
  store: WorkspaceStore
  blobs: BlobStore
  clock: Clock
  /** Where a layer lies between packing and its end in storage. */
  folder: string
}

/** A layer of an image from elsewhere, whose bytes can be asked for. */
export interface IncomingLayer {
  digest: Digest
  diffId: Digest
  mediaType: string
  size: number
  open(start: number): AsyncIterable<Uint8Array>
}

export interface LayerSource extends IncomingLayer {
  tarSize: number
  /** The file that holds it, hashed while it was written. */
  path?: string
}

/** In a file of ours, which is to be discarded. */
export interface LayerFile extends LayerSource {
  path: string
}

/** `parentId`: the snapshot that the layer is the difference from, null for the template. @default as the row says */
export type LayerOwner = { snapshotId: string; parentId?: string | null } | { template: string; identity: string }

export const zstdLayer = 'application/vnd.oci.image.layer.v1.tar+zstd'
const claimTries = 100
const claimRetryMs = 100

export type Layers = ReturnType<typeof createLayers>

/** Between files and storage. A layer's row says who needs it before its first byte is sent, so nothing collects it meanwhile. */
export function createLayers({ store, blobs, clock, folder }: LayersDeps) {
  /** Digests that are being written: whatever the rows say, they are not removed now. */
  const writing = new Map<string, number>()

  async function pack(tar: AsyncIterable<Uint8Array>, signal: AbortSignal): Promise<LayerFile> {
    const file = await compressLayer(tar, { folder, signal })
    return { mediaType: zstdLayer, ...file, open: openFile(file.path) }
  }

  /** Durable in storage when it resolves, and its owner's. Equal layers are stored once. Returns how many bytes were sent. */
  async function keep(
    { digest, diffId, mediaType, size, tarSize, open: openAt, path }: LayerSource,
    owner: LayerOwner,
    {
      signal,
      onProgress,
      isPacked = true,
    }: { signal?: AbortSignal; onProgress?: (sentBytes: number) => void; isPacked?: boolean } = {},
  ): Promise<number> {
    const layer = { digest, diffId, mediaType, size, tarSize }
    writing.set(layer.digest, (writing.get(layer.digest) ?? 0) + 1)
    try {
      await claim({ ...layer, state: 'storing', createdAt: clock.now() }, owner, { isPacked })
      const source = { digest, size, open: openAt, path }
      const { stored } = await blobs.put(source, { ...(signal && { signal }), ...(onProgress && { onProgress }) })
      await store.setStored(layer.digest)
      return stored ? layer.size : 0
    } finally {
      const left = writing.get(layer.digest)! - 1
      if (left === 0) writing.delete(layer.digest)
      else writing.set(layer.digest, left)
    }
  }

  async function claim(layer: LayerRecord, owner: LayerOwner, how: { isPacked: boolean }): Promise<void> {
    for (let tries = 1; !(await store.claimLayer(layer, owner, how)); tries += 1) {
      if (tries === claimTries) throw new Error(`The layer ${layer.digest} is being removed for too long`)
      await clock.sleep(claimRetryMs)
    }
  }

  /** All of it in a file. Whoever has not the bytes gets no further: a digest alone opens nobody's layer. */
  async function fetch(
    { open: openAt, ...layer }: IncomingLayer,
    { signal }: { signal?: AbortSignal | undefined },
  ): Promise<LayerFile> {
    const path = join(folder, newId('snp'))
    const file = { ...layer, path, tarSize: layer.size, open: openFile(path) }
    const hash = createHash('sha256')
    let bytes = 0
    const counted = async function* (): AsyncGenerator<Uint8Array> {
      for await (const chunk of openAt(0)) {
        bytes += chunk.byteLength
        if (bytes > layer.size) break
        hash.update(chunk)
        yield chunk
      }
    }
    try {
      const source = Readable.from(counted(), { objectMode: false })
      await pipeline(source, createWriteStream(path, { mode: 0o600 }), { ...(signal && { signal }) })
      const found = `sha256:${hash.digest('hex')}`
      if (bytes !== layer.size || found !== layer.digest) {
        throw new DeltaError('image_invalid', 'The image can not be used', {
          cause: `the layer ${layer.digest} came with ${bytes} bytes and the digest ${found}`,
        })
      }
      return file
    } catch (error) {
      await discard(file)
      throw error
    }
  }

  /** Verified by both its digests while it is read. */
  function open({ digest, diffId, mediaType }: LayerRecord): AsyncIterable<Uint8Array> {
    const maxBytes = workspaceLimits.layerBytes
    return expandLayer(blobs.get(digest as Digest), { mediaType, diffId: diffId as Digest, maxBytes })
  }

  const discard = ({ path }: LayerFile): Promise<void> => rm(path, { force: true })

  return { pack, fetch, keep, open, discard, isWriting: (digest: string) => writing.has(digest) }
}

export function openFile(path: string): (start: number) => AsyncIterable<Uint8Array> {
  return (start) => createReadStream(path, { start })
}
