import type { TransferOptions } from './files.ts'
import type { RequestBody, Transport } from './transport.ts'
import type { Page, RestoreInfo, StagedRestore } from './types.ts'

export interface BackupOptions {
  /** At least 12 characters. Seals the whole: without it nobody opens the backup again. */
  passphrase?: string
  /** With SECRET_KEY in it: whoever has the backup can then be anybody there. @default false */
  secrets?: boolean
  signal?: AbortSignal
}

export interface BackupStream {
  body: ReadableStream<Uint8Array>
  /** Undefined for one that is sealed. */
  totalBytes: number | undefined
  /** Snapshots whose files were not in storage yet, and are not in it. */
  unsaved: number
}

export interface StageOptions extends Pick<TransferOptions, 'signal'> {
  passphrase?: string
  /** Give up all that the platform holds. @default false */
  replace?: boolean
}

/**
 * The whole platform as one file, and back. Only with the key in the data folder.
 *
 * @example
 * const { body } = await delta.backups.create()
 * await pipeline(body, createWriteStream('delta.backup', { mode: 0o600 }))
 */
export class Backups {
  readonly #transport: Transport

  constructor(transport: Transport) {
    this.#transport = transport
  }

  /** What is being saved to storage is waited for, up to a minute; then the bytes come as they are read. */
  async create({ signal, ...json }: BackupOptions = {}): Promise<BackupStream> {
    const request = { method: 'POST', path: '/v1/backups', json, timeoutMs: 0, signal } as const
    const response = await this.#transport.send(request)
    const length = response.headers.get('content-length')
    return {
      body: response.body!,
      totalBytes: length === null ? undefined : Number(length),
      unsaved: Number(response.headers.get('delta-backup-unsaved') ?? 0),
    }
  }

  /** The server checks it whole and keeps it; nothing is changed until `commit`. */
  stage(backup: RequestBody, { passphrase, replace, signal }: StageOptions = {}): Promise<StagedRestore> {
    return this.#transport.json<StagedRestore>({
      method: 'POST',
      path: '/v1/restores',
      query: { replace },
      body: backup,
      headers: {
        'content-type': 'application/octet-stream',
        ...(passphrase !== undefined && { 'delta-passphrase': base64Url(passphrase) }),
      },
      timeoutMs: 0,
      signal,
    })
  }

  /** What the server holds is replaced, and it starts anew: `list` says when that is done. */
  commit(id: string): Promise<void> {
    return this.#transport.done({
      method: 'POST',
      path: `/v1/restores/${encodeURIComponent(id)}/commit`,
      timeoutMs: 0,
    })
  }

  /** What the server was restored from, the newest first. */
  async list(): Promise<RestoreInfo[]> {
    return (await this.#transport.json<Page<RestoreInfo>>({ path: '/v1/restores' })).data
  }
}

function base64Url(text: string): string {
  const binary = String.fromCharCode(...new TextEncoder().encode(text))
  return btoa(binary).replaceAll('+', '-').replaceAll('/', '_').replaceAll('=', '')
}
