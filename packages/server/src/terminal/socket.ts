import type { WebSocket } from 'ws'
import type { Clock } from '../kernel/clock.ts'
import { DeltaError } from '../kernel/errors.ts'
import type { Watching } from './hub.ts'
import { errorNotice } from './notices.ts'
import { closeCodeOf, closeCodes, readControl } from './rules.ts'
import { terminalLimits } from './schema.ts'
import type { Control, Notice } from './schema.ts'
import type { ViewerSocket } from './viewer.ts'

const { viewerQueueMostBytes, inputFrameBytes, inputQueueBytes, inputFrameCostBytes, closeMs } = terminalLimits

export interface Timing {
  pingEveryMs: number
  stalledMs: number
  silentMs: number
}

export interface TerminalSocket extends ViewerSocket {
  /** From now on what the viewer sends is read. */
  serve(watching: Watching): void
  refuse(error: DeltaError): void
  readonly closed: Promise<void>
}

/** A viewer's WebSocket, paused until it is served. Whatever its peer does or leaves undone, it holds a bounded amount for a bounded time. */
export function createTerminalSocket(
  ws: WebSocket,
  { clock, timing }: { clock: Clock; timing: Timing },
): TerminalSocket {
  const closed = Promise.withResolvers<void>()
  let watching: Watching | undefined
  let inputBytes = 0
  let heardMs = clock.monotonic()
  let takenMs = heardMs
  let pausedMs: number | undefined
  let ending: NodeJS.Timeout | undefined
  let watch: NodeJS.Timeout | undefined
  let sourcePaused = false
  let leaveSources: (() => void) | undefined

  ws.pause()

  const isOpen = (): boolean => ws.readyState === ws.OPEN

  const close = (code: number, reason: string): void => {
    if (ending !== undefined) return
    // Whoever does not read does not answer either.
    ending = setTimeout(() => ws.terminate(), closeMs)
    ws.resume()
    ws.close(code, reason.slice(0, 120))
  }

  const send = (notice: Notice): void => {
    if (!isOpen()) return
    ws.send(JSON.stringify(notice))
    // It asks and does not read the answers.
    if (ws.bufferedAmount > viewerQueueMostBytes) close(closeCodes.tooSlow, 'does not read')
  }

  const complain = (error: DeltaError): void => send(errorNotice(error))

  const refuse = (error: DeltaError, code = closeCodeOf(error)): void => {
    complain(error)
    close(code, error.code)
  }

  const onInput = (bytes: Buffer): void => {
    if (bytes.length > inputFrameBytes) {
      const limit = { context: { limitBytes: inputFrameBytes } }
      return refuse(
        new DeltaError('body_too_large', 'The frame is too large: send input in pieces', limit),
        closeCodes.tooBig,
      )
    }
    if (bytes.length === 0) return
    const writing = watching?.write(bytes)
    if (writing === undefined) return
    const cost = bytes.length + inputFrameCostBytes
    inputBytes += cost
    if (inputBytes > inputQueueBytes && pausedMs === undefined) {
      pausedMs = clock.monotonic()
      ws.pause()
    }
    writing
      .catch((error: unknown) => complain(known(error)))
      .finally(() => {
        inputBytes -= cost
        if (pausedMs === undefined || inputBytes > inputQueueBytes / 2 || ending !== undefined) return
        pausedMs = undefined
        heardMs = clock.monotonic()
        if (!sourcePaused) ws.resume()
      })
  }

  const onText = (data: Buffer): void => {
    const read = readControl(data)
    if (read.ok) return onControl(read.control)
    const error = new DeltaError('invalid_request', 'The control frame is not valid', { cause: read.reason })
    if (read.fatal) refuse(error, closeCodes.invalidText)
    else complain(error)
  }

  const onControl = (control: Control): void => {
    if (control.type === 'ping') send({ type: 'pong' })
    else if (control.type === 'taken') watching?.taken(control.offset)
    else watching?.resize({ cols: control.cols, rows: control.rows })
  }

  ws.on('message', (data: Buffer, isBinary: boolean) => {
    heardMs = clock.monotonic()
    if (ending !== undefined) return
    try {
      if (isBinary) onInput(data)
      else onText(data)
    } catch (error) {
      complain(known(error))
    }
  })
  ws.on('ping', (data: Buffer) => {
    heardMs = clock.monotonic()
    if (ws.bufferedAmount > viewerQueueMostBytes) close(closeCodes.tooSlow, 'does not read')
    else if (isOpen()) ws.pong(data)
  })
  ws.on('pong', () => (heardMs = clock.monotonic()))
  // What breaks the protocol is answered with its close code by the library; what the network does needs no answer.
  ws.on('error', () => {
    ending ??= setTimeout(() => ws.terminate(), closeMs)
  })
  ws.on('close', () => {
    clearTimeout(ending)
    clearInterval(watch)
    leaveSources?.()
    watching?.leave()
    closed.resolve()
  })

  const look = (): void => {
    const nowMs = clock.monotonic()
    // It is not read: that nothing was heard is not its fault.
    if (sourcePaused) heardMs = nowMs
    if (pausedMs !== undefined) {
      if (nowMs - pausedMs >= timing.silentMs) close(closeCodes.tooSlow, 'the program does not read what is typed')
      return
    }
    const stalled = nowMs - Math.max(heardMs, takenMs) >= timing.stalledMs || nowMs - heardMs >= timing.silentMs
    if (stalled) close(closeCodes.tooSlow, 'neither reads nor answers')
    else if (isOpen()) ws.ping()
  }

  return {
    get queuedBytes() {
      return ws.bufferedAmount
    },
    sendBytes(bytes, onTaken) {
      if (!isOpen()) return
      ws.send(bytes, (error) => {
        if (error) return
        takenMs = clock.monotonic()
        onTaken()
      })
    },
    send,
    close,
    refuse,
    serve(served) {
      watching = served
      if (ws.readyState === ws.CLOSED) return served.leave()
      watch = setInterval(look, timing.pingEveryMs)
      leaveSources = served.addSource({
        pause() {
          sourcePaused = true
          if (ending === undefined) ws.pause()
        },
        resume() {
          sourcePaused = false
          if (pausedMs === undefined) ws.resume()
        },
      })
      if (ending === undefined && !sourcePaused) ws.resume()
    },
    closed: closed.promise,
  }
}

function known(error: unknown): DeltaError {
  return error instanceof DeltaError
    ? error
    : new DeltaError('internal', 'The frame could not be handled', { cause: error })
}
