import type { DialChannel, GuestConnection } from '../../guest/client.ts'
import { type AnswerListener, type AnswerParser, createAnswerParser } from './answer-parser.ts'

/** Who waits for the answer on a connection. */
export interface AnswerUser extends AnswerListener {
  /** The connection is of no use any more: a `GuestError`, an `AnswerFault`, or an end in the middle. */
  failed(error: unknown): void
  /** So many bytes came and were handed on. */
  fed(bytes: number): void
}

/** A connection to a server inside that carries one request after the other. */
export interface PortConnection {
  readonly dial: DialChannel
  readonly parser: AnswerParser
  /** It carried an answer before: its server may have given it up by the time the next request arrives. */
  reused: boolean
  user: AnswerUser | undefined
}

export interface PortConnections {
  /** A kept one, else a new one. Throws what the guest says. */
  take(guest: GuestConnection, where: { sandboxId: string; port: number; fresh?: boolean }): PortConnection
  /** For the next request; only when the answer was whole and its server keeps the connection. */
  giveBack(connection: PortConnection): void
  drop(connection: PortConnection): void
  /** Drops those that have waited too long. */
  sweep(): void
  /** How many wait. */
  readonly idle: number
}

interface Kept extends PortConnection {
  guest: GuestConnection
  sandboxId: string
  key: string
  idleSinceMs: number
}

export interface PortConnectionsOptions {
  nowMs: () => number
  idleMs: number
  idlePerSandbox: number
}

export function createPortConnections({ nowMs, idleMs, idlePerSandbox }: PortConnectionsOptions): PortConnections {
  /** By sandbox and port; of each the longest waiting first. */
  const waiting = new Map<string, Kept[]>()
  const waitingPerSandbox = new Map<string, number>()
  let idle = 0

  const count = (sandboxId: string, change: number): void => {
    idle += change
    const now = (waitingPerSandbox.get(sandboxId) ?? 0) + change
    if (now === 0) waitingPerSandbox.delete(sandboxId)
    else waitingPerSandbox.set(sandboxId, now)
  }

  const unlist = (connection: Kept): void => {
    const list = waiting.get(connection.key)
    const at = list?.lastIndexOf(connection) ?? -1
    if (at < 0) return
    list!.splice(at, 1)
    if (list!.length === 0) waiting.delete(connection.key)
    count(connection.sandboxId, -1)
  }

  const drop = (connection: PortConnection): void => {
    unlist(connection as Kept)
    connection.user = undefined
    connection.dial.cancel()
  }

  const fail = (connection: Kept, error: unknown): void => {
    const { user } = connection
    drop(connection)
    user?.failed(error)
  }

  const open = (guest: GuestConnection, sandboxId: string, port: number, key: string): Kept => {
    const parser = createAnswerParser({
      head: (head) => connection.user?.head(head),
      body: (bytes, last) => connection.user?.body(bytes, last),
      upgraded: (head, rest) => connection.user?.upgraded(head, rest),
    })
    const dial = guest.dialChannel(port, {
      data(bytes) {
        const { user } = connection
        // Nothing was asked: a server that speaks now would answer the next one's question.
        if (!user) return drop(connection)
        try {
          parser.feed(bytes)
          user.fed(bytes.length)
        } catch (error) {
          fail(connection, error)
        }
      },
      ended() {
        const { user } = connection
        try {
          parser.end()
          drop(connection)
          user?.fed(0)
        } catch (error) {
          connection.user = user
          fail(connection, error)
        }
      },
      failed: (error) => fail(connection, error),
    })
    const connection: Kept = { dial, parser, reused: false, user: undefined, guest, sandboxId, key, idleSinceMs: 0 }
    return connection
  }

  return {
    take(guest, { sandboxId, port, fresh = false }) {
      const key = `${sandboxId}:${port}`
      const list = fresh ? undefined : waiting.get(key)
      for (let connection = list?.pop(); connection; connection = list?.pop()) {
        count(sandboxId, -1)
        if (list!.length === 0) waiting.delete(key)
        // Another guest is another life of the sandbox.
        if (connection.guest === guest && nowMs() - connection.idleSinceMs < idleMs) {
          connection.reused = true
          return connection
        }
        connection.dial.cancel()
      }
      return open(guest, sandboxId, port, key)
    },
    giveBack(connection) {
      const kept = connection as Kept
      kept.user = undefined
      if ((waitingPerSandbox.get(kept.sandboxId) ?? 0) >= idlePerSandbox) return kept.dial.cancel()
      kept.idleSinceMs = nowMs()
      const list = waiting.get(kept.key)
      if (list) list.push(kept)
      else waiting.set(kept.key, [kept])
      count(kept.sandboxId, 1)
    },
    drop,
    sweep() {
      const since = nowMs() - idleMs
      for (const list of Array.from(waiting.values())) {
        for (const connection of list.filter(({ idleSinceMs }) => idleSinceMs <= since)) drop(connection)
      }
    },
    get idle() {
      return idle
    },
  }
}
