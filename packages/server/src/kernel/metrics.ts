import { limits } from './limits.ts'

export type Labels = Record<string, string>

export interface Metrics {
  counter(name: string, help: string): { add(labels?: Labels, amount?: number): void }
  histogram(name: string, help: string, buckets: readonly number[]): { observe(value: number, labels?: Labels): void }
  /** `read` is called when /metrics is asked for; it returns one number, or one for each combination of labels. */
  gauge(name: string, help: string, read: () => number | { labels: Labels; value: number }[]): void
  /** The same for a number that only grows and is counted elsewhere. */
  counterFrom(name: string, help: string, read: () => number): void
  /** Prometheus text format 0.0.4. */
  render(): string
}

interface Metric {
  help: string
  type: 'counter' | 'gauge' | 'histogram'
  lines(name: string): string[]
}

/** A small registry: what Prometheus needs of one process, without a library. */
export function createMetrics(): Metrics {
  const metrics = new Map<string, Metric>()
  const add = (name: string, metric: Metric) => {
    if (metrics.has(name)) throw new Error(`The metric ${name} is registered twice`)
    metrics.set(name, metric)
  }
  return {
    counter(name, help) {
      const series = createSeries(() => ({ value: 0 }))
      add(name, {
        help,
        type: 'counter',
        lines: () => series.all().map(([labels, { value }]) => line(name, labels, value)),
      })
      return {
        add: (labels = {}, amount = 1) => {
          series.of(labels).value += amount
        },
      }
    },
    histogram(name, help, buckets) {
      const series = createSeries(() => ({ counts: buckets.map(() => 0), sum: 0, count: 0 }))
      add(name, {
        help,
        type: 'histogram',
        lines: () => series.all().flatMap(([l, h]) => histogramLines(name, l, buckets, h)),
      })
      return {
        observe: (value, labels = {}) => {
          const entry = series.of(labels)
          entry.sum += value
          entry.count += 1
          const bucket = buckets.findIndex((bound) => value <= bound)
          if (bucket >= 0) entry.counts[bucket]! += 1
        },
      }
    },
    gauge: (name, help, read) => add(name, { help, type: 'gauge', lines: () => readLines(name, read()) }),
    counterFrom: (name, help, read) => add(name, { help, type: 'counter', lines: () => readLines(name, read()) }),
    render() {
      const parts: string[] = []
      for (const [name, { help, type, lines }] of metrics) {
        parts.push(`# HELP ${name} ${help}`, `# TYPE ${name} ${type}`, ...lines(name))
      }
      return `${parts.join('\n')}\n`
    },
  }
}

/** The values of one metric by their labels; those beyond the bound are counted together, so that no caller can grow the memory. */
function createSeries<Entry>(create: () => Entry) {
  const entries = new Map<string, Entry>()
  return {
    of(labels: Labels): Entry {
      let key = labelText(labels)
      const found = entries.get(key)
      if (found) return found
      if (entries.size >= limits.metricSeries) key = '{other="true"}'
      const entry = entries.get(key) ?? create()
      entries.set(key, entry)
      return entry
    },
    all: () => [...entries],
  }
}

function histogramLines(
  name: string,
  labels: string,
  buckets: readonly number[],
  { counts, sum, count }: { counts: number[]; sum: number; count: number },
): string[] {
  let below = 0
  const lines = buckets.map((bound, index) => {
    below += counts[index]!
    return line(`${name}_bucket`, withLabel(labels, `le="${bound}"`), below)
  })
  return [
    ...lines,
    line(`${name}_bucket`, withLabel(labels, 'le="+Inf"'), count),
    line(`${name}_sum`, labels, sum),
    line(`${name}_count`, labels, count),
  ]
}

function readLines(name: string, read: number | { labels: Labels; value: number }[]): string[] {
  if (typeof read === 'number') return [line(name, '', read)]
  return read.map(({ labels, value }) => line(name, labelText(labels), value))
}

function line(name: string, labels: string, value: number): string {
  return `${name}${labels} ${value}`
}

function withLabel(labels: string, label: string): string {
  return labels === '' ? `{${label}}` : `${labels.slice(0, -1)},${label}}`
}

function labelText(labels: Labels): string {
  const parts: string[] = []
  for (const name in labels) parts.push(`${name}="${escapeLabel(labels[name]!)}"`)
  return parts.length === 0 ? '' : `{${parts.join(',')}}`
}

function escapeLabel(value: string): string {
  if (!/["\\\n]/.test(value)) return value
  return value.replaceAll('\\', '\\\\').replaceAll('"', '\\"').replaceAll('\n', '\\n')
}
