const kib = 1024
const mib = 1024 * kib

/** Memory for bytes that wait for whoever is slow: far sides, clients, viewers, guests. Of all sandboxes together. */
export const heldLimits = {
  bytes: 96 * mib,
  /** Half of it is divided among as many sandboxes as there may be: what each has whatever the others do. */
  guaranteedBytes: 48 * mib,
} as const

/** What reads for an account, and can be told to stop for a while. */
export interface Source {
  pause(): void
  resume(): void
}

/** One sandbox's part. Whoever takes gives back, exactly once. */
export interface HeldAccount {
  readonly bytes: number
  /** Room for what may come at any time from now on. False: there is none, so it must be refused. */
  take(bytes: number): boolean
  /** More room for what has enough to go on; false as soon as it could be missed elsewhere. */
  grow(bytes: number): boolean
  give(bytes: number): void
  /** For what is here already. Beyond what the sandbox may hold its sources pause, until all of it has gone. */
  keep(bytes: number): void
  giveKept(bytes: number): void
  /** Others want room, too: what has more than it needs to go on should let go of it. */
  readonly tight: boolean
  /** Returns how to leave. A source that comes while the others pause pauses, too. */
  addSource(source: Source): () => void
}

export interface HeldBytes {
  /** For each connection to a sandbox. */
  account(): HeldAccount
  /** Of all accounts. */
  readonly bytes: number
}

export interface Holding {
  /** Of this account. */
  mine: number
  /** What every account has for itself alone. */
  part: number
  /** The rest, for whoever needs it. */
  shared: number
  /** What the other accounts have of the rest. */
  others: number
}

/**
 * The most an account may hold: its own part, and of the rest as much as it leaves free. So it is never used up: who comes next finds a half of what
 * was left, and its own part in any case.
 */
export function mayHold({ part, shared, others }: Omit<Holding, 'mine'>): number {
  return part + Math.floor(Math.max(0, shared - others) / 2)
}

/** Up to here what is not needed to go on may grow, so that what is needed still finds room. */
export function mayGrowTo({ part, shared, others }: Omit<Holding, 'mine'>): number {
  return part + Math.floor(Math.max(0, shared - others) / 4)
}

export interface HeldBytesOptions {
  /** Sandboxes that there may be at once. @default 1000 */
  accounts?: number
  /** @default heldLimits.bytes */
  bytes?: number
  /** @default heldLimits.guaranteedBytes */
  guaranteedBytes?: number
}

export function createHeldBytes({
  accounts = 1_000,
  bytes = heldLimits.bytes,
  guaranteedBytes = heldLimits.guaranteedBytes,
}: HeldBytesOptions = {}): HeldBytes {
  const part = Math.floor(guaranteedBytes / accounts)
  const shared = bytes - part * accounts
  let all = 0
  let borrowed = 0

  function account(): HeldAccount {
    let mine = 0
    let kept = 0
    let paused = false
    const sources = new Set<Source>()

    const beyondPart = (): number => Math.max(0, mine - part)
    const holding = () => ({ part, shared, others: borrowed - beyondPart() })

    const change = (by: number): void => {
      borrowed -= beyondPart()
      mine += by
      all += by
      borrowed += beyondPart()
    }

    const takeUpTo = (most: number, wanted: number): boolean => {
      if (mine + wanted > most) return false
      change(wanted)
      return true
    }

    return {
      get bytes() {
        return mine
      },
      get tight() {
        return mine > mayGrowTo(holding())
      },
      take: (wanted) => takeUpTo(mayHold(holding()), wanted),
      grow: (wanted) => takeUpTo(mayGrowTo(holding()), wanted),
      give: (given) => change(-given),
      keep(more) {
        change(more)
        kept += more
        if (paused || mine <= mayHold(holding())) return
        paused = true
        for (const source of sources) source.pause()
      },
      giveKept(given) {
        change(-given)
        kept -= given
        // Others may have taken all there is: with nothing left that could go, waiting on would be for ever.
        if (!paused || (kept > 0 && mine > mayHold(holding()))) return
        paused = false
        for (const source of sources) source.resume()
      },
      addSource(source) {
        sources.add(source)
        if (paused) source.pause()
        return () => void sources.delete(source)
      },
    }
  }

  return {
    account,
    get bytes() {
      return all
    },
  }
}
