import { constants, type ZstdOptions } from 'node:zlib'
import type { Digest } from './blobs.ts'

export interface CompressSettings {
  /** Is there, and empty. */
  path: string
  /** How many pieces are compressed at the same time. */
  lanes: number
}

/**
 * To the worker: the next piece, which is the worker's until it says `written`, or that there are no more. Every piece but the last has
 * `pieceBytes`, so that equal tars give equal layers; the first always comes, be it empty.
 */
export type CompressRequest = Uint8Array<ArrayBuffer> | 'end'

/** What a worker that was ended has not told is not there. */
export type CompressReport =
  | { kind: 'written'; memory: ArrayBuffer }
  | { kind: 'done'; digest: Digest; diffId: Digest; size: number; tarSize: number }
  | { kind: 'failed'; code: string | undefined; message: string }

/** A frame of its own for each: they are compressed independently, and a layer grows by about a hundredth for it. */
export const pieceBytes = 4 * 1024 * 1024

/** Of whoever compresses: equal tars give equal layers. */
export const zstdOptions = { params: { [constants.ZSTD_c_compressionLevel]: 3 } } satisfies ZstdOptions
