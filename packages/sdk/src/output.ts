/** A piece of what a command wrote. */
export interface OutputChunk {
  stream: 'stdout' | 'stderr'
  bytes: Uint8Array
  /** The bytes as UTF-8; a character cut by a chunk's end comes with the next chunk. */
  text: string
  /** How many bytes the command had written, both streams together, before this chunk. */
  offset: number
  /** Bytes written before this chunk that nobody read in time and that are gone. */
  lostBytes: number
}

/** What a result keeps of each stream at either end, as the server's own JSON answers do. */
export const keptBytesPerEnd = 1024 * 1024

export interface OutputKeeper {
  push(bytes: Uint8Array): void
  bytesCut(): number
  text(encoding: 'utf8' | 'base64'): string
}

/** Keeps the first and the last MiB of a stream in bounded memory, however long it gets. */
export function createOutputKeeper(keep: number = keptBytesPerEnd): OutputKeeper {
  const head: Uint8Array[] = []
  let headBytes = 0
  let tail: Uint8Array[] = []
  let tailBytes = 0
  let cut = 0

  function push(bytes: Uint8Array): void {
    const toHead = Math.min(bytes.length, keep - headBytes)
    if (toHead > 0) {
      head.push(bytes.subarray(0, toHead))
      headBytes += toHead
    }
    if (toHead === bytes.length) return
    tail.push(bytes.subarray(toHead))
    tailBytes += bytes.length - toHead
    // Trimming only at twice the size makes one copy pay for a whole MiB of output.
    if (tailBytes > 2 * keep || tail.length > 4096) trim()
  }

  function trim(): void {
    const all = concat(tail, tailBytes)
    const kept = all.slice(Math.max(0, all.length - keep))
    cut += all.length - kept.length
    tail = [kept]
    tailBytes = kept.length
  }

  return {
    push,
    bytesCut: () => cut + Math.max(0, tailBytes - keep),
    text(encoding) {
      trim()
      const all = concat([...head, ...tail], headBytes + tailBytes)
      if (encoding === 'base64') return base64Of(all)
      if (cut === 0) return new TextDecoder().decode(all)
      // Apart, so that half a character on either side of the cut is not taken for one.
      return new TextDecoder().decode(all.subarray(0, headBytes)) + new TextDecoder().decode(all.subarray(headBytes))
    },
  }
}

export function concat(parts: readonly Uint8Array[], total: number): Uint8Array {
  if (parts.length === 1 && parts[0] !== undefined) return parts[0]
  const all = new Uint8Array(total)
  let at = 0
  for (const part of parts) {
    all.set(part, at)
    at += part.length
  }
  return all
}

type FromBase64 = { fromBase64?: (text: string) => Uint8Array }
type NodeBuffer = {
  from(text: string, encoding: string): Uint8Array
  from(bytes: ArrayBufferLike, start: number, length: number): { toString(encoding: string): string }
}
const nodeBuffer = (globalThis as { Buffer?: NodeBuffer }).Buffer

/** Node's Buffer where there is one: atob takes fifty times as long. */
export function bytesOfBase64(text: string): Uint8Array {
  if (nodeBuffer !== undefined) return nodeBuffer.from(text, 'base64')
  const native = (Uint8Array as FromBase64).fromBase64
  if (native !== undefined) return native(text)
  return Uint8Array.from(atob(text), (char) => char.charCodeAt(0))
}

export function base64Of(bytes: Uint8Array): string {
  if (nodeBuffer !== undefined) return nodeBuffer.from(bytes.buffer, bytes.byteOffset, bytes.length).toString('base64')
  let binary = ''
  for (const byte of bytes) binary += String.fromCharCode(byte)
  return btoa(binary)
}
