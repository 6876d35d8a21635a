import type { GuestConnection } from '../guest/client.ts'

/** Whoever asks; `kernel`'s Caller fits. Another account's sandbox looks like one that does not exist. */
export interface DoorCaller {
  accountId: string
  /** Of a list, only these are shown. @default all of the account's */
  only?: readonly string[]
  /** An agent sees of the computers of agents its own and those of agents below it. @default nobody in particular */
  actorId?: string
  /** Of an agent: those above it, from the first down. */
  above?: readonly string[]
  /** Those that its token names, where it names any. */
  sandboxes?: readonly string[]
}

/** What exec and files need to know of a sandbox. */
export interface OpenSandbox {
  id: string
  /** The sandbox's own variables; an exec's `env` goes on top. Null where they can not be read: what needs them must not run. */
  env: Readonly<Record<string, string>> | null
  template: string
  memoryMb: number
  /** Where commands run and as whom, unless they say so; what its template says. */
  cwd?: string | undefined
  user?: string | undefined
}

export interface OpenDoor {
  guest: GuestConnection
  sandbox: OpenSandbox
}

export interface DoorOptions {
  signal?: AbortSignal
  /**
   * False: a paused or stopped sandbox is left so, with `sandbox_not_running`, as if it had `autoResume: false`. For somebody who waits for
   * an exec and lost the connection because the sandbox was stopped: asking again must not start it.
   * @default true
   */
  wake?: boolean
}

/**
 * The way to a sandbox's guest for everything that is not its lifecycle (exec, code, files, terminal, ports).
 *
 * `open` costs one map look-up while the sandbox runs and its connection lives. Otherwise it resumes a paused and starts a stopped
 * sandbox (unless `autoResume` is false: `sandbox_not_running`) and opens the connection again. It throws `sandbox_not_found` and
 * `sandbox_not_running`, `sandbox_start_failed` or the driver's own error.
 *
 * The connection is shared by all callers of one sandbox and belongs to the door: never close it, close only your own channels. It may end at any moment
 * (stop, kill, the guest's death): calls on it then reject with GuestError `connection_lost`. Call `open` again to know what became
 * of the sandbox; a new `guest.bootId` means that every exec of the old one is gone.
 */
export interface SandboxDoor {
  open(sandboxId: string, caller: DoorCaller, options?: DoorOptions): Promise<OpenDoor>
  /**
   * Kills for memory in the sandbox since its box was made, counted by the kernel; 0 where it has no box. Ask before an exec and
   * after it ended by SIGKILL: a higher number means it ran out of memory. Costs one driver call.
   */
  oomKills(sandboxId: string): Promise<number>
}
