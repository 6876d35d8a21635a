import { DeltaError } from '../kernel/errors.ts'
import type { DoorCaller } from '../sandboxes/door.ts'
import { loginShell } from '../sandboxes/execs/schema.ts'
import type { ExecSummary } from '../sandboxes/execs/schema.ts'
import type { Execs, KnownExec } from '../sandboxes/execs/service.ts'
import { createHub } from './hub.ts'
import type { Hub, Watching } from './hub.ts'
import { isReadOnly, placeOf } from './rules.ts'
import { terminalLimits } from './schema.ts'
import type { ConnectQuery, CreateTerminal, Terminal, TerminalSize } from './schema.ts'
import type { ViewerSocket } from './viewer.ts'

const { perSandbox, killAfterMs } = terminalLimits
/** Sizes are remembered for so many terminals; of older ones the size is not known until it is set again. */
const REMEMBERED_SIZES = 10_000

export interface TerminalsDeps {
  execs: Execs
  killAfterMs?: number
}

export interface CreateOptions {
  /** The caller's Idempotency-Key. */
  key?: string | undefined
}

export type Terminals = ReturnType<typeof createTerminals>

/** Terminals are execs with a PTY: the guest keeps them and their output, so nothing here must outlive this process. */
export function createTerminals({ execs, killAfterMs: patienceMs = killAfterMs }: TerminalsDeps) {
  const hubs = new Map<string, Promise<Hub>>()
  const open = new Map<string, Hub>()
  const sizes = new Map<string, TerminalSize>()
  const lines = new Map<string, { length: number; tail: Promise<void> }>()

  const keyOf = (sandboxId: string, terminalId: string): string => `${sandboxId}/${terminalId}`

  function rememberSize(key: string, { cols, rows }: TerminalSize): void {
    sizes.delete(key)
    sizes.set(key, { cols, rows })
    if (sizes.size > REMEMBERED_SIZES) sizes.delete(sizes.keys().next().value!)
  }

  function viewOf(sandboxId: string, summary: ExecSummary): Terminal {
    const key = keyOf(sandboxId, summary.id)
    const { cols, rows } = sizes.get(key) ?? { cols: null, rows: null }
    return { ...summary, cols, rows, viewers: open.get(key)?.viewers ?? 0 }
  }

  async function find(sandboxId: string, caller: DoorCaller, terminalId: string): Promise<KnownExec> {
    const known = await execs.inspect(sandboxId, caller, terminalId)
    if (known.summary.pty !== true) {
      throw new DeltaError('exec_not_found', `Exec ${known.summary.id} has no terminal`)
    }
    return known
  }

  async function list(sandboxId: string, caller: DoorCaller): Promise<ExecSummary[]> {
    return (await execs.list(sandboxId, caller)).filter(({ pty }) => pty)
  }

  /** One after the other in each sandbox: two that counted side by side would both find room for the last. */
  async function withRoom<T>(sandboxId: string, caller: DoorCaller, start: () => Promise<T>): Promise<T> {
    const line = lines.get(sandboxId) ?? { length: 0, tail: Promise.resolve() }
    if (line.length > perSandbox) throw tooMany()
    lines.set(sandboxId, line)
    line.length += 1
    const turn = line.tail.then(async () => {
      const running = (await list(sandboxId, caller)).filter(({ state }) => state === 'running')
      if (running.length >= perSandbox) throw tooMany()
      return start()
    })
    const leave = (): void => {
      line.length -= 1
      if (line.length === 0) lines.delete(sandboxId)
    }
    line.tail = turn.then(leave, leave)
    return turn
  }

  async function openHub(sandboxId: string, caller: DoorCaller, known: KnownExec, from: number): Promise<Hub> {
    const { summary } = known
    const key = keyOf(sandboxId, summary.id)
    const attached = await execs.attach(sandboxId, caller, known, { from, stdin: summary.state === 'running' })
    const hub = createHub({
      terminalId: summary.id,
      attached,
      from,
      size: sizes.get(key),
      openHistory: (offset) => execs.attach(sandboxId, caller, known, { from: offset, stdin: false }),
      onSize: (size) => rememberSize(key, size),
      onEmpty() {
        if (open.get(key) !== hub) return
        open.delete(key)
        hubs.delete(key)
      },
    })
    open.set(key, hub)
    return hub
  }

  async function hubOf(sandboxId: string, caller: DoorCaller, known: KnownExec, from: number): Promise<Hub> {
    const key = keyOf(sandboxId, known.summary.id)
    for (let present = hubs.get(key); present; present = hubs.get(key)) {
      const hub = await present
      // Its last viewer may have left while we waited; then it is no longer in the map.
      if (!hub.closed) return hub
    }
    const opening = openHub(sandboxId, caller, known, from)
    hubs.set(key, opening)
    opening.catch(() => hubs.get(key) === opening && hubs.delete(key))
    return opening
  }

  return {
    async create(
      sandboxId: string,
      caller: DoorCaller,
      { cols, rows, cmd = loginShell, ...rest }: CreateTerminal,
      { key }: CreateOptions = {},
    ): Promise<Terminal> {
      return withRoom(sandboxId, caller, async () => {
        const exec = await execs.run(
          sandboxId,
          caller,
          { ...rest, cmd, pty: { cols, rows }, stdinOpen: true, background: true, encoding: 'utf8', stream: false },
          { key },
        )
        const { stdout: _, stderr: __, truncated: ___, truncatedBytes: ____, encoding: _____, ...summary } = exec
        rememberSize(keyOf(sandboxId, exec.id), { cols, rows })
        return viewOf(sandboxId, summary)
      })
    },

    async list(sandboxId: string, caller: DoorCaller): Promise<Terminal[]> {
      return (await list(sandboxId, caller)).map((summary) => viewOf(sandboxId, summary))
    },

    async resize(sandboxId: string, caller: DoorCaller, terminalId: string, size: TerminalSize): Promise<Terminal> {
      const { summary } = await find(sandboxId, caller, terminalId)
      const hub = open.get(keyOf(sandboxId, terminalId))
      if (hub && !hub.ended) hub.resize(size)
      else await execs.resize(sandboxId, caller, terminalId, size)
      rememberSize(keyOf(sandboxId, terminalId), size)
      return viewOf(sandboxId, summary)
    },

    /** HUP to everything in it, KILL to what is left. Done when it has ended. */
    async end(sandboxId: string, caller: DoorCaller, terminalId: string): Promise<void> {
      const known = await find(sandboxId, caller, terminalId)
      if (known.summary.state !== 'running') return
      const channel = await execs.attach(sandboxId, caller, known, { from: known.summary.outputBytes, stdin: false })
      const ended = channel
        .consume(() => {})
        .then(
          () => true,
          () => false,
        )
      try {
        await signal(execs, { sandboxId, caller, terminalId, name: 'SIGHUP' })
        if (await within(ended, patienceMs)) return
        await signal(execs, { sandboxId, caller, terminalId, name: 'SIGKILL' })
        await within(ended, patienceMs)
      } finally {
        channel.detach()
      }
    },

    /** A viewer takes its seat; `socket` hears `ready`, then the output. */
    async watch(
      sandboxId: string,
      caller: DoorCaller,
      terminalId: string,
      { socket, query }: { socket: ViewerSocket; query: ConnectQuery },
    ): Promise<Watching> {
      const known = await find(sandboxId, caller, terminalId)
      const kept = { start: known.start, end: known.summary.outputBytes }
      const place = placeOf(query, kept)
      if (!place.ok) {
        throw new DeltaError('invalid_request', 'The offset lies behind the end of the output', {
          cause: place.reason,
          context: { outputBytes: kept.end },
        })
      }
      const hub = await hubOf(sandboxId, caller, known, place.from)
      const readOnly = isReadOnly(query.readOnly)
      const watching = hub.join(socket, { from: place.from, end: kept.end, readOnly, aheadBytes: query.ahead })
      const { cols, rows } = query
      if (cols !== undefined && rows !== undefined && !readOnly) watching.resize({ cols, rows })
      return watching
    },

    /** Viewers and watched terminals now. */
    counts(): { viewers: number; watched: number } {
      let viewers = 0
      for (const hub of open.values()) viewers += hub.viewers
      return { viewers, watched: open.size }
    },
  }
}

function tooMany(): DeltaError {
  return new DeltaError('exec_limit_reached', `${perSandbox} terminals run in this sandbox already`, {
    context: { limit: perSandbox },
  })
}

interface Signalling {
  sandboxId: string
  caller: DoorCaller
  terminalId: string
  name: string
}

/** To the whole session. That it ended a moment ago is what was wanted. */
async function signal(execs: Execs, { sandboxId, caller, terminalId, name }: Signalling): Promise<void> {
  try {
    await execs.signal(sandboxId, caller, terminalId, { signal: name, scope: 'session' })
  } catch (error) {
    if (!(error instanceof DeltaError) || error.code !== 'exec_not_running') throw error
  }
}

async function within(ended: Promise<boolean>, limitMs: number): Promise<boolean> {
  const late = Promise.withResolvers<boolean>()
  const timer = setTimeout(() => late.resolve(false), limitMs)
  try {
    return await Promise.race([ended, late.promise])
  } finally {
    clearTimeout(timer)
  }
}
