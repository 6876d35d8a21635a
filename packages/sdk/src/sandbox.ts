import { AccessTokens } from './access-tokens.ts'
import type { CommandResult } from './command-handle.ts'
import { Commands, type RunCodeOptions } from './commands.ts'
import { Delta } from './delta.ts'
import { Files } from './files.ts'
import { Network } from './network.ts'
import { Pages } from './pages.ts'
import { Terminals } from './terminals.ts'
import { Ports } from './ports.ts'
import type { Transport } from './transport.ts'
import type {
  EgressPolicy,
  Page,
  SandboxInfo,
  SandboxMetrics,
  SandboxState,
  TimeoutAction,
  Transition,
} from './types.ts'
import type { VolumeMount } from './volumes.ts'

export interface CreateSandboxOptions {
  /** @default "host" */
  template?: string
  /** Until `onTimeout` happens. @default 300,000; at most 86,400,000 */
  timeoutMs?: number
  /** `stop` keeps the disk, `pause` the memory too. @default "kill" */
  onTimeout?: TimeoutAction
  /** Commands and file calls resume a paused and start a stopped sandbox. @default true */
  autoResume?: boolean
  metadata?: Record<string, string>
  /** What it may connect to. @default { egress: 'none' } */
  network?: { egress: EgressPolicy }
  /** Environment of every command. */
  env?: Record<string, string>
  /** Cores. @default 1 */
  cpu?: number
  /** @default 512 */
  memoryMb?: number
  /** @default 4096 */
  diskMb?: number
  /** Most processes and threads at once. @default 512 */
  processes?: number
  /** Id or name of the workspace whose files it works on, one sandbox at a time; `template` and `diskMb` are then the workspace's. */
  workspace?: string
  /** Where a sandbox runs on the workspace already: the refusal names it, or it is the answer. @default "refuse" */
  ifHeld?: 'refuse' | 'join'
  /** It stops when nobody has used it for so long; the next use starts it again. @default never */
  idleTimeoutMs?: number
  /** Folders shared with other sandboxes. @default none */
  volumes?: VolumeMount[]
  /** @default the server's */
  runtime?: string
  /** Requests with the same key make one sandbox. @default a random one */
  idempotencyKey?: string
  /** Leave the sandbox running when `await using` ends; it then ends by its timeout. @default false */
  keep?: boolean
  signal?: AbortSignal
}

export interface UpdateSandboxOptions {
  /** Counted from now. */
  timeoutMs?: number
  onTimeout?: TimeoutAction
  autoResume?: boolean
  metadata?: Record<string, string>
}

/**
 * An isolated Linux computer.
 *
 * @example
 * await using sandbox = await Sandbox.create()
 * const { stdout } = await sandbox.commands.run('uname -a')
 * await sandbox.files.write('notes.txt', stdout)
 */
export class Sandbox implements AsyncDisposable {
  readonly commands: Commands
  readonly files: Files
  readonly network: Network
  readonly terminal: Terminals
  readonly accessTokens: AccessTokens
  readonly ports: Ports
  /** Leave it running when `await using` ends. */
  keep: boolean
  readonly #transport: Transport
  readonly #path: string
  #info: SandboxInfo

  constructor(transport: Transport, info: SandboxInfo, { keep = false }: { keep?: boolean } = {}) {
    this.#transport = transport
    this.#info = info
    this.#path = `/v1/sandboxes/${encodeURIComponent(info.id)}`
    this.keep = keep
    this.commands = new Commands(transport, this.#path)
    this.files = new Files(transport, this.#path)
    this.network = new Network(transport, info.id, (network) => (this.#info = { ...this.#info, network }))
    this.terminal = new Terminals(transport, this.#path)
    this.accessTokens = new AccessTokens(transport, info.id)
    this.ports = new Ports(transport, info.id, this.accessTokens)
  }

  /** Makes a sandbox; with `await using` it is killed at the end of the block. */
  static create(options: CreateSandboxOptions = {}, delta: Delta = new Delta()): Promise<Sandbox> {
    return delta.sandboxes.create(options)
  }

  /** A handle on a sandbox that exists. It is kept when `await using` ends. */
  static connect(id: string, delta: Delta = new Delta()): Promise<Sandbox> {
    return delta.sandboxes.get(id)
  }

  get id(): string {
    return this.#info.id
  }

  /** As of the last answer about it; `refresh` asks anew. */
  get info(): SandboxInfo {
    return this.#info
  }

  get state(): SandboxState {
    return this.#info.state
  }

  async refresh(): Promise<SandboxInfo> {
    return this.#remember(await this.#transport.json<SandboxInfo>({ path: this.#path }))
  }

  /** Runs source code with its language's interpreter. */
  runCode(source: string, options: RunCodeOptions): Promise<CommandResult> {
    return this.commands.runCode(source, options)
  }

  /** Freezes every process; memory is kept. */
  pause(): Promise<SandboxInfo> {
    return this.#act('pause')
  }

  resume(): Promise<SandboxInfo> {
    return this.#act('resume')
  }

  /** Ends every process; the disk is kept for `start`. */
  stop(): Promise<SandboxInfo> {
    return this.#act('stop')
  }

  start(): Promise<SandboxInfo> {
    return this.#act('start')
  }

  /** Stops it, brings its workspace back to a snapshot, and starts it again. */
  async rollback(snapshot: string): Promise<SandboxInfo> {
    const request = {
      method: 'POST',
      path: `${this.#path}/rollback`,
      json: { snapshotId: snapshot },
      timeoutMs: 0,
    } as const
    return this.#remember(await this.#transport.json<SandboxInfo>(request))
  }

  /** Ends the sandbox for good. One that is gone already is no error. */
  async kill(): Promise<void> {
    await this.#transport.done({ method: 'DELETE', path: this.#path, repeatable: true })
    this.#info = { ...this.#info, state: 'killed' }
  }

  /** Time left, counted from now. */
  setTimeout(timeoutMs: number): Promise<SandboxInfo> {
    return this.update({ timeoutMs })
  }

  async update(changes: UpdateSandboxOptions): Promise<SandboxInfo> {
    const request = { method: 'PATCH', path: this.#path, json: changes, repeatable: true } as const
    return this.#remember(await this.#transport.json<SandboxInfo>(request))
  }

  metrics(): Promise<SandboxMetrics> {
    return this.#transport.json<SandboxMetrics>({ path: `${this.#path}/metrics` })
  }

  /** Every change of state with its reason. */
  logs({ pageSize }: { pageSize?: number } = {}): Pages<Transition> {
    return new Pages((cursor) =>
      this.#transport.json<Page<Transition>>({ path: `${this.#path}/logs`, query: { cursor, limit: pageSize } }),
    )
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (!this.keep) await this.kill()
  }

  async #act(action: 'pause' | 'resume' | 'stop' | 'start'): Promise<SandboxInfo> {
    // Each of them answers the same when it has been done already.
    const request = { method: 'POST', path: `${this.#path}/${action}`, repeatable: true } as const
    return this.#remember(await this.#transport.json<SandboxInfo>(request))
  }

  #remember(info: SandboxInfo): SandboxInfo {
    this.#info = info
    return info
  }
}
