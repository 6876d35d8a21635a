import { sqlFault } from './values.ts'
import type { SqlValue } from './worker-messages.ts'

/** One statement in each database's words. SQLite runs it once for each row of `rows`, PostgreSQL once, with the columns of `rows` as its arrays: `unnest($1::text[], $2::bigint[])`, `= any($1)`. */
export interface ProgramQuery {
  sqlite: string
  postgres: string
  /** Parameters: texts, finite numbers (whole ones within ±2⁵³) and null. Without any the statement is not run. */
  rows: readonly (readonly SqlValue[])[]
}

export type ProgramRow = Record<string, SqlValue>

/**
 * What a program keeps between its groups, by ids of its own, instead of reading it again. It is empty whenever that may not be as the database has it: after a group that was not kept, and
 * after anything else has written to a table that the program's module names in `remembers`. So whatever is put in must have been written, or be as it was read.
 */
export interface ProgramMemory {
  get(id: string): unknown
  set(id: string, value: object): void
}

/**
 * Decides and writes operations beside the data: all that came together are one group, which gives each its answer in the same order. It yields statements, receives the rows of
 * each, and has no other way to wait, so that no transaction stays open for anything but the database itself. What it was given and what it answers are structured clones.
 *
 * A group stands under a savepoint of its own. Where it throws, nothing of it is kept and each operation is tried alone, so that one that is faulty takes no other along: an
 * operation that is refused must therefore be answered so, not thrown.
 *
 * There is a memory only where nobody but this process writes: with SQLite.
 */
export type Program<Operation, Answer> = (
  group: readonly Operation[],
  memory?: ProgramMemory,
) => Generator<readonly ProgramQuery[], Answer[], readonly ProgramRow[][]>

export type AnyProgram = Program<unknown, unknown>

/** What the module of a program exports. */
export interface ProgramModule {
  program: AnyProgram
  /** Tables of which it keeps rows in its memory. No trigger or cascade may write to them: only a statement that names the table is noticed. @default none */
  remembers?: readonly string[]
}

/** What a program itself threw, and not the database under it. */
export class ProgramFault extends Error {
  override readonly name = 'ProgramFault'

  constructor(cause: unknown) {
    super((cause as Error).message, { cause })
  }
}

export async function loadProgram(href: string): Promise<ProgramModule> {
  try {
    return (await import(href)) as ProgramModule
  } catch (cause) {
    throw new ProgramFault(cause)
  }
}

/** Throws where a parameter is of no kind that both databases store and give back alike. */
export function checkRows(sql: string, rows: ProgramQuery['rows']): void {
  for (const row of rows) {
    for (const value of row) {
      const fault = sqlFault(value)
      if (fault) throw new RangeError(`A parameter of "${sql.slice(0, 200)}" ${fault}`)
    }
  }
}

export function checkAnswers(answers: readonly unknown[], group: readonly unknown[]): void {
  if (answers.length !== group.length)
    throw new RangeError(`A program gave ${answers.length} answers to ${group.length} operations`)
}
