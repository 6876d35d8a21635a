import type { SnapshotInfo } from '@delta-agents/sdk'
import { showBytes, showDuration, visible } from './format.ts'

export interface HistoryOptions {
  /** The snapshot the workspace's files come from. */
  headId: string | null
  nowMs: number
}

/** Packages named on one line. */
const shownPackages = 4

/**
 * The history as a tree, oldest first. A line of descent stays in its column; where it parts, all but the last branch move one column to
 * the right.
 */
export function historyTree(snapshots: readonly SnapshotInfo[], options: HistoryOptions): string {
  const known = new Set(snapshots.map(({ id }) => id))
  const children = new Map<string | null, SnapshotInfo[]>()
  const oldestFirst = snapshots.toSorted((one, other) => one.createdAt.localeCompare(other.createdAt))
  for (const snapshot of oldestFirst) {
    // What it stood on may be gone, or belong to the workspace this one was forked from.
    const parent = snapshot.parentId !== null && known.has(snapshot.parentId) ? snapshot.parentId : null
    children.set(parent, [...(children.get(parent) ?? []), snapshot])
  }
  const lines: string[] = []
  // Own stack: a history may be longer than the call stack is deep.
  const waiting = (children.get(null) ?? []).map((snapshot) => ({ snapshot, indent: '' })).toReversed()
  while (waiting.length > 0) {
    const { snapshot, indent } = waiting.pop()!
    lines.push(`${indent}${snapshot.id === options.headId ? '●' : '○'} ${describe(snapshot, options)}`)
    const next = children.get(snapshot.id) ?? []
    const last = next.at(-1)
    if (last) waiting.push({ snapshot: last, indent })
    for (const branch of next.slice(0, -1).toReversed()) waiting.push({ snapshot: branch, indent: `${indent}│ ` })
  }
  return lines.map((line) => `${line}\n`).join('')
}

function describe(snapshot: SnapshotInfo, { headId, nowMs }: HistoryOptions): string {
  const age = showDuration(Math.max(0, nowMs - Date.parse(snapshot.createdAt)))
  const parts = [
    snapshot.id,
    `${age} ago`,
    snapshot.reason,
    ...(snapshot.name === null ? [] : [`[${snapshot.name}]`]),
    ...(snapshot.comment === '' ? [] : [visible(snapshot.comment)]),
    ...changesOf(snapshot),
    ...(snapshot.save.state === 'saved' ? [] : [snapshot.save.state]),
    ...(snapshot.id === headId ? ['(here)'] : []),
  ]
  return parts.join('  ')
}

/** All that is known of one. */
export function describeSnapshot(info: SnapshotInfo): string {
  const { save, changes } = info
  const rows: [string, string | null][] = [
    ['id', info.id],
    ['name', info.name],
    ['comment', info.comment === '' ? null : info.comment],
    ['workspace', info.workspaceId],
    ['parent', info.parentId ?? 'none'],
    ['template', info.template],
    ['taken', `${info.createdAt} (${info.reason})`],
    ['frozen', `${(info.frozenMicros / 1_000).toFixed(1)} ms`],
    ['saved', saveState(save)],
    ['here', info.isLocal ? 'yes' : 'no, it is fetched from storage when it is used'],
    ...(changes === null
      ? [['changes', 'not looked at yet'] satisfies [string, string]]
      : changesOf(info).map((text, at): [string, string] => [at === 0 ? 'changes' : 'packages', text])),
  ]
  return rows
    .filter((row): row is [string, string] => row[1] !== null)
    .map(([name, value]) => `${name.padEnd(20)} ${visible(value)}\n`)
    .join('')
}

function saveState({ state, savedBytes, error, layer }: SnapshotInfo['save']): string {
  if (state === 'saved') return layer ? `yes, ${showBytes(layer.size)}` : 'yes'
  if (state === 'saving') return `not yet, ${showBytes(savedBytes)} sent`
  return error === null ? 'not yet' : `not yet: ${error}`
}

function changesOf({ changes }: SnapshotInfo): string[] {
  if (changes === null) return []
  const { added, changed, removed, bytes, packages } = changes
  const isSame = added + changed + removed === 0
  const counts = isSame ? 'nothing changed' : `+${added} ~${changed} -${removed} ${showBytes(bytes)}`
  const named = (['apt', 'pip', 'npm'] as const).flatMap((kind) =>
    packages[kind].map(({ name, to }) => (to === null ? `${kind} -${name}` : `${kind} ${name} ${to}`)),
  )
  const tools = packages.tools.map(({ path, kind }) => `${kind === 'removed' ? '-' : ''}${path}`)
  const news = [...named, ...tools].map(visible)
  const more = news.length > shownPackages ? `, and ${news.length - shownPackages} more` : ''
  return news.length === 0 ? [counts] : [counts, news.slice(0, shownPackages).join(', ') + more]
}
