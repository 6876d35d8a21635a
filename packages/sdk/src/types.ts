import type * as api from './generated/api.ts'

export type SandboxInfo = api.Sandbox
export type SandboxState = SandboxInfo['state']
/** What a sandbox may connect to, as it is said: `none`, `all`, or hosts and presets. */
export type EgressPolicy = api.SetNetwork['egress']
export type NetworkInfo = api.Network
export type PresetName = Extract<NetworkInfo['egress'], object>['presets'][number]
/** A connection to the outside that has ended, or was refused. */
export type EgressConnection = api.EgressConnection
export type TimeoutAction = SandboxInfo['onTimeout']
export type SandboxMetrics = api.SandboxMetrics
/** A change of state and why it happened. */
export type Transition = api.SandboxLog
/** A command without its output. */
export type ExecInfo = api.ExecSummary
export type ExecState = ExecInfo['state']
/** A command with what is kept of its output. */
export type ExecResult = api.Exec
/** A terminal as the server knows it. */
export type TerminalInfo = api.Terminal
export type Entry = api.Entry
export type EntryType = Entry['type']
export type TemplateInfo = api.Template
/** What was done, or refused. */
export type AuditEntry = api.AuditEntry
export type AuditHead = api.AuditHead
/** Who a key or token belongs to. */
export type Me = api.Me
export type UserInfo = api.User
/** A session just begun or refreshed. */
export type SessionTokens = api.SessionTokens
export type SessionInfo = api.Session
export type AccountInfo = api.Account
export type MemberInfo = api.Member
export type Role = MemberInfo['role']
export type InvitationInfo = api.Invitation
export type LoginLink = api.LoginLink
export type MailInfo = api.Mail
/** An API key, without its text. */
export type KeyInfo = api.Key
/** An API key with its text, which is shown once. */
export type MadeKey = api.MadeKey
/** What waits for a person, or did. */
export type ApprovalInfo = api.Approval
export type ApprovalState = ApprovalInfo['state']
export type AgentToken = api.AgentToken
export type AgentKind = AgentToken['agentKind']
/** The reserve, agents and tasks of an account. */
export type LedgerInfo = api.Ledger
/** What has tokens: the reserve, an agent or a task. */
export type PurseInfo = api.Purse
/** An entry of the journal. */
export type TransferInfo = api.Transfer
export type HoldInfo = api.Hold
export type UsageInfo = api.Usage
export type ForecastInfo = api.Forecast
export type RateCardInfo = api.RateCard
/** What was written in the journal. */
export type WrittenInfo = api.Written
export type PlanInfo = api.Plan
export type PlanName = PlanInfo['plan']
/** What an agent asked for, and what became of it. */
export type TokenRequestInfo = api.TokenRequest
export type TokenRequestState = TokenRequestInfo['state']
export type AgentInfo = api.Agent
export type AgentNode = api.AgentNode
export type AgentState = AgentInfo['state']
export type AgentChannel = NonNullable<AgentInfo['channel']>
/** A backup that the server has checked and keeps, to be committed. */
export type StagedRestore = api.StagedRestore
export type RestoreInfo = api.Restore
export type VolumeInfo = api.Volume
export type WorkspaceInfo = api.Workspace
export type SnapshotInfo = api.Snapshot
/** A file that differs between two snapshots. */
export type FileChange = api.FileChange
export type SnapshotDiff = api.SnapshotDiff
export type AccessToken = api.AccessToken
/** What an access token opens. */
export type AccessScope = 'terminal' | 'port:*' | `port:${number}`
export type PortsInfo = api.Ports
export type PortInfo = PortsInfo['data'][number]
export type TaskInfo = api.Task
export type TaskState = TaskInfo['state']
/** What a task stands still for. */
export type TaskWaitsFor = api.TaskWaitsFor
export type TaskResult = api.TaskResult
/** As a task is sent to the server. */
export type TaskSettings = api.CreateTask
/** Used as the agent likes, each call confirmed by a person, or not there. */
export type TaskToolMode = NonNullable<TaskSettings['tools']>[string]
export type ThinkingLevel = NonNullable<TaskSettings['thinking']>
/** Tasks at stated times, without what is to be done. */
export type ScheduleInfo = api.Schedule
export type ScheduleState = ScheduleInfo['state']
export type ScheduleWithTask = api.ScheduleWithTask
export type ScheduleRunInfo = api.ScheduleRun
export type WebhookInfo = api.Webhook
export type WebhookState = WebhookInfo['state']
export type WebhookEvent = WebhookInfo['events'][number]
/** A webhook with what it is signed with, which is shown once. */
export type WebhookWithSecret = api.WebhookWithSecret
export type WebhookDelivery = api.WebhookDelivery
export type DeliveryState = WebhookDelivery['state']
export type TaskEngine = NonNullable<TaskSettings['engine']>
export type ModelInfo = api.Model
export type ModelList = api.ModelList
/** A provider's key of the account, without its text. */
export type ModelKeyInfo = api.ModelKey
export type ModelKeyProvider = ModelKeyInfo['provider']
export type Finding = api.Finding
export type Setting = api.Setting
export type Health = api.Health
/** What `DeltaApiError.code` can be; a newer server may have more. */
export type ErrorCode = api.Error['error']['code']

export interface TaskTranscript {
  task: TaskInfo
  /** What was said up to a message, as the model itself has put it shortly. */
  summary: { upToMessage: number; text: string } | null
  messages: {
    seq: number
    step: number
    role: 'user' | 'assistant' | 'tool'
    parts: Record<string, unknown>[]
    createdAt: string
  }[]
  steps: {
    step: number
    turn: number
    /** `cut`: it was given up, or its server died, before all of the answer had come. */
    state: 'calling' | 'acting' | 'done' | 'cut'
    model: string
    /** Requests to providers, each with its cost. */
    attempts: Record<string, unknown>[]
    /** The disk after it, where it changed files. */
    snapshotId: string | null
    startedAt: string
    endedAt: string | null
  }[]
}

export interface WatchEvent {
  /** `overflow`: events were lost, look at the folder again. */
  kind: 'create' | 'write' | 'remove' | 'rename' | 'chmod' | 'overflow'
  path: string
  isDirectory: boolean
}

export interface Page<T> {
  data: T[]
  nextCursor: string | null
}
