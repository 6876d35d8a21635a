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
export type AccessToken = api.AccessToken
/** What an access token opens. */
export type AccessScope = 'terminal' | 'port:*' | `port:${number}`
export type PortsInfo = api.Ports
export type PortInfo = PortsInfo['data'][number]
export type Finding = api.Finding
export type Health = api.Health
/** What `DeltaApiError.code` can be; a newer server may have more. */
export type ErrorCode = api.Error['error']['code']

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
