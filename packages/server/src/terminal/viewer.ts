import { DeltaError } from '../kernel/errors.ts'
import type { HeldAccount } from '../kernel/held-bytes.ts'
import type { AttachedExec } from '../sandboxes/execs/service.ts'
import { errorNotice } from './notices.ts'
import { terminalLimits } from './schema.ts'
import type { Notice } from './schema.ts'
import type { OutputWindow } from './window.ts'

const { viewerQueueBytes, outputFrameBytes, afterGapBytes, unconfirmedMs } = terminalLimits
/** Memory a seat has at least; it grows up to `viewerQueueBytes`. */
export const firstQueueBytes = 16 * 1024
/** A viewer that comes back this far behind and still does not reach the present is as slow as any other. */
const HISTORY_ROUNDS = 64
const HISTORY_MS = 10_000

/** Where a viewer's frames go. */
export interface ViewerSocket {
  /** What the kernel has not taken yet. */
  readonly queuedBytes: number
  /** `onTaken` is called when the kernel has these bytes. */
  sendBytes(bytes: Buffer, onTaken: () => void): void
  send(notice: Notice): void
  close(code: number, reason: string): void
}

export interface SeatDeps {
  socket: ViewerSocket
  window: OutputWindow
  /** Where it begins. */
  from: number
  /** Output it may be sent before it says that it has taken some; undefined: as much as the socket takes. */
  aheadBytes: number | undefined
  /** `firstQueueBytes` of it are taken already. */
  memory: Pick<HeldAccount, 'grow' | 'give'>
  /** Another channel to the same output, for what the window does not hold any more. */
  openHistory(from: number): Promise<AttachedExec>
  /** The viewer has taken something. */
  onProgress(): void
  /** All output there is was sent: says goodbye where the terminal has ended. */
  onEnd(): void
}

/** One viewer's place in the output. It is never given more than its socket takes and its memory holds, so it costs the same however slow it is. */
export interface Seat {
  /** It was sent all it wants ahead, and has confirmed none of it for long: nobody waits for it any more. */
  readonly stale: boolean
  /** Output up to here was given to the socket. */
  readonly position: number
  /** Gives it what there is and it has room for. */
  pump(): void
  /** The viewer has dealt with the output up to here. */
  taken(offset: number): void
  leave(): void
}

export function createSeat({ socket, window, from, aheadBytes = Infinity, memory, ...deps }: SeatDeps): Seat {
  const { openHistory, onProgress, onEnd } = deps
  let position = from
  let takenUpTo = from
  let left = false
  let queueBytes = firstQueueBytes
  let stale = false
  let confirming: NodeJS.Timeout | undefined
  let behind = from < window.base
  let onRoom: (() => void) | undefined

  const isLagging = (): boolean => !left && position < window.base

  const mayBeSent = (): boolean => position - takenUpTo < aheadBytes

  const room = (queued = queueBytes): boolean => socket.queuedBytes < queued && mayBeSent()

  /** More memory for its queue, where there is plenty. */
  const grow = (): boolean => {
    const more = Math.min(queueBytes, viewerQueueBytes - queueBytes)
    if (more === 0 || !memory.grow(more)) return false
    queueBytes += more
    return true
  }

  const awaitConfirmation = (): void => {
    confirming ??= setTimeout(() => {
      stale = true
      onProgress()
    }, unconfirmedMs)
    confirming.unref()
  }

  const send = (bytes: Buffer): void => {
    position += bytes.length
    socket.sendBytes(bytes, onTaken)
  }

  const onTaken = (): void => {
    if (left) return
    if (room(queueBytes / 2)) onRoom?.()
    pump()
    onProgress()
  }

  const jump = (to: number): void => {
    const bytes = to - position
    socket.send({ type: 'gap', bytes, offset: to })
    position = to
    // Nobody has to take what was never sent.
    takenUpTo += bytes
  }

  const pump = (): void => {
    if (left || behind) return
    while (room() || (mayBeSent() && position < window.end && grow())) {
      if (position < window.base) jump(Math.max(window.base, window.end - afterGapBytes))
      if (position >= window.end) break
      send(window.read(position, Math.min(outputFrameBytes, queueBytes - socket.queuedBytes)))
    }
    if (!mayBeSent()) awaitConfirmation()
    if (position >= window.end) onEnd()
  }

  /** What was said before the window begins comes from the guest, in pieces, so that it holds back nobody else. */
  const catchUp = async (): Promise<void> => {
    for (let round = 0; round < HISTORY_ROUNDS && isLagging(); round++) {
      while (grow());
      const target = Math.min(window.base, position + queueBytes / 2)
      for (const { offset, bytes } of await readHistory(openHistory, position, target)) {
        if (offset >= target || left) break
        if (offset > position) jump(offset)
        send(bytes.subarray(0, target - offset))
      }
      // Overwritten inside meanwhile.
      if (position < target) break
      if (!mayBeSent()) awaitConfirmation()
      if (!left && !room(queueBytes / 2)) await new Promise<void>((resolve) => (onRoom = resolve))
    }
    if (left) return
    if (position < window.base) jump(window.base)
  }

  if (behind) {
    const live = (): void => {
      behind = false
      pump()
      onProgress()
    }
    catchUp().then(live, (error: unknown) => {
      if (left) return
      // What is gone is told as a gap; that it could not be asked for is told too.
      if (error instanceof DeltaError) socket.send(errorNotice(error))
      if (position < window.base) jump(window.base)
      live()
    })
  }

  return {
    get stale() {
      return stale
    },
    get position() {
      return position
    },
    pump,
    taken(offset) {
      const before = takenUpTo
      takenUpTo = Math.max(before, Math.min(offset, position))
      if (takenUpTo > before) {
        clearTimeout(confirming)
        confirming = undefined
        stale = false
      }
      onTaken()
    },
    leave() {
      if (left) return
      left = true
      clearTimeout(confirming)
      memory.give(queueBytes)
      onRoom?.()
    },
  }
}

interface Piece {
  offset: number
  bytes: Buffer
}

async function readHistory(
  open: (from: number) => Promise<AttachedExec>,
  from: number,
  target: number,
): Promise<Piece[]> {
  const pieces: Piece[] = []
  const channel = await open(from)
  let done = false
  const finish = (): void => {
    done = true
    channel.detach()
  }
  const timer = setTimeout(finish, HISTORY_MS)
  try {
    await channel.consume(({ offset, bytes }) => {
      if (done) return
      pieces.push({ offset, bytes })
      if (offset + bytes.length >= target) finish()
    })
  } catch (error) {
    if (!done) throw error
  } finally {
    clearTimeout(timer)
  }
  return pieces
}
