/** What cannot be changed once a box is made; everything else about a sandbox is bound when one is asked for. */
export interface WarmKind {
  runtime: string
  template: string
}

/** A box kept ready. */
export interface WarmContent {
  id: string
  kind: WarmKind
  madeAtMs: number
}

export interface PoolView {
  /** Boxes to keep ready, of all kinds together. */
  size: number
  /** Boxes there may still be on this machine, those of the pool included: callers' sandboxes come first. */
  room: number
  /** The configured runtime and the default template. */
  main: WarmKind
  /** When each kind was last asked for. */
  asked: readonly { kind: WarmKind; atMs: number }[]
  ready: readonly WarmContent[]
  /** Kinds of the boxes being made. */
  making: readonly WarmKind[]
  nowMs: number
}

export interface PoolPlan {
  make: WarmKind[]
  /** Ids of boxes to give up. */
  drop: string[]
  /** When time alone will change the plan. */
  nextLookMs: number | undefined
}

/** Where there is no room for all, this often whether there is. */
const roomLookMs = 10_000
/** A kind that is not the main one is kept while somebody asked for it in this time. */
export const recentMs = 10 * 60_000
/** Older ones are exchanged, one at a time. */
export const renewMs = 50 * 60_000
/** Older ones are not handed out: what a box was made of (template, programs of the host) may have changed since. */
export const oldestMs = 60 * 60_000

export function keyOf({ runtime, template }: WarmKind): string {
  return `${runtime}/${template}`
}

/** How many of each kind to keep. Other kinds than the main one share at most half, those asked for last first. */
export function sharesOf({ size, room, main, asked, nowMs }: PoolView): Map<string, { kind: WarmKind; boxes: number }> {
  const all = Math.max(0, Math.min(size, room))
  const others = asked
    .filter(({ kind, atMs }) => keyOf(kind) !== keyOf(main) && nowMs - atMs < recentMs)
    .toSorted((a, b) => b.atMs - a.atMs)
  const each = Math.max(1, Math.floor(all / 4))
  let left = Math.floor(all / 2)
  const given: { kind: WarmKind; boxes: number }[] = []
  for (const { kind } of others) {
    const boxes = Math.min(each, left)
    if (boxes === 0) break
    given.push({ kind, boxes })
    left -= boxes
  }
  const rest = all - given.reduce((sum, { boxes }) => sum + boxes, 0)
  const shares = [...(rest > 0 ? [{ kind: main, boxes: rest }] : []), ...given]
  return new Map(shares.map((share) => [keyOf(share.kind), share]))
}

/** What brings the pool towards its shares. Carried out, it leads to a plan with nothing in it. */
export function planPool(view: PoolView): PoolPlan {
  const { ready, making, nowMs } = view
  const shares = sharesOf(view)
  const drop = ready.filter(({ madeAtMs }) => nowMs - madeAtMs >= oldestMs).map(({ id }) => id)
  const fresh = ready.filter(({ madeAtMs }) => nowMs - madeAtMs < oldestMs).toSorted((a, b) => a.madeAtMs - b.madeAtMs)

  for (const [key, contents] of Map.groupBy(fresh, ({ kind }) => keyOf(kind))) {
    const surplus = contents.length - (shares.get(key)?.boxes ?? 0)
    drop.push(...contents.slice(0, Math.max(0, surplus)).map(({ id }) => id))
  }
  // Whoever asks meanwhile must still find one: the next goes when this one's successor is there.
  const oldest = fresh.find(({ id }) => !drop.includes(id))
  if (drop.length === 0 && making.length === 0 && oldest && nowMs - oldest.madeAtMs >= renewMs) drop.push(oldest.id)

  const gone = new Set(drop)
  const kept = fresh.filter(({ id }) => !gone.has(id))
  const counts = new Map<string, number>()
  for (const kind of [...kept.map((content) => content.kind), ...making]) {
    counts.set(keyOf(kind), (counts.get(keyOf(kind)) ?? 0) + 1)
  }
  const make: WarmKind[] = []
  for (const [key, { kind, boxes }] of shares) {
    const have = counts.get(key) ?? 0
    for (let count = have; count < boxes; count += 1) make.push(kind)
  }
  return { make, drop, nextLookMs: nextLook(view, kept) }
}

function nextLook({ size, room, asked, nowMs }: PoolView, kept: readonly WarmContent[]): number | undefined {
  const kinds = new Set(kept.map(({ kind }) => keyOf(kind)))
  const lapses = asked.filter(({ kind }) => kinds.has(keyOf(kind))).map(({ atMs }) => atMs + recentMs)
  // The oldest is the first.
  const renewals = kept.slice(0, 1).map(({ madeAtMs }) => madeAtMs + renewMs)
  const times = [...lapses, ...renewals, ...(room < size ? [nowMs + roomLookMs] : [])].filter((atMs) => atMs > nowMs)
  return times.length === 0 ? undefined : Math.min(...times)
}
