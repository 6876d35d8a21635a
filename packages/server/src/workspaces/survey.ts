import type { Driver, FileChange } from '../drivers/driver.ts'
import type { Clock } from '../kernel/clock.ts'
import type { Logger } from '../kernel/log.ts'
import { compare, createFindings, dpkgStatusPath, emptyInventory, note } from './inventory.ts'
import { type Inventory, parseDpkgStatus, parseNpmVersion } from './inventory.ts'
import { createLoop } from './loop.ts'
import { readText } from './read-text.ts'
import type { SnapshotRecord } from './records.ts'
import { type ChangeSummary, workspaceLimits } from './schema.ts'
import type { WorkspaceStore } from './store.ts'
import type { TemplateLooks } from './templates.ts'

export interface SurveyDeps {
  store: WorkspaceStore
  driver: Driver
  factsOf: TemplateLooks
  clock: Clock
  log: Logger
}

const statusBytes = 16 * 1024 * 1024
const packageBytes = 1024 * 1024
/** `package.json` files that are read for their version. */
const mostPackageFiles = 1_000
const quietMs = 60_000

/** Looks at each snapshot once, after it was taken: what changed, which packages it holds. */
export function createSurvey({ store, driver, factsOf, clock, log }: SurveyDeps) {
  /** What could not be looked at, by this process; the next tries again. */
  const given = new Set<string>()
  const loop = createLoop({
    name: 'survey',
    clock,
    log,
    async work(signal) {
      for (const record of await store.unseen([...given], 20)) {
        if (signal.aborted) return 0
        await surveyOne(record)
      }
      return quietMs
    },
  })

  async function surveyOne(record: SnapshotRecord): Promise<void> {
    try {
      await look(record)
    } catch (error) {
      given.add(record.id)
      log.warn('snapshot_not_surveyed', { snapshotId: record.id, error })
    }
  }

  async function look({ id: snapshotId, parentId, template }: SnapshotRecord): Promise<void> {
    const parent = parentId === null ? undefined : await store.snapshot(parentId)
    const inventory = await inventoryOf(snapshotId)
    const summary = await summarise(driver.changes({ snapshotId, ...(parent?.isLocal && { parent: parent.id }) }))
    const { apt } = await factsOf(template)
    const packages = compare(parent?.inventory ?? emptyInventory, inventory, apt)
    await store.setChanges(snapshotId, { ...summary, packages }, inventory)
  }

  async function inventoryOf(snapshotId: string): Promise<Inventory> {
    const findings = createFindings()
    for await (const change of driver.changes({ snapshotId })) note(findings, change)
    const status = findings.isAptChanged
      ? await readText(driver, { snapshotId, path: dpkgStatusPath, limitBytes: statusBytes })
      : undefined
    const npm: Record<string, string> = {}
    for (const [name, path] of Array.from(findings.npmFiles).slice(0, mostPackageFiles)) {
      const text = await readText(driver, { snapshotId, path, limitBytes: packageBytes })
      const version = text === undefined ? undefined : parseNpmVersion(text)
      if (version !== undefined) npm[name] = version
    }
    const apt = status === undefined ? null : parseDpkgStatus(status)
    return { apt, pip: findings.pip, npm, tools: findings.tools }
  }

  return { start: loop.start, kick: loop.kick, stop: loop.stop, inventoryOf }
}

/** Counts, and the first of them. */
export async function summarise(changes: AsyncIterable<FileChange>): Promise<Omit<ChangeSummary, 'packages'>> {
  const counts = { added: 0, changed: 0, removed: 0 }
  const first: FileChange[] = []
  let bytes = 0
  for await (const change of changes) {
    counts[change.kind] += 1
    if (change.kind !== 'removed' && change.type === 'file') bytes += change.size
    if (first.length < workspaceLimits.changesKept) first.push(change)
  }
  return { ...counts, bytes, first }
}
