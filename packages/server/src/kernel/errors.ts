interface ErrorRow {
  status: number
  /** What the caller, often a model, should do next. It must be actionable without reading anything else. */
  remediation: string
}

// One row, one line per code, grouped by who raises it: adding one is adding a line (then run errors.test.ts with -u for docs/errors.md).
// oxfmt-ignore
export const errorTable = {
  // Requests
  invalid_request: { status: 400, remediation: 'Correct the field named in `cause` to satisfy the rule named there, then send the request again. /openapi.json lists every field.' },
  malformed_json: { status: 400, remediation: 'Send a body that is one valid JSON object with `Content-Type: application/json`. NaN, Infinity, comments and trailing commas are not JSON.' },
  unauthorized: { status: 401, remediation: 'Send `Authorization: Bearer <key>` with a valid API key. The first key of an installation lies in the file `api-key` of its data folder.' },
  host_not_allowed: { status: 403, remediation: 'Address the server as localhost or 127.0.0.1, or ask its operator to add this host name to DELTA_HOSTS (comma separated) and restart.' },
  origin_not_allowed: { status: 403, remediation: 'Use the key from a program, which sends no Origin header, or from a page that this server itself serves; a page of another origin needs an access token.' },
  not_found: { status: 404, remediation: 'Check the path and its /v1 prefix against /openapi.json, which lists every route. Ids belong into the path as they were returned.' },
  method_not_allowed: { status: 405, remediation: 'Use one of the methods named in `context.allow` for this path.' },
  request_timeout: { status: 408, remediation: 'The body arrived too slowly or stopped. Send the request again, without pauses in the body.' },
  idempotency_conflict: { status: 409, remediation: 'This Idempotency-Key was used with another body. Use a new key for a new request, or repeat the first body exactly.' },
  idempotency_in_progress: { status: 409, remediation: 'The first request with this Idempotency-Key is still being worked on. Wait a second and repeat it unchanged.' },
  precondition_failed: { status: 412, remediation: 'The file changed since you read it. Read it again, apply your change to what it holds now, and send the new ETag in If-Match.' },
  body_too_large: { status: 413, remediation: 'Send a body within the limit in `context.limitBytes`. Put larger data into a file with PUT /v1/sandboxes/{id}/files, which has no such limit.' },
  range_not_satisfiable: { status: 416, remediation: 'Ask for a range inside the file: `context.sizeBytes` is its size.' },
  websocket_required: { status: 426, remediation: 'Open this address as a WebSocket (ws:// or wss://), as `sandbox.terminal` of the SDK and `delta sandbox shell` do.' },
  too_many_requests: { status: 429, remediation: 'Wait for some of your running requests to end, or for the time in the Retry-After header, then send this one again.' },
  canceled: { status: 499, remediation: 'The request was given up by its sender before it ended. Send it again if you still need the result.' },
  not_supported: { status: 501, remediation: 'This installation can not do that, for the reason in `cause`. Use another way, or another driver or runtime (GET /health names the current one).' },

  // Sandboxes
  sandbox_not_found: { status: 404, remediation: 'Check the sandbox id, or list yours with GET /v1/sandboxes. It may have reached its timeout and been killed: create a new one with POST /v1/sandboxes.' },
  sandbox_not_running: { status: 409, remediation: 'Start it with POST /v1/sandboxes/{id}/start when it is stopped, or /resume when it is paused, then repeat the request. A killed sandbox can not come back: create a new one.' },
  sandbox_state_conflict: { status: 409, remediation: 'Look at `state` with GET /v1/sandboxes/{id}; wait while it is creating, starting or stopping, then choose an action its state allows.' },
  sandbox_start_failed: { status: 502, remediation: 'Try once more. If it fails again, the operator should run `delta doctor` and read the server log for this requestId.' },
  sandbox_ended: { status: 409, remediation: 'The sandbox ended while the request ran. See why with GET /v1/sandboxes/{id}/logs, then start it or create a new one.' },
  capacity_exhausted: { status: 503, remediation: 'The machine has no room for another sandbox. Kill sandboxes you no longer need, or wait for others to end, then try again.' },
  runtime_not_available: { status: 400, remediation: 'Leave `runtime` out to use the configured one, or name one that is installed: GET /v1/doctor lists them.' },

  // Templates
  template_not_found: { status: 404, remediation: 'Use a template name from GET /v1/templates.' },
  template_not_ready: { status: 409, remediation: 'Build it with POST /v1/templates/{name}/build and wait for its answer, or use a template whose state is `ready` in GET /v1/templates.' },
  template_build_failed: { status: 502, remediation: 'Read `cause`, mend it (often the network or the disk) and build again. `delta doctor` checks what a build needs.' },

  // Execs
  exec_not_found: { status: 404, remediation: 'Check the exec id, or list the execs with GET /v1/sandboxes/{id}/execs. Ended ones are kept for an hour, and none outlives a stop of its sandbox.' },
  exec_start_failed: { status: 400, remediation: 'Read `cause`: check that the program exists and is executable, and that `cwd` is an existing directory. Send `cmd` as a string to have it run by a shell.' },
  interpreter_missing: { status: 400, remediation: 'Use a language whose interpreter this sandbox has, install it inside, or create a sandbox from the template `debian`, which has python3, node and bash.' },
  exec_not_running: { status: 409, remediation: 'The process has ended already; its result is at GET /v1/sandboxes/{id}/execs/{execId}. Start a new exec if you need one.' },
  exec_stdin_closed: { status: 409, remediation: 'Start the exec with `stdinOpen: true` to write to it later, and do not write after closing.' },
  exec_limit_reached: { status: 429, remediation: 'Too many execs or processes run in this sandbox. Wait for some to end or signal them, then try again. If they multiply by themselves, stop the sandbox and start it again: its files are kept.' },
  user_not_found: { status: 400, remediation: 'Use a user that exists inside the sandbox, such as `user` or `root`, or a numeric uid.' },

  // Files
  file_not_found: { status: 404, remediation: 'Check the path with GET /v1/sandboxes/{id}/entries?path=<its folder>. A relative path starts at /workspace, and `~` is not expanded.' },
  file_exists: { status: 409, remediation: 'Choose another path, remove what is there, or send `overwrite=true` where the request has it.' },
  not_a_directory: { status: 400, remediation: 'A part of the path that must be a directory is something else. Look with GET /v1/sandboxes/{id}/entry?path=….' },
  is_a_directory: { status: 400, remediation: 'Name a file, or use /entries to list a directory, /archive to fetch it whole, and `recursive=true` to remove it.' },
  not_a_file: { status: 400, remediation: 'Only regular files can be read and written this way. Use an exec for sockets, pipes and devices.' },
  directory_not_empty: { status: 409, remediation: 'Send `recursive=true` to remove the directory with all it holds, or empty it first.' },
  permission_denied: { status: 403, remediation: 'The path belongs to another user inside the sandbox, or is read-only. Change its mode or owner with an exec as `root`, or use a path under /workspace.' },
  symlink_loop: { status: 400, remediation: 'The path goes through symbolic links that point at each other. Remove one of them, or name the target directly.' },
  name_too_long: { status: 400, remediation: 'Shorten the path: at most 4,096 bytes in all and 255 bytes between two slashes.' },
  path_invalid: { status: 400, remediation: 'Send `path` as a non-empty text without NUL characters, absolute or relative to /workspace.' },
  file_busy: { status: 409, remediation: 'Something else is using it. Wait a moment and try again.' },
  file_too_large: { status: 413, remediation: 'The content exceeds what this operation or file system accepts. Split it, or write it in parts with an exec.' },
  archive_invalid: { status: 400, remediation: 'Send an uncompressed tar archive (POSIX or GNU), such as `tar -cf - -C folder .` makes.' },
  file_io_failed: { status: 502, remediation: 'The file system inside the sandbox reported an error. Try once more; if it repeats, save what you need and create a new sandbox.' },
  disk_full: { status: 507, remediation: 'Remove files in the sandbox to make room, or create one with a larger `diskMb`. If it is the server that is full, its operator must free space.' },

  // Ports
  port_forbidden: { status: 403, remediation: 'Make an access token with POST /v1/sandboxes/{id}/access-tokens {"scopes":["port:<number>"]} and send it as `X-Delta-Access-Token` or `?delta_token=`, or make the port public with PUT /v1/sandboxes/{id}/ports. Check the sandbox and the port in the address.' },
  port_limit_reached: { status: 429, remediation: 'Too many requests and WebSockets go through ports at once. Wait for some to end, then try again.' },
  port_not_listening: { status: 502, remediation: 'Start a server on this port inside the sandbox, listening on 127.0.0.1, ::1 or any address, then try again. GET /v1/sandboxes/{id}/ports lists what listens.' },
  port_bad_answer: { status: 502, remediation: 'The server inside sent something that is not HTTP/1.1, for the reason in `cause`, or broke off. Look at its output and mend it.' },
  port_timed_out: { status: 504, remediation: 'The server inside took too long. See whether it hangs or the sandbox is short of CPU, and send the request again; work that takes long should answer early and stream.' },

  // The guest and the driver
  guest_unreachable: { status: 502, remediation: 'The sandbox does not answer. Try again in a second; if it repeats, stop and start it, or kill it and create a new one.' },
  guest_protocol_error: { status: 502, remediation: 'The sandbox sent something invalid and its connection was closed. Stop and start it, or kill it; do not trust what runs in it.' },
  guest_limit_reached: { status: 429, remediation: 'The sandbox has too many operations open, processes or files. End some of them, then try again.' },
  guest_timed_out: { status: 504, remediation: 'The sandbox took too long to answer. It may be short of CPU or memory: look at GET /v1/sandboxes/{id}/metrics, then try again.' },
  driver_failed: { status: 502, remediation: 'The operation on the machine failed for the reason in `cause`. Try once more; if it repeats, the operator should run `delta doctor`.' },
  driver_timed_out: { status: 504, remediation: 'The machine took too long. Look at the state with GET before trying again, since the operation may still complete.' },
  driver_unavailable: { status: 503, remediation: 'The privileged helper is not there, usually because the server is restarting. Try again in a few seconds.' },
  pool_read_only: { status: 503, remediation: 'The storage pool turned read-only after a write error; what was written before it can mostly still be read: save what you need. The operator should free disk space, stop the server with its sandboxes (Ctrl-C) and start it again.' },

  // The server itself
  internal: { status: 500, remediation: 'This is a fault of the server. Try once more; if it repeats, report it to the operator with the requestId, which finds it in the log.' },
  config_invalid: { status: 500, remediation: 'Correct the environment variable named in the message and start the server again.' },
  shutting_down: { status: 503, remediation: 'The server is stopping or restarting. Try again in a few seconds.' },
  database_busy: { status: 503, remediation: 'Too many operations wait for the database. Try again after the time in the Retry-After header.' },
  database_unavailable: { status: 503, remediation: 'The database can not be reached. Try again in a few seconds; the operator should check DATABASE_URL and the database server.' },
  database_failed: { status: 503, remediation: 'Nothing more is written since the database reported a storage error. Tell the operator to check the disk and restart the server; reading still works.' },
  database_constraint: { status: 409, remediation: 'The change contradicts what is stored, for instance by a name already in use. Read the current state and try with other values.' },
} as const satisfies Record<string, ErrorRow>

export type ErrorCode = keyof typeof errorTable

export interface ErrorBody {
  error: {
    code: ErrorCode
    message: string
    cause?: string
    remediation: string
    requestId: string
    context?: Record<string, unknown>
  }
}

export interface DeltaErrorOptions {
  /** A text or a `DeltaError` is shown to the caller; any other error goes to the log only, since it may tell of the host. */
  cause?: unknown
  /** Facts a program can use: ids, limits, states. Never secrets. */
  context?: Record<string, unknown>
}

/** The only error that reaches a caller as it is. Clients branch on `code`. */
export class DeltaError extends Error {
  override readonly name = 'DeltaError'
  readonly code: ErrorCode
  readonly status: number
  readonly remediation: string
  readonly context?: Record<string, unknown>

  constructor(code: ErrorCode, message: string, options: DeltaErrorOptions = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause })
    this.code = code
    this.status = errorTable[code].status
    this.remediation = errorTable[code].remediation
    if (options.context) this.context = options.context
  }

  toBody(requestId: string): ErrorBody {
    const { code, message, remediation, context } = this
    const cause = shownCause(this.cause)
    return {
      error: { code, message, ...(cause && { cause }), remediation, requestId, ...(context && { context }) },
    }
  }
}

function shownCause(cause: unknown): string | undefined {
  if (typeof cause === 'string') return cause
  return cause instanceof DeltaError ? cause.message : undefined
}
