import { nodeModule } from '../environment.ts'
import { DeltaError } from '../errors.ts'
import type { TransferOptions } from '../files.ts'
import { blockBytes, decodeHeader, decodePax, type TarHeader } from './format.ts'

type Fs = typeof import('node:fs/promises')

/** Longest pax header or GNU long name accepted. */
const longestExtraBytes = 1024 * 1024

/**
 * Unpacks an archive that a sandbox made, and may have made with malice: names with `..`, absolute names, files below a symbolic
 * link and links that lead out of the folder are not made but returned as skipped. Set-id bits are dropped.
 */
export async function unpackFolder(
  tar: AsyncIterable<Uint8Array>,
  folder: string,
  options: TransferOptions = {},
): Promise<{ skipped: string[] }> {
  const fs = await nodeModule<Fs>('fs/promises')
  await fs.mkdir(folder, { recursive: true })
  const skipped: string[] = []
  const reader = createByteReader(tar)
  const place = createPlacer(fs, folder)
  let bytes = 0
  try {
    for await (const header of readHeaders(reader)) {
      options.signal?.throwIfAborted()
      const content = reader.content(header.type === 'file' ? header.size : 0)
      if (!(await place(header, content))) skipped.push(header.path)
      await drain(content)
      bytes += blockBytes + header.size
      options.onProgress?.({ bytes, path: header.path })
      if (header.type === 'file') await reader.skip((blockBytes - (header.size % blockBytes)) % blockBytes)
      else await reader.skip(Math.ceil(header.size / blockBytes) * blockBytes)
    }
    return { skipped }
  } finally {
    await reader.close()
  }
}

async function drain(content: AsyncIterable<Uint8Array>): Promise<void> {
  for await (const _ of content);
}

/** Headers with their real names: what pax and GNU extra entries say is applied to the entry they precede. */
async function* readHeaders(reader: ByteReader): AsyncGenerator<TarHeader, void> {
  let path: string | undefined
  let linkTarget: string | undefined
  let size: number | undefined
  for (;;) {
    const block = await reader.exactly(blockBytes)
    // An archive ends with empty blocks; without them it was cut off.
    if (block === null) throw malformed('it ends early')
    const header = decodeHeader(block)
    if (header === null) return
    if (header.type === 'pax' || header.type === 'longName' || header.type === 'longLink') {
      const extra = await readExtra(reader, header.size)
      if (header.type === 'longName') path = textOf(extra)
      else if (header.type === 'longLink') linkTarget = textOf(extra)
      else {
        const records = decodePax(extra)
        path = records.get('path') ?? path
        linkTarget = records.get('linkpath') ?? linkTarget
        size = records.has('size') ? Number(records.get('size')) : size
        if (size !== undefined && !(Number.isSafeInteger(size) && size >= 0)) throw malformed('a size is out of range')
      }
      continue
    }
    if (header.type === 'global') {
      await readExtra(reader, header.size)
      continue
    }
    yield {
      ...header,
      path: path ?? header.path,
      linkTarget: linkTarget ?? header.linkTarget,
      size: size ?? header.size,
    }
    path = linkTarget = size = undefined
  }
}

const textOf = (bytes: Uint8Array) => new TextDecoder().decode(bytes).replace(/\0.*$/s, '')
const malformed = (what: string) => new DeltaError(`The archive is malformed: ${what}`)

async function readExtra(reader: ByteReader, size: number): Promise<Uint8Array> {
  if (size > longestExtraBytes) throw malformed(`an extended header of ${size} bytes`)
  const padded = await reader.exactly(Math.ceil(size / blockBytes) * blockBytes)
  if (padded === null) throw malformed('it ends early')
  return padded.subarray(0, size)
}

/** Makes one entry; false when that would not be safe. */
function createPlacer(fs: Fs, folder: string) {
  // Folders known to be real ones. They are never replaced by anything else, so this stays true.
  const realFolders = new Set<string>([''])

  async function makeFolders(components: string[]): Promise<boolean> {
    let path = ''
    for (const component of components) {
      path = path === '' ? component : `${path}/${component}`
      if (realFolders.has(path)) continue
      const full = `${folder}/${path}`
      const stats = await fs.lstat(full).catch(() => null)
      if (stats === null) await fs.mkdir(full)
      else if (!stats.isDirectory()) return false
      realFolders.add(path)
    }
    return true
  }

  /** Makes room for a new entry; a folder never makes room. */
  async function clear(full: string): Promise<boolean> {
    const stats = await fs.lstat(full).catch(() => null)
    if (stats?.isDirectory()) return false
    if (stats !== null) await fs.unlink(full)
    return true
  }

  return async function place(header: TarHeader, content: AsyncIterable<Uint8Array>): Promise<boolean> {
    const components = safeComponents(header.path)
    if (components === null) return false
    const parents = components.slice(0, -1)
    if (header.type === 'directory') {
      if (!(await makeFolders(components))) return false
      if (components.length > 0) await fs.chmod(`${folder}/${components.join('/')}`, (header.mode & 0o777) | 0o700)
      return true
    }
    if (components.length === 0 || !(await makeFolders(parents))) return false
    const full = `${folder}/${components.join('/')}`
    if (header.type === 'file') return (await clear(full)) && writeFile(fs, full, { header, content })
    if (header.type === 'symlink') {
      if (!staysInside(header.linkTarget, parents.length) || !(await clear(full))) return false
      await fs.symlink(header.linkTarget, full)
      return true
    }
    return header.type === 'link' && copyLinked(fs, { folder, header, full, clear })
  }
}

async function writeFile(
  fs: Fs,
  full: string,
  { header, content }: { header: TarHeader; content: AsyncIterable<Uint8Array> },
): Promise<true> {
  // `wx` refuses to follow a link that appeared meanwhile.
  const file = await fs.open(full, 'wx', header.mode & 0o777)
  try {
    for await (const part of content) {
      for (let at = 0; at < part.length;) at += (await file.write(part, at)).bytesWritten
    }
    await file.utimes(header.mtimeSeconds, header.mtimeSeconds)
  } finally {
    await file.close()
  }
  return true
}

/** A hard link becomes a copy of the file it names, which the archive has brought before. */
async function copyLinked(
  fs: Fs,
  at: { folder: string; header: TarHeader; full: string; clear: (full: string) => Promise<boolean> },
): Promise<boolean> {
  const source = safeComponents(at.header.linkTarget)
  if (source === null || source.length === 0) return false
  for (let depth = 1; depth <= source.length; depth++) {
    const stats = await fs.lstat(`${at.folder}/${source.slice(0, depth).join('/')}`).catch(() => null)
    if (stats === null || (depth < source.length ? !stats.isDirectory() : !stats.isFile())) return false
  }
  const sourcePath = `${at.folder}/${source.join('/')}`
  if (sourcePath === at.full || !(await at.clear(at.full))) return false
  await fs.copyFile(sourcePath, at.full)
  return true
}

function safeComponents(path: string): string[] | null {
  if (path.startsWith('/') || path.includes('\0')) return null
  const components = path.split('/').filter((component) => component !== '' && component !== '.')
  const isWindows = (globalThis as { process?: { platform?: string } }).process?.platform === 'win32'
  const unsafe = (component: string) => component === '..' || (isWindows && /[\\:]/.test(component))
  return components.some(unsafe) ? null : components
}

/**
 * Whether a link at this depth can only lead to somewhere inside. `..` is allowed at the beginning only: there it climbs real
 * folders, while after a name it could climb from wherever another link leads.
 */
function staysInside(target: string, depth: number): boolean {
  if (target === '' || target.startsWith('/') || target.includes('\0')) return false
  const components = target.split('/').filter((component) => component !== '' && component !== '.')
  const climbs = components.findIndex((component) => component !== '..')
  const ups = climbs === -1 ? components.length : climbs
  return ups <= depth && !components.slice(ups).includes('..')
}

interface ByteReader {
  /** Null when the source has ended exactly here. */
  exactly(count: number): Promise<Uint8Array | null>
  content(count: number): AsyncGenerator<Uint8Array, void>
  skip(count: number): Promise<void>
  close(): Promise<void>
}

function createByteReader(source: AsyncIterable<Uint8Array>): ByteReader {
  const iterator = source[Symbol.asyncIterator]()
  let pending: Uint8Array = new Uint8Array(0)

  async function more(): Promise<boolean> {
    while (pending.length === 0) {
      const { done, value } = await iterator.next()
      if (done) return false
      pending = value
    }
    return true
  }

  async function* content(count: number): AsyncGenerator<Uint8Array, void> {
    for (let left = count; left > 0;) {
      if (!(await more())) throw malformed('it ends early')
      const part = pending.subarray(0, left)
      pending = pending.subarray(part.length)
      left -= part.length
      yield part
    }
  }

  async function exactly(count: number): Promise<Uint8Array | null> {
    if (!(await more())) return null
    const all = new Uint8Array(count)
    let at = 0
    for await (const part of content(count)) {
      all.set(part, at)
      at += part.length
    }
    return all
  }

  return {
    exactly,
    content,
    async skip(count) {
      await drain(content(count))
    },
    async close() {
      await iterator.return?.()
    },
  }
}
