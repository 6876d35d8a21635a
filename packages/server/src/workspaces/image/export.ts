import { createHash } from 'node:crypto'
import type { ImageRecord } from '../records.ts'
import type { ImageConfig } from './schema.ts'
import { tarEnd, tarHeader, tarPadding } from './tar.ts'

/** One layer as it leaves. */
export interface ImageLayer {
  digest: string
  diffId: string
  mediaType: string
  size: number
  open(): AsyncIterable<Uint8Array>
}

export interface ImageSource {
  layers: readonly ImageLayer[]
  /** As it was imported or built; then the documents leave as they came. */
  image: ImageRecord | null
  /** Where only a config is known, from a snapshot before. */
  config: ImageConfig
  architecture: string
  createdAt: number
  /** What `index.json` calls it. */
  reference: string
}

const imageManifest = 'application/vnd.oci.image.manifest.v1+json'
const imageConfig = 'application/vnd.oci.image.config.v1+json'

/** An OCI archive, a tar of an image layout, at flat memory: layers go from storage to the reader, verified on their way. */
export async function* exportArchive(source: ImageSource): AsyncGenerator<Uint8Array> {
  const { configText, manifestText } = documentsOf(source)
  const manifest = digestOf(manifestText)
  const index = {
    schemaVersion: 2,
    mediaType: 'application/vnd.oci.image.index.v1+json',
    manifests: [
      {
        mediaType: imageManifest,
        digest: manifest,
        size: Buffer.byteLength(manifestText),
        annotations: { 'org.opencontainers.image.ref.name': source.reference },
      },
    ],
  }
  yield* entry('oci-layout', JSON.stringify({ imageLayoutVersion: '1.0.0' }))
  yield* entry('index.json', JSON.stringify(index))
  yield* entry(pathOf(manifest), manifestText)
  yield* entry(pathOf(digestOf(configText)), configText)
  const sent = new Set<string>()
  for (const { digest, size, open } of source.layers) {
    if (sent.has(digest)) continue
    sent.add(digest)
    yield tarHeader(pathOf(digest), size)
    yield* open()
    yield tarPadding(size)
  }
  yield tarEnd
}

/** Made of the snapshot alone, so that exporting it twice gives the same bytes. */
function documentsOf({ layers, image, config, architecture, createdAt }: ImageSource) {
  if (image?.configText !== undefined && image.manifestText !== undefined) {
    return { configText: image.configText, manifestText: image.manifestText }
  }
  const created = new Date(createdAt).toISOString()
  const configText = JSON.stringify({
    created,
    architecture,
    os: 'linux',
    config,
    rootfs: { type: 'layers', diff_ids: layers.map(({ diffId }) => diffId) },
    history: layers.map(() => ({ created, created_by: 'snapshot' })),
  })
  const manifestText = JSON.stringify({
    schemaVersion: 2,
    mediaType: imageManifest,
    config: { mediaType: imageConfig, digest: digestOf(configText), size: Buffer.byteLength(configText) },
    layers: layers.map(({ mediaType, digest, size }) => ({ mediaType, digest, size })),
  })
  return { configText, manifestText }
}

function* entry(name: string, text: string): Generator<Uint8Array> {
  const bytes = Buffer.from(text)
  yield tarHeader(name, bytes.byteLength)
  yield bytes
  yield tarPadding(bytes.byteLength)
}

function digestOf(text: string): string {
  return `sha256:${createHash('sha256').update(text).digest('hex')}`
}

function pathOf(digest: string): string {
  return `blobs/sha256/${digest.slice('sha256:'.length)}`
}
