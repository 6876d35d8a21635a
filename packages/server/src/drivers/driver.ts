import type { Duplex } from 'node:stream'

/** What a box is made of. Every field has been checked by the caller; a driver checks what only it can know. */
export interface BoxSpec {
  boxId: string
  /** The writable upper the box runs on; outlives the box when it is ended with `keepUpper`. */
  upperId: string
  /** True: the upper must not exist and is made. False: it must exist (start after stop). */
  fresh: boolean
  template: string
  /** Runtime name, or undefined for the driver's configured one. */
  runtime?: string | undefined
  /** Thousandths of a core. */
  cpuMilli: number
  memoryMb: number
  diskMb: number
  /** Most processes and threads at once. */
  processes: number
  hostname: string
}

/** What a box may use; can be changed while it runs. */
export type BoxLimits = Pick<BoxSpec, 'cpuMilli' | 'memoryMb' | 'diskMb' | 'processes'>

export interface Box {
  boxId: string
  /** Host pid of the guest, where there is one. */
  pid: number
  /** The host's uids that its user namespace is mapped to; absent where it has none of its own. */
  uids?: { first: number; count: number }
  /** How long each phase of making it took, in microseconds, in order. */
  timings: { phase: string; micros: number }[]
}

export type BoxState = 'running' | 'frozen' | 'dead'

export interface BoxStatus {
  boxId: string
  upperId: string
  state: BoxState
  template: string
}

export interface BoxStats {
  cpuMicros: number
  memoryBytes: number
  memoryPeakBytes: number
  memoryLimitBytes: number
  /** Kills by the kernel for memory since the box was made. */
  oomKills: number
  processes: number
  /** Null where the pool keeps no quota. */
  diskBytes: number | null
  diskLimitBytes: number
}

export interface DriverInfo {
  name: string
  runtime: string
  runtimeVersion: string
  /** 'v1' | 'v2' | 'hybrid' for local drivers. */
  cgroup: string
  /** 'btrfs' (quotas) or 'folder' (none). */
  pool: string
  kernel: string
  /** Runtimes that bring a kernel of their own. With the others, boxes share the host's. */
  ownKernelRuntimes: readonly string[]
  templates: string[]
  warnings: string[]
}

export interface TemplateStatus {
  name: string
  state: 'ready' | 'missing' | 'building' | 'failed'
  detail: string
}

export interface Finding {
  name: string
  status: 'ok' | 'warn' | 'fail'
  found: string
  /** What it means for the operator and what to do. */
  meaning: string
}

export interface PoolUsage {
  totalBytes: number
  usedBytes: number
  backingFreeBytes: number
  reserveBytes: number
  readOnly: boolean
}

/** `low`: less is free on the disk that carries the pool than its reserve, so no disk of a sandbox may grow; everything else goes on. */
export const roomStates = ['fine', 'low', 'read_only'] as const
export type RoomState = (typeof roomStates)[number]

export interface Room {
  state: RoomState
  /** When the state was last told of; absent where a driver does not count them. */
  freeBytes?: number
  reserveBytes?: number
}

/**
 * How boxes are made. Everything else about a sandbox (exec, files, ports) goes over the wire that `connect` opens, so a driver
 * knows nothing of it. Every call throws a `DeltaError`; `end`, `dropUpper` of what is not there succeed.
 */
export interface Driver {
  readonly name: string
  info(): Promise<DriverInfo>
  create(spec: BoxSpec): Promise<Box>
  /** Kills all of it and waits until nothing is left; then drops the upper unless `keepUpper`. */
  end(boxId: string, options: { keepUpper: boolean }): Promise<void>
  freeze(boxId: string): Promise<void>
  thaw(boxId: string): Promise<void>
  /** Replaces the limits of a living box. After a failure some may be changed and others not: end the box. */
  setLimits(boxId: string, limits: BoxLimits): Promise<void>
  stats(boxId: string): Promise<BoxStats>
  /** What exists, for reconciliation: boxes, and uppers that no box uses. */
  list(): Promise<{ boxes: BoxStatus[]; upperIds: string[] }>
  dropUpper(upperId: string): Promise<void>
  /** Opens a new connection to the guest; the caller speaks HELLO on it. */
  connect(boxId: string, options?: { signal?: AbortSignal }): Promise<Duplex>
  templates(): Promise<TemplateStatus[]>
  /** Resolves when the template is ready; minutes where packages are fetched. */
  buildTemplate(name: string): Promise<void>
  doctor(): Promise<Finding[]>
  usage(): Promise<PoolUsage>
  /** Whether disks may grow, as far as this process was told; asked before every write, so it costs nothing. */
  room(): Room
  /** A box ended by itself. Returns the function that stops listening. */
  onDeath(listener: (boxId: string, cause: { oom: boolean }) => void): () => void
  close(): Promise<void>
}
