import { mkdir, rm } from 'node:fs/promises'
import type { Driver, FileChange } from '../drivers/driver.ts'
import type { Clock } from '../kernel/clock.ts'
import type { Database } from '../kernel/db/database.ts'
import { DeltaError } from '../kernel/errors.ts'
import { createEvents, type Events } from '../kernel/events.ts'
import type { HashBody } from '../kernel/http/body-hash.ts'
import { pageOf, readCursor } from '../kernel/http/cursors.ts'
import { isId, newId } from '../kernel/ids.ts'
import type { Logger } from '../kernel/log.ts'
import type { BlobStore } from '../storage/blobs.ts'
import { createCollection } from './collection.ts'
import { differences } from './differences.ts'
import type { WorkspaceEvents } from './events.ts'
import { createHistory } from './history.ts'
import { compare, type Inventory } from './inventory.ts'
import { createImages, type ExportForm, importDiskMb } from './images.ts'
import { imageConfigSchema } from './image/schema.ts'
import { createLayers, type IncomingLayer } from './layers.ts'
import { createLocal, type LayerBounds } from './local.ts'
import type { ResolveTemplate } from './origin.ts'
import { type SnapshotRecord, snapshotView, type WorkspaceRecord, workspaceView } from './records.ts'
import { changedMeanwhile, inUse, noSnapshot, noWorkspace } from './refusals.ts'
import { createReconciliation } from './reconcile.ts'
import { paced } from './paced.ts'
import { createLoop } from './loop.ts'
import { createRestore, type Restored } from './restore.ts'
import { createSaving } from './saving.ts'
import { createShares, type Shares } from './shares.ts'
import { createSurvey } from './survey.ts'
import { createTemplateLooks } from './templates.ts'
import { type CreateWorkspace, type ForkWish, type PatchWorkspace, workspaceLimits } from './schema.ts'
import type { CreateSnapshot, PatchSnapshot, Snapshot, SnapshotDiff, SnapshotReason, Workspace } from './schema.ts'
import { createWorkspaceStore, type RequestKey } from './store.ts'
import { createTurns } from '../kernel/turns.ts'
import { collectionTurn } from './shared-turns.ts'

export type { Origin, ResolveTemplate } from './origin.ts'

export interface WorkspacesDeps {
  database: Database
  driver: Driver
  hashBody: HashBody
  clock: Clock
  log: Logger
  blobs: BlobStore
  /** For layers on their way to storage, and imported archives. What lies there at the start is removed. */
  folder: string
  /** Whether templates are saved too, so that another machine needs none of its own. @default false */
  saveTemplates?: boolean
  /** Layers that make up a snapshot; one more, and it is saved as one. @default 100 */
  chainLayers?: number
  /** Before a snapshot of a workspace that a sandbox holds: brings its files to where the driver sees them. @default nothing has to be done */
  settle?: (sandboxId: string) => Promise<void>
  /** Knows templates that the driver does not. @default none */
  resolveTemplate?: ResolveTemplate
  /** Asked before anything is made that takes room: throws where the account may only read and remove. @default it may */
  mayKeepMore?: (accountId: string) => Promise<void>
}

/** Whoever asks; `kernel`'s Caller fits. Another account's workspace looks like one that does not exist. */
export interface WorkspaceCaller {
  accountId: string
}

export interface Page<Item> {
  data: Item[]
  nextCursor: string | null
}

/** What a sandbox needs to run on a workspace. */
export interface Lease {
  workspaceId: string
  upperId: string
  template: string
  diskMb: number
  /** What the sandbox starts as, where its template says so. */
  origin: WorkspaceRecord['origin']
}

interface Keyed {
  idempotencyKey?: string | undefined
}

export interface BuildImport {
  name: string
  comment: string
  /** All layers together. */
  bounds: LayerBounds
  signal: AbortSignal
  onLayer: (at: number, known: { isHere: boolean }) => void
}

export type Workspaces = ReturnType<typeof createWorkspaces>

/** The scope of a restore of everything that storage holds. */
const everyAccount = '*'
/** Until it is looked again for restores that did not end. */
const restoreAgainMs = 300_000
/** Disks made at once for forks: more only make each slower. */
const uppersAtOnce = 4

export function createWorkspaces(deps: WorkspacesDeps) {
  const { database, driver, hashBody, clock, log, blobs, folder } = deps
  const store = createWorkspaceStore(database)
  const events: Events<WorkspaceEvents> = createEvents({ log })
  const turns = createTurns('workspace')
  const importing = new Set<string>()
  const factsOf = createTemplateLooks({ driver })
  const layers = createLayers({ store, blobs, clock, folder })
  const local = createLocal({ store, driver, openLayer: layers.open, log })
  const history = createHistory({
    store,
    driver,
    local,
    turns,
    clock,
    log,
    events,
    settle: deps.settle ?? (async () => undefined),
  })
  const reconciliation = createReconciliation({ store, driver, local, history, log })
  const { saveTemplates = false, chainLayers = workspaceLimits.chainLayers } = deps
  const background = { store, driver, blobs, layers, local, factsOf, turns, clock, log }
  const saving = createSaving({ ...background, saveTemplates, chainLayers, events })
  const survey = createSurvey(background)
  const collection = createCollection({ ...background, importing })
  const images = createImages({ ...background, saving, importing, folder })
  const restoration = createRestore(background)
  const stopping = new AbortController()
  const looks = createShares(workspaceLimits.looks)
  const exporting = createShares(workspaceLimits.exports)
  const restores = createLoop({ name: 'restore', clock, log, work: finishRestores })

  /** Rows and pool agree when it resolves; background work goes on from there. */
  async function start(): Promise<void> {
    await rm(folder, { recursive: true, force: true })
    await mkdir(folder, { recursive: true, mode: 0o700 })
    const { isNew } = await reconciliation.reconcile()
    // Before the collection may look for what nothing refers to.
    if (isNew) await store.beginRestore(everyAccount)
    for (const loop of [restores, survey, saving, collection]) loop.start()
  }

  /** What was begun, by this server or by one that ended in the middle; a storage that is away is asked again. */
  async function finishRestores(): Promise<number> {
    for (const scope of await store.restores()) await restoreScope(scope)
    return restoreAgainMs
  }

  /** Nothing is collected from before its first row to after its last. */
  function restoreScope(scope: string): Promise<Restored> {
    return turns.takeAlways(collectionTurn, async () => {
      await store.beginRestore(scope)
      const found = await restoration.restore(scope === everyAccount ? undefined : scope, stopping.signal)
      await store.endRestore(scope)
      collection.kick()
      return found
    })
  }

  /**
   * Runs `work` with the layers that rows refer to in storage, of which none is removed meanwhile. What is being saved is waited for, at most so long; `unsaved` is what then still
   * lies on this machine alone.
   */
  async function keepStored<T>(waitMs: number, work: (kept: KeptStorage) => Promise<T>): Promise<T> {
    const untilMs = clock.monotonic() + waitMs
    saving.kick()
    while (clock.monotonic() < untilMs && (await store.unsaved(1)).length > 0) await clock.sleep(savedAgainMs)
    return turns.takeAlways(collectionTurn, async () => {
      const unsaved = (await store.unsaved(mostUnsavedTold)).length
      const stored = async () => (await store.storedLayers()).map(({ digest, size }) => ({ digest, size }))
      return work({ stored, unsaved })
    })
  }

  async function stop(): Promise<void> {
    stopping.abort()
    await Promise.all([restores.stop(), survey.stop(), saving.stop(), collection.stop()])
    await turns.settled()
  }

  // What a saved layer was still needed for on this machine may go.
  events.on('snapshot.saved', () => collection.kick())
  events.on('workspace.snapshotted', () => {
    survey.kick()
    saving.kick()
    collection.kick()
  })

  function view(record: WorkspaceRecord): Workspace {
    return workspaceView(record, { isLocal: local.uppers.has(record.upperId) })
  }

  async function snapshotViews(records: readonly SnapshotRecord[]): Promise<Snapshot[]> {
    const digests = records.flatMap(({ layerDigest }) => layerDigest ?? [])
    const known = await store.layers(digests)
    return records.map((record) =>
      snapshotView(record, {
        layer: record.layerDigest ? known.get(record.layerDigest) : undefined,
        savedBytes: saving.savedBytes(record.id),
      }),
    )
  }

  async function snapshotViewOf(record: SnapshotRecord): Promise<Snapshot> {
    return (await snapshotViews([record]))[0]!
  }

  /** The caller's workspace, by id or by name. */
  async function recordOf(idOrName: string, { accountId }: WorkspaceCaller): Promise<WorkspaceRecord> {
    const found = isId('wsp', idOrName) ? await store.get(idOrName) : await store.byName(accountId, idOrName)
    if (!found || found.accountId !== accountId || found.state !== 'active') throw noWorkspace(idOrName)
    return found
  }

  /** The same, in its turn: as it stays until `work` has written. */
  async function inTurn<T>(
    idOrName: string,
    caller: WorkspaceCaller,
    work: (record: WorkspaceRecord) => Promise<T>,
  ): Promise<T> {
    const { id } = await recordOf(idOrName, caller)
    return turns.take(id, async () => work(await recordOf(id, caller)))
  }

  async function snapshotOf(snapshotId: string, { accountId }: WorkspaceCaller): Promise<SnapshotRecord> {
    const found = isId('snp', snapshotId) ? await store.snapshot(snapshotId) : undefined
    if (!found || found.accountId !== accountId || found.state !== 'taken') throw noSnapshot(snapshotId)
    return found
  }

  /** What an earlier request with the same key made; undefined where there was none. */
  async function madeBefore(request: RequestKey | undefined): Promise<string[] | undefined> {
    if (!request) return undefined
    const saved = await store.savedRequest(request.accountId, request.key)
    if (!saved) return undefined
    if (saved.bodyHash === request.bodyHash) return saved.madeIds
    throw new DeltaError('idempotency_conflict', 'This Idempotency-Key was used with another body')
  }

  function requestOf({ accountId }: WorkspaceCaller, { idempotencyKey }: Keyed, wish: object): RequestKey | undefined {
    return idempotencyKey === undefined ? undefined : { accountId, key: idempotencyKey, bodyHash: hashBody(wish) }
  }

  async function viewsOf(ids: readonly string[], caller: WorkspaceCaller): Promise<Workspace[]> {
    const views: Workspace[] = []
    for (const id of ids) views.push(view(await recordOf(id, caller)))
    return views
  }

  async function create(
    wish: CreateWorkspace,
    caller: WorkspaceCaller,
    { kind = 'workspace', ...keyed }: Keyed & { kind?: WorkspaceRecord['kind'] } = {},
  ): Promise<Workspace> {
    const request = requestOf(caller, keyed, { create: wish })
    // Before its template, which may be gone since.
    const earlier = await madeBefore(request)
    if (earlier) return (await viewsOf(earlier, caller))[0]!
    const { name, retention, ...settings } = wish
    const base = kind === 'build' ? bareBase(wish) : await baseOf(wish, caller)
    const own = { ...settings, ...base, kind, keepLast: retention.keepLast }
    const [made] = await insert([{ name, ...own }], caller, { request })
    return made!
  }

  /** A template of the machine lies below an empty disk. One of an account is a snapshot, of which the disk is a copy. */
  async function baseOf(wish: CreateWorkspace, caller: WorkspaceCaller): Promise<WorkspaceBase> {
    const found = await deps.resolveTemplate?.(wish.template, caller)
    if (!found) return bareBase(wish)
    const { template: snapshotId, ...origin } = found
    const source = await snapshotOf(snapshotId, caller)
    await local.provideSnapshot(snapshotId)
    const from = wish.template === snapshotId ? await originOf(source) : origin
    const diskMb = wish.diskMb + mebibytesOf(source)
    return { template: source.template, headId: snapshotId, origin: from, diskMb }
  }

  async function originOf({ workspaceId }: SnapshotRecord): Promise<WorkspaceRecord['origin']> {
    return workspaceId === null ? null : ((await store.get(workspaceId))?.origin ?? null)
  }

  /** Disks first: a row without one would have to be explained, a disk without a row is found at the next start. */
  async function insert(
    wishes: (Pick<
      WorkspaceRecord,
      'kind' | 'template' | 'origin' | 'diskMb' | 'keepLast' | 'autoSnapshot' | 'metadata' | 'headId'
    > & {
      name: string | undefined
    })[],
    caller: WorkspaceCaller,
    { request }: { request: RequestKey | undefined },
  ): Promise<Workspace[]> {
    const { accountId } = caller
    const earlier = await madeBefore(request)
    if (earlier) return viewsOf(earlier, caller)
    await deps.mayKeepMore?.(accountId)
    if ((await store.count(accountId)) + wishes.length > workspaceLimits.workspaces) {
      throw new DeltaError('workspace_limit_reached', `At most ${workspaceLimits.workspaces} workspaces are allowed`)
    }
    for (const { name } of wishes) if (name !== undefined) await refuseTakenName(accountId, name)
    const now = clock.now()
    const records = wishes.map(({ name, ...wish }): WorkspaceRecord => {
      const id = newId('wsp')
      const own = { id, accountId, name: name ?? id, upperId: newId('wup'), holder: null }
      return { ...own, ...wish, state: 'active', version: 1, createdAt: now, changedAt: now, published: null }
    })
    let written = false
    try {
      await makeUppers(records)
      written = await store.insert(records, { request, from: records[0]!.headId })
    } catch (error) {
      if (error instanceof DeltaError && error.code === 'database_constraint') {
        for (const { name } of records) await refuseTakenName(accountId, name)
      }
      throw error
    } finally {
      // After a write whose answer was lost the rows may be there: their disks are then made again from the snapshot.
      if (!written) await Promise.all(records.map(({ upperId }) => history.drop(upperId)))
    }
    if (written) {
      // Storage learns of them soon, not in the next quiet round.
      saving.kick()
      return records.map(view)
    }
    const quicker = await madeBefore(request)
    if (quicker) return viewsOf(quicker, caller)
    throw noSnapshot(records[0]!.headId ?? '')
  }

  async function makeUppers(records: readonly WorkspaceRecord[]): Promise<void> {
    const waiting = [...records]
    const work = async (): Promise<void> => {
      for (let next = waiting.shift(); next; next = waiting.shift()) {
        await local.makeUpper(next.upperId, next.headId ?? next.template, next.diskMb)
      }
    }
    const results = await Promise.allSettled(Array.from({ length: Math.min(uppersAtOnce, records.length) }, work))
    const failed = results.find((result) => result.status === 'rejected')
    if (failed) throw failed.reason
  }

  async function refuseTakenName(accountId: string, name: string): Promise<void> {
    const other = await store.byName(accountId, name)
    if (!other) return
    throw new DeltaError('workspace_name_taken', `There is a workspace named ${name} already`, {
      context: { workspaceId: other.id },
    })
  }

  async function get(idOrName: string, caller: WorkspaceCaller): Promise<Workspace> {
    return view(await recordOf(idOrName, caller))
  }

  async function list(
    { accountId }: WorkspaceCaller,
    { limit, cursor }: { limit: number; cursor?: string | undefined },
  ): Promise<Page<Workspace>> {
    const found = await store.list(accountId, { limit: limit + 1, before: readCursor(cursor, ['wsp']) })
    const { items, nextCursor } = pageOf(found, limit)
    return { data: items.map(view), nextCursor }
  }

  async function patch(idOrName: string, wish: PatchWorkspace, caller: WorkspaceCaller): Promise<Workspace> {
    return inTurn(idOrName, caller, async (before) => {
      const { name, retention, diskMb, autoSnapshot, metadata } = wish
      const after: WorkspaceRecord = {
        ...before,
        name: name ?? before.name,
        keepLast: retention?.keepLast ?? before.keepLast,
        diskMb: diskMb ?? before.diskMb,
        autoSnapshot: autoSnapshot ?? before.autoSnapshot,
        metadata: metadata ?? before.metadata,
        changedAt: clock.now(),
      }
      if (after.name !== before.name) await refuseTakenName(before.accountId, after.name)
      if (!(await store.update(before, after))) throw changedMeanwhile(before)
      return view(after)
    })
  }

  /** Refused while a sandbox runs on it or a template is made of one of its snapshots. Its forks live on. */
  async function remove(idOrName: string, caller: WorkspaceCaller): Promise<void> {
    await inTurn(idOrName, caller, async (record) => {
      if (record.holder !== null) throw inUse(record)
      if (!(await store.beginRemoval(record, clock.now()))) {
        const pinned = await pinnedOf(record.id)
        throw pinned ?? changedMeanwhile(record)
      }
      log.info('workspace_removed', { workspaceId: record.id })
      await finishRemoval(record)
    })
  }

  async function finishRemoval({ id, upperId }: WorkspaceRecord): Promise<void> {
    try {
      await local.dropUpper(upperId)
      // The rest is collected: what storage says of it, then its row.
      collection.kick()
    } catch (error) {
      // The row says `deleting`, and the next start goes on.
      log.error('workspace_left', { workspaceId: id, error })
    }
  }

  async function pinnedOf(workspaceId: string): Promise<DeltaError | undefined> {
    const pinned = await store.pinned()
    for (const { id } of await store.snapshots(workspaceId, { limit: workspaceLimits.snapshots })) {
      if (pinned.has(id)) return snapshotInUse(id, await store.pinsOf(id))
    }
    return undefined
  }

  /** Gives the one right to write to it. The disk is there when it resolves. */
  async function acquire(accountId: string, idOrName: string, sandboxId: string): Promise<Lease> {
    return inTurn(idOrName, { accountId }, async (record) => {
      if (record.holder !== sandboxId) {
        if (record.holder !== null || !(await store.acquire(record, sandboxId, clock.now()))) {
          throw inUse(await recordOf(record.id, { accountId }))
        }
      }
      try {
        await local.provideUpper(record)
      } catch (error) {
        await store.release(record.id, sandboxId)
        throw error
      }
      const { id: workspaceId, upperId, template, diskMb, origin } = record
      return { workspaceId, upperId, template, diskMb, origin }
    })
  }

  /**
   * After the box has ended. The snapshot is taken before anybody else can start on it; where that fails the workspace is let go all the same, since
   * nothing of it is lost. Repeating it, and letting go of what somebody else holds, changes nothing.
   */
  async function release(
    workspaceId: string,
    sandboxId: string,
    { snapshot: reason }: { snapshot?: 'stop' | 'idle' | undefined } = {},
  ): Promise<void> {
    await turns.takeAlways(workspaceId, async () => {
      const record = await store.get(workspaceId)
      if (!record || record.holder !== sandboxId) return
      if (reason && record.autoSnapshot && local.uppers.has(record.upperId)) {
        await history
          .take(record, { reason, onlyIfChanged: true })
          .catch((error: unknown) => log.error('snapshot_not_taken', { workspaceId, reason, error }))
      }
      await store.release(workspaceId, sandboxId)
    })
  }

  async function snapshot(
    idOrName: string,
    wish: CreateSnapshot & { reason?: SnapshotReason },
    caller: WorkspaceCaller,
    keyed: Keyed = {},
  ): Promise<Snapshot> {
    const request = requestOf(caller, keyed, { snapshot: idOrName, wish })
    return inTurn(idOrName, caller, async (record) => {
      const earlier = await madeBefore(request)
      if (earlier) return snapshotViewOf(await snapshotOf(earlier[0] ?? '', caller))
      await deps.mayKeepMore?.(caller.accountId)
      if (wish.name !== undefined) await refuseTakenSnapshotName(record.id, wish.name)
      await local.provideUpper(record)
      const taken = await history.take(record, { ...wish, reason: wish.reason ?? 'manual', request })
      return snapshotViewOf(taken!)
    })
  }

  async function refuseTakenSnapshotName(workspaceId: string, name: string): Promise<void> {
    const other = await store.snapshotByName(workspaceId, name)
    if (!other) return
    throw new DeltaError('snapshot_name_taken', `The workspace has a snapshot named ${name} already`, {
      context: { snapshotId: other.id },
    })
  }

  async function listSnapshots(
    idOrName: string,
    caller: WorkspaceCaller,
    { limit, cursor }: { limit: number; cursor?: string | undefined },
  ): Promise<Page<Snapshot>> {
    const { id } = await recordOf(idOrName, caller)
    const found = await store.snapshots(id, { limit: limit + 1, before: readCursor(cursor, ['snp']) })
    const { items, nextCursor } = pageOf(found, limit)
    return { data: await snapshotViews(items), nextCursor }
  }

  async function getSnapshot(snapshotId: string, caller: WorkspaceCaller): Promise<Snapshot> {
    return snapshotViewOf(await snapshotOf(snapshotId, caller))
  }

  async function patchSnapshot(snapshotId: string, wish: PatchSnapshot, caller: WorkspaceCaller): Promise<Snapshot> {
    const { workspaceId, name } = await snapshotOf(snapshotId, caller)
    if (typeof wish.name === 'string' && wish.name !== name && workspaceId !== null) {
      await refuseTakenSnapshotName(workspaceId, wish.name)
    }
    if (!(await store.patchSnapshot(snapshotId, wish))) throw noSnapshot(snapshotId)
    saving.kick()
    return getSnapshot(snapshotId, caller)
  }

  async function removeSnapshot(snapshotId: string, caller: WorkspaceCaller): Promise<void> {
    await snapshotOf(snapshotId, caller)
    if (await store.drop(snapshotId)) return collection.kick()
    const users = [...(await store.headOf(snapshotId)), ...(await store.pinsOf(snapshotId))]
    if (users.length > 0) throw snapshotInUse(snapshotId, users)
  }

  async function rollback(idOrName: string, snapshotId: string, caller: WorkspaceCaller): Promise<Workspace> {
    return inTurn(idOrName, caller, async (record) => {
      const target = await snapshotOf(snapshotId, caller)
      const isOwn = target.workspaceId === record.id
      if (!isOwn && (record.headId === null || !(await store.isBefore(target.id, record.headId)))) {
        throw new DeltaError('snapshot_not_found', `Workspace ${record.id} has no snapshot ${snapshotId}`, {
          cause: 'It belongs to another workspace: fork it instead',
          context: { workspaceId: record.id, snapshotId },
        })
      }
      const after = await history.rollBack(record, target.id)
      saving.kick()
      return view(after)
    })
  }

  /** As many new workspaces as asked for, each as the snapshot is. */
  async function fork(
    snapshotId: string,
    wish: ForkWish,
    caller: WorkspaceCaller,
    { kind = 'workspace', ...keyed }: Keyed & { kind?: WorkspaceRecord['kind'] } = {},
  ): Promise<Workspace[]> {
    const source = await snapshotOf(snapshotId, caller)
    const from = source.workspaceId === null ? undefined : await store.get(source.workspaceId)
    return forkFrom(source, wish, caller, { from, kind, request: requestOf(caller, keyed, { fork: snapshotId, wish }) })
  }

  async function forkFrom(
    source: SnapshotRecord,
    { count, names }: ForkWish,
    caller: WorkspaceCaller,
    {
      from,
      kind,
      request,
    }: { from: WorkspaceRecord | undefined; kind: WorkspaceRecord['kind']; request: RequestKey | undefined },
  ): Promise<Workspace[]> {
    await local.provideSnapshot(source.id)
    const settings = {
      kind,
      template: source.template,
      origin: from?.origin ?? null,
      diskMb: kind === 'build' ? importDiskMb : (from?.diskMb ?? workspaceLimits.diskMb.default + mebibytesOf(source)),
      keepLast: from?.keepLast ?? workspaceLimits.keepLast.default,
      autoSnapshot: from?.autoSnapshot ?? true,
      metadata: {},
      headId: source.id,
    }
    const wanted = names ?? Array.from({ length: count ?? 1 }, () => undefined)
    return insert(
      wanted.map((name) => ({ ...settings, name })),
      caller,
      { request },
    )
  }

  /** Of the workspace as it is now: what changed since its head becomes a snapshot first. */
  async function forkWorkspace(
    idOrName: string,
    wish: ForkWish,
    caller: WorkspaceCaller,
    keyed: Keyed = {},
  ): Promise<Workspace[]> {
    const request = requestOf(caller, keyed, { forkWorkspace: idOrName, wish })
    const earlier = await madeBefore(request)
    if (earlier) return viewsOf(earlier, caller)
    await deps.mayKeepMore?.(caller.accountId)
    const { from, headId } = await inTurn(idOrName, caller, async (record) => {
      await local.provideUpper(record)
      const taken = await history.take(record, { reason: 'fork', onlyIfChanged: record.headId !== null })
      return { from: record, headId: taken?.id ?? record.headId! }
    })
    return forkFrom(await snapshotOf(headId, caller), wish, caller, { from, kind: 'workspace', request })
  }

  /** Against its parent, or against any other snapshot of the same template. All changes, in the order of their paths. */
  async function changes(
    snapshotId: string,
    caller: WorkspaceCaller,
    { against }: { against?: string } = {},
  ): Promise<AsyncIterable<FileChange>> {
    const record = await snapshotOf(snapshotId, caller)
    const parent = against === undefined ? await parentOf(record) : await snapshotOf(against, caller)
    if (parent && parent.template !== record.template) {
      throw new DeltaError('invalid_request', 'The snapshots stand on different templates', {
        cause: `${record.id} stands on ${record.template}, ${parent.id} on ${parent.template}`,
      })
    }
    await local.provideSnapshot(record.id)
    if (parent) await local.provideSnapshot(parent.id)
    return driver.changes({ snapshotId, ...(parent && { parent: parent.id }) })
  }

  async function parentOf({ parentId }: SnapshotRecord): Promise<SnapshotRecord | undefined> {
    return parentId === null ? undefined : store.snapshot(parentId)
  }

  async function changesPage(
    snapshotId: string,
    caller: WorkspaceCaller,
    query: { limit: number; cursor?: string | undefined },
  ) {
    const { data, nextCursor } = await look(caller, async () => differences(await changes(snapshotId, caller), query))
    return { data, nextCursor }
  }

  /** From one snapshot to another. */
  async function diff(
    fromId: string,
    toId: string,
    caller: WorkspaceCaller,
    query: { limit: number; cursor?: string | undefined },
  ): Promise<SnapshotDiff> {
    return look(caller, async () => {
      const found = await differences(await changes(toId, caller, { against: fromId }), query)
      const { apt } = await factsOf((await snapshotOf(toId, caller)).template)
      const [from, to] = [await inventoryOf(fromId, caller), await inventoryOf(toId, caller)]
      return { ...found, packages: compare(from, to, apt) }
    })
  }

  async function look<T>({ accountId }: WorkspaceCaller, work: () => Promise<T>): Promise<T> {
    const done = await looks.take(accountId)
    try {
      return await work()
    } finally {
      done()
    }
  }

  async function inventoryOf(snapshotId: string, caller: WorkspaceCaller): Promise<Inventory> {
    return (await snapshotOf(snapshotId, caller)).inventory ?? survey.inventoryOf(snapshotId)
  }

  async function readFile(
    snapshotId: string,
    path: string,
    caller: WorkspaceCaller,
  ): Promise<AsyncIterable<Uint8Array>> {
    await snapshotOf(snapshotId, caller)
    await local.provideSnapshot(snapshotId)
    return inShare(looks, caller, async () => driver.readFile({ snapshotId, path }))
  }

  async function exportImage(
    snapshotId: string,
    caller: WorkspaceCaller,
    { form = 'tar' }: { form?: ExportForm | undefined } = {},
  ): Promise<AsyncIterable<Uint8Array>> {
    const record = await snapshotOf(snapshotId, caller)
    return inShare(exporting, caller, () => images.exportImage(record, { form, signal: stopping.signal }))
  }

  /** Bytes for a caller, who is one of many and may read as slowly as it likes. */
  async function inShare(
    shares: Shares,
    { accountId }: WorkspaceCaller,
    open: () => Promise<AsyncIterable<Uint8Array>>,
  ): Promise<AsyncIterable<Uint8Array>> {
    const done = await shares.take(accountId)
    try {
      return paced(await open(), workspaceLimits.reader, { clock, done })
    } catch (error) {
      done()
      throw error
    }
  }

  /** A new workspace with what the image holds. */
  async function importImage(
    source: AsyncIterable<Uint8Array>,
    { name }: { name?: string | undefined },
    caller: WorkspaceCaller,
  ): Promise<Workspace> {
    const { accountId } = caller
    await deps.mayKeepMore?.(accountId)
    if (name !== undefined) await refuseTakenName(accountId, name)
    let made: Workspace | undefined
    await images.importImage(source, {
      accountId,
      comment: 'Imported',
      use: async ({ id }) => {
        ;[made] = await fork(id, name === undefined ? {} : { names: [name] }, caller)
        await store.adopt(id, made!.id)
      },
    })
    saving.kick()
    survey.kick()
    return made!
  }

  /** A disk for a build with what an image holds, and the snapshot that it is. */
  async function importLayers(
    { config, layers: incoming }: { config: unknown; layers: readonly IncomingLayer[] },
    { name, ...options }: BuildImport,
    caller: WorkspaceCaller,
  ): Promise<{ workspaceId: string; snapshotId: string }> {
    await deps.mayKeepMore?.(caller.accountId)
    let workspaceId = ''
    const read = imageConfigSchema.safeParse(config)
    const image = { config: read.success ? read.data : {} }
    const { id: snapshotId } = await images.importLayers(
      { layers: incoming, image },
      {
        ...options,
        accountId: caller.accountId,
        use: async ({ id }) => {
          const [disk] = await fork(id, { names: [name] }, caller, { kind: 'build' })
          workspaceId = disk!.id
          await store.adopt(id, workspaceId)
        },
      },
    )
    return { workspaceId, snapshotId }
  }

  /** What storage holds of the caller's and this database does not know. */
  async function restore(caller: WorkspaceCaller) {
    const { ids, skipped } = await restoreScope(caller.accountId).catch((error: unknown) => {
      // What was begun is ended, also where nobody asks again.
      restores.kick()
      throw error
    })
    return { data: await viewsOf(ids, caller), skipped }
  }

  /** As long as it is pinned a snapshot stays. False: it is gone. */
  async function pin(snapshotId: string, owner: string): Promise<boolean> {
    return store.pin(snapshotId, owner)
  }

  async function unpin(snapshotId: string, owner: string): Promise<void> {
    await store.unpin(snapshotId, owner)
    collection.kick()
  }

  /** For a template: on this machine, fetched where it was not. */
  async function provideSnapshot(snapshotId: string, caller: WorkspaceCaller): Promise<SnapshotRecord> {
    await snapshotOf(snapshotId, caller)
    await local.provideSnapshot(snapshotId)
    return snapshotOf(snapshotId, caller)
  }

  return {
    start,
    stop,
    changes: changesPage,
    diff,
    readFile,
    exportImage,
    importImage,
    importLayers,
    restore,
    pin,
    unpin,
    provideSnapshot,
    /** What nothing needs is removed now, not in a while. */
    collect: collection.collect,
    events,
    create,
    get,
    list,
    patch,
    remove,
    acquire,
    release,
    /** Which workspaces are held, by whom. */
    held: store.held,
    snapshot,
    listSnapshots,
    getSnapshot,
    patchSnapshot,
    removeSnapshot,
    rollback,
    fork,
    forkWorkspace,
    keepStored,
    publishAgain: store.publishAgain,
  }
}

export interface KeptStorage {
  /** At least those of whatever was read before this is asked. */
  stored(): Promise<{ digest: string; size: number }[]>
  unsaved: number
}

const savedAgainMs = 50
const mostUnsavedTold = 1_000

type WorkspaceBase = Pick<WorkspaceRecord, 'template' | 'headId' | 'origin' | 'diskMb'>

const mebibyte = 1024 * 1024

function mebibytesOf({ bytes }: SnapshotRecord): number {
  return Math.ceil((bytes ?? 0) / mebibyte)
}

function bareBase({ template, diskMb }: CreateWorkspace): WorkspaceBase {
  return { template, headId: null, origin: null, diskMb }
}

function snapshotInUse(snapshotId: string, users: readonly string[]): DeltaError {
  return new DeltaError('snapshot_in_use', `Snapshot ${snapshotId} is in use`, {
    cause: `${users.slice(0, 10).join(', ')} ${users.length === 1 ? 'stands' : 'stand'} on it`,
    context: { snapshotId, users: users.slice(0, 100) },
  })
}
