import { createHash } from 'node:crypto'
import type { Driver } from '../drivers/driver.ts'
import { DeltaError } from '../kernel/errors.ts'
import { newId } from '../kernel/ids.ts'
import { dpkgStatusPath, parseDpkgStatus } from './inventory.ts'
import { readText } from './read-text.ts'

/** What is known of a template that snapshots stand on. */
export interface TemplateFacts {
  /** Another one means that it holds other packages: a layer against one is none against the other. */
  identity: string
  apt: Record<string, string>
}

const empty: TemplateFacts = { identity: 'empty', apt: {} }
const statusBytes = 16 * 1024 * 1024
const lookDiskMb = 64

export type TemplateLooks = ReturnType<typeof createTemplateLooks>

/** Looks into a template as a sandbox on it would see it: through a snapshot of a disk with nothing on it, which goes again. */
export function createTemplateLooks({ driver }: { driver: Driver }) {
  const known = new Map<string, Promise<TemplateFacts>>()

  async function look(template: string): Promise<TemplateFacts> {
    const [upperId, snapshotId] = [newId('wup'), newId('snp')]
    await driver.makeUpper({ upperId, from: template, diskMb: lookDiskMb })
    try {
      await driver.snapshot(upperId, snapshotId)
      const text = await readText(driver, { snapshotId, path: dpkgStatusPath, limitBytes: statusBytes })
      if (text === undefined) return { ...empty, identity: 'no packages' }
      return { identity: `dpkg:${createHash('sha256').update(text).digest('hex')}`, apt: parseDpkgStatus(text) }
    } finally {
      await driver.dropSnapshot(snapshotId)
      await driver.dropUpper(upperId)
    }
  }

  return function factsOf(template: string): Promise<TemplateFacts> {
    if (template === 'scratch') return Promise.resolve(empty)
    const before = known.get(template)
    if (before) return before
    const looking = look(template)
    known.set(template, looking)
    looking.catch(() => known.delete(template))
    return looking
  }
}

export function noTemplateLayer(template: string): DeltaError {
  return new DeltaError('snapshot_lost', `The template ${template} of this snapshot is not here, and was not saved`)
}
