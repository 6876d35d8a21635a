import { newKey } from './commands.ts'
import { Pages } from './pages.ts'
import { type CreateSandboxOptions, Sandbox } from './sandbox.ts'
import { createTransport, type Transport, type TransportOptions } from './transport.ts'
import type { Finding, Health, Page, SandboxInfo, SandboxState, TemplateInfo } from './types.ts'

export type DeltaOptions = TransportOptions

export interface ListSandboxesOptions {
  /** @default every state */
  state?: SandboxState | SandboxState[]
  /** Only sandboxes that have all of these. */
  metadata?: Record<string, string>
  /** Sandboxes fetched at a time. @default 50, at most 500 */
  pageSize?: number
}

/**
 * A connection to a DELTA server. Nothing is sent until a method is called.
 *
 * @example
 * const delta = new Delta({ url: 'http://127.0.0.1:8000', apiKey: process.env.DELTA_API_KEY })
 * await using sandbox = await delta.sandboxes.create({ template: 'host' })
 */
export class Delta {
  readonly sandboxes: Sandboxes
  readonly templates: Templates
  readonly #transport: Transport

  constructor(options: DeltaOptions = {}) {
    this.#transport = createTransport(options)
    this.sandboxes = new Sandboxes(this.#transport)
    this.templates = new Templates(this.#transport)
  }

  get url(): string {
    return this.#transport.url
  }

  health(): Promise<Health> {
    return this.#transport.json<Health>({ path: '/health' })
  }

  /** What the server's machine can do, and what each finding means. */
  async doctor(): Promise<Finding[]> {
    const page = await this.#transport.json<Page<Finding>>({ path: '/v1/doctor' })
    return page.data
  }
}

export class Sandboxes {
  readonly #transport: Transport

  constructor(transport: Transport) {
    this.#transport = transport
  }

  async create({ keep, idempotencyKey = newKey(), signal, ...json }: CreateSandboxOptions = {}): Promise<Sandbox> {
    const request = { method: 'POST', path: '/v1/sandboxes', json, idempotencyKey, signal } as const
    const info = await this.#transport.json<SandboxInfo>(request)
    return new Sandbox(this.#transport, info, { keep: keep ?? false })
  }

  /** A handle on a sandbox that exists. It is kept when `await using` ends. */
  async get(id: string): Promise<Sandbox> {
    const info = await this.#transport.json<SandboxInfo>({ path: `/v1/sandboxes/${encodeURIComponent(id)}` })
    return new Sandbox(this.#transport, info, { keep: true })
  }

  /**
   * Your sandboxes; those that were killed are listed for a day.
   *
   * @example
   * for await (const sandbox of delta.sandboxes.list({ state: 'running' })) console.log(sandbox.id)
   */
  list({ state, metadata = {}, pageSize }: ListSandboxesOptions = {}): Pages<Sandbox> {
    const filters = Object.fromEntries(Object.entries(metadata).map(([name, value]) => [`metadata.${name}`, value]))
    const states = typeof state === 'string' ? state : state?.join(',')
    return new Pages(async (cursor) => {
      const query = { ...filters, state: states, limit: pageSize, cursor }
      const page = await this.#transport.json<Page<SandboxInfo>>({ path: '/v1/sandboxes', query })
      return { ...page, data: page.data.map((info) => new Sandbox(this.#transport, info, { keep: true })) }
    })
  }

  /** Ends a sandbox for good. One that is gone already is no error. */
  kill(id: string): Promise<void> {
    return this.#transport.done({ method: 'DELETE', path: `/v1/sandboxes/${encodeURIComponent(id)}`, repeatable: true })
  }
}

export class Templates {
  readonly #transport: Transport

  constructor(transport: Transport) {
    this.#transport = transport
  }

  async list(): Promise<TemplateInfo[]> {
    const page = await this.#transport.json<Page<TemplateInfo>>({ path: '/v1/templates' })
    return page.data
  }

  /** Resolves when it is ready; minutes where packages are fetched. */
  async build(name: string, { signal }: { signal?: AbortSignal } = {}): Promise<void> {
    const path = `/v1/templates/${encodeURIComponent(name)}/build`
    await this.#transport.done({ method: 'POST', path, repeatable: true, timeoutMs: 0, signal })
  }
}
