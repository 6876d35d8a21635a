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
export { Delta, type DeltaOptions, type ListSandboxesOptions, Sandboxes, Templates } from './delta.ts'
export * from './errors.ts'
export {
  type FileContent,
  Files,
  type ListOptions,
  type ReadOptions,
  type TransferOptions,
  type WriteOptions,
} from './files.ts'
export { type AllowOptions, Network } from './network.ts'
export type { OutputChunk } from './output.ts'
export { Pages } from './pages.ts'
export { Ports, type PortUrl, type PortUrlOptions } from './ports.ts'
export { type CreateSandboxOptions, Sandbox, type UpdateSandboxOptions } from './sandbox.ts'
export { Terminal, type TerminalExit, type TerminalGap, type TerminalSize } from './terminal.ts'
export { type CreateTerminalOptions, type ConnectTerminalOptions, Terminals } from './terminals.ts'
export type * from './types.ts'
export { Watcher } from './watcher.ts'
