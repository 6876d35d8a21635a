import { apiErrorOf, type DeltaApiError } from './errors.ts'

/** What the server says in text frames. */
export type TerminalNotice =
  | { type: 'ready'; pid: number; offset: number; end: number; cols: number | null; rows: number | null }
  | { type: 'gap'; bytes: number; offset: number }
  | { type: 'resized'; cols: number; rows: number }
  | { type: 'pong' }
  | {
      type: 'exit'
      state: string
      exitCode: number | null
      signal: string | null
      timedOut: boolean
      oomKilled: boolean
    }
  | { type: 'error'; error: DeltaApiError }

export type TerminalControl =
  | { type: 'resize'; cols: number; rows: number }
  | { type: 'taken'; offset: number }
  | { type: 'ping' }

export interface TerminalSocketOptions {
  /** http or https. */
  url: string
  secret: string
  query: Record<string, string | number | undefined>
  onBytes(bytes: Uint8Array<ArrayBuffer>): void
  onNotice(notice: TerminalNotice): void
}

export interface TerminalSocket {
  readonly queuedBytes: number
  send(bytes: Uint8Array<ArrayBuffer>): void
  control(control: TerminalControl): void
  close(): void
  /** The close code; 1006 where the connection just broke. */
  readonly closed: Promise<number>
}

/** A server that says nothing for so long, though asked, is gone. */
const askEveryMs = 20_000
const silentMs = 45_000

/** One connection, for as long as it lasts. The secret goes in a header that every runtime can set, and is not in the address. */
export function openTerminalSocket(Socket: typeof WebSocket, options: TerminalSocketOptions): TerminalSocket {
  const { secret, onBytes, onNotice } = options
  const bearer = btoa(secret).replaceAll('+', '-').replaceAll('/', '_').replace(/=+$/, '')
  const ws = new Socket(addressOf(options), ['delta.terminal.v1', `delta.bearer.${bearer}`])
  ws.binaryType = 'arraybuffer'
  const closed = Promise.withResolvers<number>()
  let heardMs = performance.now()
  let over = false

  const control = (value: TerminalControl): void => {
    if (ws.readyState === ws.OPEN) ws.send(JSON.stringify(value))
  }
  let giveUp: ReturnType<typeof setTimeout> | undefined
  const finish = (code: number): void => {
    over = true
    clearInterval(timer)
    clearTimeout(giveUp)
    closed.resolve(code)
  }
  const close = (): void => {
    over = true
    ws.close()
    // The closing handshake with a server that is gone takes for ever.
    giveUp ??= setTimeout(() => finish(1006), 1_000)
  }
  const timer = setInterval(() => {
    if (performance.now() - heardMs > silentMs) close()
    else control({ type: 'ping' })
  }, askEveryMs)

  ws.addEventListener('message', (event) => {
    heardMs = performance.now()
    if (over) return
    const data: unknown = event.data
    if (data instanceof ArrayBuffer) return onBytes(new Uint8Array(data))
    const notice = noticeOf(data)
    if (notice) onNotice(notice)
  })
  ws.addEventListener('close', (event) => finish(event.code))
  // A close follows, which tells as much.
  ws.addEventListener('error', () => {})

  return {
    get queuedBytes() {
      return ws.bufferedAmount
    },
    send(bytes) {
      if (ws.readyState === ws.OPEN) ws.send(bytes)
    },
    control,
    close,
    closed: closed.promise,
  }
}

function addressOf({ url, query }: TerminalSocketOptions): string {
  const words = new URLSearchParams()
  for (const [name, value] of Object.entries(query)) if (value !== undefined) words.set(name, String(value))
  return `${url.replace(/^http/, 'ws')}?${words}`
}

/** Undefined for what a newer server may say. */
function noticeOf(data: unknown): TerminalNotice | undefined {
  const value = JSON.parse(String(data)) as { type: string; status?: number; error?: unknown }
  if (value.type === 'error') {
    const body = JSON.stringify({ error: value.error })
    return { type: 'error', error: apiErrorOf(value.status ?? 500, body, new Headers()) }
  }
  const known = ['ready', 'gap', 'resized', 'pong', 'exit'].includes(value.type)
  return known ? (value as TerminalNotice) : undefined
}
