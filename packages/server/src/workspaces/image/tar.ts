import { DeltaError } from '../../kernel/errors.ts'

/** The little of tar that an OCI archive needs: regular files with short names, one after the other, and folders. */

const blockBytes = 512
const largestOctal = 8 ** 11 - 1

export interface TarEntry {
  name: string
  size: number
  /** Must be read to its end before the next entry is asked for. */
  body: AsyncIterable<Uint8Array>
}

export function tarHeader(name: string, size: number): Uint8Array {
  const header = Buffer.alloc(blockBytes)
  if (Buffer.byteLength(name) > 100) throw new RangeError(`${name} is too long for a tar header`)
  header.write(name, 0)
  header.write('0000644\0', 100)
  header.write('0000000\0', 108)
  header.write('0000000\0', 116)
  writeSize(header, size)
  header.write('00000000000\0', 136)
  header.write('        ', 148)
  header.write('0', 156)
  header.write('ustar\x0000', 257)
  const sum = header.reduce((total, byte) => total + byte, 0)
  header.write(`${sum.toString(8).padStart(6, '0')}\0 `, 148)
  return header
}

/** Beyond 8 GiB as a binary number, as GNU tar and everybody after it does. */
function writeSize(header: Buffer, size: number): void {
  if (size <= largestOctal) {
    header.write(`${size.toString(8).padStart(11, '0')}\0`, 124)
    return
  }
  header[124] = 0x80
  header.writeBigUInt64BE(BigInt(size), 128)
}

export function tarPadding(size: number): Uint8Array {
  return new Uint8Array((blockBytes - (size % blockBytes)) % blockBytes)
}

export const tarEnd = new Uint8Array(2 * blockBytes)

export function archiveInvalid(cause: string): DeltaError {
  return new DeltaError('image_invalid', 'This is no OCI archive that can be used', { cause })
}

/** Entries as they come, with bounded memory. Longer names and other kinds than files and folders are no part of an OCI archive. */
export async function* readTar(source: AsyncIterable<Uint8Array>): AsyncGenerator<TarEntry> {
  const bytes = createReader(source)
  for (;;) {
    const header = await bytes.exactly(blockBytes)
    if (!header) return
    if (header.every((byte) => byte === 0)) return await bytes.rest()
    const { name, size, type } = readHeader(header)
    let left = size
    const body = async function* (): AsyncGenerator<Uint8Array> {
      while (left > 0) {
        const chunk = await bytes.upTo(left)
        if (!chunk) throw archiveInvalid(`It ends within ${name}`)
        left -= chunk.byteLength
        yield chunk
      }
    }
    if (type === 'file') yield { name, size, body: body() }
    // What nobody read, of this or of an extended header, is passed by.
    for await (const _ of body());
    await bytes.exactly(tarPadding(size).byteLength)
  }
}

function readHeader(header: Uint8Array): { name: string; size: number; type: 'file' | 'other' } {
  const block = Buffer.from(header.buffer, header.byteOffset, header.byteLength)
  const told = Number.parseInt(textAt(block, 148, 8), 8)
  const sum = block.reduce((total, byte, at) => total + (at >= 148 && at < 156 ? 32 : byte), 0)
  if (told !== sum) throw archiveInvalid('A header of the tar is damaged, or it is compressed: send it uncompressed')
  const prefix = textAt(block, 345, 155)
  const name = prefix === '' ? textAt(block, 0, 100) : `${prefix}/${textAt(block, 0, 100)}`
  const type = [0, 48].includes(block[156]!) ? 'file' : 'other'
  return { name: name.replace(/^\.\//, ''), size: sizeOf(block), type }
}

function sizeOf(block: Buffer): number {
  if (block[124]! & 0x80) {
    const size = block.readBigUInt64BE(128)
    if (size > BigInt(Number.MAX_SAFE_INTEGER)) throw archiveInvalid('An entry is larger than anything')
    return Number(size)
  }
  const text = textAt(block, 124, 12).trim()
  if (!/^[0-7]*$/.test(text)) throw archiveInvalid('The size of an entry is no number')
  return text === '' ? 0 : Number.parseInt(text, 8)
}

function textAt(block: Buffer, at: number, length: number): string {
  const end = block.indexOf(0, at)
  return block.toString('utf8', at, end === -1 || end > at + length ? at + length : end)
}

/** Bytes in the portions that are asked for. */
function createReader(source: AsyncIterable<Uint8Array>) {
  const iterator = source[Symbol.asyncIterator]()
  let held: Uint8Array = new Uint8Array(0)

  async function upTo(most: number): Promise<Uint8Array | undefined> {
    while (held.byteLength === 0) {
      const { done, value } = await iterator.next()
      if (done) return undefined
      held = value
    }
    const portion = held.subarray(0, most)
    held = held.subarray(portion.byteLength)
    return portion
  }

  return {
    upTo,
    /** Undefined at the end of the source. */
    async exactly(length: number): Promise<Uint8Array | undefined> {
      const parts: Uint8Array[] = []
      for (let left = length; left > 0;) {
        const part = await upTo(left)
        if (!part && left === length) return undefined
        if (!part) throw archiveInvalid('It is cut')
        parts.push(part)
        left -= part.byteLength
      }
      return Buffer.concat(parts)
    },
    /** Whoever sends is let finish. */
    async rest(): Promise<void> {
      while (await upTo(blockBytes * 1_024));
    },
  }
}
