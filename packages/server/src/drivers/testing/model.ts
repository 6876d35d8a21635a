import { Duplex } from 'node:stream'
import { DeltaError } from '../../kernel/errors.ts'
import type { BoxLimits, BoxStats, BoxStatus, Driver, RoomState } from '../driver.ts'

/**
 * Boxes that exist in memory only: what a driver promises about boxes and disks, without a process behind them. For tests that cut an operation
 * at every step, hundreds of times; what a guest does is tested with real ones.
 */
export interface ModelDriver extends Driver {
  readonly boxes: ReadonlyMap<string, BoxStatus>
  readonly upperIds: ReadonlySet<string>
  /** Most boxes that were being made at the same time. */
  readonly mostAtOnce: number
  limitsOf(boxId: string): BoxLimits | undefined
  /** Ends a box as if its first process had died. */
  die(boxId: string, cause?: { oom: boolean }): void
  /** As after a restart of the machine: disks remain, boxes do not, and nobody says so. */
  loseBoxes(): void
  loseUpper(upperId: string): void
  setRoom(state: RoomState): void
}

const megabyte = 1024 * 1024

export function createModelDriver(): ModelDriver {
  const boxes = new Map<string, BoxStatus>()
  const upperIds = new Set<string>()
  const limitsOf = new Map<string, BoxLimits>()
  const wires = new Map<string, Set<Duplex>>()
  const listeners = new Set<(boxId: string, cause: { oom: boolean }) => void>()
  let making = 0
  let roomState: RoomState = 'fine'
  let mostAtOnce = 0

  const boxOf = (boxId: string): BoxStatus => {
    const box = boxes.get(boxId)
    if (!box || box.state === 'dead') throw new DeltaError('driver_failed', `There is no box ${boxId}`)
    return box
  }
  const cut = (boxId: string): void => {
    for (const wire of wires.get(boxId) ?? []) wire.destroy()
    wires.delete(boxId)
  }

  return {
    name: 'model',
    boxes,
    upperIds,
    limitsOf: (boxId) => limitsOf.get(boxId),
    get mostAtOnce() {
      return mostAtOnce
    },
    info: async () => ({
      name: 'model',
      runtime: 'none',
      runtimeVersion: '0',
      cgroup: 'none',
      pool: 'none',
      kernel: 'none',
      ownKernelRuntimes: ['runsc'],
      templates: ['host'],
      warnings: [],
    }),
    async create({ boxId, upperId, fresh, template, cpuMilli, memoryMb, diskMb, processes }) {
      making += 1
      mostAtOnce = Math.max(mostAtOnce, making)
      await new Promise((resolve) => setImmediate(resolve))
      making -= 1
      if (template !== 'host') throw new DeltaError('template_not_found', `There is no template ${template}`)
      if (boxes.has(boxId)) throw new DeltaError('driver_failed', `The box ${boxId} exists`)
      if (upperIds.has(upperId) === fresh)
        throw new DeltaError('driver_failed', `The disk ${upperId} is not as expected`)
      if ([...boxes.values()].some((box) => box.upperId === upperId)) {
        throw new DeltaError('driver_failed', `The disk ${upperId} is in use`)
      }
      upperIds.add(upperId)
      limitsOf.set(boxId, { cpuMilli, memoryMb, diskMb, processes })
      boxes.set(boxId, { boxId, upperId, state: 'running', template })
      const uids = { first: 1_879_048_192 + boxes.size * 65_536, count: 65_536 }
      return { boxId, pid: 1, uids, timings: [{ phase: 'model', micros: 1 }] }
    },
    async end(boxId, { keepUpper }) {
      await new Promise((resolve) => setImmediate(resolve))
      const box = boxes.get(boxId)
      if (!box) return
      cut(boxId)
      boxes.delete(boxId)
      limitsOf.delete(boxId)
      if (!keepUpper) upperIds.delete(box.upperId)
    },
    async freeze(boxId) {
      boxOf(boxId).state = 'frozen'
    },
    async thaw(boxId) {
      boxOf(boxId).state = 'running'
    },
    async setLimits(boxId, limits) {
      boxOf(boxId)
      limitsOf.set(boxId, limits)
    },
    async stats(boxId): Promise<BoxStats> {
      boxOf(boxId)
      const { memoryMb, diskMb } = limitsOf.get(boxId)!
      const none = { cpuMicros: 0, memoryBytes: 0, memoryPeakBytes: 0, oomKills: 0, processes: 0 }
      return { ...none, memoryLimitBytes: memoryMb * megabyte, diskBytes: null, diskLimitBytes: diskMb * megabyte }
    },
    async list() {
      const used = new Set(Array.from(boxes.values(), ({ upperId }) => upperId))
      return {
        boxes: Array.from(boxes.values(), (box) => ({ ...box })),
        upperIds: Array.from(upperIds).filter((upperId) => !used.has(upperId)),
      }
    },
    async dropUpper(upperId) {
      upperIds.delete(upperId)
    },
    async connect(boxId) {
      boxOf(boxId)
      const wire = new Duplex({ read() {}, write: (_chunk, _encoding, done) => done() })
      const all = wires.get(boxId) ?? new Set()
      wires.set(boxId, all.add(wire))
      return wire
    },
    templates: async () => [{ name: 'host', state: 'ready', detail: '' }],
    buildTemplate: async () => undefined,
    doctor: async () => [],
    room: () => ({ state: roomState }),
    setRoom(state) {
      roomState = state
    },
    usage: async () => ({ totalBytes: 0, usedBytes: 0, backingFreeBytes: 0, reserveBytes: 0, readOnly: false }),
    onDeath(listener) {
      listeners.add(listener)
      return () => void listeners.delete(listener)
    },
    close: async () => undefined,
    die(boxId, cause = { oom: false }) {
      boxOf(boxId).state = 'dead'
      cut(boxId)
      for (const listener of Array.from(listeners)) listener(boxId, cause)
    },
    loseBoxes() {
      for (const boxId of Array.from(boxes.keys())) cut(boxId)
      boxes.clear()
    },
    loseUpper(upperId) {
      upperIds.delete(upperId)
    },
  }
}
