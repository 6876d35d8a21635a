/** How alike two texts are, from 0 to 1: of the pairs of neighbouring characters, how many are in both (Dice). */
export function likeness(a: string, b: string): number {
  if (a === b) return 1
  if (a.length < 2 || b.length < 2) return 0
  const pairs = new Map<string, number>()
  for (let at = 0; at < a.length - 1; at += 1) {
    const pair = a.slice(at, at + 2)
    pairs.set(pair, (pairs.get(pair) ?? 0) + 1)
  }
  let both = 0
  for (let at = 0; at < b.length - 1; at += 1) {
    const pair = b.slice(at, at + 2)
    const left = pairs.get(pair) ?? 0
    if (left === 0) continue
    pairs.set(pair, left - 1)
    both += 1
  }
  return (2 * both) / (a.length + b.length - 2)
}

/** The most alike first, and none that is less alike than `least`. */
export function nearest<Item>(
  wanted: string,
  among: Iterable<Item>,
  { textOf, most, least }: { textOf: (item: Item) => string; most: number; least: number },
): Item[] {
  const scored: { item: Item; score: number }[] = []
  for (const item of among) {
    const score = likeness(wanted, textOf(item))
    if (score >= least) scored.push({ item, score })
  }
  return scored
    .toSorted((a, b) => b.score - a.score)
    .slice(0, most)
    .map(({ item }) => item)
}
