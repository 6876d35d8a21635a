import type { FileChange } from '../drivers/driver.ts'
import { badCursor } from '../kernel/http/cursors.ts'

export interface Differences {
  added: number
  changed: number
  removed: number
  /** Of the files added and changed. */
  bytes: number
  data: FileChange[]
  nextCursor: string | null
}

/** One page of changes, which come in a fixed order, with the counts of all of them. */
export async function differences(
  changes: AsyncIterable<FileChange>,
  { limit, cursor }: { limit: number; cursor?: string | undefined },
): Promise<Differences> {
  const skip = cursor === undefined ? 0 : readPosition(cursor)
  const counts = { added: 0, changed: 0, removed: 0, bytes: 0 }
  const data: FileChange[] = []
  let position = 0
  for await (const change of changes) {
    position += 1
    counts[change.kind] += 1
    if (change.kind !== 'removed' && change.type === 'file') counts.bytes += change.size
    if (position > skip && data.length < limit) data.push(change)
  }
  const shown = skip + data.length
  return { ...counts, data, nextCursor: shown < position ? Buffer.from(`${shown}`).toString('base64url') : null }
}

function readPosition(cursor: string): number {
  const text = Buffer.from(cursor, 'base64url').toString('latin1')
  if (!/^[0-9]{1,12}$/.test(text)) throw badCursor()
  return Number(text)
}
