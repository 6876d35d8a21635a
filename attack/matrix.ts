import { type Column, isWell, type Outcome, type Row } from './battery.ts'

const marks: Record<Outcome['state'], string> = {
  held: 'held',
  fell: 'FELL',
  broken: 'BROKEN',
  missing: 'n/a',
  unshown: '',
}

export interface Counts {
  held: number
  felt: number
  failed: number
  missing: number
  /** Held, and nowhere to be shown that they would do harm. */
  unshown: number
}

/** What held in a real sandbox, what fell without its defence, and what is wrong with either. */
export function count(rows: readonly Row[]): Counts {
  return {
    held: rows.filter(({ strong }) => strong.state === 'held').length,
    felt: rows.filter(({ weak }) => weak.state === 'fell').length,
    failed: rows.filter((row) => !isWell(row)).length,
    missing: rows.filter(({ strong }) => strong.state === 'missing').length,
    unshown: rows.filter(({ strong, weak }) => strong.state === 'held' && weak.state === 'unshown').length,
  }
}

export function line(row: Row): string {
  const { attack, strong, weak } = row
  const words = isWell(row)
    ? strong.state === 'missing'
      ? strong.detail
      : weak.state === 'unshown'
        ? `not shown to do harm: ${weak.detail}`
        : `without ${attack.without}: ${weak.detail}`
    : problem(row)
  return `${isWell(row) ? 'ok  ' : 'FAIL'} ${attack.name.padEnd(20)} ${marks[strong.state].padEnd(7)} ${words}\n`
}

function problem({ strong, weak }: Row): string {
  if (strong.state !== 'held') return strong.detail
  return weak.state === 'broken'
    ? `the weak set-up broke: ${weak.detail}`
    : 'the canary also stands without the defence, so this proves nothing'
}

/** A line for each attack, a column for each runtime and the HTTP process. */
export function matrix(results: ReadonlyMap<Column, readonly Row[]>): string {
  const columns = [...results.keys()]
  const titles = new Map([...results.values()].flat().map(({ attack }) => [attack.name, attack]))
  const width = Math.max(6, ...[...titles.keys()].map((name) => name.length))
  const cell = (column: Column, name: string) => {
    const row = results.get(column)?.find(({ attack }) => attack.name === name)
    if (row === undefined) return '-'
    if (row.strong.state === 'held' && row.weak.state === 'unshown') return 'held*'
    if (row.strong.state === 'held' && row.weak.state !== 'fell') return 'UNPROVEN'
    return marks[row.strong.state]
  }
  const lines = [
    `${'attack'.padEnd(width)}  promise  ${columns.map((name) => name.padEnd(9)).join('')}`,
    ...[...titles.values()].map(
      ({ name, promise }) =>
        `${name.padEnd(width)}  ${String(promise).padEnd(7)}  ${columns.map((column) => cell(column, name).padEnd(9)).join('')}`,
    ),
  ]
  const unshown = new Map(
    [...results.values()]
      .flat()
      .filter(({ strong, weak }) => strong.state === 'held' && weak.state === 'unshown')
      .map(({ attack, weak }) => [attack.name, weak.detail]),
  )
  const notes = [...unshown].map(([name, why]) => `* ${name}: not shown to do harm without the defence: ${why}`)
  return `${[...lines, ...notes].map((text) => text.trimEnd()).join('\n')}\n`
}
