/** The wire shapes of the REST API, as this package hands them on. */

export type SandboxState = 'creating' | 'running' | 'paused' | 'stopping' | 'stopped' | 'starting' | 'killed' | 'failed'

export type TimeoutAction = 'kill' | 'stop' | 'pause'

export interface SandboxInfo {
  id: string
  state: SandboxState
  template: string
  runtime: string
  metadata: Record<string, string>
  cpu: number
  memoryMb: number
  diskMb: number
  processes: number
  timeoutMs: number
  onTimeout: TimeoutAction
  autoResume: boolean
  createdAt: string
  startedAt: string | null
  /** When `onTimeout` happens. */
  endAt: string | null
  /** Why the last transition happened. */
  reason: string | null
  isolation: Record<string, unknown>
  /** How long each phase of creating took; in the answer to create only. */
  timings?: { phase: string; micros: number }[]
}

export interface SandboxMetrics {
  cpuMs: number
  memoryBytes: number
  memoryPeakBytes: number
  memoryLimitBytes: number
  processes: number
  /** Null where the pool keeps no quota. */
  diskBytes: number | null
  diskLimitBytes: number
  /** Processes killed because the sandbox's memory was used up. */
  oomKills: number
  uptimeMs: number
}

export interface Transition {
  at: string
  kind: 'transition'
  from: SandboxState | null
  to: SandboxState
  reason: string | null
}

export type ExecState = 'running' | 'exited' | 'signalled' | 'unknown'

export interface ExecInfo {
  id: string
  pid: number
  state: ExecState
  /** Null while it runs, when a signal ended it, and when nobody knows. */
  exitCode: number | null
  signal: string | null
  timedOut: boolean
  oomKilled: boolean
  durationMs: number
  outputBytes: number
  tag: string
  cmd?: string[] | string
  startedAt?: string
}

export interface ExecResult extends ExecInfo {
  /** The first and the last MiB when there was more; `truncatedBytes` were cut out in between. */
  stdout: string
  stderr: string
  truncated: boolean
  truncatedBytes: { stdout: number; stderr: number }
  encoding: 'utf8' | 'base64'
}

export type EntryType = 'file' | 'directory' | 'symlink' | 'other'

export interface Entry {
  path: string
  name: string
  type: EntryType
  size: number
  mode: number
  /** Like rwxr-xr-x. */
  permissions: string
  owner: string
  group: string
  uid: number
  gid: number
  modifiedAt: string
  symlinkTarget: string | null
  etag: string
}

export interface WatchEvent {
  /** `overflow`: events were lost, look at the folder again. */
  kind: 'create' | 'write' | 'remove' | 'rename' | 'chmod' | 'overflow'
  path: string
  isDirectory: boolean
}

export interface TemplateInfo {
  name: string
  state: 'ready' | 'missing' | 'building' | 'failed'
  detail: string
}

export interface Finding {
  name: string
  status: 'ok' | 'warn' | 'fail'
  found: string
  /** What it means and what to do. */
  meaning: string
}

export interface Page<T> {
  data: T[]
  nextCursor: string | null
}
