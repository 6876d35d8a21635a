import { DeltaError } from '../kernel/errors.ts'
import type { Workspaces } from '../workspaces/service.ts'

/** What is needed of the workspaces: the right to write to one, giving it back, and going back in its history. */
export type SandboxWorkspaces = Pick<Workspaces, 'acquire' | 'release' | 'held' | 'rollback'>

/** For a server without any. */
export const noWorkspaces: SandboxWorkspaces = {
  acquire: () => Promise.reject(unsupported()),
  release: () => Promise.resolve(),
  held: () => Promise.resolve([]),
  rollback: () => Promise.reject(unsupported()),
}

function unsupported(): DeltaError {
  return new DeltaError('not_supported', 'This server keeps no workspaces')
}
