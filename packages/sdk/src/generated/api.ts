// Generated from the OpenAPI document by scripts/generate-sdk-types.mjs. Do not edit.

export type AccessToken = {
  /** Shown only here; whoever holds it has what its scopes say */
  token: string
  scopes: string[]
  expiresAt: string
}

export type AllowEgress = {
  hosts?: string[]
  /** Named lists: `packages` (package registries), `git` (code hosts), `models` (model APIs) */
  presets?: ('packages' | 'git' | 'models')[]
}

export type ChangeMode = {
  /** Octal digits as a text, or a number */
  mode: string | number
}

export type CreateAccessToken = {
  /** What it opens: `port:3000` one port, `port:*` all, `terminal` terminals */
  scopes: string[]
  /** Milliseconds it is good for */
  ttlMs?: number
}

export type CreateExec = {
  /** A text is run by `/bin/bash -l -c`; an array is executed as it is */
  cmd: string | string[]
  /** Text given to the process as its standard input, followed by its end unless `stdinOpen` */
  stdin?: string
  /** Keep stdin open for POST …/stdin; otherwise it is empty or what `stdin` holds */
  stdinOpen?: boolean
  user?: string
  /** A relative path starts at /workspace */
  cwd?: string
  /** Variables on top of the sandbox’s own */
  env?: Record<string, string>
  /** At its end the process and its session get SIGTERM, 2 s later SIGKILL. 0 (none) is for background execs, whose default it is; otherwise 60000 */
  timeoutMs?: number
  /** Answer 202 as soon as the process has started; it outlives the request */
  background?: boolean
  /** Your own name for it */
  tag?: string
  /** Run on a terminal of this size; everything it writes is then stdout */
  pty?: {
    cols: number
    rows: number
  }
  /** How output is written in the answer: text with U+FFFD for what is not UTF-8, or base64 of the exact bytes */
  encoding?: 'utf8' | 'base64'
  /** Answer with server-sent events, as `Accept: text/event-stream` does */
  stream?: boolean
}

export type CreateSandbox = {
  template?: string
  /** Milliseconds of running until `onTimeout` happens */
  timeoutMs?: number
  onTimeout?: 'kill' | 'stop' | 'pause'
  /** Whether a command or file access brings a paused or stopped sandbox back */
  autoResume?: boolean
  /** Your own labels; lists can be filtered by them */
  metadata?: Record<string, string>
  /** Variables of every command in the sandbox; never returned */
  env?: Record<string, string>
  network?: SetNetwork
  /** Cores */
  cpu?: number
  memoryMb?: number
  diskMb?: number
  /** Most processes and threads at once */
  processes?: number
  /** How it is isolated; the server’s configured runtime where it is left out */
  runtime?: 'crun' | 'runc' | 'runsc'
}

export type CreateTerminal = {
  cols?: number
  rows?: number
  /** A text is run by `/bin/bash -l -c`, an array as it is; without it a login shell */
  cmd?: string | string[]
  user?: string
  /** A relative path starts at /workspace */
  cwd?: string
  /** Variables on top of the sandbox’s own */
  env?: Record<string, string>
  /** Your own name for it */
  tag?: string
  /** At its end everything in the terminal gets SIGTERM, 2 s later SIGKILL. 0 is none */
  timeoutMs?: number
}

export type EgressConnection = {
  id: string
  /** When it was asked for */
  at: string
  host: string
  port: number
  /** What the host connected to; null where it did not, or a proxy did */
  address: string | null
  /** `connect` and `http`: through the proxy inside. `tcp`: by a program that knows of no proxy */
  via: 'connect' | 'http' | 'tcp'
  outcome: 'allowed' | 'refused' | 'failed'
  /** How it ended, or why it did not begin */
  reason: string
  /** From the sandbox */
  bytesUp: number
  bytesDown: number
  durationMs: number
  /** Above 1: so many that were refused or failed in a short time, of which this is the last */
  count: number
}

export type EgressConnectionList = {
  data: EgressConnection[]
  nextCursor: string | null
}

export type Entry = {
  /** Absolute; bytes that are not UTF-8 are shown as U+FFFD */
  path: string
  name: string
  type: 'file' | 'directory' | 'symlink' | 'other'
  size: number
  /** Permission bits as a number */
  mode: number
  permissions: string
  owner: string
  group: string
  uid: number
  gid: number
  modifiedAt: string
  symlinkTarget: string | null
  /** For If-Match and If-None-Match */
  etag: string
}

export type EntryList = {
  data: Entry[]
  nextCursor: string | null
}

export type Error = {
  error: {
    /** Branch on this */
    code:
      | 'invalid_request'
      | 'malformed_json'
      | 'unauthorized'
      | 'host_not_allowed'
      | 'origin_not_allowed'
      | 'not_found'
      | 'method_not_allowed'
      | 'request_timeout'
      | 'idempotency_conflict'
      | 'idempotency_in_progress'
      | 'precondition_failed'
      | 'body_too_large'
      | 'range_not_satisfiable'
      | 'websocket_required'
      | 'too_many_requests'
      | 'canceled'
      | 'not_supported'
      | 'sandbox_not_found'
      | 'sandbox_not_running'
      | 'sandbox_state_conflict'
      | 'sandbox_start_failed'
      | 'sandbox_ended'
      | 'capacity_exhausted'
      | 'runtime_not_available'
      | 'template_not_found'
      | 'template_not_ready'
      | 'template_build_failed'
      | 'exec_not_found'
      | 'exec_start_failed'
      | 'interpreter_missing'
      | 'exec_not_running'
      | 'exec_stdin_closed'
      | 'exec_limit_reached'
      | 'user_not_found'
      | 'file_not_found'
      | 'file_exists'
      | 'not_a_directory'
      | 'is_a_directory'
      | 'not_a_file'
      | 'directory_not_empty'
      | 'permission_denied'
      | 'symlink_loop'
      | 'name_too_long'
      | 'path_invalid'
      | 'file_busy'
      | 'file_too_large'
      | 'archive_invalid'
      | 'file_io_failed'
      | 'disk_full'
      | 'port_forbidden'
      | 'port_limit_reached'
      | 'port_not_listening'
      | 'port_bad_answer'
      | 'port_timed_out'
      | 'guest_unreachable'
      | 'guest_protocol_error'
      | 'guest_limit_reached'
      | 'guest_timed_out'
      | 'driver_failed'
      | 'driver_timed_out'
      | 'driver_unavailable'
      | 'pool_read_only'
      | 'internal'
      | 'config_invalid'
      | 'shutting_down'
      | 'database_busy'
      | 'database_unavailable'
      | 'database_failed'
      | 'database_constraint'
    message: string
    cause?: string
    /** What to do next */
    remediation: string
    requestId: string
    context?: Record<string, unknown>
  }
}

export type Exec = {
  id: string
  /** Inside the sandbox */
  pid: number
  /** `unknown`: it is over, and how it ended can not be known */
  state: 'running' | 'exited' | 'signalled' | 'unknown'
  /** Why how it ended is not known */
  reason?: string
  /** Null while it runs, and when a signal or the timeout ended it */
  exitCode: number | null
  signal: string | null
  timedOut: boolean
  /** The kernel ended it because the sandbox’s memory was used up */
  oomKilled: boolean
  durationMs: number
  /** All that was written to stdout and stderr */
  outputBytes: number
  tag: string | null
  cmd?: string[]
  cwd?: string
  user?: string
  pty?: boolean
  startedAt?: string
  /** The first and last 1 MiB; what lay between is counted in `truncatedBytes` */
  stdout: string
  stderr: string
  truncated: boolean
  truncatedBytes: {
    stdout: number
    stderr: number
  }
  encoding: 'utf8' | 'base64'
}

export type ExecList = {
  data: ExecSummary[]
  nextCursor: null
}

export type ExecSummary = {
  id: string
  /** Inside the sandbox */
  pid: number
  /** `unknown`: it is over, and how it ended can not be known */
  state: 'running' | 'exited' | 'signalled' | 'unknown'
  /** Why how it ended is not known */
  reason?: string
  /** Null while it runs, and when a signal or the timeout ended it */
  exitCode: number | null
  signal: string | null
  timedOut: boolean
  /** The kernel ended it because the sandbox’s memory was used up */
  oomKilled: boolean
  durationMs: number
  /** All that was written to stdout and stderr */
  outputBytes: number
  tag: string | null
  cmd?: string[]
  cwd?: string
  user?: string
  pty?: boolean
  startedAt?: string
}

export type Finding = {
  name: string
  status: 'ok' | 'warn' | 'fail'
  /** What the machine has */
  found: string
  /** What that means, and what to do about it */
  meaning: string
}

export type FindingList = {
  data: Finding[]
  nextCursor: null
}

export type Health = {
  status: 'ok' | 'stopping' | 'failing'
  version: string
  database: 'ok' | 'failing'
  [name: string]: unknown
}

export type MakeDirectory = {
  /** Absolute, or relative to /workspace; `~` is not expanded */
  path: string
  /** Octal digits as a text, or a number */
  mode?: string | number
  owner?: string
  /** Make missing folders, and accept one that is there */
  parents?: boolean
}

export type Move = {
  /** Absolute, or relative to /workspace; `~` is not expanded */
  from: string
  /** Absolute, or relative to /workspace; `~` is not expanded */
  to: string
  overwrite?: boolean
}

export type Network = {
  /** What programs inside may connect to: nothing, everything public, or a list */
  egress:
    | ('none' | 'all')
    | {
        hosts: string[]
        presets: ('packages' | 'git' | 'models')[]
      }
}

export type PatchSandbox = {
  /** Counts from now */
  timeoutMs?: number
  onTimeout?: 'kill' | 'stop' | 'pause'
  autoResume?: boolean
  /** Replaces all of it */
  metadata?: Record<string, string>
}

export type Ports = {
  /** The address of a port, with `{port}` for its number */
  urlTemplate: string
  /** Public ones and those something listens on */
  data: {
    port: number
    url: string
    public: boolean
    /** Null where the sandbox does not run */
    listening: boolean | null
  }[]
}

export type PutPorts = {
  /** Ports that need no access token; replaces the list */
  public: number[]
}

export type ResizeExec = {
  cols: number
  rows: number
}

export type RunCode = {
  language: 'python' | 'javascript' | 'bash'
  source: string
  /** Text given to the process as its standard input, followed by its end unless `stdinOpen` */
  stdin?: string
  /** Keep stdin open for POST …/stdin; otherwise it is empty or what `stdin` holds */
  stdinOpen?: boolean
  user?: string
  /** A relative path starts at /workspace */
  cwd?: string
  /** Variables on top of the sandbox’s own */
  env?: Record<string, string>
  /** At its end the process and its session get SIGTERM, 2 s later SIGKILL. 0 (none) is for background execs, whose default it is; otherwise 60000 */
  timeoutMs?: number
  /** Answer 202 as soon as the process has started; it outlives the request */
  background?: boolean
  /** Your own name for it */
  tag?: string
  /** Run on a terminal of this size; everything it writes is then stdout */
  pty?: {
    cols: number
    rows: number
  }
  /** How output is written in the answer: text with U+FFFD for what is not UTF-8, or base64 of the exact bytes */
  encoding?: 'utf8' | 'base64'
  /** Answer with server-sent events, as `Accept: text/event-stream` does */
  stream?: boolean
}

export type Sandbox = {
  id: string
  state: 'creating' | 'running' | 'paused' | 'stopping' | 'stopped' | 'starting' | 'killed' | 'failed'
  template: string
  runtime: string
  metadata: Record<string, string>
  cpu: number
  memoryMb: number
  diskMb: number
  processes: number
  timeoutMs: number
  onTimeout: 'kill' | 'stop' | 'pause'
  autoResume: boolean
  network: Network
  createdAt: string
  startedAt: string | null
  /** When `onTimeout` happens; null unless it runs */
  endAt: string | null
  /** Why it is in this state */
  reason: string | null
  /** The error behind the reason, where there was one */
  detail: string | null
  /** Present while the server compares what it last knew with what is there, after its restart or a failure: the state may be another one in a moment */
  unsettled?: true
  /** What keeps it apart from the host and from the others, as far as it is known */
  isolation: {
    driver: string
    runtime: string
    /** Of the configured runtime */
    runtimeVersion?: string
    /** `shared`: the host’s, so not for tenants who attack it. `own`: gVisor’s */
    kernel: 'shared' | 'own'
    /** The host’s uids of its box, first + count */
    userNamespace?: string
    /** How memory, processor and processes are limited */
    cgroup: string
    /** `btrfs`: a disk quota each. `folder`: none */
    pool: string
  }
  /** What creating it spent its time on; only in the answer of create */
  timings?: {
    phase: string
    micros: number
  }[]
}

export type SandboxList = {
  data: Sandbox[]
  nextCursor: string | null
}

export type SandboxLog = {
  at: string
  kind: 'transition'
  from: 'creating' | 'running' | 'paused' | 'stopping' | 'stopped' | 'starting' | 'killed' | 'failed' | null
  to: 'creating' | 'running' | 'paused' | 'stopping' | 'stopped' | 'starting' | 'killed' | 'failed'
  reason: string
  detail: string | null
}

export type SandboxLogs = {
  data: SandboxLog[]
  nextCursor: string | null
}

export type SandboxMetrics = {
  cpuMs: number
  memoryBytes: number
  memoryPeakBytes: number
  memoryLimitBytes: number
  processes: number
  /** Null where the pool keeps no quota */
  diskBytes: number | null
  diskLimitBytes: number
  oomKills: number
  uptimeMs: number
}

export type SetNetwork = {
  /** What programs inside may connect to: nothing, everything public, or a list */
  egress:
    | ('none' | 'all')
    | {
        hosts?: string[]
        /** Named lists: `packages` (package registries), `git` (code hosts), `models` (model APIs) */
        presets?: ('packages' | 'git' | 'models')[]
      }
}

export type SignalExec = {
  /** A name or a number */
  signal: string | number
  /** The process alone, or everything in its session */
  scope?: 'process' | 'session'
}

export type Template = {
  name: string
  /** Sandboxes start from a ready one */
  state: 'ready' | 'missing' | 'building' | 'failed'
  /** What it holds and lacks, or why it failed */
  detail: string
}

export type TemplateList = {
  data: Template[]
  nextCursor: null
}

export type Terminal = ExecSummary & {
  /** Null where the server was restarted since it was last set */
  cols: number | null
  rows: number | null
  /** Connections that watch it now */
  viewers: number
}

export type TerminalList = {
  data: Terminal[]
  nextCursor: null
}

export type TerminalSize = {
  cols: number
  rows: number
}

export interface Operations {
  /** Let a sandbox connect to more hosts */
  allowEgress: {
    path: {
      id: string
    }
    query: Record<never, never>
    header: Record<never, never>
    body: AllowEgress
    responses: {
      '200': Network
      '400': Error
      '401': Error
      '403': Error
      '404': Error
      '408': Error
      '409': Error
      '413': Error
      '429': Error
      '499': Error
      '500': Error
      '503': Error
      default: Error
    }
  }
  /** Build a template and wait until it is ready, which may take minutes */
  buildTemplate: {
    path: {
      name: string
    }
    query: Record<never, never>
    header: Record<never, never>
    body: undefined
    responses: {
      '200': Template
      '400': Error
      '401': Error
      '403': Error
      '404': Error
      '500': Error
      '502': Error
      '503': Error
      '504': Error
      '507': Error
      default: Error
    }
  }
  /** Change permissions */
  changeMode: {
    path: {
      id: string
    }
    query: {
      path: string
    }
    header: Record<never, never>
    body: ChangeMode
    responses: {
      '200': Entry
      '400': Error
      '401': Error
      '403': Error
      '404': Error
      '408': Error
      '409': Error
      '413': Error
      '429': Error
      '499': Error
      '500': Error
      '501': Error
      '502': Error
      '503': Error
      '504': Error
      '507': Error
      default: Error
    }
  }
  /** Watch a terminal and type into it (WebSocket) */
  connectTerminal: {
    path: {
      id: string
      terminalId: string
    }
    query: {
      from?: number
      scrollback?: number
      readOnly?: '0' | '1' | 'true' | 'false'
      cols?: number
      rows?: number
      ahead?: number
    }
    header: Record<never, never>
    body: undefined
    responses: {
      '101': undefined
      '400': Error
      '401': Error
      '403': Error
      '404': Error
      '409': Error
      '426': Error
      '429': Error
      '499': Error
      '500': Error
      '501': Error
      '502': Error
      '503': Error
      '504': Error
      '507': Error
      default: Error
    }
  }
  /** Make a token for a sandbox’s ports or terminals */
  createAccessToken: {
    path: {
      id: string
    }
    query: Record<never, never>
    header: Record<never, never>
    body: CreateAccessToken
    responses: {
      '201': AccessToken
      '400': Error
      '401': Error
      '403': Error
      '404': Error
      '408': Error
      '413': Error
      '499': Error
      '500': Error
      '503': Error
      default: Error
    }
  }
  /** Run a command */
  createExec: {
    path: {
      id: string
    }
    query: Record<never, never>
    header: {
      'Idempotency-Key'?: string
    }
    body: CreateExec
    responses: {
      '200': Exec
      '202': Exec
      '400': Error
      '401': Error
      '403': Error
      '404': Error
      '408': Error
      '409': Error
      '413': Error
      '429': Error
      '499': Error
      '500': Error
      '501': Error
      '502': Error
      '503': Error
      '504': Error
      '507': Error
      default: Error
    }
  }
  /** Make a sandbox */
  createSandbox: {
    path: Record<never, never>
    query: Record<never, never>
    header: {
      'idempotency-key'?: string
    }
    body: CreateSandbox
    responses: {
      '201': Sandbox
      '400': Error
      '401': Error
      '403': Error
      '404': Error
      '408': Error
      '409': Error
      '413': Error
      '429': Error
      '499': Error
      '500': Error
      '501': Error
      '502': Error
      '503': Error
      '504': Error
      '507': Error
      default: Error
    }
  }
  /** Open a terminal */
  createTerminal: {
    path: {
      id: string
    }
    query: Record<never, never>
    header: {
      'idempotency-key'?: string
    }
    body: CreateTerminal
    responses: {
      '201': Terminal
      '400': Error
      '401': Error
      '403': Error
      '404': Error
      '408': Error
      '409': Error
      '413': Error
      '429': Error
      '499': Error
      '500': Error
      '501': Error
      '502': Error
      '503': Error
      '504': Error
      '507': Error
      default: Error
    }
  }
  /** Download a directory as tar */
  downloadArchive: {
    path: {
      id: string
    }
    query: {
      path: string
    }
    header: Record<never, never>
    body: undefined
    responses: {
      '200': Uint8Array
      '400': Error
      '401': Error
      '403': Error
      '404': Error
      '409': Error
      '429': Error
      '499': Error
      '500': Error
      '501': Error
      '502': Error
      '503': Error
      '504': Error
      '507': Error
      default: Error
    }
  }
  /** End a terminal */
  endTerminal: {
    path: {
      id: string
      terminalId: string
    }
    query: Record<never, never>
    header: Record<never, never>
    body: undefined
    responses: {
      '204': undefined
      '400': Error
      '401': Error
      '403': Error
      '404': Error
      '409': Error
      '429': Error
      '499': Error
      '500': Error
      '501': Error
      '502': Error
      '503': Error
      '504': Error
      '507': Error
      default: Error
    }
  }
  /** Describe a file or directory */
  getEntry: {
    path: {
      id: string
    }
    query: {
      path: string
      follow?: 'true' | 'false'
    }
    header: Record<never, never>
    body: undefined
    responses: {
      '200': Entry
      '400': Error
      '401': Error
      '403': Error
      '404': Error
      '409': Error
      '429': Error
      '499': Error
      '500': Error
      '501': Error
      '502': Error
      '503': Error
      '504': Error
      '507': Error
      default: Error
    }
  }
  /** An exec and the output kept of it */
  getExec: {
    path: {
      id: string
      execId: string
    }
    query: {
      encoding?: 'utf8' | 'base64'
    }
    header: Record<never, never>
    body: undefined
    responses: {
      '200': Exec
      '400': Error
      '401': Error
      '403': Error
      '404': Error
      '409': Error
      '429': Error
      '499': Error
      '500': Error
      '501': Error
      '502': Error
      '503': Error
      '504': Error
      '507': Error
      default: Error
    }
  }
  /** Whether the server can work */
  getHealth: {
    path: Record<never, never>
    query: Record<never, never>
    header: Record<never, never>
    body: undefined
    responses: {
      '200': Health
      '503': Health
    }
  }
  /** Figures of the server for Prometheus */
  getMetrics: {
    path: Record<never, never>
    query: Record<never, never>
    header: Record<never, never>
    body: undefined
    responses: {
      '200': Uint8Array
      default: Error
    }
  }
  /** What a sandbox may connect to */
  getNetwork: {
    path: {
      id: string
    }
    query: Record<never, never>
    header: Record<never, never>
    body: undefined
    responses: {
      '200': Network
      '400': Error
      '401': Error
      '403': Error
      '404': Error
      '500': Error
      '503': Error
      default: Error
    }
  }
  /** Look at a sandbox */
  getSandbox: {
    path: {
      id: string
    }
    query: Record<never, never>
    header: Record<never, never>
    body: undefined
    responses: {
      '200': Sandbox
      '400': Error
      '401': Error
      '403': Error
      '404': Error
      '500': Error
      '503': Error
      default: Error
    }
  }
  /** What happened to a sandbox, oldest first */
  getSandboxLogs: {
    path: {
      id: string
    }
    query: {
      limit?: number
      cursor?: string
    }
    header: Record<never, never>
    body: undefined
    responses: {
      '200': SandboxLogs
      '400': Error
      '401': Error
      '403': Error
      '404': Error
      '500': Error
      '503': Error
      default: Error
    }
  }
  /** What a sandbox uses */
  getSandboxMetrics: {
    path: {
      id: string
    }
    query: Record<never, never>
    header: Record<never, never>
    body: undefined
    responses: {
      '200': SandboxMetrics
      '400': Error
      '401': Error
      '403': Error
      '404': Error
      '409': Error
      '429': Error
      '499': Error
      '500': Error
      '502': Error
      '503': Error
      '504': Error
      default: Error
    }
  }
  /** Kill a sandbox and remove its disk */
  killSandbox: {
    path: {
      id: string
    }
    query: Record<never, never>
    header: Record<never, never>
    body: undefined
    responses: {
      '204': undefined
      '400': Error
      '401': Error
      '403': Error
      '404': Error
      '409': Error
      '429': Error
      '499': Error
      '500': Error
      '502': Error
      '503': Error
      '504': Error
      default: Error
    }
  }
  /** Connections of a sandbox to the outside that have ended, newest first */
  listEgress: {
    path: {
      id: string
    }
    query: {
      limit?: number
      cursor?: string
    }
    header: Record<never, never>
    body: undefined
    responses: {
      '200': EgressConnectionList
      '400': Error
      '401': Error
      '403': Error
      '404': Error
      '500': Error
      '503': Error
      default: Error
    }
  }
  /** List a directory */
  listEntries: {
    path: {
      id: string
    }
    query: {
      path: string
      depth?: number
      limit?: number
      cursor?: string
    }
    header: Record<never, never>
    body: undefined
    responses: {
      '200': EntryList
      '400': Error
      '401': Error
      '403': Error
      '404': Error
      '409': Error
      '429': Error
      '499': Error
      '500': Error
      '501': Error
      '502': Error
      '503': Error
      '504': Error
      '507': Error
      default: Error
    }
  }
  /** Execs that run, and those that ended within the hour */
  listExecs: {
    path: {
      id: string
    }
    query: Record<never, never>
    header: Record<never, never>
    body: undefined
    responses: {
      '200': ExecList
      '400': Error
      '401': Error
      '403': Error
      '404': Error
      '409': Error
      '429': Error
      '499': Error
      '500': Error
      '501': Error
      '502': Error
      '503': Error
      '504': Error
      '507': Error
      default: Error
    }
  }
  /** The ports of a sandbox: their addresses, which are public, and what listens */
  listPorts: {
    path: {
      id: string
    }
    query: Record<never, never>
    header: Record<never, never>
    body: undefined
    responses: {
      '200': Ports
      '400': Error
      '401': Error
      '403': Error
      '500': Error
      '503': Error
      default: Error
    }
  }
  /** List sandboxes, newest first */
  listSandboxes: {
    path: Record<never, never>
    query: {
      state?: string
      limit?: number
      cursor?: string
    }
    header: Record<never, never>
    body: undefined
    responses: {
      '200': SandboxList
      '400': Error
      '401': Error
      '403': Error
      '500': Error
      '503': Error
      default: Error
    }
  }
  /** What sandboxes can start from */
  listTemplates: {
    path: Record<never, never>
    query: Record<never, never>
    header: Record<never, never>
    body: undefined
    responses: {
      '200': TemplateList
      '401': Error
      '403': Error
      '500': Error
      '502': Error
      '503': Error
      '504': Error
      default: Error
    }
  }
  /** Terminals that run, and those that ended within the hour */
  listTerminals: {
    path: {
      id: string
    }
    query: Record<never, never>
    header: Record<never, never>
    body: undefined
    responses: {
      '200': TerminalList
      '400': Error
      '401': Error
      '403': Error
      '404': Error
      '409': Error
      '429': Error
      '499': Error
      '500': Error
      '501': Error
      '502': Error
      '503': Error
      '504': Error
      '507': Error
      default: Error
    }
  }
  /** Make a directory */
  makeDirectory: {
    path: {
      id: string
    }
    query: Record<never, never>
    header: Record<never, never>
    body: MakeDirectory
    responses: {
      '201': Entry
      '400': Error
      '401': Error
      '403': Error
      '404': Error
      '408': Error
      '409': Error
      '413': Error
      '429': Error
      '499': Error
      '500': Error
      '501': Error
      '502': Error
      '503': Error
      '504': Error
      '507': Error
      default: Error
    }
  }
  /** Move or rename */
  moveEntry: {
    path: {
      id: string
    }
    query: Record<never, never>
    header: Record<never, never>
    body: Move
    responses: {
      '200': Entry
      '400': Error
      '401': Error
      '403': Error
      '404': Error
      '408': Error
      '409': Error
      '413': Error
      '429': Error
      '499': Error
      '500': Error
      '501': Error
      '502': Error
      '503': Error
      '504': Error
      '507': Error
      default: Error
    }
  }
  /** Give a sandbox more time, or other labels */
  patchSandbox: {
    path: {
      id: string
    }
    query: Record<never, never>
    header: Record<never, never>
    body: PatchSandbox
    responses: {
      '200': Sandbox
      '400': Error
      '401': Error
      '403': Error
      '404': Error
      '408': Error
      '409': Error
      '413': Error
      '429': Error
      '499': Error
      '500': Error
      '503': Error
      default: Error
    }
  }
  /** Freeze a sandbox; its memory is kept */
  pauseSandbox: {
    path: {
      id: string
    }
    query: Record<never, never>
    header: Record<never, never>
    body: undefined
    responses: {
      '200': Sandbox
      '400': Error
      '401': Error
      '403': Error
      '404': Error
      '409': Error
      '429': Error
      '499': Error
      '500': Error
      '502': Error
      '503': Error
      '504': Error
      default: Error
    }
  }
  /** Choose which ports are public */
  putPorts: {
    path: {
      id: string
    }
    query: Record<never, never>
    header: Record<never, never>
    body: PutPorts
    responses: {
      '200': Ports
      '400': Error
      '401': Error
      '403': Error
      '408': Error
      '413': Error
      '499': Error
      '500': Error
      '503': Error
      default: Error
    }
  }
  /** Read a file */
  readFile: {
    path: {
      id: string
    }
    query: {
      path: string
    }
    header: {
      Range?: string
      'If-None-Match'?: string
      'If-Range'?: string
    }
    body: undefined
    responses: {
      '200': Uint8Array
      '206': Uint8Array
      '304': undefined
      '400': Error
      '401': Error
      '403': Error
      '404': Error
      '409': Error
      '416': Error
      '429': Error
      '499': Error
      '500': Error
      '501': Error
      '502': Error
      '503': Error
      '504': Error
      '507': Error
      default: Error
    }
  }
  /** Remove a file or directory */
  removeFile: {
    path: {
      id: string
    }
    query: {
      path: string
      recursive?: 'true' | 'false'
    }
    header: Record<never, never>
    body: undefined
    responses: {
      '204': undefined
      '400': Error
      '401': Error
      '403': Error
      '404': Error
      '409': Error
      '429': Error
      '499': Error
      '500': Error
      '501': Error
      '502': Error
      '503': Error
      '504': Error
      '507': Error
      default: Error
    }
  }
  /** A request to a server inside, with any method, or a WebSocket */
  requestPort: {
    path: {
      id: string
      port: number
      path: string
    }
    query: Record<never, never>
    header: Record<never, never>
    body: undefined
    responses: {
      '200': Uint8Array
    }
  }
  /** Change the size of an exec’s terminal */
  resizeExec: {
    path: {
      id: string
      execId: string
    }
    query: Record<never, never>
    header: Record<never, never>
    body: ResizeExec
    responses: {
      '204': undefined
      '400': Error
      '401': Error
      '403': Error
      '404': Error
      '408': Error
      '409': Error
      '413': Error
      '429': Error
      '499': Error
      '500': Error
      '501': Error
      '502': Error
      '503': Error
      '504': Error
      '507': Error
      default: Error
    }
  }
  /** Change the size of a terminal */
  resizeTerminal: {
    path: {
      id: string
      terminalId: string
    }
    query: Record<never, never>
    header: Record<never, never>
    body: TerminalSize
    responses: {
      '200': Terminal
      '400': Error
      '401': Error
      '403': Error
      '404': Error
      '408': Error
      '409': Error
      '413': Error
      '429': Error
      '499': Error
      '500': Error
      '501': Error
      '502': Error
      '503': Error
      '504': Error
      '507': Error
      default: Error
    }
  }
  /** Let a paused sandbox go on */
  resumeSandbox: {
    path: {
      id: string
    }
    query: Record<never, never>
    header: Record<never, never>
    body: undefined
    responses: {
      '200': Sandbox
      '400': Error
      '401': Error
      '403': Error
      '404': Error
      '409': Error
      '429': Error
      '499': Error
      '500': Error
      '502': Error
      '503': Error
      '504': Error
      default: Error
    }
  }
  /** End all access tokens of a sandbox */
  revokeAccessTokens: {
    path: {
      id: string
    }
    query: Record<never, never>
    header: Record<never, never>
    body: undefined
    responses: {
      '204': undefined
      '400': Error
      '401': Error
      '403': Error
      '404': Error
      '500': Error
      '503': Error
      default: Error
    }
  }
  /** Run source code */
  runCode: {
    path: {
      id: string
    }
    query: Record<never, never>
    header: {
      'Idempotency-Key'?: string
    }
    body: RunCode
    responses: {
      '200': Exec
      '202': Exec
      '400': Error
      '401': Error
      '403': Error
      '404': Error
      '408': Error
      '409': Error
      '413': Error
      '429': Error
      '499': Error
      '500': Error
      '501': Error
      '502': Error
      '503': Error
      '504': Error
      '507': Error
      default: Error
    }
  }
  /** Check the machine, and say what each finding means */
  runDoctor: {
    path: Record<never, never>
    query: Record<never, never>
    header: Record<never, never>
    body: undefined
    responses: {
      '200': FindingList
      '401': Error
      '403': Error
      '500': Error
      '502': Error
      '503': Error
      '504': Error
      default: Error
    }
  }
  /** Change what a sandbox may connect to */
  setNetwork: {
    path: {
      id: string
    }
    query: Record<never, never>
    header: Record<never, never>
    body: SetNetwork
    responses: {
      '200': Network
      '400': Error
      '401': Error
      '403': Error
      '404': Error
      '408': Error
      '409': Error
      '413': Error
      '429': Error
      '499': Error
      '500': Error
      '503': Error
      default: Error
    }
  }
  /** Send a signal */
  signalExec: {
    path: {
      id: string
      execId: string
    }
    query: Record<never, never>
    header: Record<never, never>
    body: SignalExec
    responses: {
      '204': undefined
      '400': Error
      '401': Error
      '403': Error
      '404': Error
      '408': Error
      '409': Error
      '413': Error
      '429': Error
      '499': Error
      '500': Error
      '501': Error
      '502': Error
      '503': Error
      '504': Error
      '507': Error
      default: Error
    }
  }
  /** Start a stopped sandbox on its disk */
  startSandbox: {
    path: {
      id: string
    }
    query: Record<never, never>
    header: Record<never, never>
    body: undefined
    responses: {
      '200': Sandbox
      '400': Error
      '401': Error
      '403': Error
      '404': Error
      '409': Error
      '429': Error
      '499': Error
      '500': Error
      '501': Error
      '502': Error
      '503': Error
      '504': Error
      '507': Error
      default: Error
    }
  }
  /** End all processes of a sandbox; its disk is kept */
  stopSandbox: {
    path: {
      id: string
    }
    query: Record<never, never>
    header: Record<never, never>
    body: undefined
    responses: {
      '200': Sandbox
      '400': Error
      '401': Error
      '403': Error
      '404': Error
      '409': Error
      '429': Error
      '499': Error
      '500': Error
      '502': Error
      '503': Error
      '504': Error
      default: Error
    }
  }
  /** Follow an exec from an offset on */
  streamExec: {
    path: {
      id: string
      execId: string
    }
    query: {
      from?: number
      encoding?: 'utf8' | 'base64'
    }
    header: {
      'Last-Event-ID'?: string
    }
    body: undefined
    responses: {
      '200': Uint8Array
      '400': Error
      '401': Error
      '403': Error
      '404': Error
      '409': Error
      '429': Error
      '499': Error
      '500': Error
      '501': Error
      '502': Error
      '503': Error
      '504': Error
      '507': Error
      default: Error
    }
  }
  /** Unpack a tar into a directory */
  uploadArchive: {
    path: {
      id: string
    }
    query: {
      path: string
    }
    header: Record<never, never>
    body: Uint8Array
    responses: {
      '200': Entry
      '400': Error
      '401': Error
      '403': Error
      '404': Error
      '408': Error
      '409': Error
      '413': Error
      '429': Error
      '499': Error
      '500': Error
      '501': Error
      '502': Error
      '503': Error
      '504': Error
      '507': Error
      default: Error
    }
  }
  /** Follow changes below a path */
  watchFiles: {
    path: {
      id: string
    }
    query: {
      path: string
      recursive?: 'true' | 'false'
    }
    header: Record<never, never>
    body: undefined
    responses: {
      '200': Uint8Array
      '400': Error
      '401': Error
      '403': Error
      '404': Error
      '409': Error
      '429': Error
      '499': Error
      '500': Error
      '501': Error
      '502': Error
      '503': Error
      '504': Error
      '507': Error
      default: Error
    }
  }
  /** Write a file */
  writeFile: {
    path: {
      id: string
    }
    query: {
      path: string
      mode?: string
      owner?: string
      parents?: 'true' | 'false'
      overwrite?: 'true' | 'false'
    }
    header: {
      'If-Match'?: string
      'If-None-Match'?: string
    }
    body: Uint8Array
    responses: {
      '200': Entry
      '400': Error
      '401': Error
      '403': Error
      '404': Error
      '408': Error
      '409': Error
      '412': Error
      '413': Error
      '429': Error
      '499': Error
      '500': Error
      '501': Error
      '502': Error
      '503': Error
      '504': Error
      '507': Error
      default: Error
    }
  }
  /** Write to the standard input of an exec */
  writeStdin: {
    path: {
      id: string
      execId: string
    }
    query: {
      close?: 'true' | 'false'
    }
    header: Record<never, never>
    body: Uint8Array
    responses: {
      '204': undefined
      '400': Error
      '401': Error
      '403': Error
      '404': Error
      '408': Error
      '409': Error
      '429': Error
      '499': Error
      '500': Error
      '501': Error
      '502': Error
      '503': Error
      '504': Error
      '507': Error
      default: Error
    }
  }
}
