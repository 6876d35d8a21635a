import { withoutSecrets } from './secret-texts.ts'

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
  forbidden: { status: 403, remediation: 'Use a key or a session that has the right in `context.right`. An owner or admin of the account can make such a key with POST /v1/keys, or give a member another role. Where the message names who alone may, no right makes up for that.' },
  data_folder_key_required: { status: 403, remediation: 'Use the key in the file `api-key` of the data folder, as `delta backup` and `delta restore` do on the server’s own machine. No key that is made with POST /v1/keys may do this, and no session.' },
  host_not_allowed: { status: 403, remediation: 'Address the server as localhost or 127.0.0.1, or ask its operator to add this host name to DELTA_HOSTS (comma separated) and restart.' },
  origin_not_allowed: { status: 403, remediation: 'Use the key from a program, which sends no Origin header, or from a page that this server itself serves; a page of another origin needs an access token.' },
  not_found: { status: 404, remediation: 'Check the path and its /v1 prefix against /openapi.json, which lists every route. Ids belong into the path as they were returned.' },
  method_not_allowed: { status: 405, remediation: 'Use one of the methods named in `context.allow` for this path.' },
  request_timeout: { status: 408, remediation: 'The body arrived too slowly or stopped. Send the request again, without pauses in the body.' },
  reader_too_slow: { status: 408, remediation: 'What you asked for was cut, because too little of it was read for too long. Ask for it again and read it without long pauses, at 16 KiB a second or more.' },
  idempotency_conflict: { status: 409, remediation: 'This Idempotency-Key was used with another body. Use a new key for a new request, or repeat the first body exactly.' },
  idempotency_in_progress: { status: 409, remediation: 'The first request with this Idempotency-Key is still being worked on. Wait a second and repeat it unchanged.' },
  precondition_failed: { status: 412, remediation: 'The file changed since you read it. Read it again, apply your change to what it holds now, and send the new ETag in If-Match.' },
  body_too_large: { status: 413, remediation: 'Send a body within the limit in `context.limitBytes`. Put larger data into a file with PUT /v1/sandboxes/{id}/files, which has no such limit.' },
  range_not_satisfiable: { status: 416, remediation: 'Ask for a range inside the file: `context.sizeBytes` is its size.' },
  websocket_required: { status: 426, remediation: 'Open this address as a WebSocket (ws:// or wss://), as `sandbox.terminal` of the SDK and `delta sandbox shell` do.' },
  too_many_requests: { status: 429, remediation: 'Wait as long as the Retry-After header says, then send this one again. Where the message speaks of what runs or waits at once, let some of it end first.' },
  canceled: { status: 499, remediation: 'The request was given up by its sender before it ended. Send it again if you still need the result.' },
  not_supported: { status: 501, remediation: 'This installation can not do that, for the reason in `cause`. Use another way, or another driver or runtime (GET /health names the current one).' },

  audit_unavailable: { status: 503, remediation: 'Changes are refused while they could not be written down; reading goes on. Try again in a few seconds; the operator should look for `audit_late` in the server log and check the database.' },
  // People
  login_failed: { status: 401, remediation: 'Check the e-mail address and the password, or choose a new password: POST /v1/auth/password/forgot sends a link.' },
  second_factor_required: { status: 401, remediation: 'Send the same request again with `code`: the six digits of the authenticator app, or one of the recovery codes.' },
  code_invalid: { status: 401, remediation: 'Wait for the next code of the app and send that: each is good once. Check that the clock of the telephone is right, or use a recovery code.' },
  second_factor_unreadable: { status: 409, remediation: 'Ask the operator to start the server with the SECRET_KEY of before, or to take the second factor off with `delta user reset-totp EMAIL`; then log in with the password alone and set it up anew.' },
  session_ended: { status: 401, remediation: 'Start a new session with POST /v1/auth/login. A refresh token is good once: keep the one that the last refresh answered with.' },
  session_required: { status: 403, remediation: 'Start a session with POST /v1/auth/login and use the session’s token: this is about a person, and API keys and agents are none.' },
  csrf_refused: { status: 403, remediation: 'Send the header `X-Delta-CSRF: 1` with whatever is authenticated by cookie, from a page of this server itself. Programs send `Authorization: Bearer` instead of cookies.' },
  link_invalid: { status: 410, remediation: 'Ask for a new link: each is good once and for a limited time, and only for what it was made for.' },
  registration_closed: { status: 403, remediation: 'Ask an owner or admin for an invitation (POST /v1/invitations), or let the operator set DELTA_REGISTRATION=open.' },
  user_exists: { status: 409, remediation: 'Use another address, or log in as the user that has it.' },
  account_not_found: { status: 404, remediation: 'Choose one of the accounts you belong to: GET /v1/users/me lists them.' },
  session_not_found: { status: 404, remediation: 'Check the id: GET /v1/sessions lists your sessions; one that has ended is not among them.' },
  member_not_found: { status: 404, remediation: 'Check the id: GET /v1/account/members lists who belongs to the account; POST /v1/invitations invites somebody.' },
  member_exists: { status: 409, remediation: 'Change their role with PATCH /v1/account/members/{id} if it is not the one you meant.' },
  member_limit_reached: { status: 429, remediation: 'Remove members or withdraw invitations that are no longer needed, then try again.' },
  invitation_not_found: { status: 404, remediation: 'Check the id: GET /v1/invitations lists the open ones; one that was accepted or is over is not among them.' },
  role_not_allowed: { status: 403, remediation: 'Ask an owner of the account: GET /v1/account/members shows who they are.' },
  last_owner: { status: 409, remediation: 'Change the role of another member to owner first with PATCH /v1/account/members/{id}.' },
  totp_state_conflict: { status: 409, remediation: 'Look at GET /v1/users/me, which says in `user.totp` whether the second factor is on. POST /v1/auth/totp begins to set it up, DELETE turns it off.' },

  // Keys
  key_not_found: { status: 404, remediation: 'Check the key id, or list yours with GET /v1/keys. Keys of other people are seen by owners and admins only.' },
  key_ended: { status: 409, remediation: 'A key that is revoked or has expired stays so. Look at it with GET /v1/keys/{id}, or make another with POST /v1/keys.' },
  key_limit_reached: { status: 429, remediation: 'Revoke keys you no longer need with DELETE /v1/keys/{id}, then try again.' },

  // Tasks
  task_not_found: { status: 404, remediation: 'Check the id, or list the tasks you may see with GET /v1/tasks.' },
  task_over: { status: 409, remediation: 'A task that has ended stays so. Start another from it with POST /v1/tasks/{id}/fork, or give a new one with POST /v1/tasks; one with `chat: true` waits for your messages.' },
  task_state_conflict: { status: 409, remediation: 'Look at the task with GET /v1/tasks/{id}, bring it into the state that the message names, and try again.' },
  task_limit_reached: { status: 429, remediation: 'Cancel tasks that are no longer needed with POST /v1/tasks/{id}/cancel, or wait until some have ended.' },

  // Token requests
  token_request_not_found: { status: 404, remediation: 'Check its id, or list those you may see with GET /v1/token-requests.' },
  token_request_pending: { status: 409, remediation: 'An agent waits for one at a time. Look at `context.requestId`, take it back with POST /v1/token-requests/{id}/cancel, or wait until it is decided on.' },
  token_request_decided: { status: 409, remediation: 'A decision holds. Look at it with GET /v1/token-requests/{id}; while it is `pending_user` a person decides, no agent.' },
  token_request_expired: { status: 409, remediation: 'Nobody decided in time, and nothing was moved. Ask again with POST /v1/agents/{id}/token-requests.' },
  token_request_changed: { status: 409, remediation: 'Look at it again with GET /v1/token-requests/{id} and send the `tokens` that stand there. Nothing was moved.' },
  token_request_limit_reached: { status: 429, remediation: 'Ask for more at once and less often: `context.limit` requests of an agent are taken within `context.windowMs`.' },

  // Approvals
  approval_not_found: { status: 404, remediation: 'Check the approval id, or list those you may see with GET /v1/approvals: your own requests, and those you may decide on.' },
  approval_decided: { status: 409, remediation: 'It is decided on already, or taken back; `context.state` says how it stands. Ask again for what is still wanted.' },
  approval_expired: { status: 409, remediation: 'Nobody decided in time, so it can not be approved any more. Ask again, with a longer `ttlMs` if need be.' },
  approval_action_changed: { status: 409, remediation: 'The hash is not that of the action which would be done. Read the approval again with GET /v1/approvals/{id}, look at `description` and `action`, and send its `actionHash`.' },
  approval_own_request: { status: 403, remediation: 'Nobody decides on what they or their keys asked for. Ask another person of the account to decide, or take it back with POST /v1/approvals/{id}/cancel.' },
  approval_requester_gone: { status: 409, remediation: 'The key or token that asked was revoked, or its person has left or may not ask any more, so nothing is done for it. Refuse it; who still wants it asks again.' },
  approval_second_factor_required: { status: 403, remediation: 'Start another session: log in with `code`, the six digits of the authenticator app, and use that session to decide, or to make or rotate a key that approves: this user has a second factor and this session did not show it.' },
  approval_limit_reached: { status: 429, remediation: 'Too many requests wait to be decided on, or were made within `context.windowMs`: `context.limit` are allowed. Wait until people have decided, or take back what is not needed with POST /v1/approvals/{id}/cancel; those still count for the window.' },
  approval_interrupted: { status: 502, remediation: 'It was approved, but the server could not see it through. Check whether it was done; if it was not, ask again.' },
  egress_allowed_already: { status: 409, remediation: 'The policy of the sandbox allows this host and port, so nobody has to decide. If connecting fails, look at GET /v1/sandboxes/{id}/egress, which says why.' },

  // Sandboxes
  sandbox_not_found: { status: 404, remediation: 'Check the sandbox id, or list yours with GET /v1/sandboxes. It may have reached its timeout and been killed: create a new one with POST /v1/sandboxes.' },
  sandbox_not_running: { status: 409, remediation: 'Start it with POST /v1/sandboxes/{id}/start when it is stopped, or /resume when it is paused, then repeat the request. A killed sandbox can not come back: create a new one.' },
  sandbox_state_conflict: { status: 409, remediation: 'Look at `state` with GET /v1/sandboxes/{id}; wait while it is creating, starting or stopping, then choose an action its state allows.' },
  sandbox_start_failed: { status: 502, remediation: 'Try once more. If it fails again, the operator should run `delta doctor` and read the server log for this requestId.' },
  sandbox_env_unreadable: { status: 409, remediation: 'Ask the operator to start the server with the SECRET_KEY of before. If it is lost, fetch the files, which can still be read (GET /v1/sandboxes/{id}/archive), and create a new sandbox with its `env`, on the same workspace if it had one.' },
  sandbox_ended: { status: 409, remediation: 'The sandbox ended while the request ran. See why with GET /v1/sandboxes/{id}/logs, then start it or create a new one.' },
  capacity_exhausted: { status: 503, remediation: 'The machine has no room for another sandbox. Kill sandboxes you no longer need, or wait for others to end, then try again.' },
  runtime_not_available: { status: 400, remediation: 'Leave `runtime` out to use the configured one, or name one that is installed: GET /v1/doctor lists them.' },

  // Agents
  agent_not_found: { status: 404, remediation: 'Check the agent id, or list yours with GET /v1/agents. An agent knows of itself and of those below it only.' },
  agent_archived: { status: 409, remediation: 'An agent that is archived stays so. Look at it with GET /v1/agents/{id}, or make another with POST /v1/agents.' },
  agent_paused: { status: 409, remediation: 'Let it go on with POST /v1/agents/{id}/resume, then send the request again.' },
  agent_suspended: { status: 402, remediation: 'It is out of tokens, and has asked: GET /v1/token-requests says who decides. Ask for another number with POST /v1/agents/{id}/token-requests, or send it some with POST /v1/agents/{id}/tokens; it then goes on by itself, where it stood.' },
  agent_cycle: { status: 400, remediation: 'Name a parent that is neither the agent itself nor below it: GET /v1/agents/tree shows who stands where.' },
  agent_too_deep: { status: 400, remediation: 'Choose a parent nearer to a main agent: agents are at most four deep.' },
  agent_parent_fixed: { status: 409, remediation: 'Leave `parentAgent` out: an agent keeps its place. Make another below the parent you want with POST /v1/agents, and archive this one.' },
  agent_has_no_sandbox: { status: 409, remediation: 'A messenger sends and has no computer. Use a bot or a main agent for commands and files.' },
  agent_state_conflict: { status: 409, remediation: 'Something else changed the agent at the same moment. Look at it with GET /v1/agents/{id} and try again.' },

  // Volumes
  volume_not_found: { status: 404, remediation: 'Check the volume’s id or name, or list yours with GET /v1/volumes. Make one with POST /v1/volumes.' },
  volume_exists: { status: 409, remediation: 'Choose another name, or use the volume that has it: GET /v1/volumes/{name}.' },
  volume_in_use: { status: 409, remediation: 'Kill the sandboxes in `context.sandboxIds` first, or wait for their end, then remove the volume.' },
  volume_limit_reached: { status: 429, remediation: 'Remove volumes you no longer need with DELETE /v1/volumes/{id}, then try again.' },

  // Templates
  template_not_found: { status: 404, remediation: 'Use a template name from GET /v1/templates.' },
  template_not_ready: { status: 409, remediation: 'Build it with POST /v1/templates/{name}/build and wait for its answer, or use a template whose state is `ready` in GET /v1/templates.' },
  template_build_failed: { status: 502, remediation: 'Read `cause`, mend it (often the network or the disk) and build again. `delta doctor` checks what a build needs.' },

  dockerfile_invalid: { status: 400, remediation: 'Correct the line named in `message` (`context.line`) and send it again. docs/templates.md lists the instructions and flags that are supported.' },
  image_invalid: { status: 400, remediation: 'What was sent or fetched is no OCI image that can be used, for the reason in `cause`. Make the archive with `skopeo copy … oci-archive:image.tar` or `docker save`, or use another image.' },
  image_not_found: { status: 404, remediation: 'Check the repository, tag or digest of the image; registries answer the same for a private one, so send `auth` where it needs an account.' },
  registry_unauthorized: { status: 401, remediation: 'The registry wants an account: send `auth` with `username` and `password` (or a token as password), or let the operator put it into DELTA_REGISTRIES.' },
  registry_unreachable: { status: 502, remediation: 'The registry can not be reached from this server. Without a network, send the image as an archive to POST /v1/templates/import; for a registry with a private address the operator lists it in DELTA_REGISTRIES.' },
  registry_failed: { status: 502, remediation: 'The registry answered with something wrong, for the reason in `cause`. Try again later; where it limits requests, wait or send `auth`.' },
  // Tokens
  amount_invalid: { status: 400, remediation: 'Send a whole number of tokens between `context.least` and `context.most`, as a JSON number: no fraction, no text, not −0.' },
  ledger_account_not_found: { status: 404, remediation: 'The account has no ledger yet. It gets one when it is first used: make an agent or a sandbox, or read GET /v1/ledger.' },
  purse_not_found: { status: 404, remediation: 'Check the id: GET /v1/ledger shows every balance of the account, of the reserve, its agents and their tasks.' },
  purse_exists: { status: 409, remediation: 'This id has a balance already, of another kind or below another one. Use it as it is, or a new id.' },
  purse_archived: { status: 409, remediation: 'It is archived or about to be, and what it had is with its parent. Use the parent, or another agent or task.' },
  purse_has_children: { status: 409, remediation: 'End what is below it first: GET /v1/ledger shows its agents and tasks.' },
  transfer_to_itself: { status: 400, remediation: 'Name two different balances: where tokens come from and where they go.' },
  balance_too_low: { status: 402, remediation: 'There are only `context.available` tokens. Ask for less, or for more tokens first: from the parent, by a request that a person approves, or with the next month’s grant.' },
  account_owes: { status: 402, remediation: 'The account has used more than it could pay, so nothing new is begun. Ask whoever owns the installation for tokens, of which what is owed is paid first, or wait for the next month’s grant. GET /v1/ledger shows how much it is in `owed`.' },
  hold_not_found: { status: 404, remediation: 'Check the id: GET /v1/ledger/holds lists the holds of the account.' },
  hold_conflict: { status: 409, remediation: 'This id was used for another hold. Use a new id for a new hold, or repeat the first one exactly.' },
  hold_over: { status: 409, remediation: 'The hold was committed or released before and stays so. Use a new hold for new work.' },
  hold_sent: { status: 409, remediation: 'What it was held for has been sent and may have cost something, so it can not be released. End it with a commit of what it has cost, be it 0.' },
  commit_above_hold: { status: 409, remediation: 'Send a commit of at most what is held, `context.available`, or one that says `absorb`, so that the platform bears the rest.' },
  refund_above_cost: { status: 409, remediation: 'Send at most `context.available`: so much of what was paid is not given back yet.' },
  key_conflict: { status: 409, remediation: 'This key was used for something else in this ledger. Use a new key for a new operation, or repeat the first one exactly.' },
  ledger_full: { status: 409, remediation: 'The account’s ledger can not count more tokens than 9,007,199,254 in all. Use another account.' },
  meter_not_priced: { status: 409, remediation: 'The rate card has no price for this. The operator should add `context.meter` to the file that DELTA_RATE_CARD names, with 0 where it is to cost nothing, and restart.' },
  purse_limit_reached: { status: 409, remediation: 'Archive agents that are no longer needed, and end tasks: `context.limit` of both together may live at once, whatever the plan allows.' },
  plan_limit_reached: { status: 402, remediation: 'The account’s plan allows `context.limit` of these. Archive or stop what is no longer needed, wait for the next month where it counts hours, or ask the owner of the installation for another plan.' },

  // Models
  model_key_missing: { status: 409, remediation: 'The operator should set `context.variable` and restart the server, or an owner or admin send the account’s own key with PUT /v1/model-keys/{provider} where `context.provider` is anthropic or google. GET /v1/models shows what can be used now; everything but models works without, and `delta demo` plays a recorded task.' },
  model_key_refused: { status: 502, remediation: 'The provider does not take the key. Send a valid one with PUT /v1/model-keys/{provider} where it is the account’s own, else the operator should set the variable anew and restart. The provider’s own words are in the message.' },
  model_key_unreadable: { status: 409, remediation: 'The account’s key was sealed with another SECRET_KEY. Send it again with PUT /v1/model-keys/{provider}, or remove it with DELETE to use the operator’s.' },
  model_key_not_found: { status: 404, remediation: 'Check the provider: GET /v1/model-keys lists those that the account has a key of its own for. Models are asked with the operator’s otherwise.' },
  model_not_found: { status: 404, remediation: 'Name a model as `<provider>/<name>` with provider anthropic, google or openai: GET /v1/models lists those that can be used.' },
  model_not_priced: { status: 409, remediation: 'The operator should add `context.meters` to the file that DELTA_RATE_CARD names, or, where it is to cost nothing because it runs on the operator’s own machine, name the model in DELTA_LOCAL_MODELS; then restart. GET /v1/models lists what has a price.' },
  model_too_dear: { status: 409, remediation: 'Allow a higher `maxPrice`, or name a model that costs less: GET /v1/models shows the prices.' },
  model_too_long: { status: 413, remediation: 'The conversation is longer than the model takes. Shorten it or begin anew, or choose a model with a longer context: GET /v1/models shows `contextTokens`.' },
  model_refused: { status: 502, remediation: 'The provider refused the request for the reason in the message, and would again. Change the request, or use another model.' },
  model_unavailable: { status: 503, remediation: 'The provider did not answer after several tries. Try again, after `context.retryAfterMs` where it is there, or name another model as a fall-back.' },

  // Workspaces
  workspace_not_found: { status: 404, remediation: 'Check the id or name, or list yours with GET /v1/workspaces.' },
  workspace_in_use: { status: 409, remediation: 'Stop the sandbox named in `context.sandboxId`, or send `ifHeld: "join"` to work in that one, or fork the workspace and start on the fork.' },
  workspace_name_taken: { status: 409, remediation: 'Choose another name, or use the workspace named in `context.workspaceId`.' },
  workspace_conflict: { status: 409, remediation: 'Something else changed the workspace at the same moment. Look at it with GET /v1/workspaces/{id} and try again.' },
  workspace_limit_reached: { status: 429, remediation: 'Remove workspaces you no longer need with DELETE /v1/workspaces/{id}, then try again.' },
  snapshot_not_found: { status: 404, remediation: 'Check the snapshot id, or list those of a workspace with GET /v1/workspaces/{id}/snapshots. Unnamed ones are removed when there are more than the workspace keeps.' },
  snapshot_name_taken: { status: 409, remediation: 'Choose another name, or rename the snapshot in `context.snapshotId` first.' },
  snapshot_in_use: { status: 409, remediation: 'Something stands on this snapshot: `cause` names it. Remove that first, or roll the workspace back to another snapshot.' },
  snapshot_not_saved: { status: 409, remediation: 'Wait until `save.state` of GET /v1/snapshots/{id} is `saved`, then try again; `save.error` there says what hinders it.' },
  snapshot_lost: { status: 409, remediation: 'This snapshot is not on this machine and was never wholly saved. Use another snapshot of the workspace: those whose `save.state` is `saved` can always be fetched.' },

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

  // Storage
  blob_missing: { status: 502, remediation: 'The storage does not hold what this needs. The operator should check that DELTA_STORAGE names the right folder or bucket; start from another snapshot meanwhile.' },
  blob_damaged: { status: 502, remediation: 'What the storage gave back is not what was stored, so it was not used. Start from another snapshot; the operator should restore the blob named in `context` or remove it.' },
  storage_unavailable: { status: 503, remediation: 'The storage can not be reached or is too busy. Nothing is lost and local work goes on; try again in a few minutes. The operator should check the network and the storage service.' },
  storage_refused: { status: 502, remediation: 'The storage refused the request for the reason in the message. The operator should check the DELTA_STORAGE and DELTA_S3_ settings, the credentials and their rights, then restart the server.' },
  storage_key_wrong: { status: 503, remediation: 'The operator should set DELTA_STORAGE_KEY to the key with which this was encrypted and restart the server. Without that key it can not be read by anyone.' },
  storage_failed: { status: 503, remediation: 'Nothing more is written since the storage folder reported an error of its disk; reading goes on. Tell the operator to check the disk and restart the server.' },

  // The guest and the driver
  guest_unreachable: { status: 502, remediation: 'The sandbox does not answer. Try again in a second; if it repeats, stop and start it, or kill it and create a new one.' },
  guest_protocol_error: { status: 502, remediation: 'The sandbox sent something invalid and its connection was closed. Stop and start it, or kill it; do not trust what runs in it.' },
  guest_limit_reached: { status: 429, remediation: 'The sandbox has too many operations open, processes or files. End some of them, then try again.' },
  guest_timed_out: { status: 504, remediation: 'The sandbox took too long to answer. It may be short of CPU or memory: look at GET /v1/sandboxes/{id}/metrics, then try again.' },
  driver_failed: { status: 502, remediation: 'The operation on the machine failed for the reason in `cause`. Try once more; if it repeats, the operator should run `delta doctor`.' },
  driver_timed_out: { status: 504, remediation: 'The machine took too long. Look at the state with GET before trying again, since the operation may still complete.' },
  driver_unavailable: { status: 503, remediation: 'The privileged helper is not there, usually because the server is restarting. Try again in a few seconds.' },
  pool_read_only: { status: 503, remediation: 'The storage pool turned read-only after a write error; what was written before it can mostly still be read: save what you need. The operator should free disk space, stop the server with its sandboxes (Ctrl-C) and start it again.' },
  disk_not_found: { status: 404, remediation: 'A disk, snapshot or volume that this needs is not on this machine. List what there is, and use an id as it was returned.' },
  disk_exists: { status: 409, remediation: 'There is a disk, snapshot or volume of this id already. Use what is there, or make another with a new id.' },
  disk_in_use: { status: 409, remediation: 'Something still stands on this disk, snapshot or volume: `cause` names it. End or remove that first, then try again.' },
  layer_invalid: { status: 400, remediation: 'The layer is not what its description says, or can not be unpacked safely: `cause` names the entry or the rule it breaks. Correct the image where it was made, then import it again.' },
  layer_too_large: { status: 413, remediation: 'The layer holds more than this disk or installation allows: `cause` names the limit. Create the workspace with a larger `diskMb`, or use a smaller image.' },

  // Backup and restore
  backup_invalid: { status: 400, remediation: 'Nothing was changed. Send the whole file as `delta backup` wrote it; `cause` says what is wrong with this one. Take another copy or an earlier backup if it was cut or changed.' },
  backup_too_new: { status: 400, remediation: 'Nothing was changed. Restore it with the version that made it or a later one, then start that one.' },
  backup_passphrase_wrong: { status: 400, remediation: 'Nothing was changed. Send the passphrase with which the backup was sealed; nobody can open it without.' },
  restore_not_empty: { status: 409, remediation: 'Restore into a new data folder or an empty database. If all that this platform holds may be given up, send `replace=true` (`delta restore FILE --replace`); make a backup of it before.' },
  restore_in_progress: { status: 409, remediation: 'Wait until the other restore has ended, then try again.' },
  restore_among_servers: { status: 409, remediation: 'Stop every other server that has this database open, then try again: they would go on with what they remember of before.' },
  restore_not_found: { status: 404, remediation: 'Send the backup again with POST /v1/restores: one that waits is forgotten when the server starts or another is sent.' },

  // The server itself
  internal: { status: 500, remediation: 'This is a fault of the server. Try once more; if it repeats, report it to the operator with the requestId, which finds it in the log.' },
  config_invalid: { status: 500, remediation: 'Correct the environment variable named in the message and start the server again.' },
  shutting_down: { status: 503, remediation: 'The server is stopping or restarting. Try again in a few seconds.' },
  database_busy: { status: 503, remediation: 'Too many operations wait for the database. Try again after the time in the Retry-After header.' },
  database_unavailable: { status: 503, remediation: 'The database can not be reached. Try again in a few seconds; the operator should check DATABASE_URL and the database server.' },
  database_failed: { status: 503, remediation: 'Nothing more is written since the database reported a storage error. Tell the operator to check the disk and restart the server; reading still works.' },
  migration_failed: { status: 500, remediation: 'The server did not start, and nothing of this migration was kept. Read the reason in the message, often a full disk or missing rights; mend it and start again, or run the version from before.' },
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
      error: {
        code,
        message: withoutSecrets(message),
        ...(cause && { cause: withoutSecrets(cause) }),
        remediation,
        requestId,
        ...(context && { context }),
      },
    }
  }
}

function shownCause(cause: unknown): string | undefined {
  if (typeof cause === 'string') return cause
  return cause instanceof DeltaError ? cause.message : undefined
}
