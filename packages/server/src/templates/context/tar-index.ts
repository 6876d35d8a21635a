import { open } from 'node:fs/promises'
import type { FileHandle } from 'node:fs/promises'
import { posix } from 'node:path'
import { DeltaError } from '../../kernel/errors.ts'

export interface TarEntry {
  /** Without a leading or trailing slash and without `..`; the empty path is the archive's own root. */
  path: string
  type: 'file' | 'directory' | 'symlink'
  mode: number
  /** Whole seconds. */
  modifiedSeconds: number
  size: number
  /** Where the content begins in the archive. */
  offset: number
  /** Of a symlink. */
  target: string
}

export interface TarLimits {
  entries: number
}

const block = 512
/** Extended headers: paths, and nothing anybody needs more room for. */
const mostHeaderBytes = 1024 * 1024
const mostPathBytes = 4_096
const mostDepth = 256
/** Of all paths and targets together: they are held in memory. */
const mostTextBytes = 128 * 1024 * 1024

/** What an uncompressed tar on disk holds, later entries over earlier ones. Devices, sockets and pipes are left out. */
export async function indexTar(path: string, limits: TarLimits): Promise<Map<string, TarEntry>> {
  await using file = await open(path, 'r')
  const { size: fileSize } = await file.stat()
  const entries = new Map<string, TarEntry>()
  let next: Extended = {}
  let count = 0
  let textBytes = 0
  for (let at = 0; at + block <= fileSize;) {
    const header = await readAt(file, at, block)
    if (header.every((byte) => byte === 0)) break
    checkSum(header, at)
    const kind = String.fromCharCode(header[156]!)
    const size = next.size ?? numberAt(header, 124, 12, at)
    const offset = at + block
    if (offset + size > fileSize) throw invalid(`an entry at ${at} goes beyond its end`)
    at = offset + Math.ceil(size / block) * block
    if ('xgLK'.includes(kind)) {
      if (size > mostHeaderBytes) throw invalid(`an extended header at ${offset} is too long`)
      const content = await readAt(file, offset, size)
      if (kind === 'x') next = { ...next, ...extendedOf(content) }
      else if (kind === 'L') next.path = textOf(content)
      else if (kind === 'K') next.target = textOf(content)
      continue
    }
    count += 1
    if (count > limits.entries) throw invalid(`it has more than ${limits.entries} entries`)
    const name = next.path ?? nameOf(header)
    const target = next.target ?? textOf(header.subarray(157, 257))
    const common = {
      mode: numberAt(header, 100, 8, at) & 0o7777,
      modifiedSeconds: next.modified ?? numberAt(header, 136, 12, at),
    }
    next = {}
    const cleaned = cleanPath(name)
    if (Buffer.byteLength(target) > mostPathBytes) throw invalid(`the target of ${shownPath(name)} is too long`)
    textBytes += cleaned.length + target.length
    if (textBytes > mostTextBytes) throw invalid(`its paths together have more than ${mostTextBytes} bytes`)
    if (kind === '1') {
      const linked = entries.get(cleanPath(target))
      if (linked?.type !== 'file') throw invalid(`${shownPath(name)} is a hard link to nothing before it`)
      entries.set(cleaned, { ...linked, path: cleaned })
    } else if (kind === '0' || kind === '\0' || kind === '7') {
      entries.set(cleaned, { path: cleaned, type: 'file', ...common, size, offset, target: '' })
    } else if (kind === '5') {
      entries.set(cleaned, { path: cleaned, type: 'directory', ...common, size: 0, offset, target: '' })
    } else if (kind === '2') {
      if (target === '') throw invalid(`${shownPath(name)} is a link without a target`)
      entries.set(cleaned, { path: cleaned, type: 'symlink', ...common, size: 0, offset, target })
    }
  }
  return entries
}

interface Extended {
  path?: string
  target?: string
  size?: number
  modified?: number
}

/** `12 path=a/b\n`: the length counts itself. */
function extendedOf(content: Buffer): Extended {
  const found: Extended = {}
  for (let at = 0; at < content.length;) {
    const space = content.indexOf(0x20, at)
    const length = Number(content.toString('latin1', at, space))
    if (space === -1 || !Number.isInteger(length) || length < 5 || at + length > content.length) break
    const record = content.toString('utf8', space + 1, at + length - 1)
    const equals = record.indexOf('=')
    const [key, value] = [record.slice(0, equals), record.slice(equals + 1)]
    if (key === 'path') found.path = value
    else if (key === 'linkpath') found.target = value
    else if (key === 'size' && /^[0-9]{1,15}$/.test(value)) found.size = Number(value)
    else if (key === 'mtime' && /^-?[0-9]{1,12}(\.[0-9]*)?$/.test(value)) found.modified = Math.floor(Number(value))
    else if (key.startsWith('GNU.sparse')) throw invalid('it has sparse files: make it without --sparse')
    at += length
  }
  return found
}

function nameOf(header: Buffer): string {
  const name = textOf(header.subarray(0, 100))
  const isUstar = header.toString('latin1', 257, 263) === 'ustar\0'
  const prefix = isUstar ? textOf(header.subarray(345, 500)) : ''
  return prefix === '' ? name : `${prefix}/${name}`
}

/** Below the archive's root, whatever it says. */
function cleanPath(name: string): string {
  if (Buffer.byteLength(name) > mostPathBytes || name.includes('\0')) throw invalid('a path in it is too long')
  if (name.split('/').includes('..')) throw invalid(`${shownPath(name)} leads out of it`)
  const path = posix.normalize(`/${name}`).slice(1).replace(/\/$/, '')
  if (path.split('/').length > mostDepth) throw invalid(`${shownPath(name)} is more than ${mostDepth} folders deep`)
  return path
}

function checkSum(header: Buffer, at: number): void {
  let sum = 0
  for (let index = 0; index < block; index += 1) sum += index >= 148 && index < 156 ? 0x20 : header[index]!
  if (numberAt(header, 148, 8, at) !== sum) throw invalid(`there is no tar header at ${at}`)
}

/** Octal digits, or for large numbers bytes behind a first one with its highest bit set. */
function numberAt(header: Buffer, from: number, length: number, at: number): number {
  if (header[from]! & 0x80) {
    let value = header[from]! & 0x7f
    for (let index = from + 1; index < from + length; index += 1) value = value * 256 + header[index]!
    if (value <= Number.MAX_SAFE_INTEGER) return value
    throw invalid(`a number in the header before ${at} is absurd`)
  }
  const text = textOf(header.subarray(from, from + length)).trim()
  if (text === '') return 0
  if (!/^[0-7]+$/.test(text)) throw invalid(`a number in the header before ${at} is none`)
  return Number.parseInt(text, 8)
}

function textOf(bytes: Buffer): string {
  const end = bytes.indexOf(0)
  return bytes.toString('utf8', 0, end === -1 ? bytes.length : end)
}

export async function readAt(file: FileHandle, position: number, length: number): Promise<Buffer> {
  const buffer = Buffer.alloc(length)
  for (let read = 0; read < length;) {
    const { bytesRead } = await file.read(buffer, read, length - read, position + read)
    if (bytesRead === 0) throw invalid('it is cut off')
    read += bytesRead
  }
  return buffer
}

function shownPath(name: string): string {
  return JSON.stringify(name.slice(0, 200))
}

function invalid(cause: string): DeltaError {
  return new DeltaError('archive_invalid', 'The archive can not be read', { cause })
}
