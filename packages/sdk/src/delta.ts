import { Account } from './account.ts'
import { Agents } from './agents.ts'
import { AgentTokens } from './agent-tokens.ts'
import { Approvals } from './approvals.ts'
import { AuditLog } from './audit.ts'
import { Auth } from './auth.ts'
import { Backups } from './backups.ts'
import { newKey } from './commands.ts'
import { Keys } from './keys.ts'
import { Ledger } from './ledger.ts'
import { Models } from './models.ts'
import { Pages } from './pages.ts'
import { type CreateSandboxOptions, Sandbox } from './sandbox.ts'
import { Schedules } from './schedules.ts'
import { createTransport, type Transport, type TransportOptions } from './transport.ts'
import { Tasks } from './tasks.ts'
import { Templates } from './templates.ts'
import { TokenRequests } from './token-requests.ts'
import { Volumes } from './volumes.ts'
import { Webhooks } from './webhooks.ts'
import { Workspaces } from './workspaces.ts'
import type { Finding, Health, Page, SandboxInfo, SandboxState, Setting } from './types.ts'

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
  readonly account: Account
  readonly agents: Agents
  readonly approvals: Approvals
  readonly audit: AuditLog
  readonly auth: Auth
  readonly agentTokens: AgentTokens
  readonly backups: Backups
  readonly keys: Keys
  readonly ledger: Ledger
  readonly models: Models
  readonly sandboxes: Sandboxes
  readonly schedules: Schedules
  readonly tasks: Tasks
  readonly templates: Templates
  readonly tokenRequests: TokenRequests
  readonly volumes: Volumes
  readonly webhooks: Webhooks
  readonly workspaces: Workspaces
  readonly #transport: Transport

  constructor(options: DeltaOptions = {}) {
    this.#transport = createTransport(options)
    this.account = new Account(this.#transport)
    this.agents = new Agents(this.#transport)
    this.approvals = new Approvals(this.#transport)
    this.audit = new AuditLog(this.#transport)
    this.auth = new Auth(this.#transport)
    this.agentTokens = new AgentTokens(this.#transport)
    this.backups = new Backups(this.#transport)
    this.keys = new Keys(this.#transport)
    this.ledger = new Ledger(this.#transport)
    this.models = new Models(this.#transport)
    this.sandboxes = new Sandboxes(this.#transport)
    this.schedules = new Schedules(this.#transport)
    this.tasks = new Tasks(this.#transport)
    this.templates = new Templates(this.#transport)
    this.tokenRequests = new TokenRequests(this.#transport)
    this.volumes = new Volumes(this.#transport)
    this.webhooks = new Webhooks(this.#transport)
    this.workspaces = new Workspaces(this.#transport)
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

  /**
   * Every setting of the server with the value in force; of secrets only whether they are set. For the operator.
   *
   * @example
   * const port = (await delta.config()).find(({ name }) => name === 'PORT')?.value
   */
  async config(): Promise<Setting[]> {
    const page = await this.#transport.json<Page<Setting>>({ path: '/v1/config' })
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
