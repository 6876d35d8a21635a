/** A test that was not run, and why. */
export interface Skip {
  name: string
  reason: string
}

const none = 'no reason given'

/** From what vitest's verbose reporter or cargo said, without colours. */
export function skipsIn(output: string): Skip[] {
  const vitest = [...output.matchAll(/^ *↓ (.+)$/gmu)].map(([, line]) => {
    const reason = /\[([^[\]]+)\]$/.exec(line!)?.[1]
    const rest = reason === undefined ? line! : line!.slice(0, -reason.length - 2)
    return { name: rest.trim().replace(/ \d+ms$/, ''), reason: reason ?? none }
  })
  const cargo = [...output.matchAll(/^test (\S+) \.\.\. ignored(?:, (.+))?$/gm)]
  return [...vitest, ...cargo.map(([, name, reason]) => ({ name: name!, reason: reason ?? none }))]
}

/** One line for each reason. */
export function skipLines(skips: readonly Skip[]): string[] {
  const byReason = Map.groupBy(skips, ({ reason }) => reason)
  return [...byReason].map(([reason, those]) => {
    const shown = those.length === 1 ? those[0]!.name : `${those.length} tests, the first ${those[0]!.name}`
    return `skip ${reason}: ${shown}`
  })
}
