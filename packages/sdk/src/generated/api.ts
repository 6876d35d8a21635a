// Generated from the OpenAPI document by scripts/generate-sdk-types.mjs. Do not edit.

export type AcceptInvitation = {
  /** From the link */
  token: string
  /** Of whoever has a user already; else the one that is chosen */
  password: string
  /** Six digits of the app, or a recovery code */
  code?: string
  name?: string
  cookies?: boolean
}

export type AccessToken = {
  /** Shown only here; whoever holds it has what its scopes say */
  token: string
  scopes: string[]
  expiresAt: string
}

export type Account = {
  id: string
  name: string
  createdAt: string
  members: number
}

export type Agent = {
  id: string
  name: string
  kind: 'main' | 'bot' | 'messenger'
  parentAgent: string | null
  /** 1 for an agent without a parent */
  depth: number
  state: 'active' | 'paused' | 'suspended' | 'archiving' | 'archived'
  task: string | null
  channel: 'email' | 'sms' | 'voice' | 'api' | null
  template: string
  memoryMb: number
  monthlyTokens: number
  confirmAboveTokens: number
  /** Its own */
  rights: string[]
  /** What is left of these after all above it, now */
  effectiveRights: string[]
  /** Made when its computer is first used */
  workspaceId: string | null
  /** Its present or last sandbox */
  sandboxId: string | null
  createdAt: string
  balance?: AgentBalance
}

/** Where one agent is asked for */
export type AgentBalance = {
  /** Tokens that end with the month; spent first */
  granted: number
  /** Tokens, with at most six places */
  bought: number
  /** Set aside for what runs */
  held: number
  /** Tokens, with at most six places */
  used: number
}

export type AgentList = {
  data: Agent[]
  nextCursor: string | null
}

export type AgentNode = {
  id: string
  name: string
  kind: 'main' | 'bot' | 'messenger'
  state: 'active' | 'paused' | 'suspended' | 'archiving' | 'archived'
  channel: 'email' | 'sms' | 'voice' | 'api' | null
  createdAt: string
  children: AgentNode[]
}

export type AgentToken = {
  id: string
  /** Shown only here; whoever holds it is that agent until it ends */
  token: string
  agentId: string
  agentKind: 'main' | 'bot' | 'messenger'
  rights: string[]
  agents: string[] | null
  sandboxes: string[] | null
  expiresAt: string
}

export type AgentTree = {
  data: AgentNode[]
  /** False where there are more than 1000 */
  complete: boolean
}

export type AllowEgress = {
  hosts?: string[]
  /** Named lists: `packages` (package registries), `git` (code hosts), `models` (model APIs) */
  presets?: ('packages' | 'git' | 'models')[]
}

export type Approval = {
  id: string
  /** The selector of `approve:<kind>` */
  kind: string
  /** `pending` → `approved` → `executed` or `failed`; or from `pending` to `refused`, `expired` or `canceled` */
  state: 'pending' | 'approved' | 'executed' | 'failed' | 'refused' | 'expired' | 'canceled'
  /** What will happen, in the words of the server */
  description: string
  /** The same as data: this, exactly, and nothing else is done */
  action: Record<string, unknown>
  /** The SHA-256 of `action` as canonical JSON (RFC 8785) */
  actionHash: string
  /** Why, in the words of whoever asks */
  reason: string
  /** The person, key or agent */
  askedBy: string
  /** Of an agent: the person or key that answers for it, then the agents it descends from. Its own id is what the last of these called it */
  askedThrough: string[]
  /** The sandbox that it is about */
  sandboxId: string | null
  askedAt: string
  /** Until when somebody must have decided */
  expiresAt: string
  /** Who approved, refused or canceled it */
  decidedBy: string | null
  decidedAt: string | null
  /** Why it was refused */
  refusal: string | null
  endedAt: string | null
  /** Of what was approved and could not be done */
  failure: {
    code: string
    message: string
  } | null
}

export type ApprovalList = {
  data: Approval[]
  nextCursor: string | null
}

export type Approve = {
  /** That of what you looked at; any other is refused */
  actionHash: string
}

export type ApproveTokens = {
  /** As many as you saw; with any other number nothing is approved */
  tokens: number
}

export type AuditEntry = {
  /** Its place in the account’s chain, from 1 without a gap */
  seq: number
  at: string
  /** `usr_…`, `key_…`, `agt_…`, or `platform` */
  actor: string
  /** The operation by its name in /openapi.json */
  action: string
  /** The id of what it was done to, or the name of a workspace, volume or template by which it was meant */
  target: string | null
  outcome: 'done' | 'begun' | 'refused' | 'failed'
  /** The error code of a refusal or failure */
  reason: string | null
  details: Record<string, string | number | boolean | null> | null
  /** The request it came with */
  requestId: string | null
  /** Where that came from */
  address: string | null
  /** SHA-256 of this entry and the hash of the one before it */
  hash: string
}

export type AuditHead = {
  /** Of the last entry; 0 where there is none */
  seq: number
  hash: string
  /** Ed25519, base64url: what signs heads of this installation */
  publicKey: string
}

export type AuditList = {
  data: AuditEntry[]
  nextCursor: string | null
}

export type BackupWish = {
  /** Seals the whole backup; without it nobody opens it again */
  passphrase?: string
  /** With SECRET_KEY in it: whoever has the backup can then be anybody here */
  secrets?: boolean
}

export type ChangeAccount = {
  name: string
}

export type ChangeMode = {
  /** Octal digits as a text, or a number */
  mode: string | number
}

export type ChangePassword = {
  password: string
  newPassword: string
}

export type ChangeRole = {
  role: 'owner' | 'admin' | 'member' | 'viewer'
}

/** Against its parent; null until it was looked at */
export type ChangeSummary = {
  added: number
  changed: number
  removed: number
  /** Of the files added and changed */
  bytes: number
  /** The first of them; the rest at /changes */
  first: FileChange[]
  packages: PackageChanges
} | null

export type ChangeUser = {
  name: string
}

export type CreateAccessToken = {
  /** What it opens: `port:3000` one port, `port:*` all, `terminal` terminals */
  scopes: string[]
  /** Milliseconds it is good for */
  ttlMs?: number
}

export type CreateAgent = {
  name: string
  /** Without it: `bot` below a parent, else `main` */
  kind?: 'main' | 'bot' | 'messenger'
  /** The agent it stands below */
  parentAgent?: string
  /** The same as `parentAgent` */
  parent?: string
  /** What it is for */
  task?: string
  /** The one channel of a bot or messenger; `api`: it speaks to programs alone */
  channel?: 'email' | 'sms' | 'voice' | 'api'
  /** What its computer begins as. Without it: `host` */
  template?: string
  memoryMb?: number
  /** From its parent’s balance, or for a main agent from the account’s reserve */
  tokenBudget?: number
  /** Renewed from the reserve with each month */
  monthlyTokens?: number
  /** What its bots ask for is confirmed by a person where it is more than so many tokens at once; 0: always */
  confirmAboveTokens?: number
  /** Never wider than the parent’s and its maker’s. Without it: what its kind usually needs */
  rights?: string[]
}

export type CreateAgentToken = {
  /** Who it is for */
  agentId: string
  /** Refused where the agent is of another kind */
  agentKind?: 'main' | 'bot' | 'messenger'
  /** A part of what its maker and the agent have now; nothing of keys, people and money */
  rights: string[]
  /** Limited to these agents. Without it: all */
  agents?: string[]
  /** Limited to these sandboxes, and to nothing that is no sandbox. Without it: all */
  sandboxes?: string[]
  /** Milliseconds it is good for; never longer than what it is made with */
  ttlMs?: number
}

export type CreateExec = {
  /** A text is run by `/bin/bash -l -c` (`/bin/sh` where there is no bash); an array is executed as it is */
  cmd: string | string[]
  /** Text given to the process as its standard input, followed by its end unless `stdinOpen` */
  stdin?: string
  /** Keep stdin open for POST …/stdin; otherwise it is empty or what `stdin` holds */
  stdinOpen?: boolean
  /** `user`, or whom the sandbox’s template names */
  user?: string
  /** /workspace, or the folder that the sandbox’s template names; a relative path starts there */
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

export type CreateKey = {
  name: string
  /** What it may: `verb:resource[:selector]`, never more than whoever makes it. read:agents, write:agents, read:sandboxes, write:sandboxes, read:exec, write:exec, read:files, write:files, read:workspaces, write:workspaces, read:tasks, write:tasks, read:memory, write:memory, read:skills, write:skills, read:keys, write:keys, read:members, write:members, read:account, write:account, read:billing, write:billing, read:audit, read:operations, write:operations, egress, send, delegate, allocate, request, approve; `read:*`, `write:*` */
  rights: string[]
  /** Limited to these agents. Without it: all */
  agents?: string[]
  /** Limited to these sandboxes, and to nothing that is no sandbox. Without it: all */
  sandboxes?: string[]
  /** Until when. Without it and `ttlMs`: until it is revoked */
  expiresAt?: string
  /** The same, from now on */
  ttlMs?: number
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
  /** Folders shared with other sandboxes of the account */
  volumes?: VolumeMount[]
  /** How it is isolated; the server’s configured runtime where it is left out */
  runtime?: 'crun' | 'runc' | 'runsc'
  /** Id or name of the workspace whose files it works on, one sandbox at a time. Template and disk size are then the workspace’s */
  workspace?: string
  /** `join`: where a sandbox runs on the workspace already, the answer is that one, with 200 */
  ifHeld?: 'refuse' | 'join'
  /** Milliseconds without a command, file access, terminal or request to a port, after which it stops as if asked to; the next one starts it again */
  idleTimeoutMs?: number
}

export type CreateSchedule = {
  /** Who does it */
  agent: string
  task: ScheduledTask
  /** Minute, hour, day of month, month, day of week */
  cron?: string
  /** In which `cron` is meant */
  timeZone?: string
  /** Once, at this time */
  at?: string
  /** Of times at which no server ran: none of them, one run for all, or each of them, at most the last 100 */
  missed?: 'skip' | 'once' | 'all'
  /** Where the task of the run before goes on: the run is left out, or waits for its end */
  overlap?: 'skip' | 'queue'
  /** Without it, it begins paused */
  enabled?: boolean
}

export type CreateSnapshot = {
  /** A snapshot with a name is kept for ever */
  name?: string
  comment?: string
}

export type CreateTask = {
  /** Who does it */
  agent: string
  /** What is to be done */
  text: string
  images?: {
    mediaType: 'image/png' | 'image/jpeg' | 'image/gif' | 'image/webp'
    data: string
  }[]
  /** Written to the agent’s computer before its first step */
  files?: {
    path: string
    /** Its text, or base64 where `encoding` says so */
    content: string
    encoding?: 'utf8' | 'base64'
  }[]
  /** Without it: the server’s default, DELTA_MODEL */
  model?: string
  /** Asked in this order where the model can not be reached, before anything of its answer came */
  fallbackModels?: string[]
  /** No fall-back dearer than so many tokens for a million output tokens */
  maxPrice?: number
  thinking?: 'off' | 'low' | 'medium' | 'high'
  /** Who works on it: DELTA’s own loop, or the Claude Agent SDK in the agent’s computer, where you have installed it. That one has its own tools and asks models of Anthropic alone */
  engine?: 'delta' | 'claude-agent-sdk'
  /** How it should go about it */
  instructions?: string
  /** It spends no more: set aside from the agent’s balance, what is left goes back at its end. Without it: the agent’s balance */
  tokenBudget?: number
  /** It has so long, waiting included. Without it: a day, and a chat 30 days */
  timeLimitMs?: number
  maxSteps?: number
  /** For each tool: used as the agent likes, each call confirmed by a person, or not there. `*` is every other */
  tools?: Record<string, 'auto' | 'ask' | 'off'>
  /** Further tools, of external servers that the agent may reach; their headers are kept sealed, and shown to nobody */
  mcpServers?: {
    name: string
    url: string
    headers?: Record<string, string>
  }[]
  /** A JSON schema: the task ends with a value that fits it */
  resultSchema?: Record<string, unknown>
  /** Waits for your next message when it has answered, until it is canceled */
  chat?: boolean
  metadata?: Record<string, string>
}

export type CreateTemplate = {
  name: string
  /** Names of the new version beside its number and `latest`; each moves here from the version that has it */
  tags?: string[]
  from:
    | {
        /** A reference such as `docker.io/library/python:3.12` */
        image: string
        /** For this pull alone: one registry and its token service are told, and it is not stored */
        auth?: {
          /** The only registry that is told, as references name it. Where left out, that of the image; of a Dockerfile, that of its first FROM of a registry */
          registry?: string
          username: string
          password: string
        }
      }
    | {
        snapshot: string
      }
    | {
        /** Its text; COPY needs files, which POST /v1/templates/builds takes */
        dockerfile: string
        /** For what its FROM and COPY --from take of one registry; name it where the Dockerfile is not your own */
        auth?: {
          /** The only registry that is told, as references name it. Where left out, that of the image; of a Dockerfile, that of its first FROM of a registry */
          registry?: string
          username: string
          password: string
        }
        /** The stage to build; the last where left out */
        target?: string
        /** Values of ARG. They are no secrets: cached steps and the log hold them */
        args?: Record<string, string>
        /** Do every step anew */
        noCache?: boolean
        network?: SetNetwork & unknown
        cpu?: number
        memoryMb?: number
        /** Of one RUN */
        stepTimeoutMs?: number
        /** Of all of it */
        timeoutMs?: number
      }
}

export type CreateTerminal = {
  cols?: number
  rows?: number
  /** A text is run by `/bin/bash -l -c` (`/bin/sh` where there is no bash), an array as it is; without it a login shell */
  cmd?: string | string[]
  /** `user`, or whom the sandbox’s template names */
  user?: string
  /** /workspace, or the folder that the sandbox’s template names; a relative path starts there */
  cwd?: string
  /** Variables on top of the sandbox’s own */
  env?: Record<string, string>
  /** Your own name for it */
  tag?: string
  /** At its end everything in the terminal gets SIGTERM, 2 s later SIGKILL. 0 is none */
  timeoutMs?: number
}

export type CreateVolume = {
  /** Unique in the account */
  name: string
  /** Most it may hold; no bound where the pool keeps no quota */
  diskMb?: number
}

export type CreateWebhook = {
  /** Where it is told: https; http only to addresses that the operator lists */
  url: string
  events: ('task.finished' | 'task.failed' | 'task.needs_decision')[]
  /** Only of this agent’s tasks */
  agentId?: string
}

export type CreateWorkspace = {
  /** Of your own choice, unlike every other; the id where left out */
  name?: string
  template?: string
  /** Beside what a template of yours holds, which is added */
  diskMb?: number
  retention?: Retention
  /** Whether stopping, idling out and rolling back take a snapshot of what changed */
  autoSnapshot?: boolean
  /** Your own labels */
  metadata?: Record<string, string>
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

export type EmailOnly = {
  email: string
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
      | 'forbidden'
      | 'data_folder_key_required'
      | 'host_not_allowed'
      | 'origin_not_allowed'
      | 'not_found'
      | 'method_not_allowed'
      | 'request_timeout'
      | 'reader_too_slow'
      | 'idempotency_conflict'
      | 'idempotency_in_progress'
      | 'precondition_failed'
      | 'body_too_large'
      | 'range_not_satisfiable'
      | 'websocket_required'
      | 'too_many_requests'
      | 'canceled'
      | 'not_supported'
      | 'audit_unavailable'
      | 'login_failed'
      | 'second_factor_required'
      | 'code_invalid'
      | 'second_factor_unreadable'
      | 'session_ended'
      | 'session_required'
      | 'csrf_refused'
      | 'link_invalid'
      | 'registration_closed'
      | 'user_exists'
      | 'account_not_found'
      | 'session_not_found'
      | 'member_not_found'
      | 'member_exists'
      | 'member_limit_reached'
      | 'invitation_not_found'
      | 'role_not_allowed'
      | 'last_owner'
      | 'totp_state_conflict'
      | 'key_not_found'
      | 'key_ended'
      | 'key_limit_reached'
      | 'task_not_found'
      | 'task_over'
      | 'task_state_conflict'
      | 'task_limit_reached'
      | 'token_request_not_found'
      | 'token_request_pending'
      | 'token_request_decided'
      | 'token_request_expired'
      | 'token_request_changed'
      | 'token_request_limit_reached'
      | 'schedule_not_found'
      | 'schedule_never_runs'
      | 'schedule_state_conflict'
      | 'schedule_limit_reached'
      | 'webhook_not_found'
      | 'webhook_address_refused'
      | 'webhook_limit_reached'
      | 'webhook_state_conflict'
      | 'delivery_not_found'
      | 'delivery_waiting'
      | 'approval_not_found'
      | 'approval_decided'
      | 'approval_expired'
      | 'approval_action_changed'
      | 'approval_own_request'
      | 'approval_requester_gone'
      | 'approval_second_factor_required'
      | 'approval_limit_reached'
      | 'approval_interrupted'
      | 'egress_allowed_already'
      | 'sandbox_not_found'
      | 'sandbox_not_running'
      | 'sandbox_state_conflict'
      | 'sandbox_start_failed'
      | 'sandbox_env_unreadable'
      | 'sandbox_ended'
      | 'capacity_exhausted'
      | 'runtime_not_available'
      | 'agent_not_found'
      | 'agent_archived'
      | 'agent_paused'
      | 'agent_suspended'
      | 'agent_cycle'
      | 'agent_too_deep'
      | 'agent_parent_fixed'
      | 'agent_has_no_sandbox'
      | 'agent_state_conflict'
      | 'volume_not_found'
      | 'volume_exists'
      | 'volume_in_use'
      | 'volume_limit_reached'
      | 'template_not_found'
      | 'template_not_ready'
      | 'template_build_failed'
      | 'dockerfile_invalid'
      | 'image_invalid'
      | 'image_not_found'
      | 'registry_unauthorized'
      | 'registry_unreachable'
      | 'registry_failed'
      | 'amount_invalid'
      | 'ledger_account_not_found'
      | 'purse_not_found'
      | 'purse_exists'
      | 'purse_archived'
      | 'purse_has_children'
      | 'transfer_to_itself'
      | 'balance_too_low'
      | 'account_owes'
      | 'hold_not_found'
      | 'hold_conflict'
      | 'hold_over'
      | 'hold_sent'
      | 'commit_above_hold'
      | 'refund_above_cost'
      | 'key_conflict'
      | 'ledger_full'
      | 'meter_not_priced'
      | 'purse_limit_reached'
      | 'plan_limit_reached'
      | 'model_key_missing'
      | 'model_key_refused'
      | 'model_key_unreadable'
      | 'model_key_not_found'
      | 'model_not_found'
      | 'model_not_priced'
      | 'model_too_dear'
      | 'model_too_long'
      | 'model_refused'
      | 'model_unavailable'
      | 'workspace_not_found'
      | 'workspace_in_use'
      | 'workspace_name_taken'
      | 'workspace_conflict'
      | 'workspace_limit_reached'
      | 'snapshot_not_found'
      | 'snapshot_name_taken'
      | 'snapshot_in_use'
      | 'snapshot_not_saved'
      | 'snapshot_lost'
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
      | 'blob_missing'
      | 'blob_damaged'
      | 'storage_unavailable'
      | 'storage_refused'
      | 'storage_key_wrong'
      | 'storage_failed'
      | 'guest_unreachable'
      | 'guest_protocol_error'
      | 'guest_limit_reached'
      | 'guest_timed_out'
      | 'driver_failed'
      | 'driver_timed_out'
      | 'driver_unavailable'
      | 'pool_read_only'
      | 'disk_not_found'
      | 'disk_exists'
      | 'disk_in_use'
      | 'layer_invalid'
      | 'layer_too_large'
      | 'backup_invalid'
      | 'backup_too_new'
      | 'backup_passphrase_wrong'
      | 'restore_not_empty'
      | 'restore_in_progress'
      | 'restore_among_servers'
      | 'restore_not_found'
      | 'internal'
      | 'config_invalid'
      | 'shutting_down'
      | 'database_busy'
      | 'database_unavailable'
      | 'database_failed'
      | 'migration_failed'
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

export type FileChange = {
  kind: 'added' | 'changed' | 'removed'
  type: 'file' | 'directory' | 'symlink' | 'other'
  size: number
  path: string
}

export type FileChanges = {
  data: FileChange[]
  nextCursor: string | null
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

export type FirstOwner = {
  /** From the link */
  token: string
  email: string
  password: string
  name?: string
  cookies?: boolean
}

export type Forecast = {
  /** A month in UTC */
  period: string
  /** When this was reckoned */
  at: string
  endsAt: string
  /** Of all that you may see */
  total: {
    /** What was spent in this period so far, in tokens */
    spent: number
    /** What was spent on average in a day, from the first hour of this period with any, in tokens */
    perDay: number
    /** What will have been spent at the period’s end, if it goes on like that, in tokens */
    expected: number
    /** What there is now, with what is held, in tokens */
    available: number
    /** What will be missing by the period’s end, in tokens */
    short: number
    /** When there will be nothing left; null: not in this period */
    runsOutAt: string | null
  }
  /** Those who spent most first, at most 100 */
  agents: {
    agentId: string
    /** What was spent in this period so far, in tokens */
    spent: number
    /** What was spent on average in a day, from the first hour of this period with any, in tokens */
    perDay: number
    /** What will have been spent at the period’s end, if it goes on like that, in tokens */
    expected: number
    /** What there is now, with what is held, in tokens */
    available: number
    /** What will be missing by the period’s end, in tokens */
    short: number
    /** When there will be nothing left; null: not in this period */
    runsOutAt: string | null
  }[]
}

export type Fork = {
  count?: number
  names?: string[]
}

export type ForkTask = {
  /** As it was after this step; without it: as it is now */
  step?: number
  /** What it is told then; without it, it goes on where it stood */
  text?: string
  /** Who takes it over, on its own computer as that is; without it: a new agent with a copy of the computer as it was then */
  agent?: string
  /** Of the new task, from its agent’s balance. A new agent gets them, from its parent’s balance or the reserve: without them it has none */
  tokenBudget?: number
}

export type Forked = {
  data: Workspace[]
}

export type GiveTaskTokens = {
  /** Whole tokens, from the agent’s balance */
  tokens: number
}

export type GiveTokens = {
  /** Whole tokens */
  tokens: number
  /** Without it: from its parent, and for an agent without one from the reserve */
  from?: 'parent' | 'reserve'
}

export type Health = {
  status: 'ok' | 'stopping' | 'failing'
  version: string
  database: 'ok' | 'failing'
  [name: string]: unknown
}

export type Hold = {
  id: string
  /** Who pays */
  purseId: string
  /** `unknown`: whoever held it died after the work had begun, so it was settled at what had been seen of it, else whole */
  state: 'open' | 'committed' | 'released' | 'unknown'
  /** What it is for */
  kind: string
  agentId: string | null
  taskId: string | null
  sandboxId: string | null
  /** How much is, or was, set aside, in tokens */
  tokens: number
  /** What was spent of it, in tokens */
  cost: number | null
  /** What was given back of that, in tokens */
  refunded: number
  at: string
  endedAt: string | null
}

export type HoldList = {
  data: Hold[]
  nextCursor: string | null
}

export type Invitation = {
  id: string
  email: string
  role: 'owner' | 'admin' | 'member' | 'viewer'
  invitedBy: string
  createdAt: string
  expiresAt: string
}

export type InvitationList = {
  data: Invitation[]
  nextCursor: null
}

export type Invite = {
  email: string
  role?: 'owner' | 'admin' | 'member' | 'viewer'
}

export type Key = {
  id: string
  name: string
  /** The first characters of its text, to know it again */
  hint: string
  state: 'active' | 'expired' | 'revoked'
  rights: string[]
  agents: string[] | null
  sandboxes: string[] | null
  /** The person or key that made it */
  madeBy: string
  /** The person whose role bounds it; null for the operator */
  userId: string | null
  createdAt: string
  expiresAt: string | null
  rotatedAt: string | null
  /** Until when the text from before the last rotation is good */
  previousGoodUntil: string | null
  revokedAt: string | null
  /** To the minute */
  lastUsedAt: string | null
}

export type KeyList = {
  data: Key[]
  nextCursor: string | null
}

export type Ledger = {
  accountId: string
  /** A month in UTC */
  period: string
  /** When the period ends, and with it what is granted */
  endsAt: string
  /** Of all that is shown */
  total: {
    /** What is left of the grant, which ends with the period and is spent first, in tokens */
    granted: number
    /** What does not end, in tokens */
    bought: number
    /** What is set aside for work under way, beside the other two, in tokens */
    held: number
    /** What it has paid so far, less what was given back, in tokens */
    used: number
  }
  /** What nobody could pay yet; as long as it is not paid, nothing new is begun. Null for an agent */
  owed: number | null
  /** The tree, each purse right before those below it. An agent sees its own and those below */
  purses: Purse[]
  /** Whether these are all; with more than 10000 ask for a part by `purseId` */
  whole: boolean
}

export type LinkLogin = {
  /** From the link */
  token: string
  /** Six digits of the app, or a recovery code */
  code?: string
  cookies?: boolean
}

export type Login = {
  email: string
  password: string
  /** Six digits of the app, or a recovery code */
  code?: string
  /** Default: the one used last */
  accountId?: string
  /** Set the tokens as cookies instead of answering with them */
  cookies?: boolean
}

export type LoginLink = {
  /** Good once; shown only here */
  url: string
  purpose: string
  expiresAt: string
}

export type MadeKey = Key & {
  /** Shown only here; only its SHA-256 is kept */
  key: string
}

export type Mail = {
  id: string
  to: string
  subject: string
  /** Null once it was sent or given up */
  text: string | null
  state: 'kept' | 'waiting' | 'sending' | 'sent' | 'failed'
  createdAt: string
}

export type MailList = {
  data: Mail[]
  nextCursor: null
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

export type MakeGrant = {
  /** Whole tokens */
  tokens: number
  /** `granted` ends with the period, `bought` does not */
  sort: 'granted' | 'bought'
  /** Why; kept in the journal */
  reason: string
  /** Whose. Without it: your own */
  accountId?: string
}

export type MakeRefund = {
  /** Of what was spent; kept as the reference */
  holdId: string
  /** At most what it cost, with at most six places */
  tokens: number
  /** Why; kept in the journal */
  reason: string
  /** Whose. Without it: your own */
  accountId?: string
}

export type MakeTransfer = {
  /** Whole tokens */
  tokens: number
  /** `reserve`, or the id of an agent or task */
  from: string
  /** `reserve`, or the id of an agent or task */
  to: string
  /** Why; kept in the journal */
  reason: string
}

export type Me = {
  kind: 'user' | 'key' | 'agent'
  /** Of the user, key or agent */
  id: string
  accountId: string
  role: 'owner' | 'admin' | 'member' | 'viewer' | null
  sessionId: string | null
  user: User
  accounts: {
    id: string
    name: string
    role: 'owner' | 'admin' | 'member' | 'viewer'
  }[]
}

export type Member = {
  userId: string
  email: string
  name: string
  role: 'owner' | 'admin' | 'member' | 'viewer'
  totp: boolean
  joinedAt: string
}

export type MemberList = {
  data: Member[]
  nextCursor: null
}

export type Model = {
  id: string
  provider: 'anthropic' | 'google' | 'openai' | 'recording'
  /** As the provider knows it */
  name: string
  usable: boolean
  /** Why it can not be used now */
  reason: {
    code: string
    message: string
    remediation: string
  } | null
  /** With a key of the account, which pays its provider itself */
  ownKey: boolean
  prices: {
    /** Tokens for 1,000,000 tokens of input */
    input: number
    /** Tokens for 1,000,000 tokens of input from the provider’s cache */
    cacheRead: number
    /** Tokens for 1,000,000 tokens of input that the provider keeps for five minutes */
    cacheWrite: number
    /** Tokens for 1,000,000 tokens of input that the provider keeps for an hour */
    cacheWriteHour: number
    /** Tokens for 1,000,000 tokens of output, thinking included */
    output: number
  } | null
  /** Of all of a call, its output included */
  longPrices: {
    /** Of calls with more input than this */
    overTokens: number
    /** Tokens for 1,000,000 tokens of input */
    input: number
    /** Tokens for 1,000,000 tokens of input from the provider’s cache */
    cacheRead: number
    /** Tokens for 1,000,000 tokens of input that the provider keeps for five minutes */
    cacheWrite: number
    /** Tokens for 1,000,000 tokens of input that the provider keeps for an hour */
    cacheWriteHour: number
    /** Tokens for 1,000,000 tokens of output, thinking included */
    output: number
  }[]
  /** Where it is known */
  contextTokens: number | null
  /** Where it is known */
  maxOutputTokens: number | null
}

export type ModelKey = {
  provider: 'anthropic' | 'google'
  /** Its last four characters */
  last: string
  setBy: string
  setAt: string
}

export type ModelKeyList = {
  data: ModelKey[]
}

export type ModelList = {
  data: Model[]
  providers: ModelProvider[]
  /** Of tasks that name none */
  default: string | null
}

export type ModelProvider = {
  provider: 'anthropic' | 'google' | 'openai' | 'recording'
  usable: boolean
  /** Why it can not be used now */
  reason: {
    code: string
    message: string
    remediation: string
  } | null
  ownKey: boolean
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

/** `from` is null for what is new, `to` for what is gone */
export type PackageChanges = {
  apt: {
    name: string
    from: string | null
    to: string | null
  }[]
  pip: {
    name: string
    from: string | null
    to: string | null
  }[]
  npm: {
    name: string
    from: string | null
    to: string | null
  }[]
  tools: {
    path: string
    kind: 'added' | 'changed' | 'removed'
  }[]
}

export type PasswordOnly = {
  password: string
}

export type PatchAgent = {
  name?: string
  /** What it is for */
  task?: string
  /** Never wider than the parent’s, nor than yours */
  rights?: string[]
  /** Of its next sandbox */
  memoryMb?: number
  /** Renewed from the reserve with each month; 0 ends it */
  monthlyTokens?: number
  /** What its bots ask for is confirmed by a person where it is more than so many tokens at once; 0: always */
  confirmAboveTokens?: number
  /** An agent keeps the one it has */
  parentAgent?: string
}

export type PatchSandbox = {
  /** Counts from now */
  timeoutMs?: number
  onTimeout?: 'kill' | 'stop' | 'pause'
  autoResume?: boolean
  /** Replaces all of it */
  metadata?: Record<string, string>
  /** Null: it never idles out */
  idleTimeoutMs?: number | null
}

export type PatchSnapshot = {
  name?: string | null
  comment?: string
}

export type PatchWorkspace = {
  name?: string
  /** Holds from the next start on */
  diskMb?: number
  retention?: Retention
  autoSnapshot?: boolean
  /** Replaces all of it */
  metadata?: Record<string, string>
}

export type Plan = {
  plan: 'free' | 'developer' | 'pro' | 'enterprise'
  /** Agents at once; null: no limit */
  agents: number | null
  /** Hours of sandboxes in a month; null: no limit */
  sandboxHours: number | null
  /** Granted at the beginning of each month */
  grantTokens: number
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

export type Purse = {
  /** `reserve`, or the id of the agent or task */
  id: string
  kind: 'reserve' | 'agent' | 'task'
  /** Where its balance goes when it is archived */
  parentId: string | null
  /** How far below the first of the list */
  depth: number
  /** `closing`: to be archived as soon as the last of what it holds is settled */
  state: 'open' | 'closing' | 'archived'
  /** What is left of the grant, which ends with the period and is spent first, in tokens */
  granted: number
  /** What does not end, in tokens */
  bought: number
  /** What is set aside for work under way, beside the other two, in tokens */
  held: number
  /** What it has paid so far, less what was given back, in tokens */
  used: number
  /** What it is given from the reserve at the beginning of each month, in tokens */
  monthlyTokens: number
}

export type PutPorts = {
  /** Ports that need no access token; replaces the list */
  public: number[]
}

export type RateCard = {
  version: string
  /** What a token is worth, in US$ */
  tokenUsd: number
  data: {
    meter: string
    unit: string
    /** What 1,000,000 units cost, in tokens */
    perMillion: number
  }[]
}

export type RecoveryCodes = {
  /** Each is good once; shown only here */
  recoveryCodes: string[]
}

/** Without a token the one in the cookie is meant */
export type Refresh = {
  /** Good once */
  refreshToken?: string
}

export type Refuse = {
  /** For whoever asked */
  reason: string
}

export type RefuseTokens = {
  /** For whoever asked */
  reason: string
}

export type Register = {
  email: string
  name?: string
}

export type RequestEgress = {
  /** A host name or a literal address */
  host: string
  /** Without it: 80 and 443 */
  port?: number
  /** Why, for the person who decides. Shown as the words of whoever asks */
  reason: string
  /** Until when somebody must have decided, from now on */
  ttlMs?: number
}

export type RequestTokens = {
  /** Whole tokens */
  tokens: number
  /** Why, for the person who decides. Shown as the words of whoever asks */
  reason: string
  /** Until when somebody must have decided, from now on */
  ttlMs?: number
}

export type ResetPassword = {
  /** From the link */
  token: string
  password: string
}

export type ResizeExec = {
  cols: number
  rows: number
}

export type Restore = {
  id: string
  backupAt: string
  restoredAt: string
  state: 'loaded' | 'done'
}

export type RestoreList = {
  data: Restore[]
  nextCursor: null
}

export type RestoredWorkspaces = {
  /** Known here from now on; their files come with the first start */
  data: Workspace[]
  skipped: {
    document: string
    reason: string
  }[]
}

export type Retention = {
  /** So many of the newest snapshots without a name are kept; named ones are kept for ever */
  keepLast: number
}

export type RevokeAgentToken = {
  token: string
}

export type Rollback = {
  snapshotId: string
}

export type RollbackSandbox = {
  snapshotId: string
}

export type RotateKey = {
  /** How long the old text goes on to be good. 0: it ends at once, with what it opened */
  overlapMs?: number
}

export type RunCode = {
  language: 'python' | 'javascript' | 'bash'
  source: string
  /** Text given to the process as its standard input, followed by its end unless `stdinOpen` */
  stdin?: string
  /** Keep stdin open for POST …/stdin; otherwise it is empty or what `stdin` holds */
  stdinOpen?: boolean
  /** `user`, or whom the sandbox’s template names */
  user?: string
  /** /workspace, or the folder that the sandbox’s template names; a relative path starts there */
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
  /** The workspace it works on; null: its disk goes with it */
  workspaceId: string | null
  idleTimeoutMs: number | null
  /** The agent whose computer it is, who pays for it */
  agentId: string | null
  network: Network
  volumes: {
    volumeId: string
    path: string
    readOnly: boolean
  }[]
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
  /** Written since the last snapshot of its disk and still held; null where the pool keeps no quota */
  diskBytes: number | null
  /** How many these may be */
  diskLimitBytes: number
  oomKills: number
  uptimeMs: number
}

export type SaveStatus = {
  /** `saved`: it can be restored from storage alone */
  state: 'pending' | 'saving' | 'saved' | 'failed'
  /** Sent so far, while it is being saved */
  savedBytes: number
  /** Why the last try failed; another follows */
  error: string | null
  layer: {
    digest: string
    diffId: string
    mediaType: string
    size: number
    tarSize: number
  } | null
}

export type Schedule = {
  id: string
  agentId: string
  /** The beginning of the task’s text */
  title: string
  cron: string | null
  timeZone: string
  at: string | null
  missed: 'skip' | 'once' | 'all'
  overlap: 'skip' | 'queue'
  /** `disabled`: ended by the server, for its `reason`; `done`: its one time has passed */
  state: 'active' | 'paused' | 'disabled' | 'done'
  reason: 'asker_gone' | 'agent_archived' | 'task_unreadable' | 'time_unreadable' | null
  /** When it runs next */
  nextAt: string | null
  /** Who made it or changed it last: by their rights it runs */
  createdBy: string
  createdAt: string
  changedAt: string
}

export type ScheduleList = {
  data: Schedule[]
  nextCursor: string | null
}

export type ScheduleRun = {
  id: string
  /** Its time */
  dueAt: string
  /** Somebody asked for it */
  manual: boolean
  /** `waiting`: for the task of the run before, or to be tried again; `started`: `taskId` says how it goes */
  state: 'waiting' | 'started' | 'skipped' | 'failed'
  /** Why it was skipped */
  reason: 'missed' | 'overlap' | 'queue_full' | 'paused' | 'disabled' | null
  taskId: string | null
  /** Why its task could not be made, or not yet */
  failure: {
    code: string
    message: string
  } | null
  startedAt: string | null
}

export type ScheduleRunList = {
  data: ScheduleRun[]
  nextCursor: string | null
}

export type ScheduleWithTask = Schedule & {
  /** What is to be done; headers of MCP servers are shown to nobody. Null where it can not be read */
  task: Record<string, unknown> | null
}

/** What is to be done, as for POST /v1/tasks without `agent` */
export type ScheduledTask = {
  /** What is to be done */
  text: string
  images?: {
    mediaType: 'image/png' | 'image/jpeg' | 'image/gif' | 'image/webp'
    data: string
  }[]
  /** Written to the agent’s computer before its first step */
  files?: {
    path: string
    /** Its text, or base64 where `encoding` says so */
    content: string
    encoding?: 'utf8' | 'base64'
  }[]
  /** Without it: the server’s default, DELTA_MODEL */
  model?: string
  /** Asked in this order where the model can not be reached, before anything of its answer came */
  fallbackModels?: string[]
  /** No fall-back dearer than so many tokens for a million output tokens */
  maxPrice?: number
  thinking?: 'off' | 'low' | 'medium' | 'high'
  /** Who works on it: DELTA’s own loop, or the Claude Agent SDK in the agent’s computer, where you have installed it. That one has its own tools and asks models of Anthropic alone */
  engine?: 'delta' | 'claude-agent-sdk'
  /** How it should go about it */
  instructions?: string
  /** It spends no more: set aside from the agent’s balance, what is left goes back at its end. Without it: the agent’s balance */
  tokenBudget?: number
  /** It has so long, waiting included. Without it: a day, and a chat 30 days */
  timeLimitMs?: number
  maxSteps?: number
  /** For each tool: used as the agent likes, each call confirmed by a person, or not there. `*` is every other */
  tools?: Record<string, 'auto' | 'ask' | 'off'>
  /** Further tools, of external servers that the agent may reach; their headers are kept sealed, and shown to nobody */
  mcpServers?: {
    name: string
    url: string
    headers?: Record<string, string>
  }[]
  /** A JSON schema: the task ends with a value that fits it */
  resultSchema?: Record<string, unknown>
  /** Waits for your next message when it has answered, until it is canceled */
  chat?: boolean
  metadata?: Record<string, string>
}

/** The same whether somebody has that address or not */
export type Sent = {
  status: 'sent'
}

export type Session = {
  id: string
  current: boolean
  accountId: string
  /** What it said it was */
  client: string
  address: string
  secondFactor: boolean
  createdAt: string
  /** When it was last refreshed */
  usedAt: string
  expiresAt: string
}

export type SessionList = {
  data: Session[]
  nextCursor: null
}

export type SessionTokens = {
  /** Null where it was set as a cookie */
  accessToken: string | null
  /** Good once: keep the one that the next refresh answers with */
  refreshToken: string | null
  /** Of the access token */
  expiresAt: string
  sessionId: string
  userId: string
  accountId: string
}

export type SetModelKey = {
  /** The provider’s key. It is sealed at rest and never shown again */
  apiKey: string
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

export type SetPlan = {
  plan: 'free' | 'developer' | 'pro' | 'enterprise'
  /** Whose. Without it: your own */
  accountId?: string
}

export type SetTag = {
  version: number
}

export type Setting = {
  name: string
  group: string
  /** What its value is: a number, a URL, a list, … */
  form: string
  unit: string | null
  /** What it does */
  what: string
  /** What holds where it is not set */
  default: string | null
  /** Its value is never shown */
  secret: boolean
  isSet: boolean
  /** In force */
  value: string | null
}

export type SettingList = {
  data: Setting[]
  nextCursor: null
}

export type SignalExec = {
  /** A name or a number */
  signal: string | number
  /** The process alone, or everything in its session */
  scope?: 'process' | 'session'
}

export type Snapshot = {
  id: string
  workspaceId: string | null
  parentId: string | null
  template: string
  name: string | null
  comment: string
  reason: 'manual' | 'stop' | 'idle' | 'rollback' | 'fork' | 'import' | 'build'
  /** What it refers to on disk, shared with others or not */
  bytes: number | null
  flushMicros: number
  /** How long the sandbox stood still */
  frozenMicros: number
  isLocal: boolean
  changes: ChangeSummary
  save: SaveStatus
  createdAt: string
}

export type SnapshotDiff = {
  added: number
  changed: number
  removed: number
  bytes: number
  data: FileChange[]
  nextCursor: string | null
  packages: PackageChanges
}

export type SnapshotList = {
  data: Snapshot[]
  nextCursor: string | null
}

export type StagedRestore = {
  id: string
  /** The moment to which it goes back */
  backupAt: string
  /** The version that made it */
  server: string
  /** Of all tables */
  rows: number
  /** Snapshots whose files were not in storage then and are not in it */
  unsaved: number
  /** Whether this installation has the SECRET_KEY of the backup: with another one sessions end and second factors can not be read */
  secretKey: 'same' | 'other'
  /** Where they are in the backup, for whoever sent it */
  secrets: {
    secretKey: string
    jwtSecretKey?: string
  } | null
}

export type SwitchAccount = {
  accountId: string
}

export type Task = {
  id: string
  agentId: string
  /** The task that delegated it */
  parentTaskId: string | null
  forkedFrom: {
    taskId: string
    step: number
  } | null
  state: 'queued' | 'working' | 'waiting' | 'suspended' | 'paused' | 'finished' | 'failed' | 'canceled'
  /** Why it has ended */
  reason:
    | 'done'
    | 'canceled_by_user'
    | 'agent_archived'
    | 'time_limit'
    | 'step_limit'
    | 'loop_detected'
    | 'repeated_failures'
    | 'result_invalid'
    | 'model_refused'
    | 'model_failed'
    | 'conversation_too_long'
    | 'engine_failed'
    | 'internal'
    | null
  /** The reason, or why it stands still, in words */
  message: string | null
  /** What has to come before it goes on */
  waitsFor: TaskWaitsFor[]
  text: string
  model: string
  engine: 'delta' | 'claude-agent-sdk'
  chat: boolean
  turn: number
  /** Steps begun: one call of the model each, with its tool calls */
  step: number
  maxSteps: number
  /** The number of its latest event */
  lastEvent: number
  tokenBudget: number | null
  /** The task that delegated it and has a budget, from which it is paid; null: its agent */
  paidBy: string | null
  usage: TaskUsage
  /** It has read what came from outside */
  untrusted: boolean
  metadata: Record<string, string>
  createdBy: string
  createdAt: string
  startedAt: string | null
  endedAt: string | null
  timeLimitMs: number
}

export type TaskList = {
  data: Task[]
  nextCursor: string | null
}

export type TaskMessage = {
  text: string
  images?: {
    mediaType: 'image/png' | 'image/jpeg' | 'image/gif' | 'image/webp'
    data: string
  }[]
  /** What it is just doing is given up; without it your message waits for the end of the step */
  interrupt?: boolean
}

export type TaskResult = {
  state: 'queued' | 'working' | 'waiting' | 'suspended' | 'paused' | 'finished' | 'failed' | 'canceled'
  reason:
    | 'done'
    | 'canceled_by_user'
    | 'agent_archived'
    | 'time_limit'
    | 'step_limit'
    | 'loop_detected'
    | 'repeated_failures'
    | 'result_invalid'
    | 'model_refused'
    | 'model_failed'
    | 'conversation_too_long'
    | 'engine_failed'
    | 'internal'
    | null
  /** Its last words */
  text: string | null
  /** What fits `resultSchema`, where there was one */
  value?: unknown
  /** Files that its tools wrote: read them at GET /v1/agents/{agentId}/files */
  files: {
    path: string
  }[]
}

export type TaskTranscript = Record<string, unknown>

export type TaskUsage = {
  input: number
  cacheRead: number
  cacheWrite: number
  output: number
  /** What its model calls cost, in tokens of the ledger */
  tokens: number
  estimated: boolean
}

export type TaskWaitsFor =
  | {
      kind: 'message'
    }
  | {
      kind: 'answer'
      callId: string
      question: string
      options?: string[]
    }
  | {
      kind: 'approval'
      callId: string
      approvalId: string
    }
  | {
      kind: 'tokens'
      callId?: string
      requestId?: string
    }
  | {
      kind: 'task'
      callId: string
      taskId: string
    }

export type Template = {
  name: string
  /** Sandboxes start from a ready one; a missing one is made when it is first used, or by POST …/build */
  state: 'ready' | 'missing' | 'building' | 'failed' | 'canceled'
  /** What it holds and lacks, or why it failed */
  detail: string
  /** Null for those of the machine and for those not made yet */
  id: string | null
  version: number | null
  tags: string[]
  /** `machine`: built by the server itself */
  source: {
    kind: 'machine' | 'image' | 'archive' | 'snapshot' | 'dockerfile'
    /** The image or snapshot it was made of */
    reference?: string
  }
  /** Of the image it was made of */
  digest: string | null
  snapshotId: string | null
  config: {
    env: Record<string, string>
    /** Empty: root. Commands run as `user` unless another one than root is named here */
    user: string
    workdir: string
    cmd: string[] | null
    entrypoint: string[] | null
    labels: Record<string, string>
    exposedPorts: string[]
  } | null
  createdAt: string | null
  /** When it was ready, or failed */
  endedAt: string | null
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

export type TokenRequest = {
  id: string
  /** The agent that needs them */
  agentId: string
  tokens: number
  /** Why, in the words of whoever asks */
  reason: string
  /** Made by the server when the agent ran out of tokens */
  automatic: boolean
  /** `pending_main`: the main agent decides first; `pending_user`: a person decides; `granting`: decided on and being done; then `granted`, `failed`, `refused`, `expired`, `canceled`, or `unneeded` where the agent has tokens again */
  state:
    | 'pending_main'
    | 'pending_user'
    | 'granting'
    | 'granted'
    | 'refused'
    | 'expired'
    | 'failed'
    | 'unneeded'
    | 'canceled'
  /** The agent, person or key; `platform` for the server itself */
  askedBy: string
  /** The main agent that is asked first */
  mainAgent: string | null
  /** From then on a person decides */
  mainUntil: string | null
  /** The main agent that said yes */
  endorsedBy: string | null
  /** Whose tokens they are, as soon as that is known: an agent’s id, or `reserve` */
  from: string | null
  /** What a person decides on */
  approvalId: string | null
  askedAt: string
  /** Until when somebody must have decided */
  expiresAt: string
  decidedBy: string | null
  decidedAt: string | null
  /** Why it was refused */
  refusal: string | null
  endedAt: string | null
  /** Of what was approved and could not be done */
  failure: {
    code: string
    message: string
  } | null
}

export type TokenRequestList = {
  data: TokenRequest[]
  nextCursor: string | null
}

export type TotpCode = {
  /** Six digits of the app, or a recovery code */
  code: string
}

export type TotpSetup = {
  /** For the app; shown only here */
  secret: string
  /** The same, for a QR code */
  uri: string
}

export type Transfer = {
  /** Its position in the account’s journal, which has no gap */
  seq: number
  at: string
  /** What happened */
  kind:
    | 'grant'
    | 'transfer'
    | 'renew'
    | 'hold'
    | 'release'
    | 'commit'
    | 'absorb'
    | 'charge'
    | 'owe'
    | 'pay_owed'
    | 'refund'
    | 'expire'
    | 'archive'
  /** A purse (`reserve`, the id of an agent or task), or the other end: `hold`, `grant`, `usage`, `refund`, `absorbed`, `owed` */
  from: string
  to: string
  /** How much, in tokens */
  tokens: number
  sort: 'granted' | 'bought'
  holdId: string | null
  /** What it is about: an approval, a task, a hold */
  reference: string | null
  reason: string | null
}

export type TransferList = {
  data: Transfer[]
  nextCursor: string | null
}

export type UndoTask = {
  /** Back to after this step; without it: to the beginning of the last turn */
  step?: number
}

export type UpdateSchedule = {
  task?: ScheduledTask
  /** Minute, hour, day of month, month, day of week */
  cron?: string
  /** In which `cron` is meant */
  timeZone?: string
  /** Once, at this time */
  at?: string
  /** Of times at which no server ran: none of them, one run for all, or each of them, at most the last 100 */
  missed?: 'skip' | 'once' | 'all'
  /** Where the task of the run before goes on: the run is left out, or waits for its end */
  overlap?: 'skip' | 'queue'
}

export type UpdateWebhook = {
  /** Where it is told: https; http only to addresses that the operator lists */
  url?: string
  events?: ('task.finished' | 'task.failed' | 'task.needs_decision')[]
  /** False: it rests; true: it goes on, also when it was disabled */
  enabled?: boolean
}

export type Usage = {
  /** The beginning of the hour or day. Null where it is not grouped by that, and where there is none */
  from: string | null
  /** Null where it is not grouped by that, and where there is none */
  agentId: string | null
  /** Null where it is not grouped by that, and where there is none */
  taskId: string | null
  /** Null where it is not grouped by that, and where there is none */
  sandboxId: string | null
  /** `sandbox`, `egress`, `storage`, `model` or `message`. Null where it is not grouped by that, and where there is none */
  kind: string | null
  /** As in the rate card. Null where it is not grouped by that, and where there is none */
  meter: string | null
  /** In the meter’s unit. Null where it is not grouped by meter */
  quantity: number | null
  /** What it cost, in tokens */
  tokens: number
  /** How much of that is an estimate, since its end was not seen, in tokens */
  estimated: number
}

export type UsageList = {
  data: Usage[]
  nextCursor: string | null
}

/** Null for keys and agents */
export type User = {
  id: string
  email: string
  name: string
  emailVerifiedAt: string | null
  createdAt: string
  /** Whether logging in needs a second factor */
  totp: boolean
  recoveryCodesLeft: number
} | null

export type Verify = {
  /** From the link */
  token: string
  password: string
  cookies?: boolean
}

export type Volume = {
  id: string
  name: string
  diskMb: number
  createdAt: string
  /** Sandboxes that have it, running or not */
  sandboxIds: string[]
}

export type VolumeList = {
  data: Volume[]
  nextCursor: null
}

export type VolumeMount = {
  /** Id or name of a volume */
  volume: string
  /** Where it is seen inside; made when it is not there */
  path: string
  readOnly?: boolean
}

export type Webhook = {
  id: string
  /** Only its host for who may not change it */
  url: string
  events: ('task.finished' | 'task.failed' | 'task.needs_decision')[]
  agentId: string | null
  state: 'active' | 'paused' | 'disabled'
  /** Why the server disabled it */
  reason: 'failing' | 'gone' | 'asker_gone' | 'secret_unreadable' | null
  /** Failed tries in a row */
  failures: number
  failingSince: string | null
  /** Who made it or changed it last: by their rights it hears of tasks */
  createdBy: string
  createdAt: string
  changedAt: string
}

export type WebhookDelivery = {
  /** Also the header `webhook-id`, the same at every try */
  id: string
  webhookId: string
  type: 'task.finished' | 'task.failed' | 'task.needs_decision' | 'webhook.test'
  taskId: string | null
  /** `failed`: given up after the last try; `canceled`: the webhook was paused or disabled before it arrived */
  state: 'waiting' | 'delivered' | 'failed' | 'canceled'
  tries: number
  nextTryAt: string | null
  /** Of the last answer */
  lastStatus: number | null
  lastError: string | null
  /** When it happened */
  createdAt: string
  endedAt: string | null
}

export type WebhookDeliveryList = {
  data: WebhookDelivery[]
  nextCursor: string | null
}

export type WebhookList = {
  data: Webhook[]
}

export type WebhookWithSecret = Webhook & {
  /** What it is signed with; never shown again */
  secret: string
}

export type Workspace = {
  id: string
  name: string
  /** What lies below everything that was written */
  template: string
  /** The snapshot that the files come from */
  headSnapshotId: string | null
  /** The sandbox that runs on it */
  heldBy: string | null
  diskMb: number
  retention: Retention
  autoSnapshot: boolean
  metadata: Record<string, string>
  /** False: the next start fetches it from storage */
  isLocal: boolean
  createdAt: string
  changedAt: string
}

export type WorkspaceList = {
  data: Workspace[]
  nextCursor: string | null
}

export type Written = {
  /** The position of its last line in the journal */
  seq: number
  /** What moved, in tokens */
  tokens: number
  /** It had been done before, with this Idempotency-Key */
  repeated: boolean
}

export interface Operations {
  /** Accept an invitation */
  acceptInvitation: {
    path: Record<never, never>
    query: Record<never, never>
    header: Record<never, never>
    body: AcceptInvitation
    responses: {
      '200': SessionTokens
      '400': Error
      '401': Error
      '403': Error
      '408': Error
      '410': Error
      '413': Error
      '429': Error
      '499': Error
      '500': Error
      '503': Error
      default: Error
    }
  }
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
  /** Approve it, which does it */
  approve: {
    path: {
      id: string
    }
    query: Record<never, never>
    header: Record<never, never>
    body: Approve
    responses: {
      '200': Approval
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
  /** Say yes to a request for tokens */
  approveTokenRequest: {
    path: {
      id: string
    }
    query: Record<never, never>
    header: Record<never, never>
    body: ApproveTokens
    responses: {
      '200': TokenRequest
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
  /** End an agent */
  archiveAgent: {
    path: {
      id: string
    }
    query: Record<never, never>
    header: Record<never, never>
    body: undefined
    responses: {
      '200': Agent
      '400': Error
      '401': Error
      '403': Error
      '404': Error
      '409': Error
      '429': Error
      '500': Error
      '502': Error
      '503': Error
      '504': Error
      default: Error
    }
  }
  /** Make a template of the machine or of the catalogue and wait until it is ready, which may take minutes */
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
      '429': Error
      '500': Error
      '502': Error
      '503': Error
      '504': Error
      '507': Error
      default: Error
    }
  }
  /** Make a template of a Dockerfile with its files */
  buildTemplateFiles: {
    path: Record<never, never>
    query: {
      name: string
      tag?: string[]
      dockerfile?: string
      options?: string
    }
    header: {
      'registry-auth'?: string
    }
    body: Uint8Array
    responses: {
      '202': Template
      '400': Error
      '401': Error
      '403': Error
      '408': Error
      '413': Error
      '429': Error
      '499': Error
      '500': Error
      '503': Error
      '507': Error
      default: Error
    }
  }
  /** Take back what you asked for */
  cancelApproval: {
    path: {
      id: string
    }
    query: Record<never, never>
    header: Record<never, never>
    body: undefined
    responses: {
      '200': Approval
      '400': Error
      '401': Error
      '403': Error
      '404': Error
      '409': Error
      '429': Error
      '500': Error
      '503': Error
      default: Error
    }
  }
  /** Cancel a task */
  cancelTask: {
    path: {
      id: string
    }
    query: Record<never, never>
    header: Record<never, never>
    body: undefined
    responses: {
      '200': Task
      '400': Error
      '401': Error
      '403': Error
      '404': Error
      '409': Error
      '429': Error
      '500': Error
      '503': Error
      default: Error
    }
  }
  /** Cancel the build of a version; of one that has ended nothing changes */
  cancelTemplate: {
    path: {
      template: string
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
      '429': Error
      '500': Error
      '503': Error
      default: Error
    }
  }
  /** Take back what you asked for */
  cancelTokenRequest: {
    path: {
      id: string
    }
    query: Record<never, never>
    header: Record<never, never>
    body: undefined
    responses: {
      '200': TokenRequest
      '400': Error
      '401': Error
      '403': Error
      '404': Error
      '409': Error
      '429': Error
      '500': Error
      '503': Error
      default: Error
    }
  }
  /** Give the account another name */
  changeAccount: {
    path: Record<never, never>
    query: Record<never, never>
    header: Record<never, never>
    body: ChangeAccount
    responses: {
      '200': Account
      '400': Error
      '401': Error
      '403': Error
      '404': Error
      '408': Error
      '413': Error
      '429': Error
      '499': Error
      '500': Error
      '503': Error
      default: Error
    }
  }
  /** Change permissions, on an agent’s own computer */
  changeAgentMode: {
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
      '402': Error
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
  /** Change your name */
  changeMe: {
    path: Record<never, never>
    query: Record<never, never>
    header: Record<never, never>
    body: ChangeUser
    responses: {
      '200': User
      '400': Error
      '401': Error
      '403': Error
      '408': Error
      '413': Error
      '429': Error
      '499': Error
      '500': Error
      '503': Error
      default: Error
    }
  }
  /** Give a member another role */
  changeMemberRole: {
    path: {
      id: string
    }
    query: Record<never, never>
    header: Record<never, never>
    body: ChangeRole
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
      '503': Error
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
      '402': Error
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
  /** Choose a new password, by the present one */
  changePassword: {
    path: Record<never, never>
    query: Record<never, never>
    header: Record<never, never>
    body: ChangePassword
    responses: {
      '204': undefined
      '400': Error
      '401': Error
      '403': Error
      '408': Error
      '413': Error
      '429': Error
      '499': Error
      '500': Error
      '503': Error
      default: Error
    }
  }
  /** Put the backup in the place of what is here, and start the server anew */
  commitRestore: {
    path: {
      id: string
    }
    query: Record<never, never>
    header: Record<never, never>
    body: undefined
    responses: {
      '202': undefined
      '400': Error
      '401': Error
      '403': Error
      '404': Error
      '409': Error
      '429': Error
      '500': Error
      '502': Error
      '503': Error
      '507': Error
      default: Error
    }
  }
  /** Turn the second factor on, by a code of the app */
  confirmTotp: {
    path: Record<never, never>
    query: Record<never, never>
    header: Record<never, never>
    body: TotpCode
    responses: {
      '200': RecoveryCodes
      '400': Error
      '401': Error
      '403': Error
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
  /** Watch a terminal and type into it (WebSocket), on an agent’s own computer */
  connectAgentTerminal: {
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
      '402': Error
      '403': Error
      '404': Error
      '409': Error
      '413': Error
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
      '402': Error
      '403': Error
      '404': Error
      '409': Error
      '413': Error
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
      '429': Error
      '499': Error
      '500': Error
      '503': Error
      default: Error
    }
  }
  /** Make an agent */
  createAgent: {
    path: Record<never, never>
    query: Record<never, never>
    header: {
      'idempotency-key'?: string
    }
    body: CreateAgent
    responses: {
      '201': Agent
      '400': Error
      '401': Error
      '402': Error
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
  /** Run a command, on an agent’s own computer */
  createAgentExec: {
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
      '402': Error
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
  /** Open a terminal, on an agent’s own computer */
  createAgentTerminal: {
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
      '402': Error
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
  /** Make a short-lived token for an agent */
  createAgentToken: {
    path: Record<never, never>
    query: Record<never, never>
    header: Record<never, never>
    body: CreateAgentToken
    responses: {
      '201': AgentToken
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
  /** All that can not be made again, as one file, while everything goes on */
  createBackup: {
    path: Record<never, never>
    query: Record<never, never>
    header: Record<never, never>
    body: BackupWish
    responses: {
      '200': Uint8Array
      '400': Error
      '401': Error
      '403': Error
      '408': Error
      '413': Error
      '429': Error
      '499': Error
      '500': Error
      '502': Error
      '503': Error
      '507': Error
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
      '402': Error
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
  /** Give tokens to an account’s reserve, as the operator */
  createGrant: {
    path: Record<never, never>
    query: Record<never, never>
    header: {
      'idempotency-key'?: string
    }
    body: MakeGrant
    responses: {
      '201': Written
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
  /** Make an API key */
  createKey: {
    path: Record<never, never>
    query: Record<never, never>
    header: Record<never, never>
    body: CreateKey
    responses: {
      '201': MadeKey
      '400': Error
      '401': Error
      '403': Error
      '408': Error
      '413': Error
      '429': Error
      '499': Error
      '500': Error
      '503': Error
      default: Error
    }
  }
  /** Become the first owner, by the link of the first start */
  createOwner: {
    path: Record<never, never>
    query: Record<never, never>
    header: Record<never, never>
    body: FirstOwner
    responses: {
      '200': SessionTokens
      '400': Error
      '403': Error
      '408': Error
      '409': Error
      '410': Error
      '413': Error
      '429': Error
      '499': Error
      '500': Error
      '503': Error
      default: Error
    }
  }
  /** Correct what was spent, in the payer’s favour, as the operator */
  createRefund: {
    path: Record<never, never>
    query: Record<never, never>
    header: {
      'idempotency-key'?: string
    }
    body: MakeRefund
    responses: {
      '201': Written
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
  /** Make a sandbox, or join the one that runs on its workspace */
  createSandbox: {
    path: Record<never, never>
    query: Record<never, never>
    header: {
      'idempotency-key'?: string
    }
    body: CreateSandbox
    responses: {
      '200': Sandbox
      '201': Sandbox
      '400': Error
      '401': Error
      '402': Error
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
  /** Give an agent a task at stated times */
  createSchedule: {
    path: Record<never, never>
    query: Record<never, never>
    header: Record<never, never>
    body: CreateSchedule
    responses: {
      '201': ScheduleWithTask
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
  /** Take a snapshot */
  createSnapshot: {
    path: {
      id: string
    }
    query: Record<never, never>
    header: {
      'idempotency-key'?: string
    }
    body: CreateSnapshot
    responses: {
      '201': Snapshot
      '400': Error
      '401': Error
      '402': Error
      '403': Error
      '404': Error
      '408': Error
      '409': Error
      '413': Error
      '429': Error
      '499': Error
      '500': Error
      '502': Error
      '503': Error
      '504': Error
      '507': Error
      default: Error
    }
  }
  /** Give an agent a task */
  createTask: {
    path: Record<never, never>
    query: Record<never, never>
    header: {
      'idempotency-key'?: string
    }
    body: CreateTask
    responses: {
      '201': Task
      '400': Error
      '401': Error
      '402': Error
      '403': Error
      '404': Error
      '408': Error
      '409': Error
      '413': Error
      '429': Error
      '499': Error
      '500': Error
      '503': Error
      '507': Error
      default: Error
    }
  }
  /** Make a template, or a new version of one, of an image, a Dockerfile or a snapshot */
  createTemplate: {
    path: Record<never, never>
    query: Record<never, never>
    header: {
      'idempotency-key'?: string
    }
    body: CreateTemplate
    responses: {
      '202': Template
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
      '402': Error
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
  /** Move tokens from purse to purse */
  createTransfer: {
    path: Record<never, never>
    query: Record<never, never>
    header: {
      'idempotency-key'?: string
    }
    body: MakeTransfer
    responses: {
      '201': Written
      '400': Error
      '401': Error
      '402': Error
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
  /** Make a folder that sandboxes can share */
  createVolume: {
    path: Record<never, never>
    query: Record<never, never>
    header: {
      'idempotency-key'?: string
    }
    body: CreateVolume
    responses: {
      '201': Volume
      '400': Error
      '401': Error
      '402': Error
      '403': Error
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
  /** Have a server of yours told when tasks end or need a decision */
  createWebhook: {
    path: Record<never, never>
    query: Record<never, never>
    header: Record<never, never>
    body: CreateWebhook
    responses: {
      '201': WebhookWithSecret
      '400': Error
      '401': Error
      '403': Error
      '404': Error
      '408': Error
      '413': Error
      '429': Error
      '499': Error
      '500': Error
      '503': Error
      default: Error
    }
  }
  /** Make a workspace */
  createWorkspace: {
    path: Record<never, never>
    query: Record<never, never>
    header: {
      'idempotency-key'?: string
    }
    body: CreateWorkspace
    responses: {
      '201': Workspace
      '400': Error
      '401': Error
      '402': Error
      '403': Error
      '404': Error
      '408': Error
      '409': Error
      '413': Error
      '429': Error
      '499': Error
      '500': Error
      '502': Error
      '503': Error
      '504': Error
      '507': Error
      default: Error
    }
  }
  /** Remove a schedule and the list of its runs */
  deleteSchedule: {
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
      '429': Error
      '500': Error
      '503': Error
      default: Error
    }
  }
  /** Delete a version, or with a name alone all of them */
  deleteTemplate: {
    path: {
      template: string
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
      '429': Error
      '500': Error
      '503': Error
      default: Error
    }
  }
  /** Take a tag away; the version stays */
  deleteTemplateTag: {
    path: {
      name: string
      tag: string
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
      '429': Error
      '500': Error
      '503': Error
      default: Error
    }
  }
  /** Remove a webhook with all its deliveries */
  deleteWebhook: {
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
      '429': Error
      '500': Error
      '503': Error
      default: Error
    }
  }
  /** What changed from one snapshot to another: files, packages and tools */
  diffSnapshots: {
    path: {
      id: string
      other: string
    }
    query: {
      limit?: number
      cursor?: string
    }
    header: Record<never, never>
    body: undefined
    responses: {
      '200': SnapshotDiff
      '400': Error
      '401': Error
      '403': Error
      '404': Error
      '409': Error
      '413': Error
      '429': Error
      '500': Error
      '502': Error
      '503': Error
      '504': Error
      '507': Error
      default: Error
    }
  }
  /** Download a directory as tar, on an agent’s own computer */
  downloadAgentArchive: {
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
      '402': Error
      '403': Error
      '404': Error
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
      '402': Error
      '403': Error
      '404': Error
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
  /** End a terminal, on an agent’s own computer */
  endAgentTerminal: {
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
      '402': Error
      '403': Error
      '404': Error
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
  /** End all your sessions but this one */
  endOtherSessions: {
    path: Record<never, never>
    query: Record<never, never>
    header: Record<never, never>
    body: undefined
    responses: {
      '204': undefined
      '401': Error
      '403': Error
      '429': Error
      '500': Error
      '503': Error
      default: Error
    }
  }
  /** End one of your sessions */
  endSession: {
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
      '429': Error
      '500': Error
      '503': Error
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
      '402': Error
      '403': Error
      '404': Error
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
  /** Run a command, on an agent’s own computer */
  execAgent: {
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
      '402': Error
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
  /** The whole chain with its signed heads, to be kept and verified elsewhere */
  exportAudit: {
    path: Record<never, never>
    query: Record<never, never>
    header: Record<never, never>
    body: undefined
    responses: {
      '200': Uint8Array
      '401': Error
      '403': Error
      '429': Error
      '500': Error
      '503': Error
      default: Error
    }
  }
  /** A snapshot as an OCI image */
  exportSnapshot: {
    path: {
      id: string
    }
    query: {
      layers?: 'tar' | 'zstd'
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
      '413': Error
      '429': Error
      '500': Error
      '502': Error
      '503': Error
      '504': Error
      '507': Error
      default: Error
    }
  }
  /** Follow approvals as they change */
  followApprovals: {
    path: Record<never, never>
    query: {
      from?: number
    }
    header: Record<never, never>
    body: undefined
    responses: {
      '200': Uint8Array
      '400': Error
      '401': Error
      '403': Error
      '429': Error
      '500': Error
      '503': Error
      default: Error
    }
  }
  /** Follow the journal as it grows */
  followLedger: {
    path: Record<never, never>
    query: {
      from?: number
    }
    header: Record<never, never>
    body: undefined
    responses: {
      '200': Uint8Array
      '400': Error
      '401': Error
      '403': Error
      '429': Error
      '500': Error
      '503': Error
      default: Error
    }
  }
  /** Watch a task */
  followTask: {
    path: {
      id: string
    }
    query: {
      from?: number
    }
    header: Record<never, never>
    body: undefined
    responses: {
      '200': Uint8Array
      '400': Error
      '401': Error
      '403': Error
      '404': Error
      '429': Error
      '500': Error
      '503': Error
      default: Error
    }
  }
  /** Follow requests for tokens as they change */
  followTokenRequests: {
    path: Record<never, never>
    query: {
      from?: number
    }
    header: Record<never, never>
    body: undefined
    responses: {
      '200': Uint8Array
      '400': Error
      '401': Error
      '403': Error
      '429': Error
      '500': Error
      '503': Error
      default: Error
    }
  }
  /** Ask for a link to choose a new password */
  forgotPassword: {
    path: Record<never, never>
    query: Record<never, never>
    header: Record<never, never>
    body: EmailOnly
    responses: {
      '202': Sent
      '400': Error
      '403': Error
      '408': Error
      '413': Error
      '429': Error
      '499': Error
      '500': Error
      '503': Error
      default: Error
    }
  }
  /** Make new workspaces that begin as this snapshot is */
  forkSnapshot: {
    path: {
      id: string
    }
    query: Record<never, never>
    header: {
      'idempotency-key'?: string
    }
    body: Fork
    responses: {
      '201': Forked
      '400': Error
      '401': Error
      '402': Error
      '403': Error
      '404': Error
      '408': Error
      '409': Error
      '413': Error
      '429': Error
      '499': Error
      '500': Error
      '502': Error
      '503': Error
      '504': Error
      '507': Error
      default: Error
    }
  }
  /** Go on from a step in another task */
  forkTask: {
    path: {
      id: string
    }
    query: Record<never, never>
    header: {
      'idempotency-key'?: string
    }
    body: ForkTask
    responses: {
      '201': Task
      '400': Error
      '401': Error
      '402': Error
      '403': Error
      '404': Error
      '408': Error
      '409': Error
      '413': Error
      '429': Error
      '499': Error
      '500': Error
      '502': Error
      '503': Error
      '504': Error
      '507': Error
      default: Error
    }
  }
  /** Make new workspaces that begin as this one is now */
  forkWorkspace: {
    path: {
      id: string
    }
    query: Record<never, never>
    header: {
      'idempotency-key'?: string
    }
    body: Fork
    responses: {
      '201': Forked
      '400': Error
      '401': Error
      '402': Error
      '403': Error
      '404': Error
      '408': Error
      '409': Error
      '413': Error
      '429': Error
      '499': Error
      '500': Error
      '502': Error
      '503': Error
      '504': Error
      '507': Error
      default: Error
    }
  }
  /** The account of whoever asks */
  getAccount: {
    path: Record<never, never>
    query: Record<never, never>
    header: Record<never, never>
    body: undefined
    responses: {
      '200': Account
      '401': Error
      '403': Error
      '404': Error
      '429': Error
      '500': Error
      '503': Error
      default: Error
    }
  }
  /** Look at an agent, with its balance */
  getAgent: {
    path: {
      id: string
    }
    query: Record<never, never>
    header: Record<never, never>
    body: undefined
    responses: {
      '200': Agent
      '400': Error
      '401': Error
      '403': Error
      '404': Error
      '429': Error
      '500': Error
      '503': Error
      default: Error
    }
  }
  /** Describe a file or directory, on an agent’s own computer */
  getAgentEntry: {
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
      '402': Error
      '403': Error
      '404': Error
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
  /** An exec and the output kept of it, on an agent’s own computer */
  getAgentExec: {
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
      '402': Error
      '403': Error
      '404': Error
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
  /** Who stands below whom */
  getAgentTree: {
    path: Record<never, never>
    query: Record<never, never>
    header: Record<never, never>
    body: undefined
    responses: {
      '200': AgentTree
      '401': Error
      '403': Error
      '429': Error
      '500': Error
      '503': Error
      default: Error
    }
  }
  /** What exactly will happen, in words and as data */
  getApproval: {
    path: {
      id: string
    }
    query: Record<never, never>
    header: Record<never, never>
    body: undefined
    responses: {
      '200': Approval
      '400': Error
      '401': Error
      '403': Error
      '404': Error
      '429': Error
      '500': Error
      '503': Error
      default: Error
    }
  }
  /** How far the chain goes, and the key that signs its heads */
  getAuditHead: {
    path: Record<never, never>
    query: Record<never, never>
    header: Record<never, never>
    body: undefined
    responses: {
      '200': AuditHead
      '401': Error
      '403': Error
      '429': Error
      '500': Error
      '503': Error
      default: Error
    }
  }
  /** Every setting with the value in force; of secrets only whether they are set */
  getConfig: {
    path: Record<never, never>
    query: Record<never, never>
    header: Record<never, never>
    body: undefined
    responses: {
      '200': SettingList
      '401': Error
      '403': Error
      '429': Error
      '500': Error
      '503': Error
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
      '402': Error
      '403': Error
      '404': Error
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
      '402': Error
      '403': Error
      '404': Error
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
  /** What will have been spent at the end of the period */
  getForecast: {
    path: Record<never, never>
    query: Record<never, never>
    header: Record<never, never>
    body: undefined
    responses: {
      '200': Forecast
      '401': Error
      '403': Error
      '429': Error
      '500': Error
      '503': Error
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
  /** Look at an API key */
  getKey: {
    path: {
      id: string
    }
    query: Record<never, never>
    header: Record<never, never>
    body: undefined
    responses: {
      '200': Key
      '400': Error
      '401': Error
      '403': Error
      '404': Error
      '429': Error
      '500': Error
      '503': Error
      default: Error
    }
  }
  /** Who has how many tokens: the reserve, agents and tasks as a tree */
  getLedger: {
    path: Record<never, never>
    query: {
      purseId?: string
      archived?: boolean
    }
    header: Record<never, never>
    body: undefined
    responses: {
      '200': Ledger
      '400': Error
      '401': Error
      '403': Error
      '404': Error
      '429': Error
      '500': Error
      '503': Error
      default: Error
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
      '429': Error
      '500': Error
      '503': Error
      default: Error
    }
  }
  /** The account’s plan */
  getPlan: {
    path: Record<never, never>
    query: Record<never, never>
    header: Record<never, never>
    body: undefined
    responses: {
      '200': Plan
      '401': Error
      '403': Error
      '429': Error
      '500': Error
      '503': Error
      default: Error
    }
  }
  /** What everything costs */
  getRates: {
    path: Record<never, never>
    query: Record<never, never>
    header: Record<never, never>
    body: undefined
    responses: {
      '200': RateCard
      '401': Error
      '403': Error
      '429': Error
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
      '429': Error
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
      '429': Error
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
  /** Look at a schedule and its task */
  getSchedule: {
    path: {
      id: string
    }
    query: Record<never, never>
    header: Record<never, never>
    body: undefined
    responses: {
      '200': ScheduleWithTask
      '400': Error
      '401': Error
      '403': Error
      '404': Error
      '429': Error
      '500': Error
      '503': Error
      default: Error
    }
  }
  /** Look at a snapshot */
  getSnapshot: {
    path: {
      id: string
    }
    query: Record<never, never>
    header: Record<never, never>
    body: undefined
    responses: {
      '200': Snapshot
      '400': Error
      '401': Error
      '403': Error
      '404': Error
      '429': Error
      '500': Error
      '503': Error
      default: Error
    }
  }
  /** Look at a task */
  getTask: {
    path: {
      id: string
    }
    query: Record<never, never>
    header: Record<never, never>
    body: undefined
    responses: {
      '200': Task
      '400': Error
      '401': Error
      '403': Error
      '404': Error
      '429': Error
      '500': Error
      '503': Error
      default: Error
    }
  }
  /** What a task came to */
  getTaskResult: {
    path: {
      id: string
    }
    query: Record<never, never>
    header: Record<never, never>
    body: undefined
    responses: {
      '200': TaskResult
      '400': Error
      '401': Error
      '403': Error
      '404': Error
      '429': Error
      '500': Error
      '503': Error
      default: Error
    }
  }
  /** All that was said and done */
  getTaskTranscript: {
    path: {
      id: string
    }
    query: {
      format?: 'json' | 'markdown'
    }
    header: Record<never, never>
    body: undefined
    responses: {
      '200': TaskTranscript
      '400': Error
      '401': Error
      '403': Error
      '404': Error
      '429': Error
      '500': Error
      '503': Error
      default: Error
    }
  }
  /** One version of a template */
  getTemplate: {
    path: {
      template: string
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
      '429': Error
      '500': Error
      '502': Error
      '503': Error
      '504': Error
      default: Error
    }
  }
  /** Look at a request for tokens */
  getTokenRequest: {
    path: {
      id: string
    }
    query: Record<never, never>
    header: Record<never, never>
    body: undefined
    responses: {
      '200': TokenRequest
      '400': Error
      '401': Error
      '403': Error
      '404': Error
      '429': Error
      '500': Error
      '503': Error
      default: Error
    }
  }
  /** What was used and what it cost, by agent, task, sandbox, meter and time */
  getUsage: {
    path: Record<never, never>
    query: {
      limit?: number
      cursor?: string
      groupBy?: string
      from?: string
      to?: string
      agentId?: string
      taskId?: string
      sandboxId?: string
      kind?: string
      meter?: string
      format?: 'json' | 'csv'
    }
    header: Record<never, never>
    body: undefined
    responses: {
      '200': UsageList
      '400': Error
      '401': Error
      '403': Error
      '429': Error
      '500': Error
      '503': Error
      default: Error
    }
  }
  /** Look at a volume, by id or name */
  getVolume: {
    path: {
      id: string
    }
    query: Record<never, never>
    header: Record<never, never>
    body: undefined
    responses: {
      '200': Volume
      '400': Error
      '401': Error
      '403': Error
      '404': Error
      '429': Error
      '500': Error
      '503': Error
      default: Error
    }
  }
  /** Look at a webhook */
  getWebhook: {
    path: {
      id: string
    }
    query: Record<never, never>
    header: Record<never, never>
    body: undefined
    responses: {
      '200': Webhook
      '400': Error
      '401': Error
      '403': Error
      '404': Error
      '429': Error
      '500': Error
      '503': Error
      default: Error
    }
  }
  /** Look at a delivery */
  getWebhookDelivery: {
    path: {
      id: string
      deliveryId: string
    }
    query: Record<never, never>
    header: Record<never, never>
    body: undefined
    responses: {
      '200': WebhookDelivery
      '400': Error
      '401': Error
      '403': Error
      '404': Error
      '429': Error
      '500': Error
      '503': Error
      default: Error
    }
  }
  /** Look at a workspace */
  getWorkspace: {
    path: {
      id: string
    }
    query: Record<never, never>
    header: Record<never, never>
    body: undefined
    responses: {
      '200': Workspace
      '400': Error
      '401': Error
      '403': Error
      '404': Error
      '429': Error
      '500': Error
      '503': Error
      default: Error
    }
  }
  /** Give an agent tokens */
  giveAgentTokens: {
    path: {
      id: string
    }
    query: Record<never, never>
    header: {
      'idempotency-key'?: string
    }
    body: GiveTokens
    responses: {
      '200': Agent
      '400': Error
      '401': Error
      '402': Error
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
  /** Give a task more tokens of its own */
  giveTaskTokens: {
    path: {
      id: string
    }
    query: Record<never, never>
    header: {
      'idempotency-key'?: string
    }
    body: GiveTaskTokens
    responses: {
      '200': Task
      '400': Error
      '401': Error
      '402': Error
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
  /** Make a template of an image that is sent */
  importTemplate: {
    path: Record<never, never>
    query: {
      name: string
      tag?: string[]
    }
    header: Record<never, never>
    body: Uint8Array
    responses: {
      '202': Template
      '400': Error
      '401': Error
      '403': Error
      '408': Error
      '413': Error
      '429': Error
      '499': Error
      '500': Error
      '503': Error
      '507': Error
      default: Error
    }
  }
  /** Make a workspace of an OCI archive */
  importWorkspace: {
    path: Record<never, never>
    query: {
      name?: string
    }
    header: Record<never, never>
    body: Uint8Array
    responses: {
      '201': Workspace
      '400': Error
      '401': Error
      '402': Error
      '403': Error
      '404': Error
      '408': Error
      '409': Error
      '413': Error
      '429': Error
      '499': Error
      '500': Error
      '502': Error
      '503': Error
      '504': Error
      '507': Error
      default: Error
    }
  }
  /** Interrupt a task */
  interruptTask: {
    path: {
      id: string
    }
    query: Record<never, never>
    header: Record<never, never>
    body: undefined
    responses: {
      '200': Task
      '400': Error
      '401': Error
      '403': Error
      '404': Error
      '409': Error
      '429': Error
      '500': Error
      '503': Error
      default: Error
    }
  }
  /** Invite somebody into the account */
  invite: {
    path: Record<never, never>
    query: Record<never, never>
    header: Record<never, never>
    body: Invite
    responses: {
      '201': Invitation
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
  /** Leave the account */
  leaveAccount: {
    path: Record<never, never>
    query: Record<never, never>
    header: Record<never, never>
    body: undefined
    responses: {
      '204': undefined
      '401': Error
      '403': Error
      '404': Error
      '409': Error
      '429': Error
      '500': Error
      '503': Error
      default: Error
    }
  }
  /** List a directory, on an agent’s own computer */
  listAgentEntries: {
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
      '402': Error
      '403': Error
      '404': Error
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
  /** Execs that run, and those that ended within the hour, on an agent’s own computer */
  listAgentExecs: {
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
      '402': Error
      '403': Error
      '404': Error
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
  /** Terminals that run, and those that ended within the hour, on an agent’s own computer */
  listAgentTerminals: {
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
      '402': Error
      '403': Error
      '404': Error
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
  /** List agents, newest first */
  listAgents: {
    path: Record<never, never>
    query: {
      state?: 'active' | 'paused' | 'suspended' | 'archiving' | 'archived'
      kind?: 'main' | 'bot' | 'messenger'
      parentAgent?: string
      limit?: number
      cursor?: string
    }
    header: Record<never, never>
    body: undefined
    responses: {
      '200': AgentList
      '400': Error
      '401': Error
      '403': Error
      '429': Error
      '500': Error
      '503': Error
      default: Error
    }
  }
  /** List what waits for a person, or did, newest first */
  listApprovals: {
    path: Record<never, never>
    query: {
      limit?: number
      cursor?: string
      state?: 'pending' | 'approved' | 'executed' | 'failed' | 'refused' | 'expired' | 'canceled'
      kind?: string
      sandboxId?: string
    }
    header: Record<never, never>
    body: undefined
    responses: {
      '200': ApprovalList
      '400': Error
      '401': Error
      '403': Error
      '429': Error
      '500': Error
      '503': Error
      default: Error
    }
  }
  /** What was done and refused in the account, newest first */
  listAudit: {
    path: Record<never, never>
    query: {
      limit?: number
      cursor?: string
      actor?: string
      action?: string
      target?: string
    }
    header: Record<never, never>
    body: undefined
    responses: {
      '200': AuditList
      '400': Error
      '401': Error
      '403': Error
      '429': Error
      '500': Error
      '503': Error
      default: Error
    }
  }
  /** All paths that a snapshot changed against its parent */
  listChanges: {
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
      '200': FileChanges
      '400': Error
      '401': Error
      '403': Error
      '404': Error
      '409': Error
      '413': Error
      '429': Error
      '500': Error
      '502': Error
      '503': Error
      '504': Error
      '507': Error
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
      '429': Error
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
      '402': Error
      '403': Error
      '404': Error
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
      '402': Error
      '403': Error
      '404': Error
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
  /** Tokens that are, or were, set aside for work, newest first */
  listHolds: {
    path: Record<never, never>
    query: {
      limit?: number
      cursor?: string
      purseId?: string
      state?: 'open' | 'committed' | 'released' | 'unknown'
    }
    header: Record<never, never>
    body: undefined
    responses: {
      '200': HoldList
      '400': Error
      '401': Error
      '403': Error
      '429': Error
      '500': Error
      '503': Error
      default: Error
    }
  }
  /** Invitations that are open */
  listInvitations: {
    path: Record<never, never>
    query: Record<never, never>
    header: Record<never, never>
    body: undefined
    responses: {
      '200': InvitationList
      '401': Error
      '403': Error
      '429': Error
      '500': Error
      '503': Error
      default: Error
    }
  }
  /** List API keys, newest first */
  listKeys: {
    path: Record<never, never>
    query: {
      limit?: number
      cursor?: string
      state?: 'active' | 'all'
    }
    header: Record<never, never>
    body: undefined
    responses: {
      '200': KeyList
      '400': Error
      '401': Error
      '403': Error
      '429': Error
      '500': Error
      '503': Error
      default: Error
    }
  }
  /** Mails about people: what was sent, and what is kept because no mail server is set */
  listMail: {
    path: Record<never, never>
    query: Record<never, never>
    header: Record<never, never>
    body: undefined
    responses: {
      '200': MailList
      '401': Error
      '403': Error
      '429': Error
      '500': Error
      '503': Error
      default: Error
    }
  }
  /** Who belongs to the account */
  listMembers: {
    path: Record<never, never>
    query: Record<never, never>
    header: Record<never, never>
    body: undefined
    responses: {
      '200': MemberList
      '401': Error
      '403': Error
      '429': Error
      '500': Error
      '503': Error
      default: Error
    }
  }
  /** List the account’s own keys of providers of models */
  listModelKeys: {
    path: Record<never, never>
    query: Record<never, never>
    header: Record<never, never>
    body: undefined
    responses: {
      '200': ModelKeyList
      '401': Error
      '403': Error
      '429': Error
      '500': Error
      '503': Error
      default: Error
    }
  }
  /** List models */
  listModels: {
    path: Record<never, never>
    query: Record<never, never>
    header: Record<never, never>
    body: undefined
    responses: {
      '200': ModelList
      '401': Error
      '403': Error
      '429': Error
      '500': Error
      '503': Error
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
      '404': Error
      '429': Error
      '500': Error
      '503': Error
      default: Error
    }
  }
  /** Backups that this database was restored from */
  listRestores: {
    path: Record<never, never>
    query: Record<never, never>
    header: Record<never, never>
    body: undefined
    responses: {
      '200': RestoreList
      '401': Error
      '403': Error
      '429': Error
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
      agentId?: string
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
      '429': Error
      '500': Error
      '503': Error
      default: Error
    }
  }
  /** List the runs of a schedule, newest first */
  listScheduleRuns: {
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
      '200': ScheduleRunList
      '400': Error
      '401': Error
      '403': Error
      '404': Error
      '429': Error
      '500': Error
      '503': Error
      default: Error
    }
  }
  /** List schedules, newest first */
  listSchedules: {
    path: Record<never, never>
    query: {
      agentId?: string
      state?: 'active' | 'paused' | 'disabled' | 'done'
      limit?: number
      cursor?: string
    }
    header: Record<never, never>
    body: undefined
    responses: {
      '200': ScheduleList
      '400': Error
      '401': Error
      '403': Error
      '429': Error
      '500': Error
      '503': Error
      default: Error
    }
  }
  /** Your sessions */
  listSessions: {
    path: Record<never, never>
    query: Record<never, never>
    header: Record<never, never>
    body: undefined
    responses: {
      '200': SessionList
      '401': Error
      '403': Error
      '429': Error
      '500': Error
      '503': Error
      default: Error
    }
  }
  /** The history of a workspace, newest first */
  listSnapshots: {
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
      '200': SnapshotList
      '400': Error
      '401': Error
      '403': Error
      '404': Error
      '429': Error
      '500': Error
      '503': Error
      default: Error
    }
  }
  /** List tasks, newest first */
  listTasks: {
    path: Record<never, never>
    query: {
      agentId?: string
      state?: 'queued' | 'working' | 'waiting' | 'suspended' | 'paused' | 'finished' | 'failed' | 'canceled'
      limit?: number
      cursor?: string
    }
    header: Record<never, never>
    body: undefined
    responses: {
      '200': TaskList
      '400': Error
      '401': Error
      '403': Error
      '429': Error
      '500': Error
      '503': Error
      default: Error
    }
  }
  /** All versions of a template */
  listTemplateVersions: {
    path: {
      name: string
    }
    query: Record<never, never>
    header: Record<never, never>
    body: undefined
    responses: {
      '200': TemplateList
      '400': Error
      '401': Error
      '403': Error
      '404': Error
      '429': Error
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
      '429': Error
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
      '402': Error
      '403': Error
      '404': Error
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
  /** List requests for tokens, newest first */
  listTokenRequests: {
    path: Record<never, never>
    query: {
      state?:
        | 'pending_main'
        | 'pending_user'
        | 'granting'
        | 'granted'
        | 'refused'
        | 'expired'
        | 'failed'
        | 'unneeded'
        | 'canceled'
        | 'pending'
      agentId?: string
      limit?: number
      cursor?: string
    }
    header: Record<never, never>
    body: undefined
    responses: {
      '200': TokenRequestList
      '400': Error
      '401': Error
      '403': Error
      '429': Error
      '500': Error
      '503': Error
      default: Error
    }
  }
  /** The journal: every movement of tokens, newest first */
  listTransfers: {
    path: Record<never, never>
    query: {
      limit?: number
      cursor?: string
      purseId?: string
      kind?:
        | 'grant'
        | 'transfer'
        | 'renew'
        | 'hold'
        | 'release'
        | 'commit'
        | 'absorb'
        | 'charge'
        | 'owe'
        | 'pay_owed'
        | 'refund'
        | 'expire'
        | 'archive'
      from?: string
      to?: string
    }
    header: Record<never, never>
    body: undefined
    responses: {
      '200': TransferList
      '400': Error
      '401': Error
      '403': Error
      '429': Error
      '500': Error
      '503': Error
      default: Error
    }
  }
  /** List volumes, oldest first */
  listVolumes: {
    path: Record<never, never>
    query: Record<never, never>
    header: Record<never, never>
    body: undefined
    responses: {
      '200': VolumeList
      '401': Error
      '403': Error
      '429': Error
      '500': Error
      '503': Error
      default: Error
    }
  }
  /** List what a webhook was told, or is to be, newest first */
  listWebhookDeliveries: {
    path: {
      id: string
    }
    query: {
      state?: 'waiting' | 'delivered' | 'failed' | 'canceled'
      limit?: number
      cursor?: string
    }
    header: Record<never, never>
    body: undefined
    responses: {
      '200': WebhookDeliveryList
      '400': Error
      '401': Error
      '403': Error
      '404': Error
      '429': Error
      '500': Error
      '503': Error
      default: Error
    }
  }
  /** List webhooks, newest first */
  listWebhooks: {
    path: Record<never, never>
    query: Record<never, never>
    header: Record<never, never>
    body: undefined
    responses: {
      '200': WebhookList
      '401': Error
      '403': Error
      '429': Error
      '500': Error
      '503': Error
      default: Error
    }
  }
  /** List workspaces, newest first */
  listWorkspaces: {
    path: Record<never, never>
    query: {
      limit?: number
      cursor?: string
    }
    header: Record<never, never>
    body: undefined
    responses: {
      '200': WorkspaceList
      '400': Error
      '401': Error
      '403': Error
      '429': Error
      '500': Error
      '503': Error
      default: Error
    }
  }
  /** Log in */
  logIn: {
    path: Record<never, never>
    query: Record<never, never>
    header: Record<never, never>
    body: Login
    responses: {
      '200': SessionTokens
      '400': Error
      '401': Error
      '403': Error
      '404': Error
      '408': Error
      '413': Error
      '429': Error
      '499': Error
      '500': Error
      '503': Error
      default: Error
    }
  }
  /** Log in by a link that the operator handed out */
  logInByLink: {
    path: Record<never, never>
    query: Record<never, never>
    header: Record<never, never>
    body: LinkLogin
    responses: {
      '200': SessionTokens
      '400': Error
      '401': Error
      '403': Error
      '404': Error
      '408': Error
      '410': Error
      '413': Error
      '429': Error
      '499': Error
      '500': Error
      '503': Error
      default: Error
    }
  }
  /** End the session */
  logOut: {
    path: Record<never, never>
    query: Record<never, never>
    header: Record<never, never>
    body: Refresh
    responses: {
      '204': undefined
      '400': Error
      '401': Error
      '403': Error
      '408': Error
      '413': Error
      '429': Error
      '499': Error
      '500': Error
      '503': Error
      default: Error
    }
  }
  /** Make a directory, on an agent’s own computer */
  makeAgentDirectory: {
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
      '402': Error
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
      '402': Error
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
  /** Make a one-time link for somebody whom mails do not reach */
  makeLoginLink: {
    path: Record<never, never>
    query: Record<never, never>
    header: Record<never, never>
    body: EmailOnly
    responses: {
      '201': LoginLink
      '400': Error
      '401': Error
      '403': Error
      '404': Error
      '408': Error
      '413': Error
      '429': Error
      '499': Error
      '500': Error
      '503': Error
      default: Error
    }
  }
  /** Move or rename, on an agent’s own computer */
  moveAgentEntry: {
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
      '402': Error
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
      '402': Error
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
  /** Change an agent */
  patchAgent: {
    path: {
      id: string
    }
    query: Record<never, never>
    header: Record<never, never>
    body: PatchAgent
    responses: {
      '200': Agent
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
      '502': Error
      '503': Error
      '504': Error
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
  /** Name a snapshot, which keeps it for ever, or change its comment */
  patchSnapshot: {
    path: {
      id: string
    }
    query: Record<never, never>
    header: Record<never, never>
    body: PatchSnapshot
    responses: {
      '200': Snapshot
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
  /** Rename a workspace, or change its settings */
  patchWorkspace: {
    path: {
      id: string
    }
    query: Record<never, never>
    header: Record<never, never>
    body: PatchWorkspace
    responses: {
      '200': Workspace
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
  /** Let an agent stand still */
  pauseAgent: {
    path: {
      id: string
    }
    query: Record<never, never>
    header: Record<never, never>
    body: undefined
    responses: {
      '200': Agent
      '400': Error
      '401': Error
      '403': Error
      '404': Error
      '409': Error
      '429': Error
      '500': Error
      '502': Error
      '503': Error
      '504': Error
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
  /** Let a schedule rest */
  pauseSchedule: {
    path: {
      id: string
    }
    query: Record<never, never>
    header: Record<never, never>
    body: undefined
    responses: {
      '200': Schedule
      '400': Error
      '401': Error
      '403': Error
      '404': Error
      '409': Error
      '429': Error
      '500': Error
      '503': Error
      default: Error
    }
  }
  /** Pause a task */
  pauseTask: {
    path: {
      id: string
    }
    query: Record<never, never>
    header: Record<never, never>
    body: undefined
    responses: {
      '200': Task
      '400': Error
      '401': Error
      '403': Error
      '404': Error
      '409': Error
      '429': Error
      '500': Error
      '503': Error
      default: Error
    }
  }
  /** Begin to set up a second factor */
  prepareTotp: {
    path: Record<never, never>
    query: Record<never, never>
    header: Record<never, never>
    body: PasswordOnly
    responses: {
      '200': TotpSetup
      '400': Error
      '401': Error
      '403': Error
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
  /** Read a file, on an agent’s own computer */
  readAgentFile: {
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
      '402': Error
      '403': Error
      '404': Error
      '409': Error
      '413': Error
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
      '402': Error
      '403': Error
      '404': Error
      '409': Error
      '413': Error
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
  /** Read one file of a snapshot */
  readSnapshotFile: {
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
      '413': Error
      '429': Error
      '500': Error
      '502': Error
      '503': Error
      '504': Error
      '507': Error
      default: Error
    }
  }
  /** Send a delivery once more, from its first try */
  redeliverWebhook: {
    path: {
      id: string
      deliveryId: string
    }
    query: Record<never, never>
    header: Record<never, never>
    body: undefined
    responses: {
      '200': WebhookDelivery
      '400': Error
      '401': Error
      '403': Error
      '404': Error
      '409': Error
      '429': Error
      '500': Error
      '503': Error
      default: Error
    }
  }
  /** Go on with a session */
  refreshSession: {
    path: Record<never, never>
    query: Record<never, never>
    header: Record<never, never>
    body: Refresh
    responses: {
      '200': SessionTokens
      '400': Error
      '401': Error
      '403': Error
      '408': Error
      '413': Error
      '429': Error
      '499': Error
      '500': Error
      '503': Error
      default: Error
    }
  }
  /** Refuse it */
  refuse: {
    path: {
      id: string
    }
    query: Record<never, never>
    header: Record<never, never>
    body: Refuse
    responses: {
      '200': Approval
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
  /** Refuse a request for tokens */
  refuseTokenRequest: {
    path: {
      id: string
    }
    query: Record<never, never>
    header: Record<never, never>
    body: RefuseTokens
    responses: {
      '200': TokenRequest
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
  /** Ask for a user */
  register: {
    path: Record<never, never>
    query: Record<never, never>
    header: Record<never, never>
    body: Register
    responses: {
      '202': Sent
      '400': Error
      '403': Error
      '408': Error
      '413': Error
      '429': Error
      '499': Error
      '500': Error
      '503': Error
      default: Error
    }
  }
  /** End an agent, as archiving it does */
  removeAgent: {
    path: {
      id: string
    }
    query: Record<never, never>
    header: Record<never, never>
    body: undefined
    responses: {
      '200': Agent
      '400': Error
      '401': Error
      '403': Error
      '404': Error
      '409': Error
      '429': Error
      '500': Error
      '502': Error
      '503': Error
      '504': Error
      default: Error
    }
  }
  /** Remove a file or directory, on an agent’s own computer */
  removeAgentFile: {
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
      '402': Error
      '403': Error
      '404': Error
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
      '402': Error
      '403': Error
      '404': Error
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
  /** Remove a member */
  removeMember: {
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
      '500': Error
      '503': Error
      default: Error
    }
  }
  /** Forget the account’s own key of a provider of models */
  removeModelKey: {
    path: {
      provider: 'anthropic' | 'google'
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
      '429': Error
      '500': Error
      '503': Error
      default: Error
    }
  }
  /** Remove a snapshot */
  removeSnapshot: {
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
      '500': Error
      '503': Error
      default: Error
    }
  }
  /** Turn the second factor off */
  removeTotp: {
    path: Record<never, never>
    query: Record<never, never>
    header: Record<never, never>
    body: PasswordOnly
    responses: {
      '204': undefined
      '400': Error
      '401': Error
      '403': Error
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
  /** Remove a volume and all it holds */
  removeVolume: {
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
      '500': Error
      '502': Error
      '503': Error
      '504': Error
      default: Error
    }
  }
  /** Remove a workspace with its snapshots */
  removeWorkspace: {
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
      '500': Error
      '502': Error
      '503': Error
      '504': Error
      default: Error
    }
  }
  /** Make new recovery codes; those of before are over */
  replaceRecoveryCodes: {
    path: Record<never, never>
    query: Record<never, never>
    header: Record<never, never>
    body: PasswordOnly
    responses: {
      '200': RecoveryCodes
      '400': Error
      '401': Error
      '403': Error
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
  /** Ask a person to let a sandbox connect to a host */
  requestEgress: {
    path: {
      id: string
    }
    query: Record<never, never>
    header: Record<never, never>
    body: RequestEgress
    responses: {
      '200': Approval
      '201': Approval
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
      '400': Error
      '401': Error
      '402': Error
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
  /** Ask for tokens */
  requestTokens: {
    path: {
      id: string
    }
    query: Record<never, never>
    header: {
      'idempotency-key'?: string
    }
    body: RequestTokens
    responses: {
      '200': TokenRequest
      '201': TokenRequest
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
  /** Choose a new password, by a link */
  resetPassword: {
    path: Record<never, never>
    query: Record<never, never>
    header: Record<never, never>
    body: ResetPassword
    responses: {
      '204': undefined
      '400': Error
      '403': Error
      '408': Error
      '410': Error
      '413': Error
      '429': Error
      '499': Error
      '500': Error
      '503': Error
      default: Error
    }
  }
  /** Take the second factor off somebody who has lost it */
  resetSecondFactor: {
    path: Record<never, never>
    query: Record<never, never>
    header: Record<never, never>
    body: EmailOnly
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
      '503': Error
      default: Error
    }
  }
  /** Change the size of an exec’s terminal, on an agent’s own computer */
  resizeAgentExec: {
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
      '402': Error
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
  /** Change the size of a terminal, on an agent’s own computer */
  resizeAgentTerminal: {
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
      '402': Error
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
      '402': Error
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
      '402': Error
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
  /** Find workspaces that storage holds and this server does not know */
  restoreWorkspaces: {
    path: Record<never, never>
    query: Record<never, never>
    header: Record<never, never>
    body: undefined
    responses: {
      '200': RestoredWorkspaces
      '400': Error
      '401': Error
      '403': Error
      '404': Error
      '409': Error
      '413': Error
      '429': Error
      '500': Error
      '502': Error
      '503': Error
      '504': Error
      '507': Error
      default: Error
    }
  }
  /** Let a paused agent go on */
  resumeAgent: {
    path: {
      id: string
    }
    query: Record<never, never>
    header: Record<never, never>
    body: undefined
    responses: {
      '200': Agent
      '400': Error
      '401': Error
      '402': Error
      '403': Error
      '404': Error
      '409': Error
      '429': Error
      '500': Error
      '502': Error
      '503': Error
      '504': Error
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
      '402': Error
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
  /** Let a schedule go on, from its next time */
  resumeSchedule: {
    path: {
      id: string
    }
    query: Record<never, never>
    header: Record<never, never>
    body: undefined
    responses: {
      '200': Schedule
      '400': Error
      '401': Error
      '403': Error
      '404': Error
      '409': Error
      '429': Error
      '500': Error
      '503': Error
      default: Error
    }
  }
  /** Let a paused or suspended task go on */
  resumeTask: {
    path: {
      id: string
    }
    query: Record<never, never>
    header: Record<never, never>
    body: undefined
    responses: {
      '200': Task
      '400': Error
      '401': Error
      '403': Error
      '404': Error
      '409': Error
      '429': Error
      '500': Error
      '503': Error
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
      '429': Error
      '500': Error
      '503': Error
      default: Error
    }
  }
  /** End an agent’s token before its time, with those made with it */
  revokeAgentToken: {
    path: Record<never, never>
    query: Record<never, never>
    header: Record<never, never>
    body: RevokeAgentToken
    responses: {
      '204': undefined
      '400': Error
      '401': Error
      '403': Error
      '408': Error
      '413': Error
      '429': Error
      '499': Error
      '500': Error
      '503': Error
      default: Error
    }
  }
  /** Revoke an API key, with the keys that were made with it */
  revokeKey: {
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
      '429': Error
      '500': Error
      '503': Error
      default: Error
    }
  }
  /** Stop a sandbox, bring its workspace back to a snapshot, and start it again */
  rollbackSandbox: {
    path: {
      id: string
    }
    query: Record<never, never>
    header: Record<never, never>
    body: RollbackSandbox
    responses: {
      '200': Sandbox
      '400': Error
      '401': Error
      '402': Error
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
  /** Bring a workspace back to a snapshot */
  rollbackWorkspace: {
    path: {
      id: string
    }
    query: Record<never, never>
    header: Record<never, never>
    body: Rollback
    responses: {
      '200': Workspace
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
      '502': Error
      '503': Error
      '504': Error
      '507': Error
      default: Error
    }
  }
  /** Give an API key a new text */
  rotateKey: {
    path: {
      id: string
    }
    query: Record<never, never>
    header: Record<never, never>
    body: RotateKey
    responses: {
      '200': MadeKey
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
  /** Run source code, on an agent’s own computer */
  runAgentCode: {
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
      '402': Error
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
      '402': Error
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
      '429': Error
      '500': Error
      '502': Error
      '503': Error
      '504': Error
      default: Error
    }
  }
  /** Run a schedule now */
  runSchedule: {
    path: {
      id: string
    }
    query: Record<never, never>
    header: {
      'idempotency-key'?: string
    }
    body: undefined
    responses: {
      '201': ScheduleRun
      '400': Error
      '401': Error
      '403': Error
      '404': Error
      '409': Error
      '429': Error
      '500': Error
      '503': Error
      default: Error
    }
  }
  /** Say something to a task */
  sendTaskMessage: {
    path: {
      id: string
    }
    query: Record<never, never>
    header: {
      'idempotency-key'?: string
    }
    body: TaskMessage
    responses: {
      '202': Task
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
      '507': Error
      default: Error
    }
  }
  /** Use the account’s own key of a provider of models */
  setModelKey: {
    path: {
      provider: 'anthropic' | 'google'
    }
    query: Record<never, never>
    header: Record<never, never>
    body: SetModelKey
    responses: {
      '200': ModelKey
      '400': Error
      '401': Error
      '403': Error
      '408': Error
      '413': Error
      '429': Error
      '499': Error
      '500': Error
      '503': Error
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
  /** Give an account another plan, as the operator */
  setPlan: {
    path: Record<never, never>
    query: Record<never, never>
    header: Record<never, never>
    body: SetPlan
    responses: {
      '200': Plan
      '400': Error
      '401': Error
      '403': Error
      '404': Error
      '408': Error
      '413': Error
      '429': Error
      '499': Error
      '500': Error
      '503': Error
      default: Error
    }
  }
  /** Let a tag name a version */
  setTemplateTag: {
    path: {
      name: string
      tag: string
    }
    query: Record<never, never>
    header: Record<never, never>
    body: SetTag
    responses: {
      '200': Template
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
  /** Send a signal, on an agent’s own computer */
  signalAgentExec: {
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
      '402': Error
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
      '402': Error
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
  /** Check a backup whole and keep it ready; nothing is changed yet */
  stageRestore: {
    path: Record<never, never>
    query: {
      replace?: 'true' | 'false'
    }
    header: {
      'delta-passphrase'?: string
    }
    body: Uint8Array
    responses: {
      '201': StagedRestore
      '400': Error
      '401': Error
      '403': Error
      '408': Error
      '409': Error
      '429': Error
      '499': Error
      '500': Error
      '502': Error
      '503': Error
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
      '402': Error
      '403': Error
      '404': Error
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
  /** Follow an exec from an offset on, on an agent’s own computer */
  streamAgentExec: {
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
      '402': Error
      '403': Error
      '404': Error
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
      '402': Error
      '403': Error
      '404': Error
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
  /** Follow the making of a version */
  streamTemplateLog: {
    path: {
      template: string
    }
    query: {
      from?: number
    }
    header: Record<never, never>
    body: undefined
    responses: {
      '200': Uint8Array
      '400': Error
      '401': Error
      '403': Error
      '404': Error
      '429': Error
      '500': Error
      '503': Error
      default: Error
    }
  }
  /** Speak for another of your accounts */
  switchAccount: {
    path: Record<never, never>
    query: Record<never, never>
    header: Record<never, never>
    body: SwitchAccount
    responses: {
      '200': SessionTokens
      '400': Error
      '401': Error
      '403': Error
      '404': Error
      '408': Error
      '413': Error
      '429': Error
      '499': Error
      '500': Error
      '503': Error
      default: Error
    }
  }
  /** Send a webhook something to try it */
  testWebhook: {
    path: {
      id: string
    }
    query: Record<never, never>
    header: Record<never, never>
    body: undefined
    responses: {
      '201': WebhookDelivery
      '400': Error
      '401': Error
      '403': Error
      '404': Error
      '429': Error
      '500': Error
      '503': Error
      default: Error
    }
  }
  /** Take back what a task did */
  undoTask: {
    path: {
      id: string
    }
    query: Record<never, never>
    header: Record<never, never>
    body: UndoTask
    responses: {
      '200': Task
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
      '502': Error
      '503': Error
      '504': Error
      '507': Error
      default: Error
    }
  }
  /** Change a schedule */
  updateSchedule: {
    path: {
      id: string
    }
    query: Record<never, never>
    header: Record<never, never>
    body: UpdateSchedule
    responses: {
      '200': ScheduleWithTask
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
  /** Change a webhook, let it rest or go on */
  updateWebhook: {
    path: {
      id: string
    }
    query: Record<never, never>
    header: Record<never, never>
    body: UpdateWebhook
    responses: {
      '200': Webhook
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
  /** Unpack a tar into a directory, on an agent’s own computer */
  uploadAgentArchive: {
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
      '402': Error
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
      '402': Error
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
  /** Confirm the address and choose a password */
  verifyEmail: {
    path: Record<never, never>
    query: Record<never, never>
    header: Record<never, never>
    body: Verify
    responses: {
      '200': SessionTokens
      '400': Error
      '403': Error
      '408': Error
      '410': Error
      '413': Error
      '429': Error
      '499': Error
      '500': Error
      '503': Error
      default: Error
    }
  }
  /** Follow changes below a path, on an agent’s own computer */
  watchAgentFiles: {
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
      '402': Error
      '403': Error
      '404': Error
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
      '402': Error
      '403': Error
      '404': Error
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
  /** Who asks, for which account, as what */
  whoAmI: {
    path: Record<never, never>
    query: Record<never, never>
    header: Record<never, never>
    body: undefined
    responses: {
      '200': Me
      '401': Error
      '403': Error
      '429': Error
      '500': Error
      '503': Error
      default: Error
    }
  }
  /** Withdraw an invitation */
  withdrawInvitation: {
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
      '429': Error
      '500': Error
      '503': Error
      default: Error
    }
  }
  /** Write a file, on an agent’s own computer */
  writeAgentFile: {
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
      '402': Error
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
  /** Write to the standard input of an exec, on an agent’s own computer */
  writeAgentStdin: {
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
      '402': Error
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
      '402': Error
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
      '402': Error
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
}
