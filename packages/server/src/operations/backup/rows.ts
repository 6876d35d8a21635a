import { createReadStream, createWriteStream } from 'node:fs'
import { Readable } from 'node:stream'
import { pipeline } from 'node:stream/promises'
import { createZstdCompress, createZstdDecompress } from 'node:zlib'
import type { DatabaseSnapshot, TableRows } from '../../kernel/db/snapshot.ts'
import type { SqlValue } from '../../kernel/db/worker-messages.ts'
import { invalid } from './archive.ts'

// Rows as JSON lines, compressed: `{"table":…,"columns":[…]}` and, for the rows that follow, an array of their values each. Bytes are `{"base64":…}`.

/** Of one row. */
const lineBytes = 64 * 1024 * 1024

export interface WrittenRows {
  tables: Record<string, number>
  migrations: string[]
  /** Before they were compressed. */
  bytes: number
}

export async function writeRows(snapshot: DatabaseSnapshot, path: string): Promise<WrittenRows> {
  const written: WrittenRows = { tables: {}, migrations: [], bytes: 0 }
  const lines = async function* (): AsyncGenerator<Buffer> {
    for await (const { table, columns, rows } of snapshot.read()) {
      written.tables[table] = (written.tables[table] ?? 0) + rows.length
      if (table === 'migrations') written.migrations.push(...rows.map((row) => String(row[columns.indexOf('name')])))
      const texts = [JSON.stringify({ table, columns }), ...rows.map((row) => JSON.stringify(row.map(writtenValue)))]
      const chunk = Buffer.from(`${texts.join('\n')}\n`)
      written.bytes += chunk.byteLength
      yield chunk
    }
  }
  await pipeline(Readable.from(lines()), createZstdCompress(), createWriteStream(path, { mode: 0o600, flags: 'wx' }))
  return written
}

const writtenValue = (value: SqlValue): unknown =>
  value instanceof Uint8Array ? { base64: Buffer.from(value).toString('base64') } : value

export async function* readRows(path: string): AsyncGenerator<TableRows> {
  const unpacked = createReadStream(path).pipe(createZstdDecompress())
  let current: { table: string; columns: string[] } | undefined
  let rows: SqlValue[][] = []
  for await (const line of linesOf(unpacked)) {
    const value = parsed(line)
    if (Array.isArray(value)) {
      if (!current || value.length !== current.columns.length) throw invalid('A row of the database has no table')
      if (rows.push(value.map(readValue)) < rowsAtOnce) continue
      yield { ...current, rows }
      rows = []
      continue
    }
    if (current) yield { ...current, rows }
    rows = []
    current = tableIn(value)
  }
  if (current) yield { ...current, rows }
}

const rowsAtOnce = 500

async function* linesOf(source: AsyncIterable<Buffer>): AsyncGenerator<string> {
  let held: Buffer[] = []
  let heldBytes = 0
  for await (const chunk of source) {
    let start = 0
    for (let end = chunk.indexOf(0x0a); end !== -1; end = chunk.indexOf(0x0a, start)) {
      yield Buffer.concat([...held, chunk.subarray(start, end)]).toString('utf8')
      held = []
      heldBytes = 0
      start = end + 1
    }
    if (start === chunk.byteLength) continue
    held.push(chunk.subarray(start))
    heldBytes += chunk.byteLength - start
    if (heldBytes > lineBytes) throw invalid('A row of the database is too long')
  }
  if (heldBytes > 0) throw invalid('The database is cut within a row')
}

function tableIn(value: unknown): { table: string; columns: string[] } {
  const { table, columns } = (value ?? {}) as { table?: unknown; columns?: unknown }
  if (typeof table === 'string' && Array.isArray(columns) && columns.every((one) => typeof one === 'string')) {
    return { table, columns }
  }
  throw invalid('A line of the database names no table')
}

function parsed(line: string): unknown {
  try {
    return JSON.parse(line)
  } catch {
    throw invalid('A line of the database can not be read')
  }
}

function readValue(value: unknown): SqlValue {
  if (value === null || typeof value === 'string' || typeof value === 'number') return value
  const { base64 } = value as { base64?: unknown }
  if (typeof base64 === 'string') return Buffer.from(base64, 'base64')
  throw invalid('A value of the database is of no kind that is known')
}
