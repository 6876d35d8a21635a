export { Account } from './account.ts'
export { AccessTokens, type CreateAccessTokenOptions } from './access-tokens.ts'
export { CommandHandle, type CommandResult, type OutputCallbacks } from './command-handle.ts'
export {
  Commands,
  type ExecOptions,
  type Language,
  type RunCodeOptions,
  type RunOptions,
  type StartOptions,
  type StdinSource,
} from './commands.ts'
export { Delta, type DeltaOptions, type ListSandboxesOptions, Sandboxes } from './delta.ts'
export { findApiKey } from './environment.ts'
export * from './errors.ts'
export {
  type FileContent,
  Files,
  type ListOptions,
  type ReadOptions,
  type TransferOptions,
  type WriteOptions,
} from './files.ts'
export { type AllowOptions, Network, type RequestHostOptions } from './network.ts'
export type { OutputChunk } from './output.ts'
export { Pages } from './pages.ts'
export { Ports, type PortUrl, type PortUrlOptions } from './ports.ts'
export { type CreateSandboxOptions, Sandbox, type UpdateSandboxOptions } from './sandbox.ts'
export { Terminal, type TerminalExit, type TerminalGap, type TerminalSize } from './terminal.ts'
export { type CreateTerminalOptions, type ConnectTerminalOptions, Terminals } from './terminals.ts'
export type * from './types.ts'
export { BisectError, type BisectOptions, type BisectProblem, type BisectResult, type BisectStep } from './bisect.ts'
export { type ForkOptions, type ImageOptions, type SavedOptions, Snapshot } from './snapshots.ts'
export {
  type CreateWorkspaceOptions,
  type RestoredWorkspaces,
  type StartOptions as StartWorkspaceOptions,
  type UpdateWorkspaceOptions,
  Workspace,
  Workspaces,
} from './workspaces.ts'
export type { TemplateLogLine } from './template-log.ts'
export {
  type BuildSettings,
  type BuildTemplateOptions,
  type CreateTemplateOptions,
  type FollowTemplateOptions,
  type MakeTemplateOptions,
  type RegistryAccount,
  Templates,
} from './templates.ts'
export { Auth, type CreateOwnerOptions, type LoginOptions, type Session } from './auth.ts'
export type { ApiKeySource } from './transport.ts'
export { Approvals, type FollowApprovalsOptions, type ListApprovalsOptions } from './approvals.ts'
export {
  type FollowLedgerOptions,
  type GetLedgerOptions,
  type GrantTokensOptions,
  Ledger,
  type ListHoldsOptions,
  type ListTransfersOptions,
  type MoveTokensOptions,
  type RefundTokensOptions,
  type UsageGroup,
  type UsageOptions,
} from './ledger.ts'
export {
  Agent,
  type AgentConfig,
  Agents,
  type CreateAgentOptions,
  type CreateBotOptions,
  type ListAgentsOptions,
  type RunTaskOptions,
  type UpdateAgentOptions,
} from './agents.ts'
export { AgentTokens, type CreateAgentTokenOptions } from './agent-tokens.ts'
export {
  type FollowTokenRequestsOptions,
  type ListTokenRequestsOptions,
  type RequestTokensOptions,
  TokenRequest,
  TokenRequests,
  type WaitForTokensOptions,
} from './token-requests.ts'
export {
  type CreateTaskOptions,
  type FollowTaskOptions,
  type ForkTaskOptions,
  type ListTasksOptions,
  type SendMessageOptions,
  Task,
  type TaskFile,
  type TaskImage,
  type TaskOptions,
  Tasks,
  type WaitForTaskOptions,
} from './tasks.ts'
export {
  type CreateScheduleOptions,
  type ListSchedulesOptions,
  type ScheduledTaskOptions,
  type SchedulePolicies,
  Schedules,
  type ScheduleTimes,
  type UpdateScheduleOptions,
} from './schedules.ts'
export {
  type CreateWebhookOptions,
  type ListDeliveriesOptions,
  type UpdateWebhookOptions,
  Webhooks,
} from './webhooks.ts'
export {
  verifyWebhook,
  type VerifyWebhookOptions,
  type WebhookMessage,
  WebhookSignatureError,
} from './webhook-signature.ts'
export { needsSomeone, type TaskEvent, type TaskMessagePart, type TaskReplyPart } from './task-events.ts'
export { ModelKeys, Models } from './models.ts'
export { type CreateKeyOptions, Keys, type ListKeysOptions } from './keys.ts'
export { type BackupOptions, Backups, type BackupStream, type StageOptions } from './backups.ts'
export { AuditLog, type ListAuditOptions } from './audit.ts'
export { type CreateVolumeOptions, type VolumeMount, Volumes } from './volumes.ts'
export { Watcher } from './watcher.ts'
