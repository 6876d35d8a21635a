import type { BoxStatus } from '../drivers/driver.ts'
import { isWorkspaceUpper, sandboxIdOf } from './records.ts'
import type { SandboxRecord } from './store.ts'
import type { SandboxState, TransitionReason } from './states.ts'

export interface Move {
  to: SandboxState
  reason: TransitionReason
}

/** What brings one row and what is really there together again. The moves are made in order, `end` before the move that says it is done. */
export interface Mending {
  /** The box must go; whether its disk stays. */
  end?: { boxId: string; keepUpper: boolean }
  dropUpper?: string
  moves: Move[]
}

export interface Found {
  box: BoxStatus | undefined
  /** Whether the disk exists, in a box or without one. */
  hasUpper: boolean
}

/**
 * The row follows what is there. A box that lives is adopted, whatever else the row says was about to happen to it, except where somebody was told
 * nothing yet (`creating`) or was told that it ends. Pure, and at rest: what it leads to needs no mending.
 */
export function planMending(row: SandboxRecord, { box, hasUpper }: Found): Mending {
  const alive = box !== undefined && box.state !== 'dead' && box.boxId === row.boxId
  const end = box && { boxId: box.boxId, keepUpper: true }

  switch (row.state) {
    case 'killed':
    case 'failed':
      return remove(row, box, hasUpper, [])
    case 'creating':
      return remove(row, box, hasUpper, [{ to: 'failed', reason: 'server_restarted' }])
    case 'running':
      if (alive) return { moves: box.state === 'frozen' ? [{ to: 'paused', reason: 'found_frozen' }] : [] }
      break
    case 'paused':
      if (alive) return { moves: box.state === 'running' ? [{ to: 'running', reason: 'found_running' }] : [] }
      break
    case 'starting':
      if (alive && box.state === 'running') return { moves: [{ to: 'running', reason: 'server_restarted' }] }
      break
    case 'stopping':
    case 'stopped':
      break
  }
  // A workspace's disk is the workspace's affair: it is made again where it is gone.
  if (!hasUpper && row.workspaceId === null) return remove(row, box, hasUpper, [{ to: 'killed', reason: 'disk_lost' }])
  return { ...(end && { end }), moves: toStopped(row.state, box) }
}

function toStopped(state: SandboxState, box: BoxStatus | undefined): Move[] {
  if (state === 'stopped') return []
  if (state === 'starting' || state === 'stopping') return [{ to: 'stopped', reason: 'server_restarted' }]
  const reason = box?.state === 'dead' ? (box.cause ?? 'guest_died') : 'box_lost'
  return [
    { to: 'stopping', reason },
    { to: 'stopped', reason },
  ]
}

function remove(row: SandboxRecord, box: BoxStatus | undefined, hasUpper: boolean, moves: Move[]): Mending {
  return {
    ...(box && { end: { boxId: box.boxId, keepUpper: row.workspaceId !== null } }),
    ...(hasUpper && row.workspaceId === null && { dropUpper: row.upperId }),
    moves,
  }
}

export interface Sorted {
  /** What there is for each row, by sandbox id. */
  found: Map<string, Found>
  /** Boxes and disks that belong to no row. */
  strayBoxes: BoxStatus[]
  strayUppers: string[]
}

/**
 * Tells what belongs to which row. A box belongs to the row whose disk it uses; on the disk of a workspace, which several rows have used, to the
 * row that it was made for. Disks of workspaces are left to them.
 */
export function sortFound(rows: SandboxRecord[], listed: { boxes: BoxStatus[]; upperIds: string[] }): Sorted {
  const own = rows.filter(({ workspaceId }) => workspaceId === null)
  const byUpper = new Map(own.map((row) => [row.upperId, row]))
  const byId = new Map(rows.map((row) => [row.id, row]))
  const upperIds = new Set(listed.upperIds)
  const found = new Map<string, Found>(
    rows.map((row) => [row.id, { box: undefined, hasUpper: upperIds.has(row.upperId) }]),
  )
  const strayBoxes: BoxStatus[] = []
  for (const box of listed.boxes) {
    const row = isWorkspaceUpper(box.upperId) ? byId.get(sandboxIdOf(box.boxId)) : byUpper.get(box.upperId)
    if (row) found.set(row.id, { box, hasUpper: true })
    else strayBoxes.push(box)
  }
  return {
    found,
    strayBoxes,
    strayUppers: listed.upperIds.filter((upperId) => !byUpper.has(upperId) && !isWorkspaceUpper(upperId)),
  }
}
