import type { KnownCaller } from '../../access/callers/door.ts'
import type { CommandDeps } from './command.ts'
import { createEditFile, type EditFileDeps } from './edit-file.ts'
import { guarded, missingRight } from './guard.ts'
import { createReadFile, type ReadFileDeps } from './read-file.ts'
import { createRunCode } from './run-code.ts'
import { createRunTerminal } from './run-terminal.ts'
import type { Tool } from './tool.ts'
import { createWriteFile, type WriteFileDeps } from './write-file.ts'

export { describeFault, describeTool, readCall } from './arguments.ts'
export type { ReadCall } from './arguments.ts'

export interface ToolsDeps {
  execs: CommandDeps['execs']
  files: CommandDeps['files'] & ReadFileDeps['files'] & WriteFileDeps['files'] & EditFileDeps['files']
  saveImage: ReadFileDeps['saveImage']
  clock: CommandDeps['clock']
  /** Where relative paths begin. @default workFolder */
  folder?: string | undefined
}

/** Every tool there is, in the order in which the model is told of them. */
export function createTools(deps: ToolsDeps): ReadonlyMap<string, Tool> {
  const all: Tool[] = [
    createRunTerminal(deps),
    createRunCode(deps),
    createReadFile(deps),
    createWriteFile(deps),
    createEditFile(deps),
  ]
  return new Map(all.map((tool) => [tool.name, guarded(tool)]))
}

/** Those that the agent has the rights for now. */
export function usableTools(tools: ReadonlyMap<string, Tool>, caller: KnownCaller): ReadonlyMap<string, Tool> {
  return new Map(Array.from(tools).filter(([, tool]) => missingRight(tool, caller) === undefined))
}
