import { isUtf8 } from 'node:buffer'

/** Bounds of a path, checked again by the guest and its kernel. */
export const PATH_BYTES = 4_096
export const NAME_BYTES = 255

const base = Buffer.from('/workspace/')
const slash = 0x2f

/** Text, or bytes where these are no UTF-8: names inside a sandbox may be anything. */
export type SandboxPath = string | Buffer

export type CheckedPath =
  | { ok: true; path: SandboxPath }
  | { ok: false; code: 'path_invalid' | 'name_too_long'; reason: string }

/**
 * Where a caller's path lies. `..` is left as it is: the kernel resolves it inside the sandbox, after the links before it, and
 * there is nothing above the sandbox's root to reach.
 */
export function absolutePath(path: SandboxPath | undefined): CheckedPath {
  if (path === undefined || path.length === 0)
    return { ok: false, code: 'path_invalid', reason: 'path is missing or empty' }
  const bytes = typeof path === 'string' ? Buffer.from(path) : path
  if (bytes.includes(0)) return { ok: false, code: 'path_invalid', reason: 'path contains a NUL character' }
  const absolute = bytes[0] === slash ? bytes : Buffer.concat([base, bytes])
  if (absolute.length > PATH_BYTES)
    return { ok: false, code: 'name_too_long', reason: `path is longer than ${PATH_BYTES} bytes` }
  if (longestName(absolute) > NAME_BYTES) {
    return { ok: false, code: 'name_too_long', reason: `a name in path is longer than ${NAME_BYTES} bytes` }
  }
  return { ok: true, path: isUtf8(absolute) ? absolute.toString() : absolute }
}

function longestName(path: Buffer): number {
  let longest = 0
  for (let start = 0; start <= path.length;) {
    const next = path.indexOf(slash, start)
    const end = next < 0 ? path.length : next
    longest = Math.max(longest, end - start)
    start = end + 1
  }
  return longest
}

/**
 * A parameter of an address's query as the bytes it stands for. Query parsers make text of it, and leave what is no UTF-8 encoded, so
 * that such a file could not be named, or another would be.
 */
export function queryBytes(url: string, name: string): SandboxPath | undefined {
  const query = url.indexOf('?')
  if (query < 0) return undefined
  const end = url.indexOf('#', query)
  for (const pair of url.slice(query + 1, end < 0 ? undefined : end).split('&')) {
    if (pair !== name && !pair.startsWith(`${name}=`)) continue
    const bytes = percentDecode(pair.slice(name.length + 1).replaceAll('+', ' '))
    return isUtf8(bytes) ? bytes.toString() : bytes
  }
  return undefined
}

function percentDecode(text: string): Buffer {
  if (!text.includes('%')) return Buffer.from(text)
  const parts = text.split(/(%[0-9A-Fa-f]{2})/)
  return Buffer.concat(
    parts.map((part, index) => (index % 2 === 1 ? Buffer.from(part.slice(1), 'hex') : Buffer.from(part))),
  )
}

/** '0755', '755' or 493 as a number of permission bits; undefined for anything else. */
export function parseMode(mode: string | number): number | undefined {
  if (typeof mode === 'number') return Number.isInteger(mode) && mode >= 0 && mode <= 0o7777 ? mode : undefined
  return /^(0o?)?[0-7]{1,4}$/.test(mode) ? Number.parseInt(mode.replace(/^0o/, ''), 8) : undefined
}

/** 'rwxr-xr-x' with s, S, t and T where those bits are set. */
export function permissionText(mode: number): string {
  let text = ''
  for (const [shift, special, letter] of [
    [6, 0o4000, 's'],
    [3, 0o2000, 's'],
    [0, 0o1000, 't'],
  ] as const) {
    const bits = (mode >> shift) & 7
    text += bits & 4 ? 'r' : '-'
    text += bits & 2 ? 'w' : '-'
    const executable = (bits & 1) === 1
    if ((mode & special) !== 0) text += executable ? letter : letter.toUpperCase()
    else text += executable ? 'x' : '-'
  }
  return text
}

export type RangeWish = { kind: 'from'; from: number; to: number | undefined } | { kind: 'last'; bytes: number }

/**
 * What a Range header asks for. Undefined is the whole file: no header, another unit, something unreadable, or several ranges, which a
 * server may answer whole (RFC 9110, 14.2).
 */
export function parseRange(header: string | undefined): RangeWish | undefined {
  const match = header === undefined ? null : /^bytes=[ \t]*(\d{0,15})-(\d{0,15})[ \t]*$/i.exec(header)
  if (match === null) return undefined
  const [, first, last] = match as unknown as [string, string, string]
  if (first === '') return last === '' ? undefined : { kind: 'last', bytes: Number(last) }
  const from = Number(first)
  if (last === '') return { kind: 'from', from, to: undefined }
  return Number(last) < from ? undefined : { kind: 'from', from, to: Number(last) }
}

export interface ByteRange {
  from: number
  length: number
}

/** The part of a file of this size that is meant; undefined when there is no byte of it. */
export function resolveRange(wish: RangeWish, size: number): ByteRange | undefined {
  if (wish.kind === 'last') {
    const length = Math.min(wish.bytes, size)
    return length === 0 ? undefined : { from: size - length, length }
  }
  if (wish.from >= size) return undefined
  const last = wish.to === undefined ? size - 1 : Math.min(wish.to, size - 1)
  return { from: wish.from, length: last - wish.from + 1 }
}

/** Whether an If-None-Match or If-Match list names this ETag. Weak marks are ignored for the first, as RFC 9110 has it. */
export function etagListed(header: string, etag: string, { weak }: { weak: boolean }): boolean {
  if (header.trim() === '*') return true
  return header.split(',').some((item) => {
    const tag = item.trim()
    return (weak && tag.startsWith('W/') ? tag.slice(2) : tag) === etag
  })
}

/** The ETag an If-Match on a write means, as the guest compares it; undefined where the header names none or several. */
export function singleEtag(header: string): string | undefined {
  const tag = header.trim()
  return /^"[^",]*"$/.test(tag) ? tag : undefined
}

/** A page's end as an opaque text, and back. Paths are bytes, so they are carried as such. */
export function encodeCursor(lastPath: Buffer): string {
  return lastPath.toString('base64url')
}

export function decodeCursor(cursor: string): Buffer | undefined {
  if (!/^[A-Za-z0-9_-]{1,6000}$/.test(cursor)) return undefined
  const path = Buffer.from(cursor, 'base64url')
  const sound = path.length > 0 && path.length <= PATH_BYTES && path[0] === 0x2f && !path.includes(0)
  return sound ? path : undefined
}

/** A name for Content-Disposition that no header can be broken with. */
export function downloadName(path: string, ending = ''): string {
  const name = (path.split('/').findLast((part) => part !== '') ?? 'root') + ending
  const plain = name.replace(/[^\x20-\x7e]|["\\%]/g, '_')
  return plain === name
    ? `attachment; filename="${plain}"`
    : `attachment; filename="${plain}"; filename*=UTF-8''${encodeRfc5987(name)}`
}

function encodeRfc5987(text: string): string {
  return encodeURIComponent(text.toWellFormed()).replace(
    /['()*]/g,
    (char) => `%${char.charCodeAt(0).toString(16).toUpperCase()}`,
  )
}
