import { DeltaError } from '../kernel/errors.ts'
import type { Source } from '../kernel/held-bytes.ts'
import type { AttachedExec } from '../sandboxes/execs/service.ts'
import type { ExecSummary } from '../sandboxes/execs/schema.ts'
import { errorNotice, exitNotice } from './notices.ts'
import { closeCodeOf, closeCodes } from './rules.ts'
import { terminalLimits } from './schema.ts'
import type { TerminalSize } from './schema.ts'
import { createSeat, firstQueueBytes } from './viewer.ts'
import type { Seat, ViewerSocket } from './viewer.ts'
import { createOutputWindow, firstWindowBytes } from './window.ts'

const { windowBytes, paceBytes, resizeEveryMs, resizedEveryMs, viewersPerTerminal } = terminalLimits

export interface HubDeps {
  terminalId: string
  attached: AttachedExec
  /** Where `attached` begins. */
  from: number
  size: TerminalSize | undefined
  openHistory(from: number): Promise<AttachedExec>
  /** The size that was asked for last, for whoever comes when this hub is gone. */
  onSize(size: TerminalSize): void
  /** The last viewer has left and the channel was given back: the program runs on. */
  onEmpty(): void
}

export interface Joining {
  from: number
  /** The output so far, as far as the caller knows. */
  end: number
  readOnly: boolean
  /** See `SeatDeps`. */
  aheadBytes: number | undefined
}

/** A viewer's hold on the terminal. */
export interface Watching {
  /** Resolves when there is room for more; undefined where there is nothing to wait for. */
  write(bytes: Buffer): Promise<void> | undefined
  resize(size: TerminalSize): void
  taken(offset: number): void
  /** What brings input pauses while the sandbox holds too much of it. Returns how to leave. */
  addSource(source: Source): () => void
  leave(): void
}

export interface Hub {
  join(socket: ViewerSocket, joining: Joining): Watching
  /** The last one wins. */
  resize(size: TerminalSize): void
  readonly viewers: number
  readonly ended: boolean
  /** Nobody may join any more. */
  readonly closed: boolean
}

/**
 * All viewers of one terminal on one channel to it. The fastest of them sets the pace: the program is held back when even that one does not
 * take what is there. Whoever is slower than the window is long loses what lies between.
 */
export function createHub(deps: HubDeps): Hub {
  const { terminalId, attached, openHistory, onEmpty } = deps
  const { held } = attached
  if (!held.take(firstWindowBytes)) {
    attached.detach()
    throw noMemory()
  }
  const window = createOutputWindow(deps.from, windowBytes, held)
  const viewers = new Map<ViewerSocket, Seat>()
  let exit: ExecSummary | undefined
  let failure: DeltaError | undefined
  let closed = false
  let goOn: (() => void) | undefined

  const tooFarAhead = (): boolean => {
    if (viewers.size === 0) return false
    let fastest: number | undefined
    for (const { position, stale } of viewers.values()) if (!stale) fastest = Math.max(fastest ?? 0, position)
    if (fastest === undefined) return false
    const ahead = window.end - fastest
    if (ahead >= paceBytes) return true
    while (ahead >= window.size / 2) if (!window.widen()) return true
    return false
  }

  const onProgress = (): void => {
    if (goOn === undefined || tooFarAhead()) return
    const resume = goOn
    goOn = undefined
    resume()
  }

  const pumpAll = (): void => {
    for (const seat of viewers.values()) seat.pump()
  }

  const sizes = createSizes(deps.size, resizeEveryMs, ({ cols, rows }) => {
    if (exit === undefined && failure === undefined) attached.resize(cols, rows)
  })
  let resizedBy: ViewerSocket | undefined
  const told = createSizes(undefined, resizedEveryMs, ({ cols, rows }) => {
    for (const socket of viewers.keys()) if (socket !== resizedBy) socket.send({ type: 'resized', cols, rows })
  })

  const resize = (size: TerminalSize, by?: ViewerSocket): void => {
    sizes.set(size)
    deps.onSize(size)
    // Who set the one before and was not told must hear of this one.
    resizedBy = by
    told.set(size)
  }

  const remove = (socket: ViewerSocket): void => {
    viewers.get(socket)?.leave()
    if (!viewers.delete(socket) || closed) return
    onProgress()
    if (viewers.size > 0) return
    closed = true
    sizes.stop()
    told.stop()
    window.close()
    attached.detach()
    onEmpty()
  }

  /** After all of its output, a viewer hears how it ended. */
  const sayGoodbye = (socket: ViewerSocket): void => {
    if (exit === undefined) return
    socket.send(exitNotice(exit))
    socket.close(closeCodes.exit, 'the terminal has ended')
    remove(socket)
  }

  const fail = (socket: ViewerSocket, error: DeltaError): void => {
    socket.send(errorNotice(error))
    socket.close(closeCodeOf(error), error.code)
    remove(socket)
  }

  /** In pieces of which the window, as small as it may be, holds two: so it has what the fastest viewer has yet to get. */
  const take = ({ offset, bytes }: { offset: number; bytes: Buffer }): void | Promise<void> => {
    for (let at = 0; at < bytes.length;) {
      if (closed) return
      const piece = bytes.subarray(at, at + window.size / 2)
      window.append(offset + at, piece)
      at += piece.length
      pumpAll()
      if (!tooFarAhead()) continue
      const letGo = new Promise<void>((resolve) => (goOn = resolve))
      return letGo.then(() => take({ offset: offset + at, bytes: bytes.subarray(at) }))
    }
  }
  const consumed = attached.consume(take)
  consumed.then(
    (summary) => {
      exit = summary
      pumpAll()
    },
    (error: unknown) => {
      if (closed) return
      failure =
        error instanceof DeltaError ? error : new DeltaError('internal', 'The terminal was lost', { cause: error })
      for (const socket of viewers.keys()) fail(socket, failure)
    },
  )

  return {
    join(socket, { from, end, readOnly, aheadBytes }) {
      if (viewers.size >= viewersPerTerminal) {
        throw new DeltaError('too_many_requests', `${viewersPerTerminal} viewers watch this terminal already`, {
          context: { limit: viewersPerTerminal },
        })
      }
      if (!held.take(firstQueueBytes)) throw noMemory()
      const { cols, rows } = sizes.current ?? { cols: null, rows: null }
      const ready = {
        terminalId,
        pid: attached.pid,
        offset: from,
        end: Math.max(end, window.end),
        cols,
        rows,
        readOnly,
      }
      socket.send({ type: 'ready', ...ready })
      const onEnd = (): void => sayGoodbye(socket)
      const seat = createSeat({ socket, window, from, aheadBytes, memory: held, openHistory, onProgress, onEnd })
      viewers.set(socket, seat)
      if (failure) fail(socket, failure)
      else seat.pump()
      return {
        write(bytes) {
          if (readOnly) throw readOnlyRefusal()
          // What is typed after a resize is read by a program that has the new size.
          sizes.flush()
          return exit === undefined ? attached.write(bytes) : undefined
        },
        resize(size) {
          if (readOnly) throw readOnlyRefusal()
          resize(size, socket)
        },
        taken: seat.taken,
        addSource: (source) => held.addSource(source),
        leave: () => remove(socket),
      }
    },
    resize(size) {
      resize(size)
      sizes.flush()
    },
    get viewers() {
      return viewers.size
    },
    get ended() {
      return exit !== undefined || failure !== undefined
    },
    get closed() {
      return closed
    },
  }
}

function noMemory(): DeltaError {
  return new DeltaError('too_many_requests', 'The server holds as much as it may for this sandbox')
}

function readOnlyRefusal(): DeltaError {
  return new DeltaError('invalid_request', 'This viewer only watches', { cause: 'connect without `readOnly` to type' })
}

/** A window that is dragged asks for a hundred sizes a second; each would wake the program. The first goes at once, then the latest. */
function createSizes(first: TerminalSize | undefined, everyMs: number, apply: (size: TerminalSize) => void) {
  let current = first
  let waiting = false
  let timer: NodeJS.Timeout | undefined
  const flush = (): void => {
    if (!waiting) return
    waiting = false
    clearTimeout(timer)
    start()
  }
  const rest = (): void => {
    timer = undefined
    flush()
  }
  const start = (): void => {
    apply(current!)
    timer = setTimeout(rest, everyMs)
    timer.unref()
  }
  return {
    get current() {
      return current
    },
    set(size: TerminalSize): void {
      current = size
      if (timer === undefined) start()
      else waiting = true
    },
    flush,
    stop: () => clearTimeout(timer),
  }
}
