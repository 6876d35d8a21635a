// Generated from the OpenAPI document by scripts/generate-sdk-types.mjs. Do not edit.

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
  /** Cores */
  cpu?: number
  memoryMb?: number
  diskMb?: number
  /** Most processes and threads at once */
  processes?: number
  /** How it is isolated; the server’s configured runtime where it is left out */
  runtime?: 'crun' | 'runc' | 'runsc'
}

export type Error = {
  error: {
    /** Branch on this */
    code:
      | 'invalid_request'
      | 'malformed_json'
      | 'unauthorized'
      | 'host_not_allowed'
      | 'not_found'
      | 'method_not_allowed'
      | 'request_timeout'
      | 'idempotency_conflict'
      | 'idempotency_in_progress'
      | 'precondition_failed'
      | 'body_too_large'
      | 'unsupported_media_type'
      | 'range_not_satisfiable'
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

export type PatchSandbox = {
  /** Counts from now */
  timeoutMs?: number
  onTimeout?: 'kill' | 'stop' | 'pause'
  autoResume?: boolean
  /** Replaces all of it */
  metadata?: Record<string, string>
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
  createdAt: string
  startedAt: string | null
  /** When `onTimeout` happens; null unless it runs */
  endAt: string | null
  /** Why it is in this state */
  reason: string | null
  /** The error behind the reason, where there was one */
  detail: string | null
  isolation: {
    runtime: string
    driver: string
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

export interface Operations {
  /** Whether the server can work */
  'GET /health': {
    path: Record<never, never>
    query: Record<never, never>
    header: Record<never, never>
    body: undefined
    responses: {
      '200': Health
      '503': Health
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
      default: Error
    }
  }
}
