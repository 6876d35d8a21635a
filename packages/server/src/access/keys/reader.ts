import type { Clock } from '../../kernel/clock.ts'
import type { Logger } from '../../kernel/log.ts'
import type { TokenReader } from '../authenticate.ts'
import type { KnownCaller } from '../door.ts'
import { readEnding, type Revocations } from '../revocations.ts'
import { grantOf, goodUntil } from './rules.ts'
import type { FoundKey } from './record.ts'
import type { KeyStore } from './store.ts'
import { isKeyText, keyHash } from './text.ts'

export interface KeyReaderDeps {
  store: KeyStore
  revocations: Pick<Revocations, 'count' | 'isRevoked' | 'onRevoked'>
  clock: Clock
  log: Logger
}

interface Known {
  caller: KnownCaller
  /** On the monotonic clock. */
  readMs: number
}

/** Keys in use that are known without reading the database. */
const remembered = 10_000
/** A key is read again after this: news of its end may have been lost with a connection. */
const trustedMs = 30_000
const writeUseEveryMs = 60_000
const writesAtOnce = 500

/** Recognises keys: one read in an index for one that is not known yet, none after that. */
export function createKeyReader({ store, revocations, clock, log }: KeyReaderDeps) {
  const known = new Map<string, Known>()
  const hashesOf = new Map<string, Set<string>>()
  /** Keys used since their use was written down last. */
  const used = new Map<string, number>()
  const stopped = new AbortController()

  const forget = (hash: string): void => {
    for (const tie of known.get(hash)?.caller.ties ?? []) {
      const hashes = hashesOf.get(tie)
      if (hashes?.delete(hash) && hashes.size === 0) hashesOf.delete(tie)
    }
    known.delete(hash)
  }

  const remember = (hash: string, caller: KnownCaller): void => {
    forget(hash)
    if (known.size >= remembered) forget(known.keys().next().value!)
    known.set(hash, { caller, readMs: clock.monotonic() })
    for (const tie of caller.ties) {
      const hashes = hashesOf.get(tie)
      if (hashes) hashes.add(hash)
      else hashesOf.set(tie, new Set([hash]))
    }
  }

  revocations.onRevoked((news) => {
    const { id } = readEnding(news)
    for (const hash of Array.from(hashesOf.get(id) ?? [])) forget(hash)
  })

  async function look(hash: string): Promise<KnownCaller | null> {
    const since = revocations.count
    const record = await store.byHash(hash)
    const until = record && goodUntil(record, hash, clock.now())
    if (!record || until === undefined) return null
    const caller = callerOf(record, since)
    if (!caller) return null
    const own: KnownCaller = {
      ...caller,
      ties: [...caller.ties, textTie(record.id, hash)],
      ...(until < Infinity && { expiresAt: until }),
    }
    if (revocations.isRevoked(own.ties, since)) return null
    remember(hash, own)
    return own
  }

  const note = (caller: KnownCaller): KnownCaller => {
    used.set(caller.actorId, clock.now())
    return caller
  }

  async function writeUses(): Promise<void> {
    const uses = Array.from(used)
    used.clear()
    for (let at = 0; at < uses.length; at += writesAtOnce) {
      await store.batch(uses.slice(at, at + writesAtOnce).map(([id, usedAt]) => store.usedStep(id, usedAt)))
    }
  }

  async function writeUsesRegularly(): Promise<void> {
    while (!stopped.signal.aborted) {
      await clock.sleep(writeUseEveryMs, stopped.signal).catch(() => undefined)
      await writeUses().catch((error: unknown) => log.warn('key_uses_not_written', { error }))
    }
  }
  const writing = writeUsesRegularly()

  const reader: TokenReader = {
    // Whatever begins so is a key of this kind, also one that was mistyped: it is then no other kind of key either.
    fits: (token) => token.startsWith('dk_'),
    read(token) {
      if (!isKeyText(token)) return null
      const hash = keyHash(token)
      const found = known.get(hash)
      if (!found) return look(hash).then((caller) => caller && note(caller))
      const { caller, readMs } = found
      if (clock.monotonic() - readMs < trustedMs) {
        if (caller.expiresAt === undefined || caller.expiresAt > clock.now()) return note(caller)
        forget(hash)
        return null
      }
      return look(hash).then((again) => {
        if (!again) forget(hash)
        return again && note(again)
      })
    },
  }

  return {
    reader,
    async stop() {
      stopped.abort()
      await writing
    },
  }
}

/** What is opened with one text of a key hangs on this, so that a rotation ends what the old text opened and nothing else. */
export function textTie(keyId: string, hash: string): string {
  return `${keyId}/${hash.slice(0, 16)}`
}

/** Whoever a key stands for now; undefined where its person is no member any more. */
export function callerOf(record: FoundKey, since: number): KnownCaller | undefined {
  const { id: keyId, accountId, userId, ancestors, role } = record
  if (role === undefined) return undefined
  const { rights, agents, sandboxes } = grantOf(record)
  return {
    accountId,
    actorId: keyId,
    principal: {
      kind: 'key',
      accountId,
      keyId,
      role,
      ...(userId !== null && { userId }),
      rights,
      ...(agents && { agents }),
      ...(sandboxes && { sandboxes }),
    },
    ties: [keyId, ...ancestors, ...(userId === null ? [] : [userId])],
    since,
  }
}
