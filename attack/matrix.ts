import { attacks, isWell, type Outcome, type Row } from './battery.ts'
import type { RuntimeName } from './attack.ts'

const marks: Record<Outcome['state'], string> = { held: 'held', fell: 'FELL', broken: 'BROKEN', missing: 'n/a' }

export interface Counts {
  held: number
  felt: number
  failed: number
  missing: number
}

/** What held in a real sandbox, what fell without its defence, and what is wrong with either. */
export function count(rows: readonly Row[]): Counts {
  return {
    held: rows.filter(({ strong }) => strong.state === 'held').length,
    felt: rows.filter(({ weak }) => weak.state === 'fell').length,
    failed: rows.filter((row) => !isWell(row)).length,
    missing: rows.filter(({ strong }) => strong.state === 'missing').length,
  }
}

export function line(row: Row): string {
  const { attack, strong, weak } = row
  const without = 'weak' in attack ? attack.weak.without : attack.without
  const words = isWell(row)
    ? strong.state === 'missing'
      ? strong.detail
      : `without ${without}: ${weak.detail}`
    : problem(row)
  return `${isWell(row) ? 'ok  ' : 'FAIL'} ${attack.name.padEnd(20)} ${marks[strong.state].padEnd(7)} ${words}\n`
}

function problem({ strong, weak }: Row): string {
  if (strong.state !== 'held') return strong.detail
  return weak.state === 'broken'
    ? `the weak set-up broke: ${weak.detail}`
    : 'the canary also stands without the defence, so this proves nothing'
}

/** A line for each attack, a column for each runtime. */
export function matrix(results: ReadonlyMap<RuntimeName, readonly Row[]>): string {
  const runtimes = [...results.keys()]
  const names = attacks
    .map(({ name }) => name)
    .filter((name) => runtimes.some((runtime) => results.get(runtime)?.some((row) => row.attack.name === name)))
  const width = Math.max(6, ...names.map((name) => name.length))
  const cell = (runtime: RuntimeName, name: string) => {
    const row = results.get(runtime)?.find(({ attack }) => attack.name === name)
    if (row === undefined) return '-'
    if (row.strong.state === 'held' && row.weak.state !== 'fell') return 'UNPROVEN'
    return marks[row.strong.state]
  }
  const promiseOf = (name: string) => String(attacks.find((attack) => attack.name === name)?.promise ?? '')
  const lines = [
    `${'attack'.padEnd(width)}  promise  ${runtimes.map((name) => name.padEnd(9)).join('')}`,
    ...names.map((name) =>
      `${name.padEnd(width)}  ${promiseOf(name).padEnd(7)}  ${runtimes.map((runtime) => cell(runtime, name).padEnd(9)).join('')}`.trimEnd(),
    ),
  ]
  return `${lines.join('\n')}\n`
}
