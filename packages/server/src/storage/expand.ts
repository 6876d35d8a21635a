import { createHash } from 'node:crypto'
import type { Transform } from 'node:stream'
import { constants, createGunzip, createZstdDecompress } from 'node:zlib'
import { DeltaError } from '../kernel/errors.ts'
import type { Bytes, Digest } from './blobs.ts'

export interface ExpandOptions {
  /** `application/vnd.oci.image.layer.v1.tar+zstd` and its like, with `+gzip` or `.gzip`, or neither for none. */
  mediaType: string
  /** Digest that the tar must have; the last chunk comes only when it has. */
  diffId?: Digest | undefined
  maxBytes: number
}

const outputBytes = 256 * 1024
/** A frame may ask for a window of 2^25 = 32 MiB, as the best level of common tools does. More is memory in the hands of whoever made the layer. */
const windowLog = 25

/** The tar of a layer. Throws `layer_too_large` at `maxBytes`, `layer_invalid` for what is cut, garbled or not that tar. */
export async function* expandLayer(blob: Bytes, { mediaType, diffId, maxBytes }: ExpandOptions): Bytes {
  const hash = diffId && createHash('sha256')
  let bytes = 0
  let held: Uint8Array | undefined
  for await (const chunk of expanded(blob, mediaType)) {
    bytes += chunk.length
    if (bytes > maxBytes) {
      throw new DeltaError('layer_too_large', `Unpacked, the layer has more than ${maxBytes} bytes`, {
        context: { limitBytes: maxBytes },
      })
    }
    hash?.update(chunk)
    if (held) yield held
    held = chunk
  }
  const found = hash && `sha256:${hash.digest('hex')}`
  if (found !== diffId) throw invalid(`Unpacked, its digest is ${found} instead of ${diffId}.`)
  if (held) yield held
}

function expanded(blob: Bytes, mediaType: string): Bytes {
  if (mediaType.endsWith('+zstd')) return decompressed(blob, openZstd)
  if (/[.+]gzip$/.test(mediaType)) return decompressed(blob, openGzip)
  if (mediaType.endsWith('.tar')) return blob
  throw invalid(`Its media type ${mediaType.slice(0, 200)} is not known: tar, tar+gzip and tar+zstd are.`)
}

// Its type lacks `bytesWritten`, which `Zlib` declares.
type Engine = Transform & { bytesWritten: number }

const openGzip = (): Engine => createGunzip({ chunkSize: outputBytes })
const openZstd = (): Engine =>
  createZstdDecompress({ chunkSize: outputBytes, params: { [constants.ZSTD_d_windowLogMax]: windowLog } })

/** Node's stream for zstd ends with the first frame and drops the rest in silence, so each frame gets a stream of its own. */
async function* decompressed(blob: Bytes, open: () => Engine): Bytes {
  let engine = watched(open())
  try {
    for await (const chunk of blob) {
      for (let rest = chunk; rest.length > 0;) {
        const before = engine.stream.bytesWritten
        yield* engine.feed(rest)
        const taken = engine.stream.bytesWritten - before
        if (taken === rest.length) break
        if (before === 0 && taken === 0) throw invalid('It can not be unpacked: what follows is no frame.')
        rest = rest.subarray(taken)
        engine.stream.destroy()
        engine = watched(open())
      }
    }
    yield* engine.finish()
  } finally {
    engine.stream.destroy()
  }
}

function watched(stream: Engine) {
  let failure: Error | undefined
  let ended = false
  let wake = () => {}
  stream.on('error', (error) => {
    failure = error
    wake()
  })
  stream.on('end', () => {
    ended = true
    wake()
  })
  stream.on('readable', () => wake())

  /** Hands out what comes until `over` says that no more will. The stream itself holds back when nobody reads. */
  async function* drain(over: () => boolean): Bytes {
    for (;;) {
      const out = stream.read() as Buffer | null
      if (failure) throw invalid(`It can not be unpacked: ${failure.message}.`)
      if (out) yield out
      else if (over()) return
      else {
        await new Promise<void>((resolve) => {
          wake = resolve
        })
      }
    }
  }

  return {
    stream,
    async *feed(chunk: Uint8Array): Bytes {
      let taken = false
      stream.write(chunk, () => {
        taken = true
        wake()
      })
      yield* drain(() => taken)
    },
    async *finish(): Bytes {
      stream.end()
      yield* drain(() => ended)
    },
  }
}

function invalid(cause: string): DeltaError {
  return new DeltaError('layer_invalid', 'The image layer is not valid', { cause })
}
