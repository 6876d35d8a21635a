import { Pages } from './pages.ts'
import type { Transport } from './transport.ts'
import type { ApprovalInfo, EgressConnection, EgressPolicy, NetworkInfo, Page, PresetName } from './types.ts'

/** Hosts and presets to be added to what a sandbox may connect to. */
export interface AllowOptions {
  hosts?: string[]
  presets?: PresetName[]
}

export interface RequestHostOptions {
  /** Why, for the person who decides. */
  reason: string
  /** @default 80 and 443 */
  port?: number
  /** Until when somebody must have decided, from now on. @default a day */
  ttlMs?: number
}

/**
 * What a sandbox may connect to, and what it connected to.
 *
 * @example
 * await sandbox.network.set({ hosts: ['api.example.com', 'git.example.com:22'], presets: ['packages'] })
 * for await (const { host, outcome, bytesDown } of sandbox.network.connections()) console.log(host, outcome, bytesDown)
 */
export class Network {
  readonly #transport: Transport
  readonly #base: string
  readonly #onChange: (network: NetworkInfo) => void

  constructor(transport: Transport, sandboxId: string, onChange: (network: NetworkInfo) => void) {
    this.#transport = transport
    this.#base = `/v1/sandboxes/${encodeURIComponent(sandboxId)}`
    this.#onChange = onChange
  }

  async get(): Promise<NetworkInfo> {
    return this.#remember(await this.#transport.json<NetworkInfo>({ path: `${this.#base}/network` }))
  }

  /** Replaces the policy at once; open connections that the new one refuses are cut. */
  async set(egress: EgressPolicy): Promise<NetworkInfo> {
    const request = { method: 'PUT', path: `${this.#base}/network`, json: { egress }, repeatable: true } as const
    return this.#remember(await this.#transport.json<NetworkInfo>(request))
  }

  /** Adds hosts, or presets, to what it may connect to. */
  async allow(more: string | string[] | AllowOptions): Promise<NetworkInfo> {
    const json = typeof more === 'string' ? { hosts: [more] } : Array.isArray(more) ? { hosts: more } : more
    const request = { method: 'POST', path: `${this.#base}/network/allow`, json, repeatable: true } as const
    return this.#remember(await this.#transport.json<NetworkInfo>(request))
  }

  /**
   * Asks a person to add a host; asking again, while nobody has decided, answers with what waits already. `egress_allowed_already`.
   *
   * @example
   * const { id } = await sandbox.network.request('fonts.example.com', { reason: 'The build fetches its fonts from there' })
   */
  request(host: string, options: RequestHostOptions): Promise<ApprovalInfo> {
    const json = { host, ...options }
    const request = { method: 'POST', path: `${this.#base}/network/requests`, json, repeatable: true } as const
    return this.#transport.json<ApprovalInfo>(request)
  }

  /** Connections that have ended, also refused ones, newest first. */
  connections({ pageSize }: { pageSize?: number } = {}): Pages<EgressConnection> {
    return new Pages((cursor) =>
      this.#transport.json<Page<EgressConnection>>({
        path: `${this.#base}/egress`,
        query: { cursor, limit: pageSize },
      }),
    )
  }

  #remember(network: NetworkInfo): NetworkInfo {
    this.#onChange(network)
    return network
  }
}
