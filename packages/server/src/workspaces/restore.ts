import type { Clock } from '../kernel/clock.ts'
import { newId } from '../kernel/ids.ts'
import type { Logger } from '../kernel/log.ts'
import type { BlobStore } from '../storage/blobs.ts'
import { baseIdOf, readSnapshot, readWorkspace, snapshotFolder, workspaceFolder } from './documents.ts'
import type { LayerDocument, SnapshotDocument, WorkspaceDocument } from './documents.ts'
import type { LayerRecord, SnapshotRecord, WorkspaceRecord } from './records.ts'
import type { WorkspaceStore } from './store.ts'
import type { TemplateLooks } from './templates.ts'

export interface RestoreDeps {
  store: WorkspaceStore
  blobs: BlobStore
  factsOf: TemplateLooks
  clock: Clock
  log: Logger
}

export interface Restored {
  /** Workspaces that are here again. */
  ids: string[]
  skipped: { document: string; reason: string }[]
}

/** Snapshots whose rows are written together. */
const rowsAtOnce = 200

/** Makes the rows of what storage holds and this database does not know. Files are fetched when somebody starts on them. */
export function createRestore({ store, blobs, factsOf, clock, log }: RestoreDeps) {
  async function restore(accountId: string | undefined, signal: AbortSignal): Promise<Restored> {
    const skipped: Restored['skipped'] = []
    const ids: string[] = []
    let snapshots: Map<string, SnapshotDocument[]> | undefined
    for await (const name of blobs.listDocuments(workspaceFolder)) {
      signal.throwIfAborted()
      const document = await documentOf(name, readWorkspace, skipped)
      if (!document || (accountId !== undefined && document.accountId !== accountId)) continue
      if (await store.get(document.id)) continue
      snapshots ??= await allSnapshots(skipped, signal)
      const reason = await restoreOne(document, snapshots.get(document.id) ?? [], snapshots)
      if (reason === undefined) ids.push(document.id)
      else skipped.push({ document: name, reason })
    }
    for (const each of skipped) log.warn('workspace_not_restored', each)
    if (ids.length > 0) log.info('workspaces_restored', { workspaces: ids.length })
    return { ids, skipped }
  }

  async function documentOf<Document extends object>(
    name: string,
    readIt: (text: string) => Document | { fault: string },
    skipped: Restored['skipped'],
  ): Promise<Document | undefined> {
    const text = await blobs.getDocument(name)
    if (text === null) return undefined
    const found = readIt(text)
    if (!('fault' in found)) return found
    skipped.push({ document: name, reason: found.fault as string })
    return undefined
  }

  async function allSnapshots(
    skipped: Restored['skipped'],
    signal: AbortSignal,
  ): Promise<Map<string, SnapshotDocument[]>> {
    const byWorkspace = new Map<string, SnapshotDocument[]>()
    for await (const name of blobs.listDocuments(snapshotFolder)) {
      signal.throwIfAborted()
      const document = await documentOf(name, readSnapshot, skipped)
      if (!document) continue
      const key = document.workspaceId ?? ''
      const own = byWorkspace.get(key)
      if (own) own.push(document)
      else byWorkspace.set(key, [document])
    }
    return byWorkspace
  }

  /** Undefined when it is done, else why not. */
  async function restoreOne(
    workspace: WorkspaceDocument,
    own: readonly SnapshotDocument[],
    all: ReadonlyMap<string, readonly SnapshotDocument[]>,
  ): Promise<string | undefined> {
    const documents = [...own]
    const { headId } = workspace
    if (headId !== null && !documents.some(({ id }) => id === headId)) {
      // A fork stands on a snapshot of another workspace.
      const head = [...all.values()].flat().find(({ id }) => id === headId)
      if (!head) return `there is no document of its snapshot ${headId}`
      documents.push(head)
    }
    if (documents.some(({ accountId }) => accountId !== workspace.accountId))
      return 'its snapshots are of another account'
    let template = workspace.template
    const bases = new Map<SnapshotDocument, Base>()
    for (const document of documents) {
      const base = await baseFor(document)
      if (base === undefined) return `the template ${document.template} is not as it was, and was not saved`
      template = base.template
      bases.set(document, base)
    }
    await insertAll(oldestFirst(documents), bases)
    const now = clock.now()
    const { id, accountId, origin, diskMb, keepLast, autoSnapshot, metadata, createdAt } = workspace
    const taken = await store.byName(accountId, workspace.name)
    const record: WorkspaceRecord = {
      id,
      accountId,
      name: taken ? id : workspace.name,
      kind: 'workspace',
      template,
      origin,
      upperId: newId('wup'),
      headId,
      diskMb,
      holder: null,
      keepLast,
      autoSnapshot,
      metadata,
      state: 'active',
      version: 1,
      createdAt,
      changedAt: now,
      // There is a document, which goes when the workspace does.
      published: 'writing',
    }
    return (await store.insert([record], { from: headId })) ? undefined : 'its head was removed meanwhile'
  }

  /** The template as it is here where it is the same one, else its saved layer on nothing. */
  async function baseFor({ template, identity, templateLayer }: SnapshotDocument): Promise<Base | undefined> {
    if (template === 'scratch') return { template }
    const facts = await factsOf(template).catch(() => undefined)
    if (facts?.identity === identity) return { template }
    return templateLayer ? { template: 'scratch', layer: templateLayer } : undefined
  }

  /** Rows of what each of them is made up of, a parent before its children; those that are there stay as they are. */
  async function insertAll(
    documents: readonly SnapshotDocument[],
    bases: ReadonlyMap<SnapshotDocument, Base>,
  ): Promise<void> {
    const written = new Set<string>()
    const layers: LayerRecord[] = []
    const rows: SnapshotRecord[] = []
    const flush = async (): Promise<void> => {
      await store.insertLayers(layers.splice(0))
      while (rows.length > 0) await store.insertSnapshots(rows.splice(0, rowsAtOnce))
    }
    for (const document of documents) {
      const parentId = parentOf(document)
      // What is neither here nor in storage is forgotten: then its history begins with what its layer stands on.
      const isKnown = parentId !== null && (written.has(parentId) || (await isOf(document.accountId, parentId)))
      for (const [record, layer] of linksOf(document, bases.get(document)!, isKnown ? parentId : undefined)) {
        if (record.id !== document.id && written.has(record.id)) continue
        written.add(record.id)
        rows.push(record)
        layers.push(layer)
      }
      if (rows.length >= rowsAtOnce) await flush()
    }
    await flush()
  }

  async function isOf(accountId: string, snapshotId: string): Promise<boolean> {
    return (await store.snapshot(snapshotId))?.accountId === accountId
  }

  function linksOf(
    document: SnapshotDocument,
    base: Base,
    parentId: string | undefined,
  ): [SnapshotRecord, LayerRecord][] {
    const links: { snapshotId: string; layer: LayerDocument }[] = document.layers.map(({ snapshotId, ...layer }) => ({
      snapshotId,
      layer,
    }))
    if (base.layer) links.unshift({ snapshotId: baseIdOf(base.layer.digest), layer: base.layer })
    return links.map(({ snapshotId, layer }, index) => {
      const isLast = index === links.length - 1
      const below = links[index - 1]?.snapshotId ?? null
      const record: SnapshotRecord = {
        id: snapshotId,
        accountId: document.accountId,
        workspaceId: isLast ? document.workspaceId : null,
        parentId: isLast ? (parentId ?? below) : below,
        layerParentId: below,
        template: base.template,
        name: isLast ? document.name : null,
        comment: isLast ? document.comment : '',
        reason: isLast ? document.reason : 'import',
        // What is in between is seen only where it has a document of its own, which came before this one.
        state: isLast ? 'taken' : 'dropped',
        isLocal: false,
        bytes: null,
        flushMicros: 0,
        frozenMicros: 0,
        saveState: 'saved',
        saveError: null,
        layerDigest: layer.digest,
        changes: null,
        inventory: null,
        image: isLast ? document.image : null,
        createdAt: document.createdAt,
        published: isLast ? 'yes' : 'no',
      }
      return [record, { ...layer, state: 'stored', createdAt: clock.now() }]
    })
  }

  return { restore }
}

interface Base {
  template: string
  layer?: LayerDocument
}

/** Each after the one that came before it in its history, and what nothing came before, or only itself, first. */
function oldestFirst(documents: readonly SnapshotDocument[]): SnapshotDocument[] {
  const byId = new Map(documents.map((document) => [document.id, document]))
  const ordered = new Set<SnapshotDocument>()
  for (const document of documents) {
    const path = new Set<SnapshotDocument>()
    for (let at: SnapshotDocument | undefined = document; at && !ordered.has(at) && !path.has(at);) {
      path.add(at)
      at = byId.get(parentOf(at) ?? '')
    }
    for (const each of [...path].toReversed()) ordered.add(each)
  }
  return [...ordered]
}

function parentOf({ parentId, layers }: SnapshotDocument): string | null {
  return parentId === undefined ? (layers.at(-2)?.snapshotId ?? null) : parentId
}
