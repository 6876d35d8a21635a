import { createHash } from 'node:crypto'
import { createWriteStream } from 'node:fs'
import { mkdtemp, readFile, rm, stat } from 'node:fs/promises'
import { join } from 'node:path'
import { Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import type { ZodType } from 'zod'
import { DeltaError } from '../../kernel/errors.ts'
import type { Digest } from '../../storage/blobs.ts'
import { workspaceLimits } from '../schema.ts'
import { type Descriptor, type Image, imageSchema, indexSchema, manifestSchema } from './schema.ts'
import { archiveInvalid, readTar } from './tar.ts'

export interface ArchiveLayer {
  digest: Digest
  diffId: Digest
  mediaType: string
  size: number
  path: string
}

/** An archive that lies in a folder of ours until it is closed. */
export interface OpenArchive {
  layers: ArchiveLayer[]
  image: Image
  configText: string
  manifestText: string
  close(): Promise<void>
}

const layerTypes = /^application\/vnd\.(oci\.image\.layer\.v1\.tar|docker\.image\.rootfs\.diff\.tar)([.+](gzip|zstd))?$/
const mostBlobs = 1_024
const smallBytes = workspaceLimits.imageDocumentBytes

/** Its parts come in any order, so all of them are kept on disk, each under the digest it was found to have, before one is believed. */
export async function openArchive(source: AsyncIterable<Uint8Array>, folder: string): Promise<OpenArchive> {
  const place = await mkdtemp(join(folder, 'import-'))
  const close = (): Promise<void> => rm(place, { recursive: true, force: true })
  try {
    const { indexText } = await unpack(source, place)
    if (indexText === undefined) throw archiveInvalid('It has no index.json')
    return { ...(await understand(indexText, place)), close }
  } catch (error) {
    await close()
    throw error
  }
}

async function unpack(source: AsyncIterable<Uint8Array>, place: string): Promise<{ indexText?: string }> {
  let indexText: string | undefined
  let blobs = 0
  let bytes = 0
  for await (const { name, size, body } of readTar(source)) {
    if (name === 'index.json') {
      indexText = await textOf(body, size, name)
      continue
    }
    const hex = /^blobs\/sha256\/([0-9a-f]{64})$/.exec(name)?.[1]
    if (hex === undefined) continue
    if ((bytes += size) > workspaceLimits.archiveBytes) {
      throw new DeltaError('body_too_large', `The archive holds more than ${workspaceLimits.archiveBytes} bytes`, {
        context: { limitBytes: workspaceLimits.archiveBytes },
      })
    }
    if ((blobs += 1) > mostBlobs) throw archiveInvalid(`It has more than ${mostBlobs} blobs`)
    const hash = createHash('sha256')
    const hashed = async function* (): AsyncGenerator<Uint8Array> {
      for await (const chunk of body) {
        hash.update(chunk)
        yield chunk
      }
    }
    await pipeline(Readable.from(hashed(), { objectMode: false }), createWriteStream(join(place, hex), { mode: 0o600 }))
    if (hash.digest('hex') !== hex) throw archiveInvalid(`${name} does not have the digest it is named by`)
  }
  return indexText === undefined ? {} : { indexText }
}

async function textOf(body: AsyncIterable<Uint8Array>, size: number, name: string): Promise<string> {
  if (size > smallBytes) throw archiveInvalid(`${name} has more than ${smallBytes} bytes`)
  const chunks: Uint8Array[] = []
  for await (const chunk of body) chunks.push(chunk)
  return Buffer.concat(chunks).toString('utf8')
}

async function understand(indexText: string, place: string): Promise<Omit<OpenArchive, 'close'>> {
  const index = parsed(indexSchema, indexText, 'index.json')
  const chosen = index.manifests.find(({ platform }) => platform === undefined || platform.os === 'linux')
  if (!chosen) throw archiveInvalid('Its index.json names no image for Linux')
  const manifestText = await documentText(chosen, place)
  const manifest = parsed(manifestSchema, manifestText, 'The manifest')
  const configText = await documentText(manifest.config, place)
  const image = parsed(imageSchema, configText, 'The configuration')
  const diffIds = image.rootfs.diff_ids
  if (image.os !== 'linux') throw archiveInvalid(`It is for ${image.os}`)
  if (diffIds.length !== manifest.layers.length)
    throw archiveInvalid('The configuration names other layers than the manifest')
  if (diffIds.length === 0) throw archiveInvalid('It has no layers')
  const layers: ArchiveLayer[] = []
  for (const [at, layer] of manifest.layers.entries()) {
    if (!layerTypes.test(layer.mediaType)) throw archiveInvalid(`A layer has the type ${layer.mediaType}`)
    const path = await presentAt(layer, place)
    layers.push({ digest: layer.digest, diffId: diffIds[at]!, mediaType: layer.mediaType, size: layer.size, path })
  }
  return { layers, image, configText, manifestText }
}

async function documentText(descriptor: Descriptor, place: string): Promise<string> {
  if (descriptor.size > smallBytes) throw archiveInvalid(`${descriptor.digest} has more than ${smallBytes} bytes`)
  return readFile(await presentAt(descriptor, place), 'utf8')
}

async function presentAt({ digest, size }: Descriptor, place: string): Promise<string> {
  const path = join(place, digest.slice('sha256:'.length))
  const found = await stat(path).catch(() => undefined)
  if (!found) throw archiveInvalid(`The blob ${digest} is missing`)
  if (found.size !== size) throw archiveInvalid(`The blob ${digest} has ${found.size} bytes instead of ${size}`)
  return path
}

function parsed<Output>(schema: ZodType<Output>, text: string, what: string): Output {
  let value: unknown
  try {
    value = JSON.parse(text)
  } catch {
    throw archiveInvalid(`${what} is no JSON`)
  }
  const result = schema.safeParse(value)
  if (result.success) return result.data
  const [issue] = result.error.issues
  throw archiveInvalid(`${what} is not valid at ${issue?.path.join('.') ?? ''}: ${issue?.message ?? ''}`)
}
