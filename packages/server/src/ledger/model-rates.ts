// What models cost at their providers, in US dollars for a million tokens: platform.claude.com/docs/en/about-claude/pricing and ai.google.dev/gemini-api/docs/pricing, as of
// November 2026. One token of ours is US$ 0.01. Output is with thinking. Where a provider has a discount that ends by itself, its regular price stands here.

const microPerUsd = 100_000_000

interface Prices {
  input: number
  output: number
  cacheRead: number
  /** Of calls with more input than this many tokens. */
  over?: { tokens: number } & Omit<Prices, 'over'>
}

/** Claude's caches cost 1.25 times the input to write for five minutes, and twice for an hour. */
const claude: Readonly<Record<string, Prices>> = {
  'claude-fable-5-1': { input: 10, output: 50, cacheRead: 0.25 },
  'claude-fable-5': { input: 10, output: 50, cacheRead: 1 },
  'claude-opus-5-5': { input: 4, output: 20, cacheRead: 0.2 },
  'claude-opus-5': { input: 5, output: 25, cacheRead: 0.5 },
  'claude-opus-4-8': { input: 5, output: 25, cacheRead: 0.5 },
  'claude-opus-4-7': { input: 5, output: 25, cacheRead: 0.5 },
  'claude-opus-4-6': { input: 5, output: 25, cacheRead: 0.5 },
  'claude-opus-4-5': { input: 5, output: 25, cacheRead: 0.5 },
  'claude-sonnet-5-5': { input: 2, output: 10, cacheRead: 0.1 },
  'claude-sonnet-5': { input: 2, output: 10, cacheRead: 0.2 },
  'claude-sonnet-4-6': { input: 3, output: 15, cacheRead: 0.3 },
  'claude-sonnet-4-5': { input: 3, output: 15, cacheRead: 0.3 },
  'claude-haiku-5-5': {
    input: 0.1,
    output: 0.5,
    cacheRead: 0.01,
    over: { tokens: 100_000, input: 0.5, output: 2.5, cacheRead: 0.05 },
  },
  'claude-haiku-4-5': { input: 1, output: 5, cacheRead: 0.1 },
}

/** Gemini keeps what it likes by itself: that costs a tenth to read and nothing to write. */
const gemini: Readonly<Record<string, Prices>> = {
  'gemini-3.8-flash': { input: 1.5, output: 7.5, cacheRead: 0.15 },
  'gemini-3.5-flash': { input: 1.5, output: 9, cacheRead: 0.15 },
  'gemini-3.5-flash-lite': { input: 0.3, output: 2.5, cacheRead: 0.03 },
  'gemini-3.1-pro-preview': {
    input: 2,
    output: 12,
    cacheRead: 0.2,
    over: { tokens: 200_000, input: 4, output: 18, cacheRead: 0.4 },
  },
  'gemini-2.5-pro': {
    input: 1.25,
    output: 10,
    cacheRead: 0.125,
    over: { tokens: 200_000, input: 2.5, output: 15, cacheRead: 0.25 },
  },
  'gemini-2.5-flash': { input: 0.3, output: 2.5, cacheRead: 0.03 },
  'gemini-2.5-flash-lite': { input: 0.1, output: 0.4, cacheRead: 0.01 },
}

type Meters = Record<string, { unit: string; perMillion: number }>

function metersOf(model: string, { over, ...base }: Prices, writes: boolean): Meters {
  const meters: Meters = {}
  const add = (kind: string, unit: string, usd: number) => {
    meters[`model:${model}:${kind}`] = { unit, perMillion: Math.round(usd * microPerUsd) }
  }
  const tiers = [{ ...base, tokens: 0 }, ...(over ? [over] : [])]
  for (const { tokens, input, output, cacheRead } of tiers) {
    const suffix = tokens === 0 ? '' : `_over_${tokens}`
    add(`input${suffix}`, 'token of input', input)
    add(`cache_read${suffix}`, 'token of input from a cache', cacheRead)
    if (writes) {
      add(`cache_write${suffix}`, 'token of input kept for 5 minutes', input * 1.25)
      add(`cache_write_hour${suffix}`, 'token of input kept for an hour', input * 2)
    }
    add(`output${suffix}`, 'token of output', output)
  }
  return meters
}

export const modelMeters: Readonly<Meters> = Object.assign(
  {},
  ...Object.entries(claude).map(([name, prices]) => metersOf(`anthropic/${name}`, prices, true)),
  ...Object.entries(gemini).map(([name, prices]) => metersOf(`google/${name}`, prices, false)),
)
