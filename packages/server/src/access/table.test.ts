import { randomBytes } from 'node:crypto'
import { AsyncLocalStorage } from 'node:async_hooks'
import { mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, describe, expect, test } from 'vitest'
import { createDirectory } from '../agents/directory.ts'
import { agentMigrations } from '../agents/migrations.ts'
import { openTokenRequests } from '../agents/requests/feature.ts'
import { tokenRequestMigrations } from '../agents/requests/migrations.ts'
import { tokensApproval } from '../agents/requests/approval.ts'
import { requestTokensSchema } from '../agents/requests/schema.ts'
import { agentsFeature } from '../agents/routes.ts'
import { createAgentSchema } from '../agents/schema.ts'
import { createAgents } from '../agents/service.ts'
import { createModelLedger } from '../agents/testing.ts'
import { createApp } from '../app.ts'
import { approvalMigrations } from '../approvals/migrations.ts'
import { approvalsFeature } from '../approvals/routes.ts'
import { createApprovals } from '../approvals/service.ts'
import { createModelDriver } from '../drivers/testing/model.ts'
import { systemClock } from '../kernel/clock.ts'
import type { Database } from '../kernel/db/database.ts'
import { openInSharedThread } from '../kernel/db/testing-threads.ts'
import { DeltaError } from '../kernel/errors.ts'
import type { Api, Feature } from '../kernel/http/api.ts'
import { createClientAddress } from '../kernel/http/client-address.ts'
import { testHashBody } from '../kernel/http/testing-body-hash.ts'
import { newId } from '../kernel/ids.ts'
import { silentLogger } from '../kernel/log.ts'
import { createMetrics } from '../kernel/metrics.ts'
import { createLedgerApi } from '../ledger/api.ts'
import { ledgerMigrations } from '../ledger/migrations.ts'
import { firstCard } from '../ledger/rate-card.ts'
import { createLedgerReading } from '../ledger/reading.ts'
import { ledgerFeature } from '../ledger/routes.ts'
import { createLedger } from '../ledger/service.ts'
import { modelMigrations } from '../models/migrations.ts'
import { providers } from '../models/providers/providers.ts'
import { modelsFeature } from '../models/routes.ts'
import { createModels } from '../models/service.ts'
import { backupsFeature } from '../operations/backup/routes.ts'
import { createBackups } from '../operations/backup/service.ts'
import { operationsFeature } from '../operations/routes.ts'
import { createSpace } from '../storage/space.ts'
import { askForHost, egressApproval } from '../sandboxes/egress/requests.ts'
import { egressFeature } from '../sandboxes/egress/routes.ts'
import { createEgress } from '../sandboxes/egress/service.ts'
import { addExecRoutes } from '../sandboxes/execs/routes.ts'
import { createExecs } from '../sandboxes/execs/service.ts'
import { createModelGuest } from '../sandboxes/execs/testing.ts'
import { addFileRoutes } from '../sandboxes/files/routes.ts'
import { createFiles } from '../sandboxes/files/service.ts'
import { sandboxMigrations } from '../sandboxes/migrations.ts'
import { openPortsFeature } from '../sandboxes/ports/feature.ts'
import { portMigrations } from '../sandboxes/ports/migrations.ts'
import { sandboxesFeature } from '../sandboxes/routes.ts'
import { createSandboxSchema } from '../sandboxes/schema.ts'
import { createSandboxes } from '../sandboxes/service.ts'
import { silentGuest, testSeal } from '../sandboxes/testing.ts'
import { createBlobStore } from '../storage/blob-store.ts'
import { openFolder } from '../storage/folder/folder.ts'
import { openTasks } from '../tasks/feature.ts'
import { taskMigrations } from '../tasks/migrations.ts'
import { scheduleMigrations } from '../tasks/schedules/migrations.ts'
import { schedulesFeature } from '../tasks/schedules/routes.ts'
import { createSchedules } from '../tasks/schedules/service.ts'
import { webhookMigrations } from '../tasks/webhooks/migrations.ts'
import { webhooksFeature } from '../tasks/webhooks/routes.ts'
import { createWebhooks } from '../tasks/webhooks/service.ts'
import { templateMigrations } from '../templates/migrations.ts'
import { templatesFeature } from '../templates/routes.ts'
import { startTemplates } from '../templates/testing.ts'
import { createConnections } from '../terminal/connections.ts'
import { terminalsFeature } from '../terminal/routes.ts'
import { createTerminals } from '../terminal/service.ts'
import { workspaceMigrations } from '../workspaces/migrations.ts'
import { workspacesFeature } from '../workspaces/routes.ts'
import { createSnapshotSchema, createWorkspaceSchema } from '../workspaces/schema.ts'
import { createWorkspaces } from '../workspaces/service.ts'
import { volumeMigrations } from '../workspaces/volumes/migrations.ts'
import { volumesFeature } from '../workspaces/volumes/routes.ts'
import { createVolumeSchema } from '../workspaces/volumes/schema.ts'
import { createVolumes } from '../workspaces/volumes/service.ts'
import { openAccessTokens } from './access-tokens.ts'
import { agentTokensFeature } from './agent-tokens/routes.ts'
import { createAgentTokens } from './agent-tokens/service.ts'
import { auditMigrations } from './audit/migrations.ts'
import { auditFeature } from './audit/routes.ts'
import { createAudit } from './audit/service.ts'
import { mailMigrations } from './mail/migrations.ts'
import { mailFeature } from './mail/routes.ts'
import { createMailbox } from './mail/service.ts'
import { createCookies } from './people/cookies.ts'
import { peopleMigrations } from './people/migrations.ts'
import { peopleFeature, requireDataFolderKey, requireOperator } from './people/routes.ts'
import { createPeople } from './people/service.ts'
import { keyMigrations } from './keys/migrations.ts'
import { keysFeature } from './keys/routes.ts'
import { createKeySchema } from './keys/schema.ts'
import { createKeys } from './keys/service.ts'
import { createKeyStore } from './keys/store.ts'
import { accessMigrations } from './migrations.ts'
import type { AgentKind, Principal, Role } from './principal.ts'
import { openRevocations } from './revocations.ts'
import { right } from './rights.ts'
import { accessFeature } from './routes.ts'
import { createSecrets } from './secrets.ts'
import { testCaller, testDoor, testKeyPrincipal, uncounted } from './testing.ts'

// Every route × every kind of caller × its own thing, somebody else's and one that never was. What is expected is written here by hand and does not
// look at rights.ts: a change there that nobody meant turns this red.

/** The least role that has each right; `operator`: an admin, and only in the operator's account. */
const leastRole = {
  'read:sandboxes': 'viewer',
  'write:sandboxes': 'member',
  'read:exec': 'viewer',
  'write:exec': 'member',
  'read:files': 'member',
  'write:files': 'member',
  'read:workspaces': 'viewer',
  'write:workspaces': 'member',
  'read:agents': 'viewer',
  'write:agents': 'member',
  allocate: 'member',
  'read:operations': 'operator',
  'read:keys': 'member',
  'write:keys': 'member',
  'read:audit': 'admin',
  delegate: 'member',
  request: 'member',
  approve: 'member',
  'read:account': 'viewer',
  'write:account': 'owner',
  'read:members': 'viewer',
  'write:members': 'admin',
  'write:operations': 'operator',
  'read:billing': 'viewer',
  'write:billing': 'admin',
} as const

/** What no agent may do, whatever its token says. */
const notForAgents = [
  'read:operations',
  'write:operations',
  'read:keys',
  'write:keys',
  'read:audit',
  'write:members',
  'write:account',
  'write:billing',
  'approve',
]
type Used = keyof typeof leastRole

/** Kinds of things of which a path names one, by their parameters in order. */
type Kind =
  | 'agent'
  | 'sandbox'
  | 'workspace'
  | 'snapshot'
  | 'volume'
  | 'template'
  | 'templateName'
  | 'key'
  | 'approval'
  | 'tokenRequest'
  | 'other'

interface Row {
  /** `nothing`: whoever is known. */
  right: Used | 'nothing'
  /** What the path's parameters are. @default by the first word of the path */
  kinds?: Kind[]
  /** What it takes to reach the thing: without, it would be refused for its body. */
  body?: object | string
  query?: string
}

const sandboxPaths = {
  'POST /v1/sandboxes': { right: 'write:sandboxes' },
  'GET /v1/sandboxes': { right: 'read:sandboxes' },
  'GET /v1/sandboxes/{id}': { right: 'read:sandboxes' },
  'PATCH /v1/sandboxes/{id}': { right: 'write:sandboxes', body: { metadata: { a: 'b' } } },
  'DELETE /v1/sandboxes/{id}': { right: 'write:sandboxes' },
  'GET /v1/sandboxes/{id}/metrics': { right: 'read:sandboxes' },
  'GET /v1/sandboxes/{id}/logs': { right: 'read:sandboxes' },
  'POST /v1/sandboxes/{id}/pause': { right: 'write:sandboxes' },
  'POST /v1/sandboxes/{id}/resume': { right: 'write:sandboxes' },
  'POST /v1/sandboxes/{id}/stop': { right: 'write:sandboxes' },
  'POST /v1/sandboxes/{id}/start': { right: 'write:sandboxes' },
  'POST /v1/sandboxes/{id}/rollback': {
    right: 'write:sandboxes',
    body: { snapshotId: 'snp_aaaaaaaaaaaaaaaaaaaa' },
  },
  'GET /v1/sandboxes/{id}/network': { right: 'read:sandboxes' },
  'PUT /v1/sandboxes/{id}/network': { right: 'write:sandboxes', body: { egress: 'none' } },
  'POST /v1/sandboxes/{id}/network/allow': { right: 'write:sandboxes', body: { hosts: ['example.com'] } },
  'POST /v1/sandboxes/{id}/network/requests': {
    right: 'request',
    body: { host: 'example.com', reason: 'to test' },
  },
  'GET /v1/sandboxes/{id}/egress': { right: 'read:sandboxes' },
  'GET /v1/sandboxes/{id}/ports': { right: 'read:sandboxes' },
  'PUT /v1/sandboxes/{id}/ports': { right: 'write:sandboxes', body: { public: [] } },
  'POST /v1/sandboxes/{id}/access-tokens': { right: 'write:exec', body: { scopes: ['terminal'] } },
  'DELETE /v1/sandboxes/{id}/access-tokens': { right: 'write:exec' },
  'POST /v1/sandboxes/{id}/execs': { right: 'write:exec', body: { cmd: 'true' } },
  'POST /v1/sandboxes/{id}/code': { right: 'write:exec', body: { source: '1', language: 'python' } },
  'GET /v1/sandboxes/{id}/execs': { right: 'read:exec' },
  'GET /v1/sandboxes/{id}/execs/{execId}': { right: 'read:exec' },
  'GET /v1/sandboxes/{id}/execs/{execId}/events': { right: 'read:exec' },
  'POST /v1/sandboxes/{id}/execs/{execId}/stdin': { right: 'write:exec', body: { data: 'x' } },
  'POST /v1/sandboxes/{id}/execs/{execId}/signal': { right: 'write:exec', body: { signal: 'SIGTERM' } },
  'POST /v1/sandboxes/{id}/execs/{execId}/resize': { right: 'write:exec', body: { cols: 80, rows: 24 } },
  'POST /v1/sandboxes/{id}/terminals': { right: 'write:exec' },
  'GET /v1/sandboxes/{id}/terminals': { right: 'read:exec' },
  'PATCH /v1/sandboxes/{id}/terminals/{terminalId}': { right: 'write:exec', body: { cols: 80, rows: 24 } },
  'DELETE /v1/sandboxes/{id}/terminals/{terminalId}': { right: 'write:exec' },
  'GET /v1/sandboxes/{id}/files': { right: 'read:files', query: '?path=/a' },
  'PUT /v1/sandboxes/{id}/files': { right: 'write:files', query: '?path=/a', body: 'bytes' },
  'DELETE /v1/sandboxes/{id}/files': { right: 'write:files', query: '?path=/a' },
  'GET /v1/sandboxes/{id}/entries': { right: 'read:files', query: '?path=/a' },
  'GET /v1/sandboxes/{id}/entry': { right: 'read:files', query: '?path=/a' },
  'PATCH /v1/sandboxes/{id}/entry': { right: 'write:files', query: '?path=/a', body: { mode: '0644' } },
  'POST /v1/sandboxes/{id}/directories': { right: 'write:files', query: '?path=/a', body: { path: '/a' } },
  'POST /v1/sandboxes/{id}/move': { right: 'write:files', body: { from: '/a', to: '/b' } },
  'GET /v1/sandboxes/{id}/watch': { right: 'read:files', query: '?path=/a' },
  'GET /v1/sandboxes/{id}/archive': { right: 'read:files', query: '?path=/a' },
  'PUT /v1/sandboxes/{id}/archive': { right: 'write:files', query: '?path=/a', body: 'bytes' },
} as const satisfies Record<string, Row>

const otherPaths = {
  'POST /v1/volumes': { right: 'write:workspaces' },
  'GET /v1/volumes': { right: 'read:workspaces' },
  'GET /v1/volumes/{id}': { right: 'read:workspaces' },
  'DELETE /v1/volumes/{id}': { right: 'write:workspaces' },
  'POST /v1/workspaces': { right: 'write:workspaces' },
  'GET /v1/workspaces': { right: 'read:workspaces' },
  'POST /v1/workspaces/import': { right: 'write:workspaces' },
  'POST /v1/workspaces/restore': { right: 'write:workspaces' },
  'GET /v1/workspaces/{id}': { right: 'read:workspaces' },
  'PATCH /v1/workspaces/{id}': { right: 'write:workspaces', body: { name: 'another' } },
  'DELETE /v1/workspaces/{id}': { right: 'write:workspaces' },
  'POST /v1/workspaces/{id}/snapshots': { right: 'write:workspaces' },
  'GET /v1/workspaces/{id}/snapshots': { right: 'read:workspaces' },
  'POST /v1/workspaces/{id}/rollback': { right: 'write:workspaces', body: { snapshotId: 'snp_aaaaaaaaaaaaaaaaaaaa' } },
  'POST /v1/workspaces/{id}/forks': { right: 'write:workspaces' },
  'POST /v1/snapshots/{id}/forks': { right: 'write:workspaces' },
  'GET /v1/snapshots/{id}': { right: 'read:workspaces' },
  'PATCH /v1/snapshots/{id}': { right: 'write:workspaces', body: { comment: 'x' } },
  'DELETE /v1/snapshots/{id}': { right: 'write:workspaces' },
  'GET /v1/snapshots/{id}/changes': { right: 'read:workspaces' },
  'GET /v1/snapshots/{id}/diff/{other}': { right: 'read:workspaces', kinds: ['snapshot', 'snapshot'] },
  'GET /v1/snapshots/{id}/files': { right: 'read:files', query: '?path=/a' },
  'GET /v1/snapshots/{id}/image': { right: 'read:files' },
  'GET /v1/templates': { right: 'read:workspaces' },
  'POST /v1/templates': { right: 'write:workspaces' },
  'POST /v1/templates/import': { right: 'write:workspaces' },
  'POST /v1/templates/builds': { right: 'write:workspaces' },
  'POST /v1/templates/{name}/build': { right: 'write:workspaces', kinds: ['other'] },
  'GET /v1/templates/{template}': { right: 'read:workspaces' },
  'GET /v1/templates/{name}/versions': { right: 'read:workspaces', kinds: ['templateName'] },
  'DELETE /v1/templates/{template}': { right: 'write:workspaces' },
  'POST /v1/templates/{template}/cancel': { right: 'write:workspaces' },
  'PUT /v1/templates/{name}/tags/{tag}': {
    right: 'write:workspaces',
    kinds: ['templateName', 'other'],
    body: { version: 1 },
  },
  'DELETE /v1/templates/{name}/tags/{tag}': { right: 'write:workspaces', kinds: ['templateName', 'other'] },
  'GET /v1/templates/{template}/log': { right: 'read:workspaces' },
  'POST /v1/keys': { right: 'write:keys', body: { name: 'x', rights: ['read:files'] } },
  'GET /v1/keys': { right: 'read:keys' },
  'GET /v1/keys/{id}': { right: 'read:keys' },
  'POST /v1/keys/{id}/rotate': { right: 'write:keys' },
  'DELETE /v1/keys/{id}': { right: 'write:keys' },
  'POST /v1/agent-tokens': { right: 'delegate', body: { agentId: 'agt_a', agentKind: 'bot', rights: [] } },
  'POST /v1/agent-tokens/revoke': { right: 'delegate', body: { token: 'x' } },
  'GET /v1/approvals': { right: 'nothing' },
  'GET /v1/approvals/events': { right: 'nothing' },
  'GET /v1/approvals/{id}': { right: 'nothing' },
  'POST /v1/approvals/{id}/approve': { right: 'approve', body: { actionHash: '0'.repeat(64) } },
  'POST /v1/approvals/{id}/refuse': { right: 'approve', body: { reason: 'no' } },
  'POST /v1/approvals/{id}/cancel': { right: 'nothing' },
  'GET /v1/ledger': { right: 'read:billing' },
  'GET /v1/ledger/transfers': { right: 'read:billing' },
  'GET /v1/ledger/holds': { right: 'read:billing' },
  'GET /v1/ledger/usage': { right: 'read:billing' },
  'GET /v1/ledger/events': { right: 'read:billing' },
  'GET /v1/ledger/forecast': { right: 'read:billing' },
  'GET /v1/ledger/rates': { right: 'read:billing' },
  'GET /v1/ledger/plan': { right: 'read:billing' },
  'POST /v1/ledger/transfers': {
    right: 'allocate',
    body: { tokens: 1, from: 'reserve', to: 'agt_a', reason: 'to test' },
  },
  'POST /v1/ledger/grants': {
    right: 'write:operations',
    body: { tokens: 1, sort: 'bought', reason: 'to test' },
  },
  'POST /v1/ledger/refunds': {
    right: 'write:operations',
    body: { holdId: 'hld_aaaaaaaaaaaaaaaaaaaa', tokens: 1, reason: 'to test' },
  },
  'PUT /v1/ledger/plan': { right: 'write:operations', body: { plan: 'free' } },
  'GET /v1/models': { right: 'nothing' },
  'GET /v1/model-keys': { right: 'read:keys' },
  'PUT /v1/model-keys/{provider}': { right: 'write:billing', kinds: ['other'], body: { apiKey: 'sk-12345678' } },
  'DELETE /v1/model-keys/{provider}': { right: 'write:billing', kinds: ['other'] },
  'GET /v1/audit': { right: 'read:audit' },
  'GET /v1/audit/head': { right: 'read:audit' },
  'GET /v1/audit/export': { right: 'read:audit' },
  'GET /v1/doctor': { right: 'read:operations' },
  'GET /v1/config': { right: 'read:operations' },
  'GET /metrics': { right: 'read:operations' },
  'GET /v1/restores': { right: 'read:operations' },
  'POST /v1/backups': { right: 'write:operations', body: {} },
  'POST /v1/restores': { right: 'write:operations' },
  'POST /v1/restores/{id}/commit': { right: 'write:operations', kinds: ['other'] },
} as const satisfies Record<string, Row>

const agentPaths = {
  'POST /v1/agents': { right: 'write:agents', body: { name: 'x' } },
  'GET /v1/agents': { right: 'read:agents' },
  'GET /v1/agents/tree': { right: 'read:agents' },
  'GET /v1/agents/{id}': { right: 'read:agents' },
  'PATCH /v1/agents/{id}': { right: 'write:agents', body: { name: 'another' } },
  'DELETE /v1/agents/{id}': { right: 'write:agents' },
  'POST /v1/agents/{id}/archive': { right: 'write:agents' },
  'POST /v1/agents/{id}/pause': { right: 'write:agents' },
  'POST /v1/agents/{id}/resume': { right: 'write:agents' },
  'POST /v1/agents/{id}/tokens': { right: 'allocate', body: { tokens: 1 } },
  'POST /v1/agents/{id}/token-requests': { right: 'request', body: { tokens: 1, reason: 'to test' } },
  'GET /v1/token-requests': { right: 'nothing' },
  'GET /v1/token-requests/events': { right: 'nothing' },
  'GET /v1/token-requests/{id}': { right: 'nothing' },
  'POST /v1/token-requests/{id}/approve': { right: 'nothing', body: { tokens: 1 } },
  'POST /v1/token-requests/{id}/refuse': { right: 'nothing', body: { reason: 'no' } },
  'POST /v1/token-requests/{id}/cancel': { right: 'nothing' },
  'POST /v1/agents/{id}/exec': { right: 'write:exec', body: { cmd: 'true' } },
} as const satisfies Record<string, Row>

/** What can be done with a sandbox that is an agent's computer, by its path below the agent. */
const ofComputers =
  /^\w+ \/v1\/sandboxes\/\{id\}\/(execs|code|terminals|files|entries|entry|directories|move|watch|archive)\b/
const computerPaths: Record<string, Row> = Object.fromEntries(
  Object.entries(sandboxPaths)
    .filter(([route]) => ofComputers.test(route))
    .map(([route, row]) => [route.replace('/sandboxes/', '/agents/'), row]),
)

/** Whether a task, a schedule or a webhook is one that they may touch is known where it is looked up; tests of these are beside them. */
const taskPaths: Record<string, Row> = Object.fromEntries(
  [
    'POST /v1/tasks',
    'GET /v1/tasks',
    'GET /v1/tasks/{id}',
    'GET /v1/tasks/{id}/events',
    'POST /v1/tasks/{id}/messages',
    'POST /v1/tasks/{id}/interrupt',
    'POST /v1/tasks/{id}/pause',
    'POST /v1/tasks/{id}/resume',
    'POST /v1/tasks/{id}/cancel',
    'POST /v1/tasks/{id}/tokens',
    'POST /v1/tasks/{id}/undo',
    'POST /v1/tasks/{id}/fork',
    'GET /v1/tasks/{id}/result',
    'GET /v1/tasks/{id}/transcript',
    'POST /v1/schedules',
    'GET /v1/schedules',
    'GET /v1/schedules/{id}',
    'PATCH /v1/schedules/{id}',
    'DELETE /v1/schedules/{id}',
    'POST /v1/schedules/{id}/pause',
    'POST /v1/schedules/{id}/resume',
    'POST /v1/schedules/{id}/run',
    'GET /v1/schedules/{id}/runs',
    'POST /v1/webhooks',
    'GET /v1/webhooks',
    'GET /v1/webhooks/{id}',
    'PATCH /v1/webhooks/{id}',
    'DELETE /v1/webhooks/{id}',
    'POST /v1/webhooks/{id}/test',
    'GET /v1/webhooks/{id}/deliveries',
    'GET /v1/webhooks/{id}/deliveries/{deliveryId}',
    'POST /v1/webhooks/{id}/deliveries/{deliveryId}/redeliver',
  ].map((route) => [route, { right: 'nothing', kinds: ['other', 'other'] }]),
)

const peoplePaths = {
  'GET /v1/mail': { right: 'write:operations' },
  'POST /v1/users/links': { right: 'write:operations' },
  'POST /v1/users/totp/reset': { right: 'write:operations' },
  'POST /v1/auth/switch': { right: 'nothing' },
  'POST /v1/auth/password/change': { right: 'nothing' },
  'POST /v1/auth/totp': { right: 'nothing' },
  'DELETE /v1/auth/totp': { right: 'nothing' },
  'POST /v1/auth/totp/confirm': { right: 'nothing' },
  'POST /v1/auth/totp/recovery-codes': { right: 'nothing' },
  'GET /v1/users/me': { right: 'nothing' },
  'PATCH /v1/users/me': { right: 'nothing' },
  'GET /v1/sessions': { right: 'nothing' },
  'DELETE /v1/sessions': { right: 'nothing' },
  'DELETE /v1/sessions/{id}': { right: 'nothing', kinds: ['other'] },
  'GET /v1/account': { right: 'read:account' },
  'PATCH /v1/account': { right: 'write:account' },
  'POST /v1/account/leave': { right: 'nothing' },
  'GET /v1/account/members': { right: 'read:members' },
  'PATCH /v1/account/members/{id}': { right: 'write:members', kinds: ['other'] },
  'DELETE /v1/account/members/{id}': { right: 'write:members', kinds: ['other'] },
  'POST /v1/invitations': { right: 'write:members' },
  'GET /v1/invitations': { right: 'read:members' },
  'DELETE /v1/invitations/{id}': { right: 'write:members', kinds: ['other'] },
} as const satisfies Record<string, Row>

/** Those by which people come in: there is nobody yet whose rights could be asked. */
const publicPaths = [
  'register',
  'verify',
  'owner',
  'login',
  'link',
  'invitation',
  'refresh',
  'logout',
  'password/forgot',
  'password/reset',
].map((path) => `POST /v1/auth/${path}`)

const table: Record<string, Row> = {
  ...sandboxPaths,
  ...otherPaths,
  ...agentPaths,
  ...computerPaths,
  ...taskPaths,
  ...peoplePaths,
}

/** Open to everybody, and what is served before the router (its own tests are beside it). */
const open = ['GET /health', 'GET /openapi.json']
/** Pages without a script behind the links of mails; what they send goes to the routes of people. */
const pages = ['owner', 'verify', 'reset', 'signin', 'invitation', 'forgot'].flatMap((page) => [
  `GET /auth/${page}`,
  `POST /auth/${page}`,
])
const elsewhere = [
  'GET /v1/sandboxes/{id}/terminals/{terminalId}/connect',
  'GET /v1/agents/{id}/terminals/{terminalId}/connect',
  'GET /v1/sandboxes/{id}/ports/{port}/{path}',
]

const roles = ['viewer', 'member', 'admin', 'owner'] as const
const agentKinds = ['main', 'bot', 'messenger'] as const
const allRights = Object.keys(leastRole) as Used[]

interface Case {
  principal: Principal
  /** Whether they have the right, by hand. */
  has(name: Used): boolean
  /** Of sandboxes, only this one is theirs to know of. */
  onlySandbox?: string
  /** Of agents. */
  onlyAgent?: string
}

function roleHas(role: Role, name: Used, accountId: string): boolean {
  const least = leastRole[name]
  if (least === 'operator') return accountId === 'acc_default' && (role === 'admin' || role === 'owner')
  return roles.indexOf(role) >= roles.indexOf(least)
}

/** Everybody, by the name that a failure shows. */
function callersOf(
  accountId: string,
  { agent, ...sandboxes }: { own: string; sibling: string; agent: string },
): Record<string, Case> {
  const cases: Record<string, Case> = {}
  for (const role of roles) {
    cases[`${role}’s session`] = {
      principal: { kind: 'user', accountId, userId: `usr_${role}`, sessionId: 'ses_a', role, secondFactor: false },
      has: (name) => roleHas(role, name, accountId),
    }
    cases[`${role}’s key with everything`] = {
      principal: testKeyPrincipal({ accountId, role, rights: [...allRights, 'read:*', 'write:*'].map(right) }),
      has: (name) => roleHas(role, name, accountId),
    }
  }
  for (const own of allRights) {
    cases[`key with ${own}`] = {
      principal: testKeyPrincipal({ accountId, rights: [right(own)] }),
      has: (name) => name === own && roleHas('owner', name, accountId),
    }
  }
  cases['key without rights'] = { principal: testKeyPrincipal({ accountId, rights: [] }), has: () => false }
  for (const which of ['own', 'sibling'] as const) {
    cases[`key limited to the ${which} sandbox`] = {
      principal: testKeyPrincipal({ accountId, sandboxes: [sandboxes[which]] }),
      has: (name) => roleHas('owner', name, accountId),
      onlySandbox: sandboxes[which],
    }
  }
  for (const [which, id] of [
    ['the own agent', agent],
    ['another agent', 'agt_a'],
  ] as const) {
    cases[`key limited to ${which}`] = {
      principal: testKeyPrincipal({ accountId, agents: [id] }),
      has: (name) => roleHas('owner', name, accountId),
      onlyAgent: id,
    }
  }
  for (const agentKind of agentKinds) {
    cases[`${agentKind} with everything`] = agentCase(accountId, agentKind, [...allRights])
    cases[`${agentKind} that reads files`] = agentCase(accountId, agentKind, ['read:files'])
  }
  return cases
}

function agentCase(accountId: string, agentKind: AgentKind, own: Used[]): Case {
  return {
    principal: {
      kind: 'agent',
      accountId,
      agentId: `agt_${agentKind}`,
      agentKind,
      jti: 'tok_a',
      rights: [...own, 'egress'].map(right),
    },
    has: (name) => own.includes(name) && !notForAgents.includes(name),
  }
}

const accounts = ['acc_default', 'acc_other'] as const
type Things = Record<Exclude<Kind, 'other'>, string> & { sibling: string }

/** What a request asks of the database, told from what goes on in the background. */
const counting = new AsyncLocalStorage<{ operations: number }>()

function counted(database: Database): Database {
  const asks = new Set<string | symbol>(['all', 'first', 'run', 'batch'])
  const seen: Database = new Proxy(database, {
    get(target, name) {
      if (name === 'of') return () => seen
      const work = counting.getStore()
      if (work && asks.has(name)) work.operations += 1
      return Reflect.get(target, name)
    },
  })
  return seen
}

let api: Api
let database: Database
let things: Record<(typeof accounts)[number], Things>
let callers: Record<string, Case>
/** Set: whoever is admitted is told so instead of being served, so that nothing is done. */
let probing = false
const ends: (() => unknown)[] = []

beforeAll(async () => {
  const folder = mkdtempSync(join(tmpdir(), 'delta-table-'))
  ends.push(() => rmSync(folder, { recursive: true }))
  const opened = await openInSharedThread({
    path: join(folder, 'delta.db'),
    log: silentLogger,
    migrations: [
      volumeMigrations,
      workspaceMigrations,
      sandboxMigrations,
      templateMigrations,
      portMigrations,
      accessMigrations,
      keyMigrations,
      peopleMigrations,
      mailMigrations,
      auditMigrations,
      approvalMigrations,
      ledgerMigrations,
      agentMigrations,
      tokenRequestMigrations,
      modelMigrations,
      taskMigrations,
      scheduleMigrations,
      webhookMigrations,
    ].flat(),
  })
  ends.push(opened.close)
  database = counted(opened)
  const shared = {
    database,
    hashBody: testHashBody,
    clock: systemClock,
    log: silentLogger,
    driver: createModelDriver(),
  }
  const blobs = createBlobStore({ objects: await openFolder({ path: join(folder, 'blobs') }) })
  const volumes = createVolumes(shared)
  const workspaces = createWorkspaces({ ...shared, blobs, folder: join(folder, 'layers') })
  const egress = createEgress({ ...shared, connectOutward: () => () => {} })
  const sandboxes = createSandboxes({
    seal: testSeal,
    ...shared,
    egress,
    volumes,
    workspaces,
    connectGuest: silentGuest,
  })
  const { templates, remove } = startTemplates({ database })
  ends.push(remove)
  const model = createModelGuest()
  model.onAsked = ({ peer, channel }) => {
    peer.close(channel, 2, 'the model guest has no files')
    return true
  }
  const door: typeof sandboxes.door = {
    ...sandboxes.door,
    async open(...asked) {
      await sandboxes.door.open(...asked)
      return model.door.open(...asked)
    },
  }
  await workspaces.start()
  ends.push(workspaces.stop)
  await sandboxes.start()
  ends.push(() => sandboxes.stop('leave'))
  const newExecId = () => newId('exe')
  const tokens = await openAccessTokens({
    ...shared,
    callers: { isRevoked: () => false, onRevoked: () => {}, steps: () => [] },
  })
  ends.push(tokens.stop)
  const access = testDoor()
  const ports = await openPortsFeature({
    ...shared,
    door,
    tokens,
    access,
    findSandbox: sandboxes.get,
    count: uncounted,
    clientAddress: createClientAddress([]),
    settings: { host: '127.0.0.1', hosts: [], portsDomain: 'localhost' },
    serverPort: () => 8_000,
  })
  ends.push(() => ports.stop?.('leave'))
  const execs = createExecs({ door, newExecId })
  const terminals = createTerminals({ execs })
  const connections = createConnections({
    terminals,
    access,
    tokens,
    count: uncounted,
    clientAddress: createClientAddress([]),
    goesBy: () => true,
    anyOrigin: false,
    clock: systemClock,
    log: silentLogger,
  })
  const revocations = await openRevocations(shared)
  ends.push(revocations.stop)
  const keyParts = {
    store: createKeyStore(database),
    revocations,
    hasSecondFactor: () => Promise.resolve(false),
    clock: systemClock,
  }
  const keys = createKeys(keyParts)
  const directory = createDirectory({ ...shared, revocations })
  const agents = createAgents({
    ...shared,
    directory,
    ledger: createModelLedger().ledger,
    revocations,
    sandboxes,
    workspaces,
  })
  ends.push(agents.stop)
  const secrets = createSecrets({ secretKey: 'of the table test' })
  const agentTokens = createAgentTokens({
    signing: secrets.signing,
    findRoot: () => null,
    findAgent: directory.findAgent,
    revocations,
    clock: systemClock,
  })
  const audit = createAudit({ ...shared, documents: blobs, seed: secrets.deriveKey('audit heads') })
  ends.push(audit.stop)
  const people = createPeople({
    ...shared,
    secrets,
    revocations,
    sendMail: () => {},
    endKeysSteps: () => [],
    mustRecord: audit.mustWork,
    record: audit.record,
    settings: { publicUrl: 'http://localhost', registration: 'open' },
  })
  const approvals = createApprovals({
    ...shared,
    kinds: [egressApproval(sandboxes), tokensApproval((...asked) => requests.tokenRequests.grant(...asked))],
    hasSecondFactor: people.secondFactor.isOn,
    mayStillAsk: () => Promise.resolve(true),
    record: audit.record,
  })
  ends.push(approvals.stop)
  const ledger = createLedger({
    ...shared,
    rates: firstCard,
    grant: 0,
    planAtStart: () => 'free',
    incarnation: newId('srv'),
  })
  const requests = openTokenRequests({
    ...shared,
    agents,
    agentStore: directory.store,
    approvals,
    ledger,
    record: audit.record,
  })
  const ledgerApi = createLedgerApi({
    ...shared,
    ledger,
    reading: createLedgerReading(database),
    requireAccount: async () => {},
  })
  ends.push(ledgerApi.stop)
  const models = createModels({
    ...shared,
    ledger,
    seal: testSeal,
    providers,
    settings: {
      anthropic: nowhere,
      google: nowhere,
      openai: nowhere,
      defaultModel: undefined,
      localModels: [],
    },
    image: async () => new Uint8Array(),
  })
  const cookies = createCookies({ publicUrl: 'http://localhost' })
  const mailbox = createMailbox({ ...shared, secrets })
  const backups = createBackups({
    ...shared,
    blobs,
    place: { path: '' },
    migrations: [],
    blobsStay: true,
    keepStored: workspaces.keepStored,
    auditHeads: audit.backupHeads,
    secrets: { secretKey: 'of the table test' },
    space: createSpace({ folder: '/', room: shared.driver.room }),
    folder: '/',
    version: 'test',
    restart: () => {},
  })
  const files = createFiles({ door, newExecId, room: () => 'fine' })
  const terminalFeature = terminalsFeature(terminals, connections)
  const { tasks, feature: tasksFeature } = openTasks({
    ...shared,
    blobs,
    agents,
    directory,
    ledger,
    models,
    approvals,
    tokenRequests: requests.tokenRequests,
    sandboxes,
    workspaces,
    tools: {
      execs,
      files,
      ports: ports.service,
      askForHost: (sandboxId, wish, caller) => askForHost(sandboxId, wish, caller, { sandboxes, approvals }),
      connect: () => Promise.reject(new Error('No test of the table reaches the outside')),
    },
    seal: testSeal,
    owner: newId('srv'),
  })
  ends.push(() => tasksFeature.stop?.('leave'))
  const nobody = () => Promise.reject(new Error('No test of the table tells anybody'))
  const ofTasks = {
    ...shared,
    findAgent: directory.findAgent,
    mayStill: () => Promise.resolve(true),
    box: testSeal,
    record: audit.record,
  }
  const schedules = createSchedules({
    ...ofTasks,
    createTask: nobody,
    taskState: async () => undefined,
  })
  const webhooks = createWebhooks({
    ...ofTasks,
    network: { connect: nobody, connectListed: nobody, judge: async () => 'public' as const },
    taskView: (accountId, taskId) => tasks.view(taskId, accountId),
  })
  const features: Feature[] = [
    peopleFeature({ people, cookies, clock: systemClock }),
    mailFeature({ mailbox, requireOperator }),
    auditFeature({ audit }),
    keysFeature({ keys }),
    agentTokensFeature({ agentTokens }),
    accessFeature({ tokens, findSandbox: sandboxes.get }),
    egressFeature({ sandboxes, egress, approvals }),
    approvalsFeature({ approvals }),
    ledgerFeature({ ledger, ledgerApi }),
    modelsFeature({ models }),
    volumesFeature({ volumes }),
    workspacesFeature(workspaces),
    sandboxesFeature(sandboxes),
    { name: 'execs', routes: (routes) => addExecRoutes(routes, execs) },
    { name: 'files', routes: (routes) => addFileRoutes(routes, files) },
    ports,
    terminalFeature,
    templatesFeature({ templates }),
    requests.feature,
    tasksFeature,
    schedulesFeature({ schedules }),
    webhooksFeature({ webhooks }),
    agentsFeature({
      agents,
      computerRoutes(routes) {
        addExecRoutes(routes, execs)
        addFileRoutes(routes, files)
        terminalFeature.routes?.(routes)
      },
    }),
    operationsFeature({ driver: shared.driver, settings: () => [] }),
    backupsFeature({ backups, requireDataFolderKey }),
  ]

  things = { acc_default: await seed('acc_default'), acc_other: await seed('acc_other') }
  const { sandbox: own, sibling, agent: ownAgent } = things.acc_default
  const { sandbox: foreign, agent: foreignAgent } = things.acc_other
  callers = {
    ...callersOf('acc_default', { own, sibling, agent: ownAgent }),
    ...Object.fromEntries(
      Object.entries(callersOf('acc_other', { own: foreign, sibling, agent: foreignAgent })).map(([name, one]) => [
        `another’s ${name}`,
        one,
      ]),
    ),
  }
  const known = testDoor(
    Object.fromEntries(Object.entries(callers).map(([name, { principal }]) => [tokenOf(name), principal])),
  )
  const app = createApp({
    features,
    access: {
      ...known,
      admit(caller, needs, id) {
        const admitted = known.admit(caller, needs, id)
        if (probing) throw new DeltaError('canceled', admitted.accountId)
        return admitted
      },
    },
    log: silentLogger,
    clock: systemClock,
    metrics: createMetrics(),
    checkDatabase: async () => {},
    settings: { version: 'test', host: '127.0.0.1', hosts: [], environment: 'production', installation: () => ({}) },
  })
  api = app.api

  async function seed(accountId: string): Promise<Things> {
    const caller = { accountId }
    const workspace = await workspaces.create(createWorkspaceSchema.parse({}), caller)
    const snapshot = await workspaces.snapshot(workspace.id, createSnapshotSchema.parse({}), caller)
    const build = {
      args: {},
      noCache: false,
      network: { egress: 'none' as const },
      cpu: 1,
      memoryMb: 512,
      stepTimeoutMs: 10_000,
      timeoutMs: 20_000,
    }
    const template = await templates.create(
      { name: `name-of-${accountId.slice(4)}`, tags: [], from: { dockerfile: 'FROM host', ...build } },
      caller,
    )
    const [sandbox, other] = await Promise.all(
      [1, 2].map(() => sandboxes.createOrJoin(createSandboxSchema.parse({}), caller)),
    )
    const key = await keys.create(
      createKeySchema.parse({ name: 'x', rights: ['read:files'] }),
      testCaller(testKeyPrincipal({ accountId })),
    )
    const { approval } = await askForHost(
      sandbox!.sandbox.id,
      { host: 'example.com', reason: 'to test', ttlMs: 60_000 },
      testCaller(testKeyPrincipal({ accountId, keyId: 'key_asker' })),
      { sandboxes, approvals },
    )
    const volume = await volumes.create(createVolumeSchema.parse({ name: 'mine' }), caller)
    const agent = await agents.create(
      createAgentSchema.parse({ name: 'mine' }),
      testCaller(testKeyPrincipal({ accountId })),
    )
    const { request } = await requests.tokenRequests.ask(
      agent.id,
      requestTokensSchema.parse({ tokens: 1, reason: 'to test' }),
      testCaller(testKeyPrincipal({ accountId, keyId: 'key_asker' })),
    )
    return {
      tokenRequest: request.id,
      agent: agent.id,
      sandbox: sandbox!.sandbox.id,
      sibling: other!.sandbox.id,
      workspace: workspace.id,
      snapshot: snapshot.id,
      volume: volume.id,
      key: key.id,
      approval: approval.id,
      template: template.id!,
      templateName: template.name,
    }
  }
})

afterAll(async () => {
  for (const end of ends.toReversed()) await end()
})

const tokenOf = (name: string) => Buffer.from(name).toString('base64url')
const paramsOf = (path: string) => [...path.matchAll(/\{(.+?)\}/g)].map(([, name]) => name!)

const kindOf: Record<string, Kind> = {
  agents: 'agent',
  sandboxes: 'sandbox',
  workspaces: 'workspace',
  snapshots: 'snapshot',
  volumes: 'volume',
  templates: 'template',
  keys: 'key',
  approvals: 'approval',
  'token-requests': 'tokenRequest',
}
const prefixes = {
  agent: 'agt_',
  sandbox: 'sbx_',
  workspace: 'wsp_',
  snapshot: 'snp_',
  volume: 'vol_',
  template: 'tpl_',
  templateName: 'name-of-',
  key: 'key_',
  approval: 'apr_',
  tokenRequest: 'trq_',
} as const

function kindsOf(route: string): Kind[] {
  const { kinds } = table[route]!
  if (kinds) return kinds
  const [, , first = ''] = route.split(' ')[1]!.split('/')
  return paramsOf(route).map((_, at) => (at === 0 ? kindOf[first]! : 'other'))
}

/** The path with these ids; what is no thing gets a word that could be one. */
function pathOf(route: string, ids: readonly string[]): string {
  let at = 0
  return route.split(' ')[1]!.replaceAll(/\{.+?\}/g, () => ids[at++]!) + (table[route]!.query ?? '')
}

const nowhere = { apiKey: undefined, baseUrl: undefined }

const words: Record<string, string> = {
  provider: 'google',
  execId: 'exe_aaaaaaaaaaaaaaaaaaaa',
  terminalId: 'exe_aaaaaaaaaaaaaaaaaaaa',
  tag: 'stable',
  id: 'id_aaaaaaaaaaaaaaaaaaaa',
  name: 'debian',
}

function idsOf(route: string, idOf: (kind: Exclude<Kind, 'other'>) => string): string[] {
  const names = paramsOf(route)
  return kindsOf(route).map((kind, at) => (kind === 'other' ? words[names[at]!]! : idOf(kind)))
}

async function call(route: string, path: string, name: string | undefined) {
  const { body } = table[route]!
  const answer = await api.request(path, {
    method: route.split(' ')[0]!,
    headers: {
      'x-request-id': 'req_table',
      ...(name !== undefined && { authorization: `Bearer ${tokenOf(name)}` }),
      ...(typeof body === 'object' && { 'content-type': 'application/json' }),
    },
    ...(body !== undefined && { body: typeof body === 'string' ? body : JSON.stringify(body) }),
  })
  return { status: answer.status, text: await answer.text(), headers: Object.fromEntries(answer.headers) }
}

function codeOf(text: string): string {
  return (JSON.parse(text) as { error: { code: string } }).error.code
}

/** Who was let in, and as whom: nobody at all, without the right, or as which account. */
async function probe(route: string, path: string, name: string | undefined): Promise<string> {
  probing = true
  try {
    const { text } = await call(route, path, name)
    const { error } = JSON.parse(text) as { error: { code: string; message: string } }
    return error.code === 'canceled' ? error.message : error.code
  } finally {
    probing = false
  }
}

const routes = Object.keys(table)

describe('the table', () => {
  test('is of the whole API, as the generated types have it', () => {
    const generated = readFileSync(join(import.meta.dirname, '../../../sdk/src/generated/api.ts'), 'utf8')
    const operations = generated.slice(generated.indexOf('export interface Operations'))
    const names = [...operations.matchAll(/^ {2}(\w+): \{$/gm)].map(([, name]) => name!)
    const { paths = {} } = api.getOpenAPI31Document({ openapi: '3.1.0', info: { title: 'test', version: '0' } })
    const here = Object.values(paths).flatMap((item) => Object.values(item as Record<string, { operationId?: string }>))
    expect(names.length).toBeGreaterThan(80)
    expect(names.filter((name) => !here.some(({ operationId }) => operationId === name))).toEqual([])
  })

  test('has every route, and no other', () => {
    const { paths = {} } = api.getOpenAPI31Document({ openapi: '3.1.0', info: { title: 'test', version: '0' } })
    const described = Object.entries(paths).flatMap(([path, operations]) =>
      Object.keys(operations as object).map((method) => `${method.toUpperCase()} ${path}`),
    )
    const served = api.routes
      .filter(({ method, path }) => method !== 'ALL' && path !== '/*')
      .map(({ method, path }) => `${method} ${path.replaceAll(/:(\w+)/g, '{$1}')}`)
    const expected = new Set([...routes, ...publicPaths, ...open, ...elsewhere, ...pages])
    expect([...new Set([...described, ...served])].filter((route) => !expected.has(route))).toEqual([])
    expect(routes.filter((route) => !served.includes(route))).toEqual([])
  })

  test('every route says in its description what it needs', () => {
    const { paths = {} } = api.getOpenAPI31Document({ openapi: '3.1.0', info: { title: 'test', version: '0' } })
    for (const route of routes) {
      const [method, path] = route.split(' ') as [string, string]
      const operation = (paths[path] as Record<string, Record<string, unknown>>)[method.toLowerCase()]!
      expect([route, operation['x-needs']]).toEqual([route, table[route]!.right])
    }
  })
})

describe('who may', () => {
  test('what is public says so, and nothing else is', () => {
    const { paths = {} } = api.getOpenAPI31Document({ openapi: '3.1.0', info: { title: 'test', version: '0' } })
    const found = Object.entries(paths).flatMap(([path, item]) =>
      Object.entries(item as Record<string, Record<string, unknown>>)
        .filter(([, operation]) => operation['x-needs'] === 'public')
        .map(([method]) => `${method.toUpperCase()} ${path}`),
    )
    expect(found.toSorted()).toEqual(publicPaths.toSorted())
  })

  test.each(routes)('%s', async (route) => {
    const { right: name } = table[route]!
    const own = idsOf(route, (kind) => things.acc_default[kind])
    const path = pathOf(route, own)
    expect(await probe(route, path, undefined)).toBe('unauthorized')
    expect(await probe(route, path, 'nobody that is known')).toBe('unauthorized')
    const found: Record<string, string> = {}
    const expected: Record<string, string> = {}
    for (const [who, { has, onlySandbox, onlyAgent, principal }] of Object.entries(callers)) {
      found[who] = await probe(route, path, who)
      if (name === 'nothing') expected[who] = principal.accountId
      else
        expected[who] = outcome({
          has: has(name),
          onlySandbox,
          onlyAgent,
          accountId: principal.accountId,
          name,
          id: own[0],
        })
    }
    expect(found).toEqual(expected)
  })
})

interface Asked {
  has: boolean
  onlySandbox: string | undefined
  onlyAgent: string | undefined
  accountId: string
  name: Used
  id: string | undefined
}

function outcome({ has, onlySandbox, onlyAgent, accountId, name, id }: Asked): string {
  if (!has) return 'forbidden'
  const only = onlySandbox ?? onlyAgent
  // Acts are limited by what they say themselves.
  if (only === undefined || name === 'delegate' || name === 'approve') return accountId
  const listed = onlySandbox === undefined ? 'read:agents' : 'read:sandboxes'
  if (id === undefined) return name === listed ? accountId : 'forbidden'
  if (!id.startsWith(only.slice(0, 4))) return 'forbidden'
  return id === only ? accountId : 'acc_nobody'
}

describe('what is somebody else’s looks as if it were not there', () => {
  const named = routes.filter((route) => kindsOf(route).some((kind) => kind !== 'other'))

  test.each(named)('%s', async (route) => {
    const kinds = kindsOf(route)
    for (const [at, kind] of kinds.entries()) {
      if (kind === 'other') continue
      const own = idsOf(route, (one) => things.acc_default[one])
      const ask = async (id: string, who: string) => {
        const work = { operations: 0 }
        const answer = await counting.run(work, () => call(route, pathOf(route, own.with(at, id)), who))
        return { ...answer, ...work, text: answer.text.replaceAll(id, 'ID') }
      }
      for (const who of [
        'owner’s session',
        'owner’s key with everything',
        'main with everything',
        'viewer’s session',
        'key limited to the own sandbox',
      ]) {
        const unused = await ask(`${prefixes[kind]}${randomBytes(10).toString('hex')}`, who)
        const foreign = await ask(things.acc_other[kind], who)
        expect([who, foreign]).toEqual([who, unused])
        expect([404, 403]).toContain(unused.status)
        if (unused.status === 403) expect(codeOf(unused.text)).toBe('forbidden')
        if (kind === 'sandbox' && who.startsWith('key limited')) {
          expect(await ask(things.acc_default.sibling, who)).toEqual(unused)
        }
      }
    }
  })
})
