/** What these rules look at of a snapshot that is still there. */
export interface StoredSnapshot {
  id: string
  parentId: string | null
  /** It lies in the pool of this machine. */
  isLocal: boolean
  /** What it refers to, shared with others or not; null where nobody has counted. */
  bytes: number | null
  layerDigest: string | null
}

export interface StoredLayer {
  digest: string
  /** Of the packed layer, and of what is in it. */
  size: number
  tarSize: number
  isStored: boolean
}

export interface StoredBytes {
  /** In the pool: snapshots and volumes. */
  poolBytes: number
  /** In storage: layers. */
  layerBytes: number
}

/**
 * What an account keeps, each byte once. A snapshot counts in the pool with how it differs from the one before it: what its layer holds, or as long as
 * it has none, what it refers to beyond its parent. A layer counts in storage once, however many snapshots are made up of it. A volume counts with the
 * size it was made with, which is kept free for it.
 */
export function storedBytes(
  snapshots: readonly StoredSnapshot[],
  layers: readonly StoredLayer[],
  volumesMb: number,
): StoredBytes {
  const byDigest = new Map(layers.map((layer) => [layer.digest, layer]))
  const byId = new Map(snapshots.map((snapshot) => [snapshot.id, snapshot]))
  let poolBytes = volumesMb * 1024 * 1024
  const counted = new Set<string>()
  let layerBytes = 0
  for (const { isLocal, bytes, parentId, layerDigest } of snapshots) {
    const layer = layerDigest === null ? undefined : byDigest.get(layerDigest)
    const before = parentId === null ? 0 : (byId.get(parentId)?.bytes ?? 0)
    if (isLocal) poolBytes += layer ? layer.tarSize : Math.max(0, (bytes ?? 0) - before)
    if (layer?.isStored && !counted.has(layer.digest)) layerBytes += layer.size
    if (layer) counted.add(layer.digest)
  }
  return { poolBytes, layerBytes }
}

const dayMs = 86_400_000

/** `2026-11-23`, in UTC. */
export function dayOf(unixMs: number): string {
  return new Date(unixMs).toISOString().slice(0, 10)
}

export function untilNextDayMs(unixMs: number): number {
  return dayMs - (unixMs % dayMs)
}
