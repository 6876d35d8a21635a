import { Pages } from './pages.ts'
import type { Transport } from './transport.ts'
import type { EgressConnection, EgressPolicy, NetworkInfo, Page, PresetName } from './types.ts'

/** Hosts and presets to be added to what a sandbox may connect to. */
export interface AllowOptions {
  hosts?: string[]
  presets?: PresetName[]
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
