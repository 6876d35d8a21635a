import type { KnownCaller } from '../../access/callers/door.ts'
import { createAskUser } from './ask-user.ts'
import { createDecideRequest, type DecideRequestDeps } from './decide-request.ts'
import { createDelegate, type DelegateDeps } from './delegate.ts'
import { createEditFile, type EditFileDeps } from './edit-file.ts'
import { createFetch, type FetchDeps } from './fetch.ts'
import { guarded, missingRight } from './guard.ts'
import { createListFiles, type ListFilesDeps } from './list-files.ts'
import { createReadDelegate } from './read-delegate.ts'
import { createReadFile, type ReadFileDeps } from './read-file.ts'
import { createReadTerminal, type ReadTerminalDeps } from './read-terminal.ts'
import { createRequestEgress, type RequestEgressDeps } from './request-egress.ts'
import { createRequestTokens, type RequestTokensDeps } from './request-tokens.ts'
import { createRunCode } from './run-code.ts'
import { createRunTerminal } from './run-terminal.ts'
import { createSearchFiles } from './search-files.ts'
import type { CommandDeps } from './command.ts'
import type { Tool } from './tool.ts'
import { createWatchPort, type WatchPortDeps } from './watch-port.ts'
import { createWriteFile, type WriteFileDeps } from './write-file.ts'

export { describeFault, describeTool, readCall } from './arguments.ts'
export type { ReadCall } from './arguments.ts'
export type { DelegatedTask, DelegateWish, TaskDoor } from './delegate.ts'

type FilesDeps = CommandDeps & ReadFileDeps & WriteFileDeps & EditFileDeps & ListFilesDeps

export type ToolsDeps = FilesDeps &
  ReadTerminalDeps &
  WatchPortDeps &
  FetchDeps &
  RequestTokensDeps &
  DecideRequestDeps &
  RequestEgressDeps &
  DelegateDeps

/** Every tool there is, in the order in which the model is told of them. */
export function createTools(deps: ToolsDeps): ReadonlyMap<string, Tool> {
  const all: Tool[] = [
    createRunTerminal(deps),
    createReadTerminal(deps),
    createRunCode(deps),
    createReadFile(deps),
    createWriteFile(deps),
    createEditFile(deps),
    createListFiles(deps),
    createSearchFiles(deps),
    createWatchPort(deps),
    createFetch(deps),
    createAskUser(),
    createRequestTokens(deps),
    createRequestEgress(deps),
    createDelegate(deps),
    createReadDelegate(deps),
    createDecideRequest(deps),
  ]
  return new Map(all.map((tool) => [tool.name, guarded(tool)]))
}

/** Those that the agent has the rights for now. */
export function usableTools(tools: ReadonlyMap<string, Tool>, caller: KnownCaller): ReadonlyMap<string, Tool> {
  return new Map(Array.from(tools).filter(([, tool]) => missingRight(tool, caller) === undefined))
}
