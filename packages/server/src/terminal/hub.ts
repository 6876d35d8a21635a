import { DeltaError } from '../kernel/errors.ts'
import type { AttachedExec } from '../sandboxes/execs/service.ts'
import type { ExecSummary } from '../sandboxes/execs/schema.ts'
import { errorNotice, exitNotice } from './notices.ts'
import { closeCodeOf, closeCodes } from './rules.ts'
import { terminalLimits } from './schema.ts'
import type { TerminalSize } from './schema.ts'
import { createSeat } from './viewer.ts'
import type { Seat, ViewerSocket } from './viewer.ts'
import { createOutputWindow } from './window.ts'

const { windowBytes, paceBytes, resizeEveryMs, viewersPerTerminal } = terminalLimits

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
  const window = createOutputWindow(deps.from, windowBytes)
  const viewers = new Map<ViewerSocket, Seat>()
  let exit: ExecSummary | undefined
  let failure: DeltaError | undefined
  let closed = false
  let goOn: (() => void) | undefined

  const tooFarAhead = (): boolean => {
    if (viewers.size === 0) return false
    let fastest = 0
    for (const { position } of viewers.values()) fastest = Math.max(fastest, position)
    return window.end - fastest >= paceBytes
  }

  const onProgress = (): void => {
    if (goOn === undefined || tooFarAhead()) return
    const held = goOn
    goOn = undefined
    held()
  }

  const pumpAll = (): void => {
    for (const seat of viewers.values()) seat.pump()
  }

  const sizes = createSizes(deps.size, ({ cols, rows }) => {
    if (exit === undefined && failure === undefined) attached.resize(cols, rows)
  })

  const resize = (size: TerminalSize, by?: ViewerSocket): void => {
    sizes.set(size)
    deps.onSize(size)
    for (const socket of viewers.keys()) {
      if (socket !== by) socket.send({ type: 'resized', cols: size.cols, rows: size.rows })
    }
  }

  const remove = (socket: ViewerSocket): void => {
    viewers.get(socket)?.leave()
    if (!viewers.delete(socket) || closed) return
    onProgress()
    if (viewers.size > 0) return
    closed = true
    sizes.stop()
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

  const consumed = attached.consume(({ offset, bytes }) => {
    window.append(offset, bytes)
    pumpAll()
    return tooFarAhead() ? new Promise<void>((resolve) => (goOn = resolve)) : undefined
  })
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
      const seat = createSeat({ socket, window, from, aheadBytes, openHistory, onProgress, onEnd })
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

function readOnlyRefusal(): DeltaError {
  return new DeltaError('invalid_request', 'This viewer only watches', { cause: 'connect without `readOnly` to type' })
}

/** A window that is dragged asks for a hundred sizes a second; each would wake the program. The first goes at once, then the latest. */
function createSizes(first: TerminalSize | undefined, apply: (size: TerminalSize) => void) {
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
    timer = setTimeout(rest, resizeEveryMs)
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
