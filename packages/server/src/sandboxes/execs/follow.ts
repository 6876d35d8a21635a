import { setTimeout as sleep } from 'node:timers/promises'
import { GuestError } from '../../guest/client.ts'
import type { ExecExit, ExecOutput, ExecStream, GuestConnection } from '../../guest/client.ts'
import { DeltaError } from '../../kernel/errors.ts'
import type { DoorCaller, SandboxDoor } from '../door.ts'
import { endedBy, isConnectionLost, restarted } from '../ended.ts'
import type { Asked } from '../ended.ts'

const REOPEN_TRIES = 7
const REOPEN_FIRST_WAIT_MS = 25
/** A guest that ends every connection again is given up after this many without a byte of output between. */
const FRUITLESS_TRIES = 10
/** And one that sends a little each time is asked no more often than this. */
const REATTACH_WAIT_MS = { step: 10, most: 1_000 }

/** One viewer's hold on an exec, which survives the loss of the connection as long as the guest does. */
export interface Followed {
  readonly sandboxId: string
  readonly caller: DoorCaller
  readonly execId: string
  guest: GuestConnection
  stream: ExecStream
  /** Output up to here was handed on. */
  position: number
  detached: boolean
  /** Whether the channel may write the standard input. */
  stdin: boolean
  /** How often the connection was lost, where it last was, and how often without progress. */
  lost: number
  lostAt: number
  fruitless: number
  /** Why its end is not known, where that is known. */
  unknownBecause: string | undefined
}

export interface Opening {
  sandboxId: string
  caller: DoorCaller
  execId: string
  from: number
  /** What `open` asks for, to ask for it again. @default false */
  stdin?: boolean
  open(guest: GuestConnection): Promise<ExecStream>
}

/**
 * Opens the exec on `guest`, trying again when the connection breaks before the answer. That is safe because the guest knows the id:
 * what has been started is not started twice. Another life of the guest may have run it, so then nothing is tried.
 */
export async function follow(door: SandboxDoor, guest: GuestConnection, opening: Opening): Promise<Followed> {
  const { sandboxId, caller, execId, from, stdin = false } = opening
  let current = guest
  for (let tried = 1; ; tried++) {
    try {
      const stream = await opening.open(current)
      return {
        sandboxId,
        caller,
        execId,
        guest: current,
        stream,
        position: from,
        detached: false,
        stdin,
        lost: 0,
        lostAt: -1,
        fruitless: 0,
        unknownBecause: undefined,
      }
    } catch (error) {
      if (!isConnectionLost(error) || tried === FRUITLESS_TRIES) throw error
      const next = await reopen(door, { sandboxId, caller, guest: current })
      if (next instanceof DeltaError) {
        const { context, cause } = next
        throw new DeltaError(
          'sandbox_ended',
          'The sandbox ended before it answered; whether the process was started is not known',
          { cause, context: { ...context, execId } },
        )
      }
      current = next
    }
  }
}

/** Takes all output, over as many connections as it needs. The exit is `unknown` when the guest that could tell is gone. */
export async function takeOutput(
  door: SandboxDoor,
  followed: Followed,
  onOutput: (chunk: ExecOutput) => void | Promise<void>,
): Promise<ExecExit> {
  const counted = (chunk: ExecOutput): void | Promise<void> => {
    followed.position = chunk.offset + chunk.bytes.length
    return onOutput(chunk)
  }
  for (;;) {
    try {
      return await followed.stream.consume(counted)
    } catch (error) {
      if (!isConnectionLost(error)) throw error
      if (!(await reattach(door, followed))) return unknownExit(followed)
    }
  }
}

/** The same for a reader that asks for each chunk; returns the exit. */
export async function* readOutput(door: SandboxDoor, followed: Followed): AsyncGenerator<ExecOutput, ExecExit> {
  for (;;) {
    try {
      for await (const chunk of followed.stream.output) {
        followed.position = chunk.offset + chunk.bytes.length
        yield chunk
      }
      return await followed.stream.exit
    } catch (error) {
      if (!isConnectionLost(error)) throw error
      if (!(await reattach(door, followed))) return unknownExit(followed)
    }
  }
}

/** The viewer leaves; the process lives on. */
export function detach(followed: Followed): void {
  followed.detached = true
  followed.stream.detach()
}

async function reattach(door: SandboxDoor, followed: Followed): Promise<boolean> {
  for (;;) {
    await takeBreath(followed)
    const guest = followed.detached ? undefined : await reopen(door, followed)
    if (guest instanceof DeltaError) followed.unknownBecause = String(guest.cause)
    if (guest === undefined || guest instanceof DeltaError || followed.detached) return false
    try {
      const { position: from, stdin } = followed
      followed.stream = await guest.attach(followed.execId, { from, stdin })
      followed.guest = guest
      // It may have been given up while this was under way.
      if (followed.detached) followed.stream.detach()
      return true
    } catch (error) {
      if (error instanceof GuestError && error.code === 'unknown_exec') return false
      // What has ended meanwhile takes no input, but still tells its last output and how it ended.
      const ended = error instanceof GuestError && error.code === 'invalid' && followed.stdin
      if (!isConnectionLost(error) && !ended) throw error
      if (ended) followed.stdin = false
      followed.guest = guest
    }
  }
}

async function takeBreath(followed: Followed): Promise<void> {
  followed.fruitless = followed.position === followed.lostAt ? followed.fruitless + 1 : 0
  followed.lostAt = followed.position
  if (followed.fruitless >= FRUITLESS_TRIES) {
    throw new GuestError('connection_lost', 'The sandbox ends every connection to it.')
  }
  const waitMs = Math.min(REATTACH_WAIT_MS.most, REATTACH_WAIT_MS.step * followed.lost++)
  if (waitMs > 0) await sleep(waitMs)
}

/** A new connection to the same life of the guest, or why that life is over. Never wakes a sandbox. */
async function reopen(door: SandboxDoor, { sandboxId, caller, guest }: Asked): Promise<GuestConnection | DeltaError> {
  for (let tried = 1; ; tried++) {
    try {
      const opened = await door.open(sandboxId, caller, { wake: false })
      if (opened.guest.bootId !== guest.bootId) return restarted(sandboxId)
      // The door may not have heard yet that this connection is gone.
      if (opened.guest !== guest) return opened.guest
    } catch (error) {
      const ended = endedBy(sandboxId, error)
      if (ended) return ended
      if (tried === REOPEN_TRIES) throw error
    }
    if (tried === REOPEN_TRIES)
      throw new GuestError('connection_lost', 'The connection to the sandbox could not be opened again.')
    await sleep(REOPEN_FIRST_WAIT_MS * 2 ** (tried - 1))
  }
}

function unknownExit({ position }: Followed): ExecExit {
  return { kind: 'unknown', value: 0, timedOut: false, oomKilled: false, outputBytes: position, durationMs: 0 }
}
