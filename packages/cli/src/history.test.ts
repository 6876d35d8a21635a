import type { SnapshotInfo } from '@delta-agents/sdk'
import { expect, test } from 'vitest'
import { historyTree } from './history.ts'

function snapshot(id: string, parentId: string | null, minute: number, more: Partial<SnapshotInfo> = {}): SnapshotInfo {
  return {
    id,
    workspaceId: 'wsp_a',
    parentId,
    template: 'host',
    name: null,
    comment: '',
    reason: 'stop',
    bytes: null,
    flushMicros: 0,
    frozenMicros: 0,
    isLocal: true,
    changes: null,
    save: { state: 'saved', savedBytes: 0, error: null, layer: null },
    createdAt: new Date(minute * 60_000).toISOString(),
    ...more,
  }
}

const options = { headId: null, nowMs: 100 * 60_000 }

test('a line of descent stays in one column, and the head is marked', () => {
  const text = historyTree([snapshot('snp_b', 'snp_a', 2), snapshot('snp_a', null, 1)], { ...options, headId: 'snp_b' })
  expect(text).toBe('○ snp_a  99 min ago  stop\n● snp_b  98 min ago  stop  (here)\n')
})

test('where it parts, the older branch moves to the right and the newest goes on below it', () => {
  const all = [
    snapshot('snp_a', null, 1),
    snapshot('snp_b', 'snp_a', 2),
    snapshot('snp_c', 'snp_b', 3),
    snapshot('snp_d', 'snp_a', 4),
  ]
  const shape = historyTree(all, options).replaceAll(/ {2}.*/g, '')
  expect(shape).toBe('○ snp_a\n│ ○ snp_b\n│ ○ snp_c\n○ snp_d\n')
})

test('one whose parent is gone begins a tree of its own', () => {
  expect(historyTree([snapshot('snp_b', 'snp_gone', 2)], options)).toContain('○ snp_b')
})

test('a history of ten thousand is drawn', () => {
  const all = Array.from({ length: 10_000 }, (_, at) =>
    snapshot(`snp_${at}`, at === 0 ? null : `snp_${at - 1}`, at / 60),
  )
  expect(historyTree(all, options).split('\n')).toHaveLength(10_001)
})

test('names, comments, packages and what is not yet saved are told; control characters are shown, not sent', () => {
  const packages = { apt: [], pip: [{ name: 'numpy', from: null, to: '2.1.0' }], npm: [], tools: [] }
  const changes = { added: 3, changed: 1, removed: 0, bytes: 2_048, first: [], packages }
  const save = { state: 'pending' as const, savedBytes: 0, error: null, layer: null }
  const text = historyTree(
    [snapshot('snp_a', null, 1, { name: 'good', comment: 'x\u001b[2J', changes, save })],
    options,
  )
  expect(text).toBe('○ snp_a  99 min ago  stop  [good]  x\\x1b[2J  +3 ~1 -0 2.0 KiB  pip numpy 2.1.0  pending\n')
})

test('a snapshot of what did not change says so in words', () => {
  const packages = { apt: [], pip: [], npm: [], tools: [] }
  const changes = { added: 0, changed: 0, removed: 0, bytes: 0, first: [], packages }
  expect(historyTree([snapshot('snp_a', null, 1, { changes })], options)).toBe(
    '○ snp_a  99 min ago  stop  nothing changed\n',
  )
})
