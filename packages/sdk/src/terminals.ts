import { newKey } from './commands.ts'
import { Terminal, type TerminalConnection, type TerminalSize } from './terminal.ts'
import type { Transport } from './transport.ts'
import type { Page, TerminalInfo } from './types.ts'

export interface ConnectTerminalOptions {
  /** An access token instead of the API key, or what gets a new one whenever a connection is made. */
  token?: string | (() => string | Promise<string>)
  /** How much of the output so far comes first. @default 262,144 bytes */
  scrollbackBytes?: number
  /** Go on exactly here, the `offset` of an earlier handle, instead. */
  from?: number
  /** Watch, and type nothing. @default false */
  readOnly?: boolean
  /** For runtimes that have none of their own. @default globalThis.WebSocket */
  WebSocket?: typeof WebSocket
}

export interface CreateTerminalOptions extends ConnectTerminalOptions {
  /** @default 80 */
  cols?: number
  /** @default 24 */
  rows?: number
  /** A text is run by `/bin/bash -l -c`, an array as it is. @default a login shell */
  cmd?: string | string[]
  /** Name or uid inside the sandbox. @default "user" */
  user?: string
  /** @default "/workspace" */
  cwd?: string
  /** Added to the sandbox's own environment. */
  env?: Record<string, string>
  /** At its end everything in the terminal gets TERM, 2 s later KILL. @default 0, which is none */
  timeoutMs?: number
  /** Free text, returned by `list`. */
  tag?: string
  /** Requests with the same key open one terminal. @default a random one */
  idempotencyKey?: string
}

/** Terminals of one sandbox. */
export class Terminals {
  readonly #transport: Transport
  readonly #path: string

  /** `base`: the path of the sandbox, or of the agent whose computer it is. */
  constructor(transport: Transport, base: string) {
    this.#transport = transport
    this.#path = `${base}/terminals`
  }

  /**
   * Starts a shell, or a program, on a terminal and connects to it. It runs on when this program ends; `connect` finds it again.
   *
   * @example
   * const terminal = await sandbox.terminal.create({ cols: 120, rows: 40 })
   * terminal.onData((bytes) => process.stdout.write(bytes))
   * await terminal.write('ls -la; exit\n')
   * const { exitCode } = await terminal.wait()
   */
  async create(options: CreateTerminalOptions = {}): Promise<Terminal> {
    const { token, scrollbackBytes, from, readOnly, WebSocket, idempotencyKey = newKey(), ...json } = options
    const request = { method: 'POST', path: this.#path, json, idempotencyKey } as const
    const info = await this.#transport.json<TerminalInfo>(request)
    const connecting = { token, readOnly, WebSocket, from: from ?? (scrollbackBytes === undefined ? 0 : undefined) }
    return this.#open(info, { ...connecting, scrollbackBytes })
  }

  /** Watches a terminal that runs, or ran within the last hour. */
  connect(terminalId: string, options: ConnectTerminalOptions = {}): Promise<Terminal> {
    return this.#open({ id: terminalId, pid: 0, cols: null, rows: null }, options)
  }

  /** Those that run, and those that ended within the hour. */
  async list(): Promise<TerminalInfo[]> {
    return (await this.#transport.json<Page<TerminalInfo>>({ path: this.#path })).data
  }

  async resize(terminalId: string, { cols, rows }: TerminalSize): Promise<TerminalInfo> {
    const path = `${this.#path}/${encodeURIComponent(terminalId)}`
    return this.#transport.json<TerminalInfo>({ method: 'PATCH', path, json: { cols, rows }, repeatable: true })
  }

  /** HUP to everything in it, KILL 2 s later. One that has ended is no error. */
  kill(terminalId: string): Promise<void> {
    const path = `${this.#path}/${encodeURIComponent(terminalId)}`
    return this.#transport.done({ method: 'DELETE', path, repeatable: true })
  }

  async #open(
    { id, pid, cols, rows }: Pick<TerminalInfo, 'id' | 'pid' | 'cols' | 'rows'>,
    { token, ...options }: { [Name in keyof ConnectTerminalOptions]: ConnectTerminalOptions[Name] | undefined },
  ): Promise<Terminal> {
    const connection: TerminalConnection = {
      ...options,
      url: `${this.#transport.url}${this.#path}/${encodeURIComponent(id)}/connect`,
      secret: async () => (typeof token === 'function' ? token() : (token ?? this.#transport.key())),
      renewable: typeof token === 'function',
      // Why a WebSocket was refused its client is not told; the same question as a request is answered.
      explain: token === undefined ? () => this.list() : undefined,
      kill: () => this.kill(id),
    }
    const terminal = new Terminal(
      { id, pid, size: cols === null || rows === null ? undefined : { cols, rows } },
      connection,
    )
    await terminal.opened
    return terminal
  }
}
