import type { KeyObject } from 'node:crypto'
import type { Clock } from '../../kernel/clock.ts'
import { newId } from '../../kernel/ids.ts'
import type { Logger } from '../../kernel/log.ts'
import { type ChainHead, type RestoreMark, type SignedHead, signHead, signRestore } from './chain.ts'
import { auditLimits } from './entry.ts'

/** A part of a blob store. */
export interface HeadDocuments {
  /** Durable when it resolves. */
  putDocument(name: string, text: string): Promise<void>
  getDocument(name: string): Promise<string | null>
  /** Sorted. */
  listDocuments(prefix: string): AsyncIterable<string>
}

export interface HeadsDeps {
  documents: HeadDocuments
  clock: Clock
  log: Logger
  privateKey: KeyObject
}

interface Unsigned {
  head: ChainHead
  /** Entries since the last head that was signed. */
  entries: number
  /** On the monotonic clock. */
  sinceMs: number
}

const folder = 'audit-heads'
const restoresFolder = 'audit-restores'

/** Signs how far the chains go, and keeps that in documents of an hour each: what the database loses or is made to say, they show. */
export function createHeads({ documents, clock, log, privateKey }: HeadsDeps) {
  const serverId = newId('evt').slice(4)
  const unsigned = new Map<string, Unsigned>()
  const lastMs = new Map<string, number>()
  const stopped = new AbortController()
  let nap: AbortController | undefined
  let writing: Promise<void> = Promise.resolve()

  function grew(accountId: string, head: ChainHead, entries: number): void {
    const before = unsigned.get(accountId)
    const sinceMs = before?.sinceMs ?? clock.monotonic()
    unsigned.set(accountId, { head, entries: (before?.entries ?? 0) + entries, sinceMs })
    if (before === undefined || (before.entries < auditLimits.headEntries && isDue(accountId))) plan()
  }

  function dueMs(accountId: string): number {
    const { entries, sinceMs } = unsigned.get(accountId)!
    const wanted = entries >= auditLimits.headEntries ? sinceMs : sinceMs + auditLimits.headMs
    return Math.max(wanted, (lastMs.get(accountId) ?? -Infinity) + auditLimits.headLeastMs)
  }

  const isDue = (accountId: string) => unsigned.get(accountId)!.entries >= auditLimits.headEntries

  /** Sleeps until the first head is due, and not at all where none is. */
  function plan(): void {
    nap?.abort()
    if (stopped.signal.aborted || unsigned.size === 0) return
    const own = (nap = new AbortController())
    const untilMs = Math.min(...Array.from(unsigned.keys(), dueMs))
    clock.sleep(Math.max(0, untilMs - clock.monotonic()), own.signal).then(
      () => {
        if (nap === own) void writeDue().finally(plan)
      },
      () => undefined,
    )
  }

  function writeDue(): Promise<void> {
    const nowMs = clock.monotonic()
    return writeOf(Array.from(unsigned.keys()).filter((accountId) => dueMs(accountId) <= nowMs))
  }

  /** Signs what is not signed yet, due or not. */
  function write(): Promise<void> {
    return writeOf(Array.from(unsigned.keys()))
  }

  /** Signs what is not signed yet of one account, unless a head of it is younger than the least time between two. */
  async function writeFor(accountId: string): Promise<void> {
    const leastMs = (lastMs.get(accountId) ?? -Infinity) + auditLimits.headLeastMs
    if (leastMs <= clock.monotonic()) await writeOf([accountId])
  }

  /** One after the other: two that change the same document would lose a head. */
  function writeOf(accountIds: readonly string[]): Promise<void> {
    writing = writing.then(async () => {
      for (const accountId of accountIds) await signOne(accountId)
    })
    return writing
  }

  async function signOne(accountId: string): Promise<void> {
    const due = unsigned.get(accountId)
    if (!due) return
    const at = clock.now()
    lastMs.set(accountId, clock.monotonic())
    if (lastMs.size > auditLimits.accounts) lastMs.clear()
    const name = nameOf(accountId, at, serverId)
    try {
      const before = (await documents.getDocument(name)) ?? ''
      await documents.putDocument(name, `${before}${JSON.stringify(signHead(accountId, due.head, at, privateKey))}\n`)
    } catch (error) {
      // A later head says more than this one would have: it is tried again with what has come by then.
      log.warn('audit_head_late', { accountId, seq: due.head.seq, error })
      due.sinceMs = clock.monotonic()
      return
    }
    const now = unsigned.get(accountId)!
    if (now.head.seq === due.head.seq) unsigned.delete(accountId)
    else unsigned.set(accountId, { ...now, entries: now.head.seq - due.head.seq, sinceMs: clock.monotonic() })
  }

  /** The newest last. */
  async function restores(accountId: string): Promise<RestoreMark[]> {
    const marks: RestoreMark[] = []
    for await (const name of documents.listDocuments(`${restoresFolder}/${accountId}/`)) {
      const text = await documents.getDocument(name)
      if (text !== null) marks.push(JSON.parse(text) as RestoreMark)
    }
    return marks.toSorted((a, b) => a.at - b.at)
  }

  /** Says that the chain was put back to `head`; later than all that was signed before, whatever the clock says. */
  async function markRestore(accountId: string, head: ChainHead, restoreId: string): Promise<RestoreMark> {
    const before = await lastOf(accountId)
    const at = Math.max(clock.now(), (before?.at ?? 0) + 1)
    const mark = signRestore({ accountId, ...head, at, givenUpSeq: before?.seq ?? 0 }, privateKey)
    await documents.putDocument(`${restoresFolder}/${accountId}/${restoreId}.json`, JSON.stringify(mark))
    return mark
  }

  /** Of all accounts, as lines that `putBack` takes. */
  async function* backup(): AsyncGenerator<string, void, undefined> {
    for (const prefix of [folder, restoresFolder]) {
      for await (const name of documents.listDocuments(`${prefix}/`)) {
        const text = await documents.getDocument(name)
        if (text !== null) yield `${JSON.stringify({ name, text })}\n`
      }
    }
  }

  /** What is there already stays: it may hold more. */
  async function putBack(line: string): Promise<void> {
    const { name, text } = JSON.parse(line) as { name: string; text: string }
    const isOurs = name.startsWith(`${folder}/`) || name.startsWith(`${restoresFolder}/`)
    if (isOurs && (await documents.getDocument(name)) === null) await documents.putDocument(name, text)
  }

  /** All heads of an account, in the order of its chain; without those of entries that a restore gave up. */
  async function* stored(accountId: string): AsyncGenerator<SignedHead, void, undefined> {
    const mark = (await restores(accountId)).at(-1)
    for await (const head of allStored(accountId)) {
      if (!mark || head.at >= mark.at || head.seq <= mark.seq) yield head
    }
  }

  async function* allStored(accountId: string): AsyncGenerator<SignedHead, void, undefined> {
    let hour = ''
    let heads: SignedHead[] = []
    for await (const name of documents.listDocuments(`${folder}/${accountId}/`)) {
      if (hourOf(name) !== hour) {
        yield* heads.toSorted((a, b) => a.seq - b.seq)
        heads = []
        hour = hourOf(name)
      }
      heads.push(...readHeads(await documents.getDocument(name)))
    }
    yield* heads.toSorted((a, b) => a.seq - b.seq)
  }

  /** What was signed last, a restore among it. */
  async function last(accountId: string): Promise<SignedHead | undefined> {
    const mark = (await restores(accountId)).at(-1)
    return (await lastOf(accountId, mark?.at)) ?? mark
  }

  /** Of the newest documents. */
  async function lastOf(accountId: string, sinceAt = 0): Promise<SignedHead | undefined> {
    const names: string[] = []
    for await (const name of documents.listDocuments(`${folder}/${accountId}/`)) {
      if (names.length > 0 && hourOf(names[0]!) !== hourOf(name)) names.length = 0
      names.push(name)
    }
    const heads = await Promise.all(names.map(async (name) => readHeads(await documents.getDocument(name))))
    const since = heads.flat().filter(({ at }) => at >= sinceAt)
    return since.toSorted((a, b) => b.seq - a.seq)[0]
  }

  async function stop(): Promise<void> {
    stopped.abort()
    nap?.abort()
    await write()
  }

  return { grew, writeFor, stored, last, restores, markRestore, backup, putBack, stop }
}

/** Names sort as their hours do. Each server has its own: two that replaced one document would lose each other's heads. */
function nameOf(accountId: string, at: number, serverId: string): string {
  return `${folder}/${accountId}/${new Date(at).toISOString().slice(0, 13)}-${serverId}.jsonl`
}

function hourOf(name: string): string {
  return name.slice(0, name.lastIndexOf('-'))
}

function readHeads(text: string | null): SignedHead[] {
  const lines = (text ?? '').split('\n').filter((line) => line !== '')
  return lines.map((line) => JSON.parse(line) as SignedHead)
}
