import type { DatabaseSync, StatementSync } from 'node:sqlite'

/** Prepares each statement once and keeps so many of them: those that were used last. */
export function keepStatements(database: DatabaseSync, most: number): (sql: string) => StatementSync {
  const statements = new Map<string, StatementSync>()
  return (sql) => {
    let statement = statements.get(sql)
    // Kept in the order of use: the first one is the one unused for longest.
    if (statement) statements.delete(sql)
    else {
      statement = database.prepare(sql)
      if (statements.size >= most) statements.delete(statements.keys().next().value!)
    }
    statements.set(sql, statement)
    return statement
  }
}
