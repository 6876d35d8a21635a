import { mkdir, statfs } from 'node:fs/promises'
import { DeltaError } from '../kernel/errors.ts'
import type { Bytes } from './blobs.ts'

/** As a driver tells it. */
export interface Room {
  state: 'fine' | 'low' | 'read_only'
  reserveBytes?: number
}

export interface SpaceDeps {
  /** What is written lies in it. */
  folder: string
  /** Of the disk as the driver last told it. */
  room: () => Room
  /** @default what the file system of the folder says */
  freeBytes?: (folder: string) => Promise<number>
}

export type Space = ReturnType<typeof createSpace>

/** Bytes that may be written between two looks at the disk. */
const lookBytes = 16 * 1024 * 1024
/** Sent by clients at the same time; one more is refused. */
const mostAtOnce = 8

/** The disk of the server, for what others send: below its reserve nothing of theirs is taken in. */
export function createSpace({ folder, room, freeBytes = free }: SpaceDeps) {
  /** Bytes that were said to come and may not be on the disk yet. */
  let promised = 0
  let inUse = 0

  async function check(moreBytes: number): Promise<void> {
    const { state, reserveBytes = 0 } = room()
    const left = state === 'fine' ? (await freeBytes(folder)) - reserveBytes : 0
    if (state === 'fine' && left >= moreBytes) return
    throw new DeltaError('disk_full', 'The disk of the server is nearly full: nothing is taken in', {
      cause:
        state === 'fine'
          ? `${moreBytes} bytes are to come, and ${Math.max(0, left)} are free above the reserve`
          : 'less is free than the reserve',
    })
  }

  return {
    /** Runs `work` only where so many bytes have room beside all others that were promised. */
    async promise<T>(bytes: number, work: () => Promise<T>): Promise<T> {
      promised += bytes
      try {
        await check(promised)
        return await work()
      } finally {
        promised -= bytes
      }
    },
    /** Runs `work` unless too many of its kind are under way. */
    async oneOfFew<T>(work: () => Promise<T>): Promise<T> {
      if (inUse >= mostAtOnce) {
        throw new DeltaError('too_many_requests', `${mostAtOnce} archives are being sent already`)
      }
      inUse += 1
      try {
        return await work()
      } finally {
        inUse -= 1
      }
    },
    /** The same bytes, as long as the disk has room for them. */
    async *guarded(source: Bytes): AsyncGenerator<Uint8Array> {
      await check(0)
      let unseen = 0
      for await (const chunk of source) {
        unseen += chunk.byteLength
        if (unseen >= lookBytes) {
          await check(unseen)
          unseen = 0
        }
        yield chunk
      }
    },
  }
}

async function free(folder: string): Promise<number> {
  await mkdir(folder, { recursive: true })
  const { bavail, bsize } = await statfs(folder)
  return bavail * bsize
}
