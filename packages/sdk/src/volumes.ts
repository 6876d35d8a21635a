import { newKey } from './commands.ts'
import type { Transport } from './transport.ts'
import type { Page, VolumeInfo } from './types.ts'

export interface CreateVolumeOptions {
  /** Unique in the account: 1 to 63 of a-z 0-9 and inner -. */
  name: string
  /** MB it may hold, 32 to 1,048,576; no bound where the pool keeps no quota. @default 4096 */
  diskMb?: number
  /** Requests with the same key make one volume. @default a random one */
  idempotencyKey?: string
}

/** A volume as a sandbox has it. */
export interface VolumeMount {
  /** Id or name. */
  volume: string
  /** Absolute; made inside where it is not there. */
  path: string
  /** @default false */
  readOnly?: boolean
}

/**
 * Folders that several sandboxes of an account share, at the same time or one after the other.
 *
 * @example
 * await delta.volumes.create({ name: 'datasets' })
 * await using sandbox = await delta.sandboxes.create({ volumes: [{ volume: 'datasets', path: '/data', readOnly: true }] })
 */
export class Volumes {
  readonly #transport: Transport

  constructor(transport: Transport) {
    this.#transport = transport
  }

  /**
   * Makes an empty one. `volume_exists`, `volume_limit_reached`.
   *
   * @example
   * await delta.volumes.create({ name: 'datasets', diskMb: 10_240 })
   */
  create({ idempotencyKey = newKey(), ...json }: CreateVolumeOptions): Promise<VolumeInfo> {
    return this.#transport.json<VolumeInfo>({ method: 'POST', path: '/v1/volumes', json, idempotencyKey })
  }

  /**
   * All of them, oldest first.
   *
   * @example
   * for (const { name, sandboxIds } of await delta.volumes.list()) console.log(name, sandboxIds)
   */
  async list(): Promise<VolumeInfo[]> {
    const page = await this.#transport.json<Page<VolumeInfo>>({ path: '/v1/volumes' })
    return page.data
  }

  /**
   * By id or name. `volume_not_found`.
   *
   * @example
   * const { diskMb, sandboxIds } = await delta.volumes.get('datasets')
   */
  get(volume: string): Promise<VolumeInfo> {
    return this.#transport.json<VolumeInfo>({ path: `/v1/volumes/${encodeURIComponent(volume)}` })
  }

  /**
   * With all it holds. `volume_in_use` while a sandbox has it, running or not: `context.sandboxIds` names them.
   *
   * @example
   * await delta.volumes.remove('datasets')
   */
  remove(volume: string): Promise<void> {
    return this.#transport.done({ method: 'DELETE', path: `/v1/volumes/${encodeURIComponent(volume)}` })
  }
}
