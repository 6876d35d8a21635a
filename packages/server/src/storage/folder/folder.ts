import { randomUUID } from 'node:crypto'
import { link, mkdir, open, readdir, rename, rm, stat } from 'node:fs/promises'
import type { FileHandle } from 'node:fs/promises'
import { dirname, join } from 'node:path'
import { DeltaError } from '../../kernel/errors.ts'
import type { Bytes } from '../blobs.ts'
import type { ObjectPutOptions, ObjectSource, ObjectStore, StoredObject } from '../objects.ts'

export interface FolderOptions {
  path: string
  /** Makes a file or folder durable. @default fsync */
  sync?: (file: FileHandle) => Promise<void>
}

const readBytes = 256 * 1024

/** Objects as files: written under another name, made durable, then renamed. */
export async function openFolder({ path, sync = fsync }: FolderOptions): Promise<ObjectStore> {
  const unfinished = join(path, 'unfinished')
  // What a killed process left half written: nothing refers to it.
  await rm(unfinished, { recursive: true, force: true })
  await mkdir(unfinished, { recursive: true, mode: 0o700 })
  /** After an error of fsync the kernel may have dropped what was to be written, and a second fsync would succeed: nothing more is written. */
  let failure: DeltaError | undefined

  const pathOf = (key: string) => {
    const [area = '', ...parts] = key.split('/')
    // Documents lie flat, so that `a` and `a/b` can both be there.
    return area.endsWith('documents') ? join(path, area, parts.join('%2F')) : join(path, key)
  }

  async function durable(file: FileHandle): Promise<void> {
    try {
      await sync(file)
    } catch (cause) {
      const code = codeOf(cause)
      if (code === 'ENOSPC' || code === 'EDQUOT') throw cause
      failure = new DeltaError('storage_failed', 'The storage folder could not be made durable', { cause })
      throw failure
    }
  }

  async function durableFolder(folder: string): Promise<void> {
    const handle = await open(folder, 'r')
    try {
      await durable(handle)
    } finally {
      await handle.close()
    }
  }

  async function makeFolder(folder: string): Promise<void> {
    const first = await mkdir(folder, { recursive: true, mode: 0o700 })
    if (first === undefined) return
    for (let made = folder; made.length >= first.length; made = dirname(made)) await durableFolder(dirname(made))
  }

  /** One that a killed process renamed last may not be durable yet. */
  async function isThere(target: string, size: number): Promise<boolean> {
    const handle = await open(target, 'r').catch(unlessMissing)
    if (!handle) return false
    try {
      if ((await handle.stat()).size !== size) return false
      await durable(handle)
    } finally {
      await handle.close()
    }
    await durableFolder(dirname(target))
    return true
  }

  async function write(target: string, source: ObjectSource, options: ObjectPutOptions): Promise<void> {
    const draft = join(unfinished, randomUUID())
    try {
      const isLinked = await linked(draft, source)
      const handle = await open(draft, isLinked ? 'r' : 'wx', 0o600)
      try {
        if (isLinked) options.onProgress?.(source.size)
        else await fill(handle, source, options)
        await durable(handle)
      } finally {
        await handle.close()
      }
      await makeFolder(dirname(target))
      await rename(draft, target)
    } catch (error) {
      await rm(draft, { force: true })
      throw error
    }
    try {
      await durableFolder(dirname(target))
    } catch (error) {
      // Seen, yet perhaps gone after a power cut: the next start must not take it for stored.
      if (!options.replace) await rm(target, { force: true })
      throw error
    }
  }

  async function* walk(folder: string, key: string): AsyncIterable<StoredObject> {
    const entries = (await readdir(folder, { withFileTypes: true }).catch(unlessMissing)) ?? []
    for (const entry of entries.toSorted((a, b) => (a.name < b.name ? -1 : 1))) {
      const own = `${key}/${entry.name.replaceAll('%2F', '/')}`
      if (entry.isDirectory()) yield* walk(join(folder, entry.name), own)
      const found = entry.isFile() && (await stat(join(folder, entry.name)).catch(unlessMissing))
      if (found) yield { key: own, size: found.size, modifiedAt: Math.floor(found.mtimeMs) }
    }
  }

  return {
    name: 'folder',
    async put(source, options = {}) {
      if (failure) throw failure
      const target = pathOf(source.key)
      try {
        if (!options.replace && (await isThere(target, source.size))) return { stored: false }
        await write(target, source, options)
        return { stored: true }
      } catch (error) {
        throw failureOf(error, source.key)
      }
    },
    get: (key, { signal } = {}) => read(pathOf(key), { key, signal }),
    async size(key) {
      const found = await stat(pathOf(key)).catch(unlessMissing)
      return found?.isFile() ? found.size : null
    },
    async remove(key) {
      const target = pathOf(key)
      await rm(target, { force: true }).catch((error: unknown) => {
        throw failureOf(error, key)
      })
      await durableFolder(dirname(target)).catch(unlessMissing)
    },
    list: (area) => walk(join(path, area), area),
    close: async () => {},
  }
}

const fsync = (file: FileHandle) => file.sync()

/** The source's own file under another name, where it is whole and the file system can. */
async function linked(draft: string, { path, size }: ObjectSource): Promise<boolean> {
  if (path === undefined) return false
  try {
    await link(path, draft)
  } catch {
    // Another file system, or one without links: then it is copied, which says what is wrong if something is.
    return false
  }
  if ((await stat(draft)).size === size) return true
  await rm(draft)
  return false
}

async function fill(handle: FileHandle, { size, open: source }: ObjectSource, options: ObjectPutOptions) {
  const { signal, onProgress } = options
  let bytes = 0
  for await (const chunk of source()) {
    signal?.throwIfAborted()
    // `write` may write less than it was given.
    for (let at = 0; at < chunk.length;) at += (await handle.write(chunk, at)).bytesWritten
    bytes += chunk.length
    onProgress?.(bytes)
  }
  signal?.throwIfAborted()
  if (bytes !== size) throw new DeltaError('storage_refused', `An object of ${size} bytes came with ${bytes}`)
}

async function* read(path: string, { key, signal }: { key: string; signal: AbortSignal | undefined }): Bytes {
  signal?.throwIfAborted()
  const handle = await open(path, 'r').catch((error: unknown) => {
    throw failureOf(error, key)
  })
  try {
    for (;;) {
      const { buffer, bytesRead } = await handle.read(Buffer.allocUnsafeSlow(readBytes), 0, readBytes, null)
      if (bytesRead === 0) return
      yield buffer.subarray(0, bytesRead)
      signal?.throwIfAborted()
    }
  } catch (error) {
    throw failureOf(error, key)
  } finally {
    await handle.close()
  }
}

function codeOf(error: unknown): unknown {
  return error instanceof Error && 'code' in error ? error.code : undefined
}

function unlessMissing(error: unknown): undefined {
  if (codeOf(error) !== 'ENOENT') throw error
}

function failureOf(error: unknown, key: string): unknown {
  if (error instanceof DeltaError) return error
  const context = { object: key }
  switch (codeOf(error)) {
    case 'ENOENT':
      return new DeltaError('blob_missing', `There is no object ${key}`, { context })
    case 'ENOSPC':
    case 'EDQUOT':
      return new DeltaError('disk_full', 'The disk that holds the storage folder is full', { cause: error, context })
    case 'EIO':
      return new DeltaError('blob_damaged', `The object ${key} can not be read or written`, { cause: error, context })
    case 'EROFS':
    case 'EACCES':
    case 'EPERM':
    case 'EMFILE':
      return new DeltaError('storage_unavailable', 'The storage folder can not be used', { cause: error, context })
    default:
      return error
  }
}
