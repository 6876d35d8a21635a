import { bisect, type BisectOptions, type BisectResult } from './bisect.ts'
import { newKey } from './commands.ts'
import { Pages } from './pages.ts'
import { type CreateSandboxOptions, Sandbox } from './sandbox.ts'
import { type ForkOptions, Snapshot } from './snapshots.ts'
import type { RequestBody, Transport } from './transport.ts'
import type { Page, SandboxInfo, SnapshotInfo, WorkspaceInfo } from './types.ts'

export interface CreateWorkspaceOptions {
  /** Unique in the account: 1 to 64 of a-z 0-9 . _ -, beginning with a letter or digit. @default its id */
  name?: string
  /** What its files begin as: a template by name, `name:tag`, `name@version` or id, or a snapshot's id. @default "host" */
  template?: string
  /** MB that may be written between two snapshots, beside what a template of yours holds. 32 to 1,048,576. @default 4096 */
  diskMb?: number
  /** The newest snapshots that are kept, 1 to 1,000; those with a name are kept for ever. @default { keepLast: 20 } */
  retention?: { keepLast: number }
  /** A snapshot of what changed at every stop. @default true */
  autoSnapshot?: boolean
  /** Your own labels: at most 64. @default none */
  metadata?: Record<string, string>
  /** Requests with the same key make one workspace. @default a random one */
  idempotencyKey?: string
}

export type UpdateWorkspaceOptions = Omit<CreateWorkspaceOptions, 'template' | 'idempotencyKey'>

/** `template` and `diskMb` are the workspace's. */
export type StartOptions = Omit<CreateSandboxOptions, 'template' | 'diskMb' | 'workspace'>

export interface RestoredWorkspaces {
  /** Known to this server from now on; their files come with the first start. */
  workspaces: Workspace[]
  /** Documents of the storage that could not be used, and why. */
  skipped: { document: string; reason: string }[]
}

/** Files that outlive the sandboxes that work on them, with their history. */
export class Workspaces {
  readonly #transport: Transport

  constructor(transport: Transport) {
    this.#transport = transport
  }

  /**
   * Makes one. `workspace_name_taken`, `template_not_found`, `template_not_ready`, `workspace_limit_reached`.
   *
   * @example
   * const workspace = await delta.workspaces.create({ name: 'research' })
   * await using sandbox = await workspace.start()
   * await sandbox.commands.run('pip install --user numpy')
   */
  async create({ idempotencyKey = newKey(), ...json }: CreateWorkspaceOptions = {}): Promise<Workspace> {
    const request = { method: 'POST', path: '/v1/workspaces', json, idempotencyKey } as const
    return new Workspace(this.#transport, await this.#transport.json<WorkspaceInfo>(request))
  }

  /**
   * By id or name. `workspace_not_found`.
   *
   * @example
   * const workspace = await delta.workspaces.get('research')
   */
  async get(workspace: string): Promise<Workspace> {
    const path = `/v1/workspaces/${encodeURIComponent(workspace)}`
    return new Workspace(this.#transport, await this.#transport.json<WorkspaceInfo>({ path }))
  }

  /**
   * Newest first. `pageSize`: at most 500. @default 50
   *
   * @example
   * for await (const { name, info } of delta.workspaces.list()) console.log(name, info.heldBy)
   */
  list({ pageSize }: { pageSize?: number } = {}): Pages<Workspace> {
    return new Pages(async (cursor) => {
      const query = { cursor, limit: pageSize }
      const page = await this.#transport.json<Page<WorkspaceInfo>>({ path: '/v1/workspaces', query })
      return { ...page, data: page.data.map((info) => new Workspace(this.#transport, info)) }
    })
  }

  /**
   * A snapshot of any workspace, by id. `snapshot_not_found`.
   *
   * @example
   * const snapshot = await delta.workspaces.snapshot('snp_k3v9x0m2qp7a8b1c4d5e')
   */
  async snapshot(id: string): Promise<Snapshot> {
    const path = `/v1/snapshots/${encodeURIComponent(id)}`
    return new Snapshot(this.#transport, await this.#transport.json<SnapshotInfo>({ path }))
  }

  /**
   * Finds workspaces that storage holds and this server does not know, for example those of a machine that is gone. A server that knows none
   * does it by itself when it starts. Without a time limit. `storage_unavailable`, `storage_key_wrong`.
   *
   * @example
   * const { workspaces, skipped } = await delta.workspaces.restore()
   */
  async restore(): Promise<RestoredWorkspaces> {
    const request = { method: 'POST', path: '/v1/workspaces/restore', repeatable: true, timeoutMs: 0 } as const
    const found = await this.#transport.json<{ data: WorkspaceInfo[]; skipped: RestoredWorkspaces['skipped'] }>(request)
    return { workspaces: found.data.map((info) => new Workspace(this.#transport, info)), skipped: found.skipped }
  }

  /**
   * A workspace on nothing that begins as an OCI image archive, as `skopeo copy … oci-archive:file.tar` makes it; at most 64 GiB, without a time
   * limit. `image_invalid`, `layer_invalid`, `workspace_name_taken`.
   *
   * @example
   * const workspace = await delta.workspaces.import(createReadStream('image.tar'), { name: 'imported' })
   */
  async import(image: RequestBody, { name, signal }: { name?: string; signal?: AbortSignal } = {}): Promise<Workspace> {
    const info = await this.#transport.json<WorkspaceInfo>({
      method: 'POST',
      path: '/v1/workspaces/import',
      query: { name },
      headers: { 'content-type': 'application/x-tar' },
      body: image,
      timeoutMs: 0,
      signal,
    })
    return new Workspace(this.#transport, info)
  }
}

export class Workspace {
  readonly #transport: Transport
  #info: WorkspaceInfo

  constructor(transport: Transport, info: WorkspaceInfo) {
    this.#transport = transport
    this.#info = info
  }

  get id(): string {
    return this.#info.id
  }

  get name(): string {
    return this.#info.name
  }

  /** As of the last answer about it; `refresh` asks anew. */
  get info(): WorkspaceInfo {
    return this.#info
  }

  /** Asks anew, for example who holds it now. */
  async refresh(): Promise<WorkspaceInfo> {
    return this.#remember(await this.#transport.json<WorkspaceInfo>({ path: this.#path }))
  }

  /**
   * Changes only what is given; `metadata` replaces all of it, `diskMb` holds from the next start on. `workspace_name_taken`.
   *
   * @example
   * await workspace.update({ retention: { keepLast: 5 }, metadata: { owner: 'ada' } })
   */
  async update(changes: UpdateWorkspaceOptions): Promise<WorkspaceInfo> {
    const request = { method: 'PATCH', path: this.#path, json: changes, repeatable: true } as const
    return this.#remember(await this.#transport.json<WorkspaceInfo>(request))
  }

  /**
   * A sandbox on its files; one at a time, else `workspace_in_use` names the one that has it. With `ifHeld: 'join'` the one that runs already
   * is the answer. The workspace stays when the sandbox ends.
   *
   * @example
   * await using sandbox = await workspace.start({ timeoutMs: 600_000, idleTimeoutMs: 60_000 })
   */
  async start({ keep, idempotencyKey = newKey(), signal, ...options }: StartOptions = {}): Promise<Sandbox> {
    const json = { ...options, workspace: this.id }
    const request = { method: 'POST', path: '/v1/sandboxes', json, idempotencyKey, signal } as const
    return new Sandbox(this.#transport, await this.#transport.json<SandboxInfo>(request), { keep: keep ?? false })
  }

  /**
   * Also of a workspace a sandbox runs on, which stands still for a moment (`info.frozenMicros`). One with a `name` is kept for ever; `comment`:
   * at most 1,000 characters. It is on disk when this resolves, and saved to storage later: `saved` waits for that. `snapshot_name_taken`.
   *
   * @example
   * const snapshot = await workspace.snapshot({ name: 'works', comment: 'before the upgrade' })
   */
  async snapshot({
    idempotencyKey = newKey(),
    ...json
  }: { name?: string; comment?: string; idempotencyKey?: string } = {}): Promise<Snapshot> {
    const request = { method: 'POST', path: `${this.#path}/snapshots`, json, idempotencyKey } as const
    return new Snapshot(this.#transport, await this.#transport.json<SnapshotInfo>(request))
  }

  /**
   * Its history, newest first. `pageSize`: at most 500. @default 50
   *
   * @example
   * const [newest] = (await workspace.snapshots({ pageSize: 1 }).page()).data
   */
  snapshots({ pageSize }: { pageSize?: number } = {}): Pages<Snapshot> {
    return new Pages(async (cursor) => {
      const query = { cursor, limit: pageSize }
      const page = await this.#transport.json<Page<SnapshotInfo>>({ path: `${this.#path}/snapshots`, query })
      return { ...page, data: page.data.map((info) => new Snapshot(this.#transport, info)) }
    })
  }

  /**
   * Its files become what they were; what changed since the last snapshot becomes one first, unless `autoSnapshot` is off. Refused with
   * `workspace_in_use` while a sandbox holds it: `sandbox.rollback` stops that one first and starts it again.
   *
   * @example
   * await workspace.rollback('snp_k3v9x0m2qp7a8b1c4d5e')
   */
  async rollback(snapshot: Snapshot | string): Promise<WorkspaceInfo> {
    const json = { snapshotId: typeof snapshot === 'string' ? snapshot : snapshot.id }
    return this.#remember(
      await this.#transport.json<WorkspaceInfo>({ method: 'POST', path: `${this.#path}/rollback`, json, timeoutMs: 0 }),
    )
  }

  /**
   * New workspaces that begin as this one is now; what changed since the last snapshot becomes one first. `workspace_name_taken`.
   *
   * @example
   * const forks = await workspace.fork({ count: 10 })
   */
  async fork({ idempotencyKey = newKey(), ...json }: ForkOptions = {}): Promise<Workspace[]> {
    const request = { method: 'POST', path: `${this.#path}/forks`, json, idempotencyKey } as const
    const { data } = await this.#transport.json<{ data: WorkspaceInfo[] }>(request)
    return data.map((info) => new Workspace(this.#transport, info))
  }

  /**
   * Finds the snapshot that broke something: the first of its history, after `good` and up to `bad`, in which `command` does not end with 0.
   * Each is tried in a fork, which is removed again, also when the signal ends the search. Throws a `BisectError` where `good` and `bad` do not
   * belong together, `good` fails or `bad` passes.
   *
   * @example
   * const { firstBad } = await workspace.bisect({ good: 'snp_a…', bad: 'snp_b…', command: 'python3 -c "import numpy"' })
   */
  bisect(options: BisectOptions): Promise<BisectResult> {
    return bisect(new Workspaces(this.#transport), options)
  }

  /**
   * With all its snapshots. Forks live on. `workspace_in_use` while a sandbox holds it, `snapshot_in_use` while a template is made of it.
   *
   * @example
   * await (await delta.workspaces.get('research')).remove()
   */
  remove(): Promise<void> {
    return this.#transport.done({ method: 'DELETE', path: this.#path })
  }

  get #path(): string {
    return `/v1/workspaces/${encodeURIComponent(this.id)}`
  }

  #remember(info: WorkspaceInfo): WorkspaceInfo {
    this.#info = info
    return info
  }
}
