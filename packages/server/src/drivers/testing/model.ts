import { Duplex } from 'node:stream'
import { DeltaError } from '../../kernel/errors.ts'
import type { BoxLimits, BoxSpec, BoxStats, BoxStatus, BoxUse, DeathCause, Driver, RoomState } from '../driver.ts'
import { createModelDisks, type ModelDisks } from './model-disks.ts'

/**
 * Boxes that exist in memory only: what a driver promises about boxes and disks, without a process behind them. For tests that cut an operation
 * at every step, hundreds of times; what a guest does is tested with real ones.
 */
export interface ModelDriver extends Driver {
  readonly boxes: ReadonlyMap<string, BoxStatus>
  readonly upperIds: ReadonlySet<string>
  /** What disks, snapshots and volumes hold; a test reads and changes it as a box would. */
  readonly contents: ModelDisks['contents']
  /** Most boxes that were being made at the same time. */
  readonly mostAtOnce: number
  limitsOf(boxId: string): BoxLimits | undefined
  /** What the box has used from now on; nothing before. */
  setUse(boxId: string, use: BoxUse): void
  /** Ends a box as if its first process had died. */
  die(boxId: string, cause?: DeathCause): void
  /** As after a restart of the machine: disks remain, boxes do not, and nobody says so. */
  loseBoxes(): void
  loseUpper(upperId: string): void
  setRoom(state: RoomState): void
}

const megabyte = 1024 * 1024

export function createModelDriver(): ModelDriver {
  const boxes = new Map<string, BoxStatus>()
  const { contents, begin, dropUpper, hasTemplate, uppers, hasVolume, ...disks } = createModelDisks(
    (disk) =>
      [...boxes.values()].find(
        ({ boxId, upperId, template }) =>
          upperId === disk.upperId ||
          template === disk.snapshotId ||
          volumesOf.get(boxId)?.some(({ volumeId }) => volumeId === disk.volumeId),
      )?.boxId,
  )
  const volumesOf = new Map<string, NonNullable<BoxSpec['volumes']>>()
  const limitsOf = new Map<string, BoxLimits>()
  const uses = new Map<string, BoxUse>()
  const wires = new Map<string, Set<Duplex>>()
  const listeners = new Set<(boxId: string, cause: DeathCause) => void>()
  let making = 0
  let roomState: RoomState = 'fine'
  let mostAtOnce = 0

  const boxOf = (boxId: string): BoxStatus => {
    const box = boxes.get(boxId)
    if (!box || box.state === 'dead') throw new DeltaError('driver_failed', `There is no box ${boxId}`)
    return box
  }
  const useOf = (boxId: string): BoxUse => uses.get(boxId) ?? { cpuMicros: 0, memoryBytes: 0 }
  const cut = (boxId: string): void => {
    for (const wire of wires.get(boxId) ?? []) wire.destroy()
    wires.delete(boxId)
  }

  return {
    name: 'model',
    ...disks,
    boxes,
    contents,
    get upperIds() {
      return new Set(uppers.keys())
    },
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
    async create({ boxId, upperId, fresh, template, cpuMilli, memoryMb, diskMb, processes, volumes = [] }) {
      making += 1
      mostAtOnce = Math.max(mostAtOnce, making)
      await new Promise((resolve) => setImmediate(resolve))
      making -= 1
      if (!hasTemplate(template)) throw new DeltaError('template_not_found', `There is no template ${template}`)
      if (boxes.has(boxId)) throw new DeltaError('driver_failed', `The box ${boxId} exists`)
      const beneath = uppers.get(upperId)?.template
      if ((beneath !== undefined) === fresh)
        throw new DeltaError('driver_failed', `The disk ${upperId} is not as expected`)
      if ([...boxes.values()].some((box) => box.upperId === upperId)) {
        throw new DeltaError('driver_failed', `The disk ${upperId} is in use`)
      }
      if (beneath !== undefined && beneath !== template) {
        throw new DeltaError('invalid_request', `The disk ${upperId} was made on ${beneath}`)
      }
      for (const { volumeId } of volumes) {
        if (!hasVolume(volumeId)) throw new DeltaError('disk_not_found', `There is no volume ${volumeId}`)
      }
      if (fresh) begin(upperId, template)
      volumesOf.set(boxId, volumes)
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
      uses.delete(boxId)
      volumesOf.delete(boxId)
      if (!keepUpper) dropUpper(box.upperId)
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
      const none = { ...useOf(boxId), memoryPeakBytes: 0, oomKills: 0, processes: 0 }
      return { ...none, memoryLimitBytes: memoryMb * megabyte, diskBytes: null, diskLimitBytes: diskMb * megabyte }
    },
    async measure(boxIds) {
      return new Map(boxIds.filter((boxId) => boxes.has(boxId)).map((boxId) => [boxId, useOf(boxId)]))
    },
    setUse: (boxId, use) => void uses.set(boxId, use),
    async list() {
      const used = new Set(Array.from(boxes.values(), ({ upperId }) => upperId))
      return {
        boxes: Array.from(boxes.values(), (box) => ({ ...box })),
        upperIds: Array.from(uppers.keys()).filter((upperId) => !used.has(upperId)),
      }
    },
    async dropUpper(upperId) {
      dropUpper(upperId)
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
    die(boxId, cause = 'guest_died') {
      boxOf(boxId).state = 'dead'
      cut(boxId)
      for (const listener of Array.from(listeners)) listener(boxId, cause)
    },
    loseBoxes() {
      for (const boxId of Array.from(boxes.keys())) cut(boxId)
      boxes.clear()
    },
    loseUpper(upperId) {
      dropUpper(upperId)
    },
  }
}
