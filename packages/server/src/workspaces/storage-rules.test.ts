import { expect, test } from 'vitest'
import { dayOf, storedBytes, type StoredLayer, type StoredSnapshot, untilNextDayMs } from './storage-rules.ts'

const snapshot = (id: string, fields: Partial<StoredSnapshot> = {}): StoredSnapshot => ({
  id,
  parentId: null,
  isLocal: true,
  bytes: null,
  layerDigest: null,
  ...fields,
})
const layer = (digest: string, size: number, tarSize: number): StoredLayer => ({
  digest,
  size,
  tarSize,
  isStored: true,
})

test('a layer that several snapshots are made up of counts once in storage', () => {
  const snapshots = [
    snapshot('snp_a', { layerDigest: 'd1', isLocal: false }),
    snapshot('snp_b', { layerDigest: 'd1', isLocal: false }),
    snapshot('snp_c', { layerDigest: 'd2', isLocal: false }),
  ]
  const layers = [layer('d1', 10, 100), { ...layer('d2', 20, 200), isStored: false }]
  expect(storedBytes(snapshots, layers, 0)).toEqual({ poolBytes: 0, layerBytes: 10 })
})

test('a snapshot in the pool counts with how it differs from the one before it', () => {
  const snapshots = [
    snapshot('snp_a', { bytes: 1_000 }),
    snapshot('snp_b', { bytes: 1_300, parentId: 'snp_a' }),
    // Less than before: something was removed.
    snapshot('snp_c', { bytes: 900, parentId: 'snp_b' }),
    snapshot('snp_d', { bytes: 5_000, parentId: 'snp_c', layerDigest: 'd1' }),
    snapshot('snp_e', { bytes: 7_000, isLocal: false }),
    snapshot('snp_f'),
  ]
  expect(storedBytes(snapshots, [layer('d1', 40, 400)], 0)).toEqual({
    poolBytes: 1_000 + 300 + 0 + 400,
    layerBytes: 40,
  })
})

test('volumes count with the size they were made with', () => {
  expect(storedBytes([], [], 3)).toEqual({ poolBytes: 3 * 1024 * 1024, layerBytes: 0 })
})

test('a day is one of UTC, and ends at its midnight', () => {
  const late = Date.UTC(2026, 10, 23, 23, 59, 59)
  expect([dayOf(late), untilNextDayMs(late), dayOf(late + 1_000)]).toEqual(['2026-11-23', 1_000, '2026-11-24'])
})
