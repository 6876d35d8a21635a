import type { Driver } from '../drivers/driver.ts'
import { DeltaError } from '../kernel/errors.ts'
import { additionsFor, layerOf, lookedAt } from './additions.ts'
import type { Existing } from './additions.ts'
import type { BuildDisks, DiskCaller } from './disks.ts'
import type { ImageConfig } from './dockerfile/evaluate.ts'
import { configOf } from './image-source.ts'
import type { ImageSource } from './image-source.ts'
import { imageInvalid, imageLimits } from './registry/documents.ts'

export interface ImportDeps {
  disks: BuildDisks
  driver: Pick<Driver, 'changes' | 'readFile'>
}

export interface ImportOptions {
  /** Of the disk it is unpacked on. */
  diskName: string
  holder: string
  caller: DiskCaller
  signal: AbortSignal
  say: (text: string) => void
}

export interface Imported {
  snapshotId: string
  config: ImageConfig
}

/** Files read whole; longer ones are nobody's users. */
const accountBytes = 1024 * 1024

/** Unpacks an image, layer by layer, adds what every sandbox relies on, and keeps it as a snapshot. */
export async function importImage(
  { disks, driver }: ImportDeps,
  image: ImageSource,
  options: ImportOptions,
): Promise<Imported> {
  const { caller, holder, signal } = options
  const config = configOf(image.document)
  const { workspaceId, snapshotId: bare } = await unpack(disks, image, options)
  const additions = additionsFor(await existing(driver, bare, signal))
  if (!additions)
    throw imageInvalid('its /etc, /home, /etc/passwd or /etc/group is a link, so that no user can be added')
  const tar = layerOf(additions)
  const bounds = { maxBytes: imageLimits.unpackedBytes, maxEntries: imageLimits.unpackedEntries }
  await disks.apply(workspaceId, once(tar), { caller, holder, ...bounds })
  signal.throwIfAborted()
  return {
    snapshotId: await disks.snapshot(workspaceId, `Image ${image.digest}, with the user and /workspace`, caller),
    config,
  }
}

async function unpack(
  disks: BuildDisks,
  image: ImageSource,
  { diskName, caller, signal, say }: ImportOptions,
): Promise<{ workspaceId: string; snapshotId: string }> {
  const layers = image.layers.map(({ digest, diffId, mediaType, size, open }) => {
    return { digest, diffId, mediaType: ociType(mediaType), size, open }
  })
  try {
    return await disks.openImage(
      diskName,
      {
        layers,
        config: image.document.config ?? {},
        comment: `Image ${image.digest}`,
        bounds: { maxBytes: imageLimits.unpackedBytes, maxEntries: imageLimits.unpackedEntries },
        signal,
        onLayer(at, { isHere }) {
          const { digest, size } = layers[at]!
          say(`Layer ${at + 1} of ${layers.length}: ${digest} (${isHere ? 'here already' : `${size} bytes`})`)
        },
      },
      caller,
    )
  } catch (cause) {
    signal.throwIfAborted()
    if (!(cause instanceof DeltaError) || !cause.code.startsWith('layer_')) throw cause
    throw imageInvalid(`a layer: ${cause.message}${typeof cause.cause === 'string' ? `: ${cause.cause}` : ''}`)
  }
}

/** Docker's names for the same things. */
function ociType(mediaType: string): string {
  return mediaType
    .replace('application/vnd.docker.image.rootfs.diff.tar', 'application/vnd.oci.image.layer.v1.tar')
    .replace(/\.(gzip|zstd)$/, '+$1')
}

async function existing(driver: ImportDeps['driver'], snapshotId: string, signal: AbortSignal): Promise<Existing> {
  const types = new Map<string, 'file' | 'directory' | 'symlink' | 'other'>()
  for await (const { path, type } of driver.changes({ snapshotId })) {
    signal.throwIfAborted()
    const name = path.replace(/^\//, '')
    if (lookedAt.includes(name)) types.set(name, type)
  }
  const read = (path: string) =>
    types.get(path) === 'file' ? textOf(driver, snapshotId, `/${path}`) : Promise.resolve('')
  return { types, passwd: await read('etc/passwd'), group: await read('etc/group') }
}

async function textOf(driver: ImportDeps['driver'], snapshotId: string, path: string): Promise<string> {
  const chunks: Uint8Array[] = []
  let bytes = 0
  for await (const chunk of driver.readFile({ snapshotId, path })) {
    bytes += chunk.length
    if (bytes > accountBytes) throw imageInvalid(`its ${path} has more than ${accountBytes} bytes`)
    chunks.push(chunk)
  }
  return Buffer.concat(chunks).toString('utf8')
}

async function* once(bytes: Uint8Array): AsyncGenerator<Uint8Array> {
  yield bytes
}
