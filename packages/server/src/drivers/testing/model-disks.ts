import { DeltaError } from '../../kernel/errors.ts'
import type { DiskCalls } from './disks.ts'

/** Paths and what they hold. */
export type ModelFiles = Map<string, string>

interface ModelDisk {
  template: string
  files: ModelFiles
}

/** Disks that are texts in memory. A layer is one line of JSON for each path: its text, or null where it was removed. */
export interface ModelDisks extends DiskCalls {
  readonly uppers: ReadonlyMap<string, ModelDisk>
  /** Of an upper, a snapshot or a volume; undefined where there is none. */
  contents(id: string): ModelFiles | undefined
  hasTemplate(template: string): boolean
  hasVolume(volumeId: string): boolean
  begin(upperId: string, template: string): void
  dropUpper(upperId: string): void
}

type UserOf = (disk: { upperId?: string; snapshotId?: string; volumeId?: string }) => string | undefined

const emptyTemplates = ['host', 'scratch']

export function createModelDisks(userOf: UserOf): ModelDisks {
  const uppers = new Map<string, ModelDisk>()
  const snapshots = new Map<string, ModelDisk>()
  const volumes = new Map<string, ModelFiles>()

  const snapshotOf = (snapshotId: string): ModelDisk => {
    const found = snapshots.get(snapshotId)
    if (!found) throw new DeltaError('disk_not_found', `There is no snapshot ${snapshotId}`)
    return found
  }
  const filesOf = (template: string): ModelFiles =>
    emptyTemplates.includes(template) ? new Map() : snapshotOf(template).files
  const vacant = (disks: ReadonlyMap<string, unknown>, id: string): void => {
    if (disks.has(id)) throw new DeltaError('disk_exists', `There is ${id} already`)
  }
  const free = (disk: Parameters<UserOf>[0], id: string): void => {
    const on = disk.snapshotId && [...uppers, ...snapshots].find(([, { template }]) => template === disk.snapshotId)
    const user = userOf(disk) ?? (on ? on[0] : undefined)
    if (user) throw new DeltaError('disk_in_use', `${id} is in use`, { cause: `${user} stands on it` })
  }
  const compared = (source: string, parent: string | undefined): { now: ModelFiles; before: ModelFiles } => {
    if (emptyTemplates.includes(source)) return { now: new Map(), before: new Map() }
    const { files, template } = snapshotOf(source)
    return { now: files, before: parent === undefined ? filesOf(template) : snapshotOf(parent).files }
  }

  return {
    uppers,
    contents: (id) => uppers.get(id)?.files ?? snapshots.get(id)?.files ?? volumes.get(id),
    hasTemplate: (template) => emptyTemplates.includes(template) || snapshots.has(template),
    hasVolume: (volumeId) => volumes.has(volumeId),
    begin(upperId, template) {
      vacant(uppers, upperId)
      uppers.set(upperId, { template, files: new Map(filesOf(template)) })
    },
    dropUpper: (upperId) => void uppers.delete(upperId),

    async snapshot(upperId, snapshotId) {
      const upper = uppers.get(upperId)
      if (!upper) throw new DeltaError('disk_not_found', `There is no disk ${upperId}`)
      vacant(snapshots, snapshotId)
      snapshots.set(snapshotId, { template: upper.template, files: new Map(upper.files) })
      return { flushMicros: 0, frozenMicros: 0, bytes: null }
    },
    async makeUpper({ upperId, from, empty = false }) {
      vacant(uppers, upperId)
      const files = new Map(filesOf(from))
      const copied = !emptyTemplates.includes(from) && !empty
      uppers.set(upperId, { template: copied ? snapshotOf(from).template : from, files })
    },
    async dropSnapshot(snapshotId) {
      if (!snapshots.has(snapshotId)) return
      free({ snapshotId }, snapshotId)
      snapshots.delete(snapshotId)
    },
    disks: async () => ({
      snapshots: Array.from(snapshots, ([snapshotId, { template }]) => ({ snapshotId, template })),
      volumeIds: Array.from(volumes.keys()),
    }),
    async *pack({ source, parent }) {
      for (const { path, text } of differences(compared(source, parent))) {
        yield Buffer.from(`${JSON.stringify([path, text])}\n`)
      }
    },
    async apply({ upperId, maxBytes, maxEntries }, tar) {
      const files = uppers.get(upperId)?.files
      if (!files) throw new DeltaError('disk_not_found', `There is no disk ${upperId}`)
      free({ upperId }, upperId)
      const chunks: Uint8Array[] = []
      for await (const chunk of tar) chunks.push(chunk)
      const layer = Buffer.concat(chunks)
      const lines = layer.toString().split('\n').filter(Boolean)
      if (layer.byteLength > maxBytes || lines.length > maxEntries) {
        throw new DeltaError('layer_too_large', 'The layer holds more than is allowed')
      }
      for (const line of lines) {
        const [path, text] = readLine(line)
        if (text === null) files.delete(path)
        else files.set(path, text)
      }
      return { entries: lines.length, bytes: layer.byteLength }
    },
    async *changes({ snapshotId, parent }) {
      snapshotOf(snapshotId)
      for (const { kind, path, text } of differences(compared(snapshotId, parent))) {
        yield { kind, type: 'file', size: text === null ? 0 : Buffer.byteLength(text), path }
      }
    },
    async *readFile({ snapshotId, path }) {
      const text = snapshotOf(snapshotId).files.get(path)
      if (text === undefined) throw new DeltaError('file_not_found', `There is no ${path} in ${snapshotId}`)
      yield Buffer.from(text)
    },
    async makeVolume({ volumeId }) {
      vacant(volumes, volumeId)
      volumes.set(volumeId, new Map())
    },
    async dropVolume(volumeId) {
      free({ volumeId }, volumeId)
      volumes.delete(volumeId)
    },
  }
}

type ModelChange = { path: string } & ({ kind: 'added' | 'changed'; text: string } | { kind: 'removed'; text: null })

function differences({ now, before }: { now: ModelFiles; before: ModelFiles }): ModelChange[] {
  const paths = Array.from(new Set([...now.keys(), ...before.keys()])).toSorted()
  return paths.flatMap((path): ModelChange[] => {
    const [text, old] = [now.get(path), before.get(path)]
    if (text === undefined) return [{ kind: 'removed', path, text: null }]
    if (old === undefined) return [{ kind: 'added', path, text }]
    return text === old ? [] : [{ kind: 'changed', path, text }]
  })
}

function readLine(line: string): [string, string | null] {
  try {
    const [path, text] = JSON.parse(line) as unknown[]
    if (typeof path === 'string' && (text === null || typeof text === 'string')) return [path, text]
  } catch (cause) {
    throw new DeltaError('layer_invalid', 'A line of the layer is no JSON', { cause })
  }
  throw new DeltaError('layer_invalid', 'A line of the layer is no change')
}
