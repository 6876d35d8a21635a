import { createHash } from 'node:crypto'
import { open } from 'node:fs/promises'
import { posix } from 'node:path'
import { DeltaError } from '../../kernel/errors.ts'
import { hasWildcard, ignoreRules, newEffort, patternOf } from './match.ts'
import { indexTar, readAt } from './tar-index.ts'
import type { TarEntry } from './tar-index.ts'

export const contextLimits = {
  bytes: 4 * 1024 ** 3,
  /** With the folders that no entry of the archive makes. */
  entries: 500_000,
  /** Of all paths, with those folders. */
  pathBytes: 128 * 1024 * 1024,
  ignoreBytes: 1024 * 1024,
} as const

/** One file, folder or link on its way into a sandbox. */
export interface Item {
  type: 'file' | 'directory' | 'symlink'
  /** Below where it goes; empty for the folder itself. */
  path: string
  mode: number
  modifiedSeconds: number
  size: number
  target: string
  /** Must be read to its end before the next item is asked for. */
  open(): AsyncIterable<Uint8Array>
}

/** What one source of a COPY stands for. */
export interface Found {
  /** A folder's content goes into the destination; a file goes there by its name. */
  kind: 'folder' | 'file'
  name: string
  items: Item[]
  /** It came from the web. */
  isRemote?: boolean
}

export interface BuildContext {
  /** What a path or pattern stands for; nothing where it fits nothing. */
  find(pattern: string): Found[]
  /** Of all that would be copied: names, modes and contents, not times. */
  digest(found: readonly Found[]): Promise<string>
  /** A file as text; undefined where there is none. */
  text(path: string, limitBytes: number): Promise<string | undefined>
  /** Where a file lies in the archive. */
  entry(path: string): TarEntry | undefined
  readonly archivePath: string
}

const chunkBytes = 256 * 1024

/** The files that were sent with a Dockerfile, as the tar they came in. */
export async function openContext(archivePath: string): Promise<BuildContext> {
  const all = await indexTar(archivePath, { entries: contextLimits.entries })
  const ignoreText = await textOf(archivePath, all.get('.dockerignore'), contextLimits.ignoreBytes)
  const effort = newEffort()
  const isIgnored = ignoreText === undefined ? () => false : ignoreRules(ignoreText, effort)
  const entries = withFolders([...all.values()].filter(({ path }) => path !== '' && !isIgnored(path)))
  const paths = [...entries.keys()]

  function itemOf(entry: TarEntry, path: string): Item {
    const { type, mode, modifiedSeconds, size, target, offset } = entry
    return { type, path, mode, modifiedSeconds, size, target, open: () => contentOf(archivePath, offset, size) }
  }

  function foundAt(path: string): Found {
    const name = posix.basename(path)
    const entry = entries.get(path)
    if (entry && entry.type !== 'directory') return { kind: 'file', name, items: [itemOf(entry, name)] }
    const prefix = path === '' ? '' : `${path}/`
    const items: Item[] = []
    for (let at = placeOf(prefix, paths); at < paths.length; at += 1) {
      const each = paths[at]!
      if (!each.startsWith(prefix)) break
      items.push(itemOf(entries.get(each)!, each.slice(prefix.length)))
    }
    return { kind: 'folder', name, items }
  }

  return {
    archivePath,
    find(pattern) {
      const path = posix.normalize(`/${pattern}`).slice(1).replace(/\/$/, '')
      if (path === '' || entries.has(path)) return [foundAt(path)]
      if (!hasWildcard(path)) return []
      const expression = patternOf(path, { effort })
      return paths.filter((each) => expression?.test(each)).map(foundAt)
    },
    async digest(found) {
      const hash = createHash('sha256')
      for (const { kind, items } of found) {
        hash.update(JSON.stringify([kind, items.length]))
        for (const { type, path, mode, target, ...item } of items) {
          const entry = type === 'file' ? await digestOfItem(item) : ''
          hash.update(JSON.stringify([type, path, mode, target, entry]))
        }
      }
      return hash.digest('hex')
    },
    text: (path, limitBytes) => textOf(archivePath, all.get(path), limitBytes),
    entry: (path) => all.get(path),
  }

  async function digestOfItem(item: Pick<Item, 'open'>): Promise<string> {
    const hash = createHash('sha256')
    for await (const chunk of item.open()) hash.update(chunk)
    return hash.digest('hex')
  }
}

/** In the order of their paths, with the folders that an archive may leave out. */
function withFolders(entries: readonly TarEntry[]): Map<string, TarEntry> {
  const known = new Map(entries.map((entry) => [entry.path, entry]))
  let pathBytes = entries.reduce((sum, { path }) => sum + path.length, 0)
  for (const { path, modifiedSeconds } of entries) {
    for (let parent = posix.dirname(path); parent !== '.' && !known.has(parent); parent = posix.dirname(parent)) {
      pathBytes += parent.length
      if (known.size >= contextLimits.entries) {
        throw archiveInvalid(`it has more than ${contextLimits.entries} entries, with the folders they are in`)
      }
      if (pathBytes > contextLimits.pathBytes) {
        throw archiveInvalid(
          `its paths together have more than ${contextLimits.pathBytes} bytes, with the folders they name`,
        )
      }
      known.set(parent, {
        path: parent,
        type: 'directory',
        mode: 0o755,
        modifiedSeconds,
        size: 0,
        offset: 0,
        target: '',
      })
    }
  }
  return new Map([...known].toSorted(([a], [b]) => (a < b ? -1 : 1)))
}

/** Where in sorted paths those begin that are not before `path`. */
function placeOf(path: string, paths: readonly string[]): number {
  let [low, high] = [0, paths.length]
  while (low < high) {
    const middle = (low + high) >> 1
    if (paths[middle]! < path) low = middle + 1
    else high = middle
  }
  return low
}

function archiveInvalid(cause: string): DeltaError {
  return new DeltaError('archive_invalid', 'The archive can not be read', { cause })
}

async function textOf(archive: string, entry: TarEntry | undefined, limitBytes: number): Promise<string | undefined> {
  if (entry?.type !== 'file') return undefined
  if (entry.size > limitBytes) {
    throw new DeltaError('archive_invalid', `${entry.path} has more than ${limitBytes} bytes`)
  }
  await using file = await open(archive, 'r')
  return (await readAt(file, entry.offset, entry.size)).toString('utf8')
}

export async function* contentOf(archive: string, offset: number, size: number): AsyncGenerator<Uint8Array> {
  await using file = await open(archive, 'r')
  for (let at = 0; at < size; at += chunkBytes) yield await readAt(file, offset + at, Math.min(chunkBytes, size - at))
}
