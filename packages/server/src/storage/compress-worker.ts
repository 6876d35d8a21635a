// Runs in a worker thread: hashing and writing a gigabyte in the server's own would hold up every request.
import { createHash } from 'node:crypto'
import { closeSync, fdatasync, fsyncSync, openSync, writeSync } from 'node:fs'
import { dirname } from 'node:path'
import { parentPort, workerData } from 'node:worker_threads'
import { constants, createZstdCompress, type ZstdCompress } from 'node:zlib'
import { type CompressReport, type CompressRequest, type CompressSettings, zstdOptions } from './compress-messages.ts'

const outputBytes = 1024 * 1024
/** So much is written before the disk is told to begin: the wait at the end is then for the rest alone. */
const syncEveryBytes = 16 * 1024 * 1024

const { path, lanes } = workerData as CompressSettings
const port = parentPort!

/** Compresses one piece at a time. */
interface Lane {
  zstd: ZstdCompress
  output: Buffer[]
}

interface Piece {
  bytes: Uint8Array<ArrayBuffer>
  /** Its frame, once that is whole. */
  output: Buffer[] | undefined
}

function report(message: CompressReport, transfer: ArrayBuffer[] = []): void {
  // oxlint-disable-next-line unicorn/require-post-message-target-origin -- A worker's port has no origin; the rule is for windows.
  port.postMessage(message, transfer)
}

function fail(error: unknown): void {
  const { code, message } = error as NodeJS.ErrnoException
  report({ kind: 'failed', code, message })
  port.close()
}

/** Says of any failure, once. */
function guarded<Args extends unknown[]>(act: (...args: Args) => void): (...args: Args) => void {
  return (...args) => {
    try {
      act(...args)
    } catch (error) {
      fail(error)
    }
  }
}

function start(): void {
  const file = openSync(path, 'r+')
  const tarHash = createHash('sha256')
  const layerHash = createHash('sha256')
  /** In the order of the tar: those that wait for a lane, are in one, or wait for the one before them to be written. */
  const pieces: Piece[] = []
  const waiting: Piece[] = []
  const idle = Array.from({ length: lanes }, openLane)
  const sizes = { tar: 0, layer: 0, synced: 0 }
  let syncing = false
  let ended = false

  function openLane(): Lane {
    const zstd = createZstdCompress({ ...zstdOptions, chunkSize: outputBytes })
    const lane: Lane = { zstd, output: [] }
    zstd.on('error', fail)
    zstd.on('data', (chunk: Buffer) => lane.output.push(chunk))
    return lane
  }

  function compressNext(): void {
    while (waiting.length > 0 && idle.length > 0) {
      const [piece, lane] = [waiting.shift()!, idle.pop()!]
      lane.output = []
      // Not in one step: then zstd takes a shorter way where its output happens to have room, to other bytes.
      lane.zstd.write(piece.bytes)
      lane.zstd.flush(
        constants.ZSTD_e_end,
        guarded(() => {
          piece.output = lane.output
          idle.push(lane)
          compressNext()
          writeFinished()
        }),
      )
    }
  }

  function writeFinished(): void {
    for (let piece = pieces[0]; piece?.output; piece = pieces[0]) {
      for (const chunk of piece.output) write(chunk)
      pieces.shift()
      report({ kind: 'written', memory: piece.bytes.buffer }, [piece.bytes.buffer])
    }
    if (sizes.layer - sizes.synced >= syncEveryBytes) syncOn()
    finishWhenWritten()
  }

  function write(chunk: Buffer): void {
    layerHash.update(chunk)
    for (let at = 0; at < chunk.length;) at += writeSync(file, chunk, at)
    sizes.layer += chunk.length
    giveBack(chunk)
  }

  function syncOn(): void {
    if (syncing) return
    syncing = true
    sizes.synced = sizes.layer
    fdatasync(
      file,
      guarded((error: Error | null) => {
        // Not tried again: a second sync would succeed without having written.
        if (error) throw error
        syncing = false
        finishWhenWritten()
      }),
    )
  }

  function finishWhenWritten(): void {
    if (!ended || syncing || pieces.length > 0) return
    fsyncSync(file)
    closeSync(file)
    const folder = openSync(dirname(path), 'r')
    fsyncSync(folder)
    closeSync(folder)
    for (const { zstd } of idle) zstd.destroy()
    report({
      kind: 'done',
      digest: `sha256:${layerHash.digest('hex')}`,
      diffId: `sha256:${tarHash.digest('hex')}`,
      size: sizes.layer,
      tarSize: sizes.tar,
    })
    port.close()
  }

  port.on(
    'message',
    guarded((message: CompressRequest) => {
      if (message === 'end') {
        ended = true
        return finishWhenWritten()
      }
      const piece: Piece = { bytes: message, output: undefined }
      pieces.push(piece)
      waiting.push(piece)
      compressNext()
      // While other threads compress it.
      tarHash.update(message)
      sizes.tar += message.length
    }),
  )
}

/**
 * A stream fills the same memory with one chunk after another, and takes new memory when that is full. Left to the collector of garbage, these half
 * a gigabyte for each of a layer make it look through everything thirty times.
 */
function giveBack({ buffer, byteOffset, length }: Buffer): void {
  const isFull = buffer.byteLength === outputBytes && byteOffset + length === outputBytes
  if (isFull && buffer instanceof ArrayBuffer) buffer.transfer(0)
}

guarded(start)()
