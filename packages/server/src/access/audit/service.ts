import type { Clock } from '../../kernel/clock.ts'
import type { Database } from '../../kernel/db/database.ts'
import { DeltaError } from '../../kernel/errors.ts'
import { badCursor } from '../../kernel/http/cursors.ts'
import type { Logger } from '../../kernel/log.ts'
import { type ChainHead, headKeys, type Link, linkOf, noHead, type RestoreMark, type SignedHead } from './chain.ts'
import { type AuditEntry, auditLimits } from './entry.ts'
import { createHeads, type HeadDocuments } from './heads.ts'
import { type AuditFilter, createAuditStore, type Growth } from './store.ts'

export interface AuditDeps {
  database: Database
  clock: Clock
  log: Logger
  /** Where signed heads are kept: not in the database, whose loss or change they are to show. */
  documents: HeadDocuments
  /** 32 bytes from which the key that signs heads is made. */
  seed: Buffer
}

export type { RecordAudit } from './entry.ts'
export type Audit = ReturnType<typeof createAudit>

/** An export is a line of `header`, then what was restored, then every entry, and after an entry the heads that were signed of it. */
export type ExportLine =
  | { kind: 'header'; format: 'delta audit 1'; accountId: string; publicKey: string }
  | ({ kind: 'restored' } & RestoreMark)
  | ({ kind: 'entry' } & Link)
  | ({ kind: 'head' } & SignedHead)

interface Waiting {
  entry: AuditEntry
  at: number
  sinceMs: number
  /** As what it was sent to the database without an answer: it may be there, or come to be. */
  sent: { seq: number; hash: string }[]
  resolve(): void
  reject(error: unknown): void
}

interface Grown extends Growth {
  /** Each in the place of its link. */
  entries: readonly Waiting[]
}

/**
 * One chain for each account, in the order in which entries are committed. Those that come together share a commit.
 *
 * Nothing is done unseen: while entries can not be written, `mustWork` refuses what would need another.
 */
export function createAudit({ database, clock, log, documents, seed }: AuditDeps) {
  const store = createAuditStore(database)
  const { privateKey, publicKey } = headKeys(seed)
  const heads = createHeads({ documents, clock, log, privateKey })
  const queue: Waiting[] = []
  /** The last link of a chain as this server saw it; another server may have added to it since. */
  const known = new Map<string, ChainHead>()
  /** Accounts whose chain alone can not be written, with what waits for it: nobody else waits for them. */
  const aside = new Map<string, { queue: Waiting[]; done: Promise<void> }>()
  let flushing = false
  let flushed: Promise<void> = Promise.resolve()

  const waiting = (): number => {
    let count = queue.length
    for (const own of aside.values()) count += own.queue.length
    return count
  }

  /** `accountId`: of whoever is about to change something. */
  function mustWork(accountId?: string): void {
    const own = accountId === undefined ? undefined : aside.get(accountId)
    const late = [queue[0], own?.queue[0]].some((one) => one && clock.monotonic() - one.sinceMs > auditLimits.lateMs)
    const count = waiting()
    if (!late && count < auditLimits.waiting) return
    throw new DeltaError('audit_unavailable', 'The audit log can not be written, so nothing is changed now', {
      context: { waiting: count },
    })
  }

  function record(entry: AuditEntry): Promise<void> {
    if (waiting() >= auditLimits.waiting) {
      return Promise.reject(new DeltaError('audit_unavailable', 'Too many entries wait for the audit log'))
    }
    return new Promise((resolve, reject) => {
      const one = { entry, at: clock.now(), sinceMs: clock.monotonic(), sent: [], resolve, reject }
      const own = aside.get(entry.accountId)
      if (own) return void own.queue.push(one)
      queue.push(one)
      if (!flushing) flushed = flushAll()
    })
  }

  async function flushAll(): Promise<void> {
    flushing = true
    // What is recorded in the same turn goes into the same commit.
    await Promise.resolve()
    let failures = 0
    while (queue.length > 0) {
      const group = queue.slice(0, auditLimits.group)
      try {
        await append(group)
        failures = 0
        finish(queue, group.length)
      } catch (error) {
        known.clear()
        if (await store.canWrite()) {
          await appendApart(group)
          continue
        }
        failures += 1
        log.error('audit_late', { error, waiting: waiting(), failures })
        if (failures >= auditLimits.tries) giveUp(queue, group.length, error)
        else await clock.sleep(waitMs(failures))
      }
    }
    // In the same turn as the look at the queue: what comes now starts anew.
    flushing = false
  }

  /** Account by account, where something of one of them stopped the others. */
  async function appendApart(group: readonly Waiting[]): Promise<void> {
    for (const [accountId, entries] of Map.groupBy(group, ({ entry }) => entry.accountId)) {
      const failed = await append(entries).then(
        () => false,
        () => true,
      )
      if (failed) setAside(accountId)
      else {
        for (const one of entries) {
          queue.splice(queue.indexOf(one), 1)
          one.resolve()
        }
      }
    }
  }

  function setAside(accountId: string): void {
    const own = queue.filter(({ entry }) => entry.accountId === accountId)
    const others = queue.filter(({ entry }) => entry.accountId !== accountId)
    queue.splice(0, queue.length, ...others)
    aside.set(accountId, { queue: own, done: retry(accountId, own) })
  }

  /** What comes for the account meanwhile waits behind, so that its order stays. */
  async function retry(accountId: string, own: Waiting[]): Promise<void> {
    let failures = 1
    while (own.length > 0) {
      await clock.sleep(waitMs(failures))
      const group = own.slice(0, auditLimits.group)
      try {
        await append(group)
        failures = 0
        finish(own, group.length)
      } catch (error) {
        known.delete(accountId)
        failures += 1
        log.error('audit_late', { accountId, error, waiting: own.length, failures })
        if (failures >= auditLimits.tries) giveUp(own, group.length, error)
      }
    }
    aside.delete(accountId)
  }

  const waitMs = (failures: number): number => Math.min(100 * failures, 1_000)

  function finish(from: Waiting[], count: number): void {
    for (const { resolve } of from.splice(0, count)) resolve()
  }

  /** What can not be kept is told to the log, so that it is somewhere. */
  function giveUp(from: Waiting[], count: number, error: unknown): void {
    for (const { entry, at, reject } of from.splice(0, count)) {
      log.error('audit_lost', { ...entry, happenedAt: at })
      reject(error)
    }
  }

  async function append(group: readonly Waiting[]): Promise<void> {
    for (let tries = 0; tries < auditLimits.tries; tries += 1) {
      const missing = await notWritten(group)
      if (missing.length === 0) return
      const growths = await growthsOf(missing)
      // Whether it was written is not known any more once its answer is lost, and asking whether it is there comes before each next try.
      const applied = await store.append(growths).catch((error: unknown) => {
        for (const { entries, links } of growths) {
          for (const [at, { seq, hash }] of links.entries()) entries[at]?.sent.push({ seq, hash })
        }
        throw error
      })
      if (applied) return remember(growths)
      for (const { accountId } of growths) known.delete(accountId)
    }
    throw new DeltaError('database_busy', 'Other servers were quicker with the audit log every time')
  }

  /** Without those that an earlier try has written after all. A chain's hash is good for one entry in one place. */
  async function notWritten(group: readonly Waiting[]): Promise<readonly Waiting[]> {
    if (group.every(({ sent }) => sent.length === 0)) return group
    const missing: Waiting[] = []
    for (const [accountId, entries] of Map.groupBy(group, ({ entry }) => entry.accountId)) {
      const sent = entries.flatMap((one) => one.sent)
      const there = sent.length === 0 ? new Set<string>() : await store.hashesAt(accountId, sent)
      const left = entries.filter((one) => !one.sent.some(({ hash }) => there.has(hash)))
      missing.push(...left)
      if (left.length === entries.length) continue
      known.delete(accountId)
      const last = await store.head(accountId)
      if (last) heads.grew(accountId, last, entries.length - left.length)
    }
    return missing
  }

  async function growthsOf(group: readonly Waiting[]): Promise<Grown[]> {
    const byAccount = Map.groupBy(group, ({ entry }) => entry.accountId)
    const growths: Grown[] = []
    // In one order on all servers: two that hold each other's rows would wait for each other.
    for (const [accountId, entries] of Array.from(byAccount).toSorted(([a], [b]) => (a < b ? -1 : 1))) {
      const before = known.get(accountId) ?? (await store.head(accountId)) ?? noHead
      const links: Link[] = []
      for (const { entry, at } of entries) links.push(linkOf(entry, links.at(-1) ?? before, at))
      growths.push({ accountId, before, links, entries })
    }
    return growths
  }

  function remember(growths: readonly Growth[]): void {
    if (known.size > auditLimits.accounts) known.clear()
    for (const { accountId, links } of growths) {
      const { seq, hash } = links.at(-1)!
      known.set(accountId, { seq, hash })
      heads.grew(accountId, { seq, hash }, links.length)
    }
  }

  async function list(
    accountId: string,
    { limit, cursor, ...filter }: { limit: number; cursor?: string | undefined } & AuditFilter,
  ): Promise<{ data: Link[]; nextCursor: string | null }> {
    const found = await store.list(accountId, { limit: limit + 1, before: readCursor(cursor), filter })
    const data = found.slice(0, limit)
    return { data, nextCursor: found.length > limit ? String(data.at(-1)!.seq) : null }
  }

  /** The whole chain with its signed heads; what is added meanwhile may be in it or not. */
  async function* exported(accountId: string): AsyncGenerator<ExportLine, void, undefined> {
    yield { kind: 'header', format: 'delta audit 1', accountId, publicKey }
    await heads.writeFor(accountId)
    for (const mark of await heads.restores(accountId)) yield { kind: 'restored', ...mark }
    const signed = heads.stored(accountId)
    let next = await signed.next()
    try {
      for (let after = 0; ;) {
        const links = await store.links(accountId, { after, limit: auditLimits.exportRows })
        for (const link of links) {
          yield { kind: 'entry', ...link }
          for (; !next.done && next.value.seq <= link.seq; next = await signed.next()) {
            yield { kind: 'head', ...next.value }
          }
        }
        if (links.length < auditLimits.exportRows) break
        after = links.at(-1)!.seq
      }
      // Of entries that are no longer there.
      for (; !next.done; next = await signed.next()) yield { kind: 'head', ...next.value }
    } finally {
      await signed.return?.()
    }
  }

  async function head(accountId: string): Promise<ChainHead & { publicKey: string }> {
    return { ...((await store.head(accountId)) ?? noHead), publicKey }
  }

  /** What was not signed when the last server ended is signed now. What a signed head says and the database does not is told. */
  async function start(): Promise<void> {
    for (const { accountId, seq, hash } of await store.heads(auditLimits.accounts)) {
      const last = await heads.last(accountId)
      const told = { accountId, signedSeq: last?.seq, seq }
      if (last && last.seq > seq) log.error('audit_cut', told)
      else if (last && (await store.links(accountId, { after: last.seq - 1, limit: 1 }))[0]?.hash !== last.hash) {
        log.error('audit_changed', told)
      } else if (seq > (last?.seq ?? 0)) heads.grew(accountId, { seq, hash }, seq - (last?.seq ?? 0))
    }
  }

  /** After a restore: chains go on where the backup left them, which is written down in each and signed. */
  async function continueAfter(restore: { id: string; backupAt: number; heads: readonly string[] }): Promise<void> {
    const { id, backupAt, heads: lines } = restore
    for (const line of lines) await heads.putBack(line)
    for (const { accountId, seq, hash } of await store.heads(auditLimits.accounts)) {
      const { givenUpSeq } = await heads.markRestore(accountId, { seq, hash }, id)
      log.warn('audit_restored', { accountId, seq, givenUpSeq })
      const details = { backupAt: new Date(backupAt).toISOString(), seq, givenUpSeq }
      await record({
        accountId,
        actorId: 'platform',
        action: 'platform.restored',
        target: id,
        outcome: 'done',
        details,
      })
    }
  }

  async function stop(): Promise<void> {
    await flushed
    await Promise.all(Array.from(aside.values(), ({ done }) => done))
    await heads.stop()
  }

  return { record, mustWork, list, exported, head, start, continueAfter, backupHeads: heads.backup, stop, waiting }
}

function readCursor(cursor: string | undefined): number | undefined {
  if (cursor === undefined) return undefined
  if (/^[1-9][0-9]{0,14}$/.test(cursor)) return Number(cursor)
  throw badCursor()
}
