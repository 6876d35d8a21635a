import { DeltaError } from '../errors.ts'

/** The parts of the tar format (POSIX ustar and pax, GNU long names) that folders need. */

export const blockBytes = 512
/** Largest number an octal size field of 11 digits holds. */
const largestOctalSize = 0o77777777777

export interface TarHeader {
  path: string
  type: 'file' | 'directory' | 'symlink' | 'link' | 'other' | 'pax' | 'global' | 'longName' | 'longLink'
  size: number
  mode: number
  mtimeSeconds: number
  linkTarget: string
}

const typeByFlag: Record<string, TarHeader['type']> = {
  '0': 'file',
  '\0': 'file',
  '7': 'file',
  '1': 'link',
  '2': 'symlink',
  '5': 'directory',
  x: 'pax',
  g: 'global',
  L: 'longName',
  K: 'longLink',
}

const notTar = (why: string) => new DeltaError(`This is not a tar archive: ${why}`)

const encoder = new TextEncoder()
const decoder = new TextDecoder()

/** The blocks before an entry's content; a pax header comes first where a name or size does not fit. */
export function encodeHeader(
  header: Pick<TarHeader, 'path' | 'size' | 'mode' | 'mtimeSeconds' | 'linkTarget'> & {
    type: 'file' | 'directory' | 'symlink'
  },
): Uint8Array[] {
  const flag = { file: '0', directory: '5', symlink: '2' }[header.type]
  const records: [string, string][] = []
  if (encoder.encode(header.path).length > 100) records.push(['path', header.path])
  if (encoder.encode(header.linkTarget).length > 100) records.push(['linkpath', header.linkTarget])
  if (header.size > largestOctalSize) records.push(['size', String(header.size)])
  const blocks: Uint8Array[] = []
  if (records.length > 0) {
    const body = paxBody(records)
    blocks.push(
      headerBlock({ ...header, path: 'pax', linkTarget: '', size: body.length, mode: 0o644 }, 'x'),
      body,
      padding(body.length),
    )
  }
  blocks.push(headerBlock(header, flag))
  return blocks
}

export const padding = (size: number): Uint8Array => new Uint8Array((blockBytes - (size % blockBytes)) % blockBytes)

/** Two empty blocks end an archive. */
export const endOfArchive = (): Uint8Array => new Uint8Array(2 * blockBytes)

type HeaderFields = Pick<TarHeader, 'path' | 'size' | 'mode' | 'mtimeSeconds' | 'linkTarget'>

function headerBlock(fields: HeaderFields, flag: string): Uint8Array {
  const block = new Uint8Array(blockBytes)
  const put = (at: number, bytes: Uint8Array, most: number) => block.set(bytes.subarray(0, most), at)
  const octal = (at: number, width: number, value: number) =>
    put(
      at,
      encoder.encode(
        Math.max(0, Math.floor(value))
          .toString(8)
          .padStart(width - 1, '0'),
      ),
      width - 1,
    )
  put(0, encoder.encode(fields.path), 100)
  octal(100, 8, fields.mode & 0o7777)
  octal(108, 8, 0)
  octal(116, 8, 0)
  octal(124, 12, fields.size > largestOctalSize ? 0 : fields.size)
  octal(136, 12, fields.mtimeSeconds)
  put(148, encoder.encode('        '), 8)
  put(156, encoder.encode(flag), 1)
  put(157, encoder.encode(fields.linkTarget), 100)
  put(257, encoder.encode('ustar\u000000'), 8)
  put(148, encoder.encode(`${checksum(block).toString(8).padStart(6, '0')}\0 `), 8)
  return block
}

function checksum(block: Uint8Array): number {
  let sum = 0
  for (let at = 0; at < blockBytes; at++) sum += at >= 148 && at < 156 ? 32 : (block[at] ?? 0)
  return sum
}

function paxBody(records: [string, string][]): Uint8Array {
  const lines = records.map(([name, value]) => {
    const rest = encoder.encode(` ${name}=${value}\n`)
    // The length counts its own digits, which may push it to one digit more.
    let length = rest.length + String(rest.length).length
    if (String(length).length + rest.length > length) length = rest.length + String(length).length
    return new Uint8Array([...encoder.encode(String(length)), ...rest])
  })
  return new Uint8Array(lines.flatMap((line) => [...line]))
}

/** Null for an empty block. Throws when the block is no header. */
export function decodeHeader(block: Uint8Array): TarHeader | null {
  if (block.every((byte) => byte === 0)) return null
  const stated = numberAt(block, 148, 8)
  if (stated !== checksum(block)) throw notTar('a header has the wrong checksum')
  const prefix = textAt(block, 257, 5) === 'ustar' && block[262] === 0 ? textAt(block, 345, 155) : ''
  const name = textAt(block, 0, 100)
  return {
    path: prefix === '' ? name : `${prefix}/${name}`,
    type: typeByFlag[String.fromCharCode(block[156] ?? 0)] ?? 'other',
    size: numberAt(block, 124, 12),
    mode: numberAt(block, 100, 8) & 0o7777,
    mtimeSeconds: numberAt(block, 136, 12),
    linkTarget: textAt(block, 157, 100),
  }
}

function textAt(block: Uint8Array, at: number, width: number): string {
  const field = block.subarray(at, at + width)
  const end = field.indexOf(0)
  return decoder.decode(end === -1 ? field : field.subarray(0, end))
}

function numberAt(block: Uint8Array, at: number, width: number): number {
  const first = block[at] ?? 0
  // The highest bit marks GNU's binary form, for what octal digits cannot hold.
  if (first & 0x80) {
    let value = first & 0x7f
    for (let next = at + 1; next < at + width; next++) value = value * 256 + (block[next] ?? 0)
    if (!Number.isSafeInteger(value)) throw notTar('a number is out of range')
    return value
  }
  const text = textAt(block, at, width).trim()
  if (!/^[0-7]*$/.test(text)) throw notTar('a number is malformed')
  return text === '' ? 0 : Number.parseInt(text, 8)
}

export function decodePax(body: Uint8Array): Map<string, string> {
  const records = new Map<string, string>()
  for (let at = 0; at < body.length;) {
    const space = body.indexOf(32, at)
    const length = space === -1 ? Number.NaN : Number(decoder.decode(body.subarray(at, space)))
    if (!Number.isSafeInteger(length) || length <= space - at || at + length > body.length) {
      throw notTar('a pax header is malformed')
    }
    const record = decoder.decode(body.subarray(space + 1, at + length - 1))
    const equals = record.indexOf('=')
    if (equals > 0) records.set(record.slice(0, equals), record.slice(equals + 1))
    at += length
  }
  return records
}
