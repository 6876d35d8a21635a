import type { Driver, LayerApplied } from '../drivers/driver.ts'

export type DiskBase = { template: string } | { snapshotId: string }

export interface DiskImage {
  layers: readonly DiskLayer[]
  /** As the image's own configuration has it. */
  config: unknown
  comment: string
  /** All layers together. */
  bounds: { maxBytes: number; maxEntries: number }
  signal: AbortSignal
  onLayer(at: number, known: { isHere: boolean }): void
}

export interface DiskLayer {
  digest: `sha256:${string}`
  diffId: `sha256:${string}`
  mediaType: string
  size: number
  open(start: number): AsyncIterable<Uint8Array>
}

export interface DiskCaller {
  accountId: string
}

/** What templates need of the workspaces: disks nobody lists, that sandboxes build on, and their snapshots. */
export interface BuildDisks {
  /** A disk of its own: with nothing above a template, or as the snapshot is. */
  open(name: string, base: DiskBase, caller: DiskCaller): Promise<string>
  /** A disk with what an image holds, and the snapshot that it is. Its layers are kept as they came; what the caller has already is not fetched. */
  openImage(name: string, image: DiskImage, caller: DiskCaller): Promise<{ workspaceId: string; snapshotId: string }>
  /** Unpacks a layer over what it holds. No sandbox may run on it. */
  apply(
    workspaceId: string,
    tar: AsyncIterable<Uint8Array>,
    options: { caller: DiskCaller; holder: string; maxBytes: number; maxEntries: number },
  ): Promise<LayerApplied>
  snapshot(workspaceId: string, comment: string, caller: DiskCaller): Promise<string>
  /** Whether it is there and the caller's. */
  isSnapshot(snapshotId: string, caller: DiskCaller): Promise<boolean>
  /** From now on nobody removes the snapshot. False: it is gone. */
  pin(snapshotId: string, owner: string): Promise<boolean>
  unpin(snapshotId: string, owner: string): Promise<void>
  /** With the snapshots taken of it. What is not there is gone already. */
  remove(name: string, caller: DiskCaller): Promise<void>
}

/** What is asked of the workspaces. */
export interface BuildWorkspaces {
  create(
    wish: {
      name: string
      template: string
      diskMb: number
      retention: { keepLast: number }
      autoSnapshot: boolean
      metadata: Record<string, string>
    },
    caller: DiskCaller,
    options: { kind: 'build' },
  ): Promise<{ id: string }>
  fork(
    snapshotId: string,
    wish: { names: string[] },
    caller: DiskCaller,
    options: { kind: 'build' },
  ): Promise<{ id: string }[]>
  importLayers(
    image: { config: unknown; layers: readonly DiskLayer[] },
    options: Omit<DiskImage, 'config' | 'layers'> & { name: string },
    caller: DiskCaller,
  ): Promise<{ workspaceId: string; snapshotId: string }>
  acquire(accountId: string, workspaceId: string, holder: string): Promise<{ upperId: string }>
  release(workspaceId: string, holder: string): Promise<void>
  snapshot(workspaceId: string, wish: { comment: string; reason: 'build' }, caller: DiskCaller): Promise<{ id: string }>
  getSnapshot(snapshotId: string, caller: DiskCaller): Promise<object>
  pin(snapshotId: string, owner: string): Promise<boolean>
  unpin(snapshotId: string, owner: string): Promise<void>
  remove(name: string, caller: DiskCaller): Promise<void>
}

/** Room for what a build writes; a template's own size is not counted against the sandboxes that stand on it. */
const buildDiskMb = 65_536

export function createBuildDisks({
  workspaces,
  driver,
}: {
  workspaces: BuildWorkspaces
  driver: Pick<Driver, 'apply'>
}): BuildDisks {
  const kind = 'build' as const
  return {
    async open(name, base, caller) {
      const retention = { keepLast: 1_000 }
      if ('template' in base) {
        const wish = {
          name,
          template: base.template,
          diskMb: buildDiskMb,
          retention,
          autoSnapshot: false,
          metadata: {},
        }
        return (await workspaces.create(wish, caller, { kind })).id
      }
      const [made] = await workspaces.fork(base.snapshotId, { names: [name] }, caller, { kind })
      return made!.id
    },
    openImage: (name, { layers, config, ...options }, caller) =>
      workspaces.importLayers({ layers, config }, { name, ...options }, caller),
    async apply(workspaceId, tar, { caller, holder, ...limits }) {
      const { upperId } = await workspaces.acquire(caller.accountId, workspaceId, holder)
      try {
        return await driver.apply({ upperId, ...limits }, tar)
      } finally {
        await workspaces.release(workspaceId, holder)
      }
    },
    snapshot: async (workspaceId, comment, caller) =>
      (await workspaces.snapshot(workspaceId, { comment, reason: 'build' }, caller)).id,
    isSnapshot: (snapshotId, caller) =>
      workspaces.getSnapshot(snapshotId, caller).then(
        () => true,
        () => false,
      ),
    pin: (snapshotId, owner) => workspaces.pin(snapshotId, owner),
    unpin: (snapshotId, owner) => workspaces.unpin(snapshotId, owner),
    remove: (name, caller) => workspaces.remove(name, caller),
  }
}
