import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import type { BoxState, BoxStatus } from '../drivers/driver.ts'
import { type Found, planMending, sortFound } from './reconcile.ts'
import { moved } from './records.ts'
import { holdsBox, isOver, sandboxStates } from './states.ts'
import type { SandboxRecord } from './store.ts'
import { testId, testRecord } from './testing.ts'

const boxStates = [undefined, 'running', 'frozen', 'dead'] as const

function situation(state: SandboxRecord['state'], boxState: BoxState | undefined, hasUpper: boolean, sameBox = true) {
  const row = testRecord(testId(1), { state })
  if (state === 'stopped' || isOver(state)) row.boxId = null
  const boxId = sameBox ? (row.boxId ?? 'box_old1') : 'box_old1'
  const box: BoxStatus | undefined = boxState && { boxId, upperId: row.upperId, state: boxState, template: 'host' }
  return { row, found: { box, hasUpper: hasUpper || box !== undefined } }
}

/** Carries a plan out as the service does. */
function carryOut(row: SandboxRecord, found: Found) {
  const { end, dropUpper, moves } = planMending(row, found)
  let after = row
  let { box, hasUpper } = found
  for (const change of moves) after = moved(after, change, 2_000)
  if (end) {
    expect(box?.boxId).toBe(end.boxId)
    box = undefined
    if (!end.keepUpper) hasUpper = false
  }
  if (dropUpper) hasUpper = false
  return { row: after, found: { box, hasUpper } }
}

const everySituation = sandboxStates.flatMap((state) =>
  boxStates.flatMap((box) =>
    [true, false].flatMap((hasUpper) => [true, false].map((sameBox) => ({ state, box, hasUpper, sameBox }))),
  ),
)

describe('reconciliation of one sandbox', () => {
  test.each(everySituation)(
    'of $state with box $box, disk $hasUpper, same box $sameBox comes to rest where nothing is promised that is not there',
    ({ state, box, hasUpper, sameBox }) => {
      const { row, found } = situation(state, box, hasUpper, sameBox)
      const { row: after, found: left } = carryOut(row, found)
      expect(['running', 'paused', 'stopped', 'killed', 'failed']).toContain(after.state)
      if (after.state === 'running') expect(left.box?.state).toBe('running')
      if (after.state === 'paused') expect(left.box?.state).toBe('frozen')
      if (after.state === 'stopped') expect(left).toEqual({ box: undefined, hasUpper: true })
      if (isOver(after.state)) expect(left).toEqual({ box: undefined, hasUpper: false })
      expect(after.boxId === null).toBe(!holdsBox(after.state))
      // What it leads to needs no mending.
      expect(planMending(after, left)).toEqual({ moves: [] })
    },
  )

  test('a living box is adopted without a word', () => {
    const { row, found } = situation('running', 'running', true)
    expect(planMending(row, found)).toEqual({ moves: [] })
  })

  test('a box that died while nobody looked is stopped, and its disk kept', () => {
    const { row, found } = situation('running', 'dead', true)
    expect(planMending(row, found)).toEqual({
      end: { boxId: row.boxId, keepUpper: true },
      moves: [
        { to: 'stopping', reason: 'guest_died' },
        { to: 'stopped', reason: 'guest_died' },
      ],
    })
  })

  test('after a restart of the machine what ran is stopped', () => {
    const { row, found } = situation('paused', undefined, true)
    expect(planMending(row, found).moves[0]).toEqual({ to: 'stopping', reason: 'box_lost' })
  })

  test('nobody was told of a sandbox that was being created, so nothing of it is kept', () => {
    const { row, found } = situation('creating', 'running', true)
    expect(planMending(row, found)).toEqual({
      end: { boxId: row.boxId, keepUpper: false },
      dropUpper: row.upperId,
      moves: [{ to: 'failed', reason: 'server_restarted' }],
    })
  })

  test('a disk is never dropped while its row may still start on it', () => {
    for (const { state, box, sameBox } of everySituation) {
      const { row, found } = situation(state, box, true, sameBox)
      const { end, dropUpper } = planMending(row, found)
      if (!['running', 'paused', 'stopping', 'stopped', 'starting'].includes(state)) continue
      expect(dropUpper).toBeUndefined()
      if (end) expect(end.keepUpper).toBe(true)
    }
  })
})

describe('what belongs to whom', () => {
  test('every box and disk is either found for one row or stray, never both', () => {
    const number = fc.nat(8)
    fc.assert(
      fc.property(fc.uniqueArray(number), fc.uniqueArray(number), fc.uniqueArray(number), (rowIds, boxIds, diskIds) => {
        const rows = rowIds.map((each) => testRecord(testId(each)))
        const boxes = boxIds.map((each): BoxStatus => {
          const { boxId, upperId } = testRecord(testId(each))
          return { boxId: boxId!, upperId, state: 'running', template: 'host' }
        })
        const upperIds = diskIds
          .filter((each) => !boxIds.includes(each))
          .map((each) => testRecord(testId(each)).upperId)
        const { found, strayBoxes, strayUppers } = sortFound(rows, { boxes, upperIds })
        expect([...found.keys()].toSorted()).toEqual(rows.map(({ id }) => id).toSorted())
        const claimed = [...found.values()].flatMap(({ box }) => (box ? [box.boxId] : []))
        expect([...claimed, ...strayBoxes.map(({ boxId }) => boxId)].toSorted()).toEqual(
          boxes.map(({ boxId }) => boxId).toSorted(),
        )
        const free = [...found].filter(([, { box, hasUpper }]) => hasUpper && !box).length
        expect(free + strayUppers.length).toBe(upperIds.length)
      }),
    )
  })
})
