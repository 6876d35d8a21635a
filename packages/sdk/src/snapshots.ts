import { newKey } from './commands.ts'
import { sleep } from './backoff.ts'
import { DeltaError } from './errors.ts'
import { concat } from './output.ts'
import { Pages } from './pages.ts'
import type { Transport } from './transport.ts'
import type { FileChange, Page, SnapshotDiff, SnapshotInfo, WorkspaceInfo } from './types.ts'
import { Workspace } from './workspaces.ts'

export interface ForkOptions {
  /** Workspaces to make. @default 1, at most 100 */
  count?: number
  /** Instead of `count`: one for each name. */
  names?: string[]
  /** Requests with the same key make the same workspaces. @default a random one */
  idempotencyKey?: string
}

export interface ImageOptions {
  /** @default "tar" */
  layers?: 'tar' | 'zstd'
  signal?: AbortSignal
}

export interface SavedOptions {
  /** Called each time its state was asked for: `save.savedBytes` is what was sent so far. */
  onProgress?: (info: SnapshotInfo) => void
  signal?: AbortSignal
}

/** The state of a workspace at one moment. It never changes. */
export class Snapshot {
  readonly #transport: Transport
  #info: SnapshotInfo

  constructor(transport: Transport, info: SnapshotInfo) {
    this.#transport = transport
    this.#info = info
  }

  get id(): string {
    return this.#info.id
  }

  /** As of the last answer about it; `refresh` asks anew. */
  get info(): SnapshotInfo {
    return this.#info
  }

  /** Asks anew: what it changed (`changes`) and how far it is saved (`save`) are known a while after it was taken. */
  async refresh(): Promise<SnapshotInfo> {
    this.#info = await this.#transport.json<SnapshotInfo>({ path: this.#path })
    return this.#info
  }

  /**
   * One with a name is kept for ever; null takes the name away. `snapshot_name_taken` where another one of the workspace has it.
   *
   * @example
   * await snapshot.update({ name: 'works', comment: 'all tests pass' })
   */
  async update(changes: { name?: string | null; comment?: string }): Promise<SnapshotInfo> {
    const request = { method: 'PATCH', path: this.#path, json: changes, repeatable: true } as const
    this.#info = await this.#transport.json<SnapshotInfo>(request)
    return this.#info
  }

  /**
   * All paths that changed since its parent. `pageSize`: at most 10,000. @default 1,000
   *
   * @example
   * for await (const { kind, path } of snapshot.changes()) console.log(kind, path)
   */
  changes({ pageSize }: { pageSize?: number } = {}): Pages<FileChange> {
    return new Pages((cursor) =>
      this.#transport.json<Page<FileChange>>({ path: `${this.#path}/changes`, query: { cursor, limit: pageSize } }),
    )
  }

  /**
   * What changed from here to another snapshot on the same template: counts, packages, tools, and of the paths one page; `cursor` asks for the
   * next. `pageSize`: at most 10,000. @default 1,000
   *
   * @example
   * const { added, packages } = await before.diff(after)
   */
  diff(
    other: Snapshot | string,
    { cursor, pageSize }: { cursor?: string; pageSize?: number } = {},
  ): Promise<SnapshotDiff> {
    const id = typeof other === 'string' ? other : other.id
    const path = `${this.#path}/diff/${encodeURIComponent(id)}`
    return this.#transport.json<SnapshotDiff>({ path, query: { cursor, limit: pageSize } })
  }

  /**
   * The bytes of a file as it was, held in memory. Links are not followed. `file_not_found`, `not_a_file`.
   *
   * @example
   * const before = new TextDecoder().decode(await snapshot.read('/workspace/report.md'))
   */
  async read(path: string, { signal }: { signal?: AbortSignal } = {}): Promise<Uint8Array> {
    const response = await this.#transport.send({ path: `${this.#path}/files`, query: { path }, timeoutMs: 0, signal })
    const parts: Uint8Array[] = []
    let total = 0
    for await (const part of response.body ?? []) {
      parts.push(part)
      total += part.length
    }
    return concat(parts, total)
  }

  /**
   * New workspaces that begin as it is, whose files are shared until they are written. `workspace_name_taken`, `workspace_limit_reached`.
   *
   * @example
   * const [one, two] = await snapshot.fork({ names: ['first-try', 'second-try'] })
   */
  async fork({ idempotencyKey = newKey(), ...json }: ForkOptions = {}): Promise<Workspace[]> {
    const request = { method: 'POST', path: `${this.#path}/forks`, json, idempotencyKey } as const
    const { data } = await this.#transport.json<{ data: WorkspaceInfo[] }>(request)
    return data.map((info) => new Workspace(this.#transport, info))
  }

  /**
   * An OCI image archive, for `skopeo`, `podman` and others. Saving comes first where it is still to be done, and so does packing the template
   * below, which may take minutes for `host`. `layers: 'zstd'` sends layers as they are stored, `'tar'` uncompressed, which every tool reads.
   * Layers of an image that was imported leave as they came either way.
   *
   * @example
   * await pipeline(await snapshot.image({ layers: 'zstd' }), createWriteStream('image.tar'))
   */
  async image({ layers, signal }: ImageOptions = {}): Promise<ReadableStream<Uint8Array>> {
    const query = { layers }
    const response = await this.#transport.send({ path: `${this.#path}/image`, query, timeoutMs: 0, signal })
    if (!response.body) throw new DeltaError('The server sent no image')
    return response.body
  }

  /**
   * Resolves when it could be restored from storage alone. Storage that is away delays it without end (`save.error` says why): give a signal
   * to stop waiting.
   *
   * @example
   * await snapshot.saved({ signal: AbortSignal.timeout(60_000), onProgress: ({ save }) => console.log(save.savedBytes) })
   */
  async saved({ onProgress, signal }: SavedOptions = {}): Promise<SnapshotInfo> {
    for (let waitMs = 20; this.#info.save.state !== 'saved'; waitMs = Math.min(waitMs * 2, 1_000)) {
      onProgress?.(this.#info)
      await sleep(waitMs, signal)
      await this.refresh()
    }
    return this.#info
  }

  /**
   * Refused with `snapshot_in_use` for one that a workspace stands on or a template is made of. What later snapshots need of it stays.
   *
   * @example
   * await (await delta.workspaces.snapshot('snp_k3v9x0m2qp7a8b1c4d5e')).remove()
   */
  remove(): Promise<void> {
    return this.#transport.done({ method: 'DELETE', path: this.#path })
  }

  get #path(): string {
    return `/v1/snapshots/${encodeURIComponent(this.id)}`
  }
}
