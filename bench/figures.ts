/** One measured figure beside its rival. Raw percentiles, nothing trimmed. */
export interface Figure {
  name: string
  unit: string
  n: number
  p50: number
  p95: number
  p99: number
  rival: string | null
  rivalP50: number | null
  ratio: number | null
  bar: string
  holds: boolean
}

export interface FigureInput {
  name: string
  unit: string
  samples: number[]
  rival?: { name: string; samples: number[] }
  bar: string
  /** Judges the finished figure; `bar` says the same in words. */
  holds: (figure: Omit<Figure, 'holds'>) => boolean
}

export function figure({ name, unit, samples, rival, bar, holds }: FigureInput): Figure {
  if (samples.length === 0) throw new Error(`${name}: nothing was measured`)
  const p50 = percentile(samples, 50)
  const rivalP50 = rival ? percentile(rival.samples, 50) : null
  const measured = {
    name,
    unit,
    n: samples.length,
    p50,
    p95: percentile(samples, 95),
    p99: percentile(samples, 99),
    rival: rival?.name ?? null,
    rivalP50,
    ratio: rivalP50 === null ? null : p50 / rivalP50,
    bar,
  }
  return { ...measured, holds: holds(measured) }
}

/** Nearest-rank percentile: the smallest sample that at least `percent` of all samples do not exceed. */
export function percentile(samples: number[], percent: number): number {
  const sorted = samples.toSorted((a, b) => a - b)
  const value = sorted[Math.max(0, Math.ceil((percent / 100) * sorted.length) - 1)]
  if (value === undefined) throw new Error('no samples')
  return value
}

export function table(figures: Figure[]): string {
  const rows = figures.map((row) => [
    row.name,
    row.unit,
    String(row.n),
    short(row.p50),
    short(row.p95),
    short(row.p99),
    row.rival ?? '',
    row.rivalP50 === null ? '' : short(row.rivalP50),
    row.ratio === null ? '' : short(row.ratio),
    row.bar,
    row.holds ? 'holds' : 'MISSED',
  ])
  const head = ['figure', 'unit', 'n', 'p50', 'p95', 'p99', 'rival', 'rival p50', 'ratio', 'bar', '']
  return [head, head.map(() => '---'), ...rows].map((cells) => `| ${cells.join(' | ')} |`).join('\n')
}

function short(value: number): string {
  return value >= 100 ? value.toFixed(0) : value >= 10 ? value.toFixed(1) : value.toFixed(2)
}
