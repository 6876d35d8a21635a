import type { AccessTokens } from './access-tokens.ts'
import type { Transport } from './transport.ts'
import type { PortInfo, PortsInfo } from './types.ts'

export interface PortUrlOptions {
  /** An access token to put into the address: whoever has the address is let in, until the token's end. @default none */
  token?: string
}

export interface PortUrl {
  url: string
  /** Null for a public port. */
  token: string | null
  expiresAt: string | null
}

/**
 * Servers inside a sandbox, reached over HTTP and WebSocket.
 *
 * @example
 * await sandbox.commands.start('python3 -m http.server 3000')
 * const { url } = await sandbox.ports.open(3000)
 * console.log(await (await fetch(url)).text())
 */
export class Ports {
  readonly #transport: Transport
  readonly #tokens: AccessTokens
  readonly #path: string
  #template: Promise<string> | undefined

  constructor(transport: Transport, sandboxId: string, tokens: AccessTokens) {
    this.#transport = transport
    this.#tokens = tokens
    this.#path = `/v1/sandboxes/${encodeURIComponent(sandboxId)}/ports`
  }

  /** The address of a port, whether or not something listens. */
  async url(port: number, { token }: PortUrlOptions = {}): Promise<string> {
    this.#template ??= this.#fetch().then(({ urlTemplate }) => urlTemplate)
    this.#template.catch(() => (this.#template = undefined))
    const url = new URL((await this.#template).replace('{port}', String(checked(port))))
    if (token !== undefined) url.searchParams.set('delta_token', token)
    return url.href
  }

  /** An address with an access token of its own for this port alone. */
  async open(port: number, { ttlMs }: { ttlMs?: number } = {}): Promise<PortUrl> {
    const scope = `port:${checked(port)}` as const
    const { token, expiresAt } = await this.#tokens.create([scope], ttlMs === undefined ? {} : { ttlMs })
    return { url: await this.url(port, { token }), token, expiresAt }
  }

  /** Lets everybody who knows the address use these ports, and no others; without one, none is public any more. */
  async public(...ports: number[]): Promise<PortInfo[]> {
    const request = { method: 'PUT', path: this.#path, json: { public: ports }, repeatable: true } as const
    return (await this.#transport.json<PortsInfo>(request)).data
  }

  /** Public ports and those something listens on. */
  async list(): Promise<PortInfo[]> {
    return (await this.#fetch()).data
  }

  #fetch(): Promise<PortsInfo> {
    return this.#transport.json<PortsInfo>({ path: this.#path })
  }
}

function checked(port: number): number {
  if (!Number.isInteger(port) || port < 1 || port > 65_535) throw new RangeError(`${port} is no port`)
  return port
}
