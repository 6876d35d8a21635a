import type { Bytes } from '../blobs.ts'

/**
 * The same bytes in pieces of exactly `pieceBytes`; the last, marked as such, has 0 to `pieceBytes` and always comes. A piece holds until the
 * next is asked for, in the same memory: what is left to the collector of garbage grows with the size of the whole.
 */
export async function* inPieces(
  source: Bytes,
  pieceBytes: number,
): AsyncGenerator<{ piece: Uint8Array; last: boolean }> {
  const piece = Buffer.allocUnsafeSlow(pieceBytes)
  let filled = 0
  for await (const chunk of source) {
    for (let at = 0; at < chunk.length;) {
      // A full piece is handed out only when something follows: until then it may be the last.
      if (filled === pieceBytes) {
        yield { piece, last: false }
        filled = 0
      }
      const part = chunk.subarray(at, at + pieceBytes - filled)
      piece.set(part, filled)
      filled += part.length
      at += part.length
    }
  }
  yield { piece: piece.subarray(0, filled), last: true }
}
