import { backoffMs, sleep } from './backoff.ts'
import { DeltaApiError, DeltaConfigError, DeltaConnectionError, DeltaError } from './errors.ts'
import { openTerminalSocket, type TerminalNotice, type TerminalSocket } from './terminal-socket.ts'

export interface TerminalSize {
  cols: number
  rows: number
}

export interface TerminalExit {
  state: string
  /** Null where a signal or the timeout ended it, and where it is not known. */
  exitCode: number | null
  signal: string | null
  timedOut: boolean
  oomKilled: boolean
}

/** Output this viewer did not get: it read too slowly, or came back too late. */
export interface TerminalGap {
  bytes: number
  /** Where the output goes on. */
  offset: number
}

/** Everything a handle needs to connect, and to connect again. */
export interface TerminalConnection {
  url: string
  secret(): Promise<string>
  /** Another secret may be had when this one has expired. */
  renewable: boolean
  /** Rejects with the reason for which a connection was refused. */
  explain: (() => Promise<unknown>) | undefined
  kill(): Promise<void>
  from?: number | undefined
  scrollbackBytes?: number | undefined
  readOnly?: boolean | undefined
  WebSocket?: typeof WebSocket | undefined
}

type Item = Uint8Array<ArrayBuffer> | TerminalGap

/** What the server sends before it hears that some was taken: also the most this keeps of what nobody took. */
const aheadBytes = 1024 * 1024
/** A connection that is lost is tried again for so long. */
const reconnectMs = 60_000
const sentAheadBytes = 1024 * 1024
const pieceBytes = 64 * 1024

/**
 * A terminal as one viewer sees it. The output waits for whoever takes it: the listeners of `onData`, or one `for await`. A lost connection is
 * taken up again at its byte; what was typed in that moment may be lost.
 *
 * @example
 * for await (const bytes of terminal) process.stdout.write(bytes)
 */
export class Terminal implements AsyncIterable<Uint8Array<ArrayBuffer>>, AsyncDisposable {
  readonly id: string
  /** Resolves when it is connected for the first time; `create` and `connect` have waited for it. */
  readonly opened: Promise<void>
  readonly #connection: TerminalConnection
  readonly #listeners = new Set<(bytes: Uint8Array<ArrayBuffer>) => void>()
  readonly #gapListeners = new Set<(gap: TerminalGap) => void>()
  readonly #sizeListeners = new Set<(size: TerminalSize) => void>()
  readonly #errorListeners = new Set<(error: DeltaApiError) => void>()
  readonly #ended = Promise.withResolvers<TerminalExit>()
  #pid: number
  #size: TerminalSize | undefined
  #queue: Item[] = []
  #received: number | undefined
  #taken = 0
  #confirmed = 0
  #discards = false
  #readers = 0
  #over = false
  #left = false
  #socket: TerminalSocket | undefined
  #writing: Promise<void> = Promise.resolve()
  #wake: (() => void)[] = []

  constructor(known: { id: string; pid: number; size: TerminalSize | undefined }, connection: TerminalConnection) {
    this.id = known.id
    this.#pid = known.pid
    this.#size = known.size
    this.#connection = connection
    // Whoever does not wait for the end need not hear that it never came.
    this.#ended.promise.catch(() => {})
    const opened = Promise.withResolvers<void>()
    opened.promise.catch(() => {})
    this.opened = opened.promise
    this.#run(opened.resolve).then(
      () => opened.resolve(),
      (error: unknown) => {
        opened.reject(error)
        this.#end(() => this.#ended.reject(error))
      },
    )
  }

  /** Inside the sandbox. */
  get pid(): number {
    return this.#pid
  }

  /** As it was last set by any viewer; undefined where the server does not know it. */
  get size(): TerminalSize | undefined {
    return this.#size
  }

  /** The output up to here was handed out: where another handle goes on with `connect(id, { from })`. */
  get offset(): number {
    return this.#taken
  }

  /** Called with each piece of output, from what has waited so far on. Returns how to stop. */
  onData(listener: (bytes: Uint8Array<ArrayBuffer>) => void): () => void {
    this.#listeners.add(listener)
    this.#drain()
    return () => void this.#listeners.delete(listener)
  }

  /** Called where output is missing; a `resize` makes most programs draw anew. */
  onGap(listener: (gap: TerminalGap) => void): () => void {
    this.#gapListeners.add(listener)
    return () => void this.#gapListeners.delete(listener)
  }

  /** Called when somebody else has changed the size. */
  onResize(listener: (size: TerminalSize) => void): () => void {
    this.#sizeListeners.add(listener)
    return () => void this.#sizeListeners.delete(listener)
  }

  /** Called when the server refuses something that was sent, such as a size out of bounds. */
  onError(listener: (error: DeltaApiError) => void): () => void {
    this.#errorListeners.add(listener)
    return () => void this.#errorListeners.delete(listener)
  }

  /** Types. Resolves when it is on its way; wait for it when writing much. */
  write(data: string | Uint8Array): Promise<void> {
    const bytes = typeof data === 'string' ? new TextEncoder().encode(data) : Uint8Array.from(data)
    const turn = this.#writing.then(() => this.#send(bytes))
    this.#writing = turn.catch(() => {})
    return turn
  }

  /** Whole numbers from 1 to 1,000; of several viewers the last one wins. */
  resize(cols: number, rows: number): void {
    this.#size = { cols, rows }
    // Behind what was typed before. Without a connection it is sent with the next one.
    void this.#writing.then(() => this.#socket?.control({ type: 'resize', cols, rows }))
  }

  /** How it ended. Without a listener or reader, output is thrown away while this waits. Rejects when the connection can not be had again. */
  wait(): Promise<TerminalExit> {
    this.#discards = true
    this.#drain()
    return this.#ended.promise
  }

  /** HUP to everything in it, KILL 2 s later. */
  kill(): Promise<void> {
    return this.#connection.kill()
  }

  /** Leaves; the terminal runs on. */
  close(): void {
    this.#left = true
    this.#end(() => this.#ended.reject(new DeltaError('This handle of the terminal was closed')))
    this.#socket?.close()
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.close()
  }

  /** For one reader. The program waits for it, unless somebody else reads faster. */
  async *[Symbol.asyncIterator](): AsyncGenerator<Uint8Array<ArrayBuffer>> {
    this.#readers += 1
    try {
      for (;;) {
        const item = this.#queue.shift()
        if (item === undefined) {
          if (this.#over) break
          await new Promise<void>((resolve) => this.#wake.push(resolve))
        } else {
          // Before it is handed out: who leaves the loop with it has it.
          this.#took(item)
          if (item instanceof Uint8Array) yield item
        }
      }
    } finally {
      this.#readers -= 1
    }
    // A reader hears of a failure; that the handle was closed here is none.
    if (!this.#left) await this.#ended.promise
  }

  // ── output ─────────────────────────────────────────────────────────────────────────────────────────────────────────────────────

  #arrived(item: Item): void {
    this.#received = item instanceof Uint8Array ? this.#received! + item.length : item.offset
    this.#queue.push(item)
    this.#drain()
    this.#rouse()
  }

  #drain(): void {
    if (this.#listeners.size === 0 && !(this.#discards && this.#readers === 0)) return
    for (let item = this.#queue.shift(); item !== undefined; item = this.#queue.shift()) {
      if (item instanceof Uint8Array) for (const listener of this.#listeners) listener(item)
      this.#took(item)
    }
  }

  #took(item: Item): void {
    const isGap = !(item instanceof Uint8Array)
    this.#taken = isGap ? item.offset : this.#taken + item.length
    if (isGap) for (const listener of this.#gapListeners) listener(item)
    if (!isGap && this.#taken - this.#confirmed < aheadBytes / 4) return
    this.#confirmed = this.#taken
    this.#socket?.control({ type: 'taken', offset: this.#taken })
  }

  #rouse(): void {
    for (const wake of this.#wake.splice(0)) wake()
  }

  #end(settle: () => void): void {
    this.#over = true
    settle()
    this.#rouse()
  }

  // ── input ──────────────────────────────────────────────────────────────────────────────────────────────────────────────────────

  async #send(bytes: Uint8Array<ArrayBuffer>): Promise<void> {
    for (let at = 0; at < bytes.length; at += pieceBytes) {
      while (!this.#over && (this.#socket === undefined || this.#socket.queuedBytes > sentAheadBytes)) await sleep(5)
      if (this.#over) throw new DeltaError('The terminal has ended, or this handle was closed')
      this.#socket?.send(bytes.subarray(at, at + pieceBytes))
    }
  }

  // ── connection ─────────────────────────────────────────────────────────────────────────────────────────────────────────────────

  /** Connects until it is over, and again after every loss. */
  async #run(onOpened: () => void): Promise<void> {
    let sinceMs = performance.now()
    for (let attempt = 0; !this.#left; attempt++) {
      const session = await this.#session(() => {
        sinceMs = performance.now()
        attempt = 0
        onOpened()
      })
      if (this.#over) return
      const reason = session.error ?? (await this.#reasonFor(session.opened))
      const final = reason instanceof DeltaApiError && reason.status < 500 && ![408, 429].includes(reason.status)
      if (final && !(reason.status === 401 && this.#connection.renewable && session.opened)) throw reason
      if (performance.now() - sinceMs > reconnectMs) throw reason ?? this.#unreachable(session.code)
      await sleep(session.opened ? 50 : backoffMs(attempt))
    }
  }

  async #session(onOpened: () => void): Promise<{ opened: boolean; code: number; error: DeltaApiError | undefined }> {
    const { from, scrollbackBytes, readOnly, url } = this.#connection
    const Socket = this.#connection.WebSocket ?? globalThis.WebSocket
    if (Socket === undefined) {
      throw new DeltaConfigError('This runtime has no WebSocket: use Node 22 or newer, or pass { WebSocket }')
    }
    const start = this.#received ?? from
    const place = start === undefined ? { scrollback: scrollbackBytes } : { from: start }
    const secret = await this.#connection.secret()
    let opened = false
    let error: DeltaApiError | undefined
    const socket = openTerminalSocket(Socket, {
      url,
      secret,
      query: { ...place, ahead: aheadBytes, readOnly: readOnly ? 1 : undefined },
      onBytes: (bytes) => this.#arrived(bytes),
      onNotice: (notice) => {
        if (notice.type === 'ready') {
          opened = true
          this.#onReady(notice, socket)
          onOpened()
        } else if (notice.type === 'error') {
          error = notice.error
          for (const listener of this.#errorListeners) listener(error)
        } else {
          // What follows shows that the connection was not closed for it.
          error = undefined
          this.#onNotice(notice)
        }
      },
    })
    if (this.#left) socket.close()
    const code = await socket.closed
    if (this.#socket === socket) this.#socket = undefined
    return { opened, code, error: code >= 4000 || code === 1011 || !opened ? error : undefined }
  }

  #onReady({ pid, offset, cols, rows }: TerminalNotice & { type: 'ready' }, socket: TerminalSocket): void {
    this.#pid = pid
    if (this.#received === undefined) this.#taken = offset
    this.#received = offset
    this.#confirmed = offset
    this.#socket = socket
    if (cols !== null && rows !== null) this.#size = { cols, rows }
    else if (this.#size) socket.control({ type: 'resize', ...this.#size })
  }

  #onNotice(notice: Exclude<TerminalNotice, { type: 'ready' | 'error' }>): void {
    if (notice.type === 'gap') this.#arrived({ bytes: notice.bytes, offset: notice.offset })
    if (notice.type === 'resized') {
      const { cols, rows } = notice
      this.#size = { cols, rows }
      for (const listener of this.#sizeListeners) listener({ cols, rows })
    }
    if (notice.type === 'exit') {
      const { state, exitCode, signal, timedOut, oomKilled } = notice
      this.#end(() => this.#ended.resolve({ state, exitCode, signal, timedOut, oomKilled }))
    }
  }

  async #reasonFor(opened: boolean): Promise<unknown> {
    if (opened || !this.#connection.explain) return undefined
    return this.#connection.explain().then(
      () => undefined,
      (error: unknown) => error,
    )
  }

  #unreachable(code: number): DeltaConnectionError {
    const { url } = this.#connection
    return new DeltaConnectionError(`The connection to the terminal was lost (${code}) and could not be made again`, {
      url,
    })
  }
}
