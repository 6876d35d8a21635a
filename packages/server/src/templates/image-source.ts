import { open } from 'node:fs/promises'
import { contentOf } from './context/context.ts'
import { indexTar, readAt } from './context/tar-index.ts'
import type { TarEntry } from './context/tar-index.ts'
import type { ImageConfig } from './dockerfile/evaluate.ts'
import { digestOf } from './registry/client.ts'
import type { RemoteLayer } from './registry/client.ts'
import {
  checkPlatform,
  imageInvalid,
  imageLimits,
  pickPlatform,
  readImageDocument,
  readManifest,
} from './registry/documents.ts'
import type { Digest, ImageDocument } from './registry/documents.ts'

/** An image whose documents are read and checked, wherever it comes from. */
export interface ImageSource {
  /** Of its manifest; of its configuration where it has none. */
  digest: Digest
  document: ImageDocument
  layers: RemoteLayer[]
}

const archiveEntries = 20_000
const mostDepth = 3

/** An OCI image layout in a tar, or what `docker save` makes. */
export async function openArchive(path: string, platform: string): Promise<ImageSource> {
  const entries = await indexTar(path, { entries: archiveEntries })
  const index = entries.get('index.json')
  if (index) return openLayout(path, entries, { index, platform })
  const saved = entries.get('manifest.json')
  if (saved) return openSaved(path, entries, { saved, platform })
  throw imageInvalid('it has neither an index.json (OCI layout) nor a manifest.json (docker save)')
}

interface Layout {
  index: TarEntry
  platform: string
}

async function openLayout(
  path: string,
  entries: Map<string, TarEntry>,
  { index, platform }: Layout,
): Promise<ImageSource> {
  let bytes = await documentOf(path, index, imageLimits.manifestBytes)
  let digest = digestOf(bytes)
  for (let depth = 0; depth <= mostDepth; depth += 1) {
    const found = readManifest(bytes)
    if (found.kind === 'manifest') {
      const { manifest } = found
      const config = await blobDocument(path, entries, manifest.config.digest, imageLimits.configBytes)
      const document = readImageDocument(config, manifest)
      checkPlatform(document, platform)
      const layers = manifest.layers.map((layer, at): RemoteLayer => {
        const { offset, size } = blobEntry(entries, layer.digest)
        if (size !== layer.size)
          throw imageInvalid(`the layer ${layer.digest} has ${size} bytes and was said to have ${layer.size}`)
        const diffId = document.rootfs.diff_ids[at]!
        return { ...layer, diffId, open: (start) => contentOf(path, offset + start, size - start) }
      })
      return { digest, document, layers }
    }
    ;({ digest } = pickPlatform(found.index, platform))
    bytes = await blobDocument(path, entries, digest, imageLimits.manifestBytes)
  }
  throw imageInvalid(`it is an index of indexes, more than ${mostDepth} deep`)
}

interface Saved {
  saved: TarEntry
  platform: string
}

/** Its layers are plain tars by names of their own; only the configuration says what they must be. */
async function openSaved(
  path: string,
  entries: Map<string, TarEntry>,
  { saved, platform }: Saved,
): Promise<ImageSource> {
  const list: unknown = JSON.parse((await documentOf(path, saved, imageLimits.manifestBytes)).toString('utf8'))
  const [first, ...more] = Array.isArray(list) ? (list as { Config?: unknown; Layers?: unknown }[]) : []
  const isOne = more.length === 0 && typeof first?.Config === 'string' && Array.isArray(first.Layers)
  if (!isOne) throw imageInvalid('its manifest.json does not name one image')
  const names = (first.Layers as unknown[]).map(String)
  if (names.length > imageLimits.layers) throw imageInvalid(`it has more than ${imageLimits.layers} layers`)
  const config = await documentOf(path, entries.get(String(first.Config)), imageLimits.configBytes)
  const mediaType = 'application/vnd.oci.image.layer.v1.tar'
  const placeholders = names.map(() => ({ mediaType, digest: digestOf(config), size: 0 }))
  const document = readImageDocument(config, {
    schemaVersion: 2,
    config: { mediaType: '', digest: digestOf(config), size: config.length },
    layers: placeholders,
  })
  checkPlatform(document, platform)
  const layers = names.map((name, at): RemoteLayer => {
    const entry = entries.get(name)
    if (entry?.type !== 'file') throw imageInvalid(`its layer ${name.slice(0, 200)} is not there`)
    const diffId = document.rootfs.diff_ids[at]!
    const { offset, size } = entry
    return { mediaType, digest: diffId, diffId, size, open: (start) => contentOf(path, offset + start, size - start) }
  })
  return { digest: digestOf(config), document, layers }
}

function blobEntry(entries: Map<string, TarEntry>, digest: Digest): TarEntry {
  const entry = entries.get(`blobs/sha256/${digest.slice('sha256:'.length)}`)
  if (entry?.type === 'file') return entry
  throw imageInvalid(`its blob ${digest} is not there`)
}

async function blobDocument(
  path: string,
  entries: Map<string, TarEntry>,
  digest: Digest,
  limit: number,
): Promise<Buffer> {
  const bytes = await documentOf(path, blobEntry(entries, digest), limit)
  if (digestOf(bytes) !== digest) throw imageInvalid(`its blob ${digest} has the digest ${digestOf(bytes)}`)
  return bytes
}

async function documentOf(path: string, entry: TarEntry | undefined, limit: number): Promise<Buffer> {
  if (entry?.type !== 'file') throw imageInvalid('a document of it is not there')
  if (entry.size > limit) throw imageInvalid(`a document of it has more than ${limit} bytes`)
  await using file = await open(path, 'r')
  return readAt(file, entry.offset, entry.size)
}

/** What it says of its programs, within what a sandbox can bear. */
export function configOf({ config }: ImageDocument): ImageConfig {
  const env: Record<string, string> = {}
  let bytes = 0
  for (const variable of config?.Env ?? []) {
    const [, name, value] = /^([A-Za-z_][A-Za-z0-9_]*)=([^]*)$/.exec(variable) ?? []
    // A name that no shell can have is of no use to any program of the image either.
    if (name === undefined || value === undefined || value.includes('\0')) continue
    bytes += Buffer.byteLength(variable)
    env[name] = value
  }
  const { environmentVariables, environmentBytes } = imageLimits
  if (Object.keys(env).length > environmentVariables || bytes > environmentBytes) {
    throw imageInvalid(`its environment has more than ${environmentVariables} variables or ${environmentBytes} bytes`)
  }
  const user = config?.User ?? ''
  const workdir = config?.WorkingDir ?? ''
  return {
    env,
    user: /^[A-Za-z0-9._][A-Za-z0-9._-]{0,63}(:[A-Za-z0-9._][A-Za-z0-9._-]{0,63})?$/.test(user) ? user : '',
    workdir: workdir.startsWith('/') && !workdir.includes('\0') ? workdir : '/',
    cmd: config?.Cmd ?? null,
    entrypoint: config?.Entrypoint ?? null,
    labels: config?.Labels ?? {},
    exposedPorts: Object.keys(config?.ExposedPorts ?? {}),
  }
}
