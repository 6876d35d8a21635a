import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { createReadStream, type BigIntStats } from 'node:fs'
import { lstat, mkdir, mkdtemp, readdir, readFile, readlink, rm, stat, writeFile } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { DeltaError } from '../../kernel/errors.ts'
import type { Driver, FileChange } from '../driver.ts'

export type DiskCalls = Pick<
  Driver,
  | 'snapshot'
  | 'makeUpper'
  | 'dropSnapshot'
  | 'disks'
  | 'pack'
  | 'apply'
  | 'changes'
  | 'readFile'
  | 'makeVolume'
  | 'dropVolume'
>

/** Disks as plain folders that are copied with the system's `cp` and packed with its `tar`. */
export interface FolderDisks extends DiskCalls {
  folderOf(upperId: string): string
  volumeFolder(volumeId: string): string
  /** What lies below an upper; undefined where there is no such upper. */
  templateOf(upperId: string): string | undefined
  upperIds(): string[]
  /** Makes an empty upper, or one on a snapshot, for a box. */
  begin(upperId: string, template: string): Promise<void>
  dropUpper(upperId: string): Promise<void>
  leftovers(): Promise<string[]>
}

export interface FolderDisksDeps {
  folder: string
  /** The box that uses it, if one does. */
  userOf: (disk: { upperId?: string; snapshotId?: string; volumeId?: string }) => string | undefined
}

const idForm = /^[a-z]{3}_[a-z0-9]{1,40}$/
const emptyTemplates = ['host', 'scratch']
const whiteout = '.wh.'
const opaque = '.wh..wh..opq'

export function createFolderDisks({ folder, userOf }: FolderDisksDeps): FolderDisks {
  const uppers = new Map<string, string>()
  const snapshots = new Map<string, string>()
  const volumes = new Set<string>()
  const folderOf = (upperId: string): string => join(folder, 'uppers', upperId)
  const snapshotFolder = (snapshotId: string): string => join(folder, 'snapshots', snapshotId)
  const volumeFolder = (volumeId: string): string => join(folder, 'volumes', volumeId)

  const templateOfSnapshot = (snapshotId: string): string => {
    const template = snapshots.get(snapshotId)
    if (template === undefined) throw new DeltaError('disk_not_found', `There is no snapshot ${snapshotId}`)
    return template
  }

  /** The folder of a template; undefined where it is empty. */
  const templateFolder = (template: string): string | undefined => {
    if (emptyTemplates.includes(template)) return undefined
    templateOfSnapshot(template)
    return snapshotFolder(template)
  }

  const compared = (source: string, parent: string | undefined): { now?: string; before: string | undefined } => {
    if (emptyTemplates.includes(source)) return { before: undefined }
    const template = templateOfSnapshot(source)
    if (parent !== undefined) templateOfSnapshot(parent)
    return { now: snapshotFolder(source), before: parent ? snapshotFolder(parent) : templateFolder(template) }
  }

  const fill = async (upperId: string, template: string, from: string | undefined): Promise<void> => {
    checkId(upperId)
    if (uppers.has(upperId)) throw new DeltaError('disk_exists', `The disk ${upperId} is there already`)
    uppers.set(upperId, template)
    await mkdir(folderOf(upperId), { recursive: true })
    if (from) await run('cp', ['-a', `${from}/.`, folderOf(upperId)])
    await mkdir(join(folderOf(upperId), 'workspace'), { recursive: true })
  }

  const standingOn = (snapshotId: string): string | undefined => {
    const upper = Array.from(uppers).find(([, template]) => template === snapshotId)
    const snapshot = Array.from(snapshots).find(([, template]) => template === snapshotId)
    return userOf({ snapshotId }) ?? upper?.[0] ?? snapshot?.[0]
  }

  const disks: FolderDisks = {
    folderOf,
    volumeFolder,
    templateOf: (upperId) => uppers.get(upperId),
    upperIds: () => Array.from(uppers.keys()),
    begin: async (upperId, template) => fill(upperId, template, templateFolder(template)),

    async dropUpper(upperId) {
      uppers.delete(upperId)
      await rm(folderOf(upperId), { recursive: true, force: true })
    },

    async leftovers() {
      const kinds = await Promise.all(['uppers', 'snapshots', 'volumes'].map((kind) => names(join(folder, kind))))
      return kinds.flat()
    },

    async snapshot(upperId, snapshotId) {
      checkId(snapshotId)
      const template = uppers.get(upperId)
      if (template === undefined) throw new DeltaError('disk_not_found', `There is no disk ${upperId}`)
      if (snapshots.has(snapshotId)) throw new DeltaError('disk_exists', `There is a snapshot ${snapshotId} already`)
      snapshots.set(snapshotId, template)
      await mkdir(snapshotFolder(snapshotId), { recursive: true })
      await run('cp', ['-a', `${folderOf(upperId)}/.`, snapshotFolder(snapshotId)])
      return { flushMicros: 0, frozenMicros: 0, bytes: null }
    },

    async makeUpper({ upperId, from, empty = false }) {
      const isSnapshot = !emptyTemplates.includes(from)
      const template = isSnapshot ? templateOfSnapshot(from) : from
      await fill(upperId, isSnapshot && empty ? from : template, templateFolder(from))
    },

    async dropSnapshot(snapshotId) {
      if (!snapshots.has(snapshotId)) return
      const user = standingOn(snapshotId)
      if (user) {
        throw new DeltaError('disk_in_use', `The snapshot ${snapshotId} is in use`, { cause: `${user} stands on it` })
      }
      snapshots.delete(snapshotId)
      await rm(snapshotFolder(snapshotId), { recursive: true, force: true })
    },

    disks: async () => ({
      snapshots: Array.from(snapshots, ([snapshotId, template]) => ({ snapshotId, template })),
      volumeIds: Array.from(volumes),
    }),

    async *pack({ source, parent }) {
      const { now, before } = compared(source, parent)
      const place = await mkdtemp(join(folder, 'pack-'))
      try {
        const archive = join(place, 'layer.tar')
        await packDifferences(now ?? join(place, 'empty'), before, { place, archive })
        for await (const chunk of createReadStream(archive)) yield chunk as Buffer
      } finally {
        await rm(place, { recursive: true, force: true })
      }
    },

    async apply({ upperId, maxBytes, maxEntries }, tar) {
      if (!uppers.has(upperId)) throw new DeltaError('disk_not_found', `There is no disk ${upperId}`)
      const user = userOf({ upperId })
      if (user) throw new DeltaError('disk_in_use', `The disk ${upperId} is in use`, { cause: `${user} stands on it` })
      const place = await mkdtemp(join(folder, 'apply-'))
      try {
        const bytes = await unpack(place, tar, maxBytes)
        const entries = await merge(place, folderOf(upperId), maxEntries)
        return { entries, bytes }
      } finally {
        await rm(place, { recursive: true, force: true })
      }
    },

    async *changes({ snapshotId, parent }) {
      const { now, before } = compared(snapshotId, parent)
      if (now) yield* differences(now, before)
    },

    async *readFile({ snapshotId, path }) {
      templateOfSnapshot(snapshotId)
      const file = join(snapshotFolder(snapshotId), join('/', path))
      const found = await lstat(file).catch((cause: unknown) => {
        throw new DeltaError('file_not_found', `There is no ${path} in ${snapshotId}`, { cause })
      })
      if (!found.isFile()) throw new DeltaError('not_a_file', `${path} is no regular file`)
      for await (const chunk of createReadStream(file)) yield chunk as Buffer
    },

    async makeVolume({ volumeId }) {
      checkId(volumeId)
      if (volumes.has(volumeId)) throw new DeltaError('disk_exists', `There is a volume ${volumeId} already`)
      volumes.add(volumeId)
      await mkdir(volumeFolder(volumeId), { recursive: true })
    },

    async dropVolume(volumeId) {
      const user = userOf({ volumeId })
      if (user) throw new DeltaError('disk_in_use', `The volume ${volumeId} is in use`, { cause: `${user} uses it` })
      volumes.delete(volumeId)
      await rm(volumeFolder(volumeId), { recursive: true, force: true })
    },
  }
  return disks
}

function checkId(id: string): void {
  if (!idForm.test(id)) throw new DeltaError('invalid_request', 'An id is not valid')
}

async function run(program: string, args: string[], input?: string): Promise<void> {
  const child = spawn(program, args, { stdio: ['pipe', 'ignore', 'pipe'] })
  let complaint = ''
  child.stderr.on('data', (chunk: Buffer) => (complaint += chunk.toString()))
  child.stdin.on('error', () => undefined)
  child.stdin.end(input)
  const [code] = (await once(child, 'close')) as [number | null]
  if (code !== 0) throw new DeltaError('driver_failed', `${program} failed`, { cause: complaint.slice(0, 1_000) })
}

async function names(folder: string): Promise<string[]> {
  return readdir(folder).catch(() => [])
}

function typeOf(found: BigIntStats): FileChange['type'] {
  if (found.isFile()) return 'file'
  if (found.isDirectory()) return 'directory'
  return found.isSymbolicLink() ? 'symlink' : 'other'
}

async function statOf(path: string | undefined): Promise<BigIntStats | undefined> {
  return path === undefined ? undefined : lstat(path, { bigint: true }).catch(() => undefined)
}

async function isSame(now: string, before: string, found: BigIntStats, old: BigIntStats): Promise<boolean> {
  const metadata = ['mode', 'uid', 'gid', 'rdev'] as const
  if (metadata.some((field) => found[field] !== old[field])) return false
  if (found.isDirectory()) return true
  if (found.isSymbolicLink()) return (await readlink(now)) === (await readlink(before))
  if (found.mtimeNs !== old.mtimeNs || found.size !== old.size) return false
  return !found.isFile() || (await readFile(now)).equals(await readFile(before))
}

/** Sorted, parents first; what a removed folder held is not named. */
async function* differences(now: string, before: string | undefined, at = '/'): AsyncGenerator<FileChange> {
  const [inside, old] = await Promise.all([names(join(now, at)), before === undefined ? [] : names(join(before, at))])
  for (const name of Array.from(new Set([...inside, ...old])).toSorted()) {
    const path = join(at, name)
    const found = await statOf(join(now, path))
    const was = before === undefined ? undefined : await statOf(join(before, path))
    if (!found) {
      if (was) yield { kind: 'removed', type: typeOf(was), size: Number(was.size), path }
      continue
    }
    const change = { type: typeOf(found), size: found.isFile() ? Number(found.size) : 0, path }
    if (!was) yield { kind: 'added', ...change }
    else if (!(await isSame(join(now, path), join(before!, path), found, was))) yield { kind: 'changed', ...change }
    if (found.isDirectory()) yield* differences(now, was?.isDirectory() ? before : undefined, path)
  }
}

async function packDifferences(
  now: string,
  before: string | undefined,
  { place, archive }: { place: string; archive: string },
): Promise<void> {
  const marks = join(place, 'marks')
  await mkdir(now, { recursive: true })
  await mkdir(marks)
  const written: string[] = []
  const removed: string[] = []
  for await (const { kind, path } of differences(now, before)) {
    if (kind !== 'removed') {
      written.push(`.${path}`)
      continue
    }
    const mark = join(dirname(path), `${whiteout}${path.slice(path.lastIndexOf('/') + 1)}`)
    await mkdir(join(marks, dirname(mark)), { recursive: true })
    await writeFile(join(marks, mark), '')
    removed.push(`.${mark}`)
  }
  const tar = (mode: string, from: string, paths: string[]): Promise<void> => {
    const options = ['--format=posix', '--no-recursion', '--null', '--verbatim-files-from', '--files-from=-']
    return run('tar', [mode, archive, '-C', from, '--sort=name', ...options], paths.map((path) => `${path}\0`).join(''))
  }
  await tar('-cf', now, written)
  if (removed.length > 0) await tar('-rf', marks, removed)
}

async function unpack(place: string, tar: AsyncIterable<Uint8Array>, maxBytes: number): Promise<number> {
  const child = spawn('tar', ['-xpf', '-', '-C', place], { stdio: ['pipe', 'ignore', 'ignore'] })
  const closed = once(child, 'close') as Promise<[number | null]>
  let bytes = 0
  const counted = async function* () {
    for await (const chunk of tar) {
      bytes += chunk.byteLength
      if (bytes > maxBytes) throw new DeltaError('layer_too_large', `The layer holds more than ${maxBytes} bytes`)
      yield chunk
    }
  }
  try {
    await pipeline(Readable.from(counted()), child.stdin)
  } catch (error) {
    child.kill()
    await closed
    if (error instanceof DeltaError) throw error
  }
  const [code] = await closed
  if (code !== 0) throw new DeltaError('layer_invalid', 'The layer could not be unpacked', { cause: 'tar refused it' })
  return bytes
}

/** Lays an unpacked layer over a folder; the number of its entries. */
async function merge(layer: string, target: string, maxEntries: number): Promise<number> {
  let entries = 0
  const visit = async (at: string): Promise<void> => {
    const inside = await names(join(layer, at))
    if (inside.includes(opaque)) {
      await rm(join(target, at), { recursive: true, force: true })
      await mkdir(join(target, at))
    }
    for (const name of inside) {
      entries += 1
      if (entries > maxEntries) {
        throw new DeltaError('layer_too_large', `The layer holds more than ${maxEntries} entries`)
      }
      const from = join(layer, at, name)
      const to = join(target, at, name)
      if (name.startsWith(whiteout)) {
        await rm(from)
        if (name !== opaque) await rm(join(target, at, name.slice(whiteout.length)), { recursive: true, force: true })
        continue
      }
      const isFolder = (await lstat(from)).isDirectory()
      const found = await statOf(to)
      if (found && !(isFolder && found.isDirectory())) await rm(to, { recursive: true })
      if (!isFolder) continue
      if (!found?.isDirectory()) await mkdir(to)
      await visit(join(at, name))
    }
  }
  // The top is no entry of a layer that was packed here, so it keeps what it had.
  const { mode } = await stat(target)
  await visit('.')
  await run('cp', ['-a', `${layer}/.`, target])
  await run('chmod', [(mode & 0o7777).toString(8), target])
  return entries
}
