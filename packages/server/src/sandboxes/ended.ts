import { GuestError } from '../guest/client.ts'
import type { GuestConnection } from '../guest/client.ts'
import { DeltaError } from '../kernel/errors.ts'
import type { DoorCaller, SandboxDoor } from './door.ts'

export interface Asked {
  sandboxId: string
  caller: DoorCaller
  /** Whom it was asked of. */
  guest: GuestConnection
}

export function isConnectionLost(error: unknown): boolean {
  return error instanceof GuestError && error.code === 'connection_lost'
}

/**
 * Why nobody will answer any more: the sandbox was stopped, killed or ended by itself, told with its state and the reason. Undefined while the
 * same life of it goes on, or nobody can tell. Never wakes it.
 */
export async function endOf(door: SandboxDoor, { sandboxId, caller, guest }: Asked): Promise<DeltaError | undefined> {
  try {
    const { guest: now } = await door.open(sandboxId, caller, { wake: false })
    return now.bootId === guest.bootId ? undefined : restarted(sandboxId)
  } catch (error) {
    return endedBy(sandboxId, error)
  }
}

/** What a refusal of the door tells of the sandbox's end; undefined where it is only out of reach. */
export function endedBy(sandboxId: string, error: unknown): DeltaError | undefined {
  if (!(error instanceof DeltaError) || error.status >= 500) return undefined
  return sandboxEnded(sandboxId, error.message, error.context)
}

export function restarted(sandboxId: string): DeltaError {
  return sandboxEnded(sandboxId, 'it was started again meanwhile')
}

/** The error, or the end of the sandbox where that is what lies behind it. */
export async function explainLost(door: SandboxDoor, asked: Asked, error: unknown): Promise<unknown> {
  return isConnectionLost(error) ? ((await endOf(door, asked)) ?? error) : error
}

function sandboxEnded(sandboxId: string, cause: string, context: Record<string, unknown> = {}): DeltaError {
  return new DeltaError('sandbox_ended', 'The sandbox ended before it answered; whether it did this is not known', {
    cause,
    context: { sandboxId, ...context },
  })
}
