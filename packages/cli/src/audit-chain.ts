import { createPublicKey, hash, verify, type KeyObject } from 'node:crypto'

// Reads what docs/audit.md describes, without a server and without trust in one.

export interface Verdict {
  entries: number
  /** The last entry up to which a signed head vouches for everything. */
  signedSeq: number
  signedAt: number | undefined
  /** Backups that were restored: entries that had been signed behind `seq` were given up. */
  restores: { at: number; seq: number; givenUpSeq: number }[]
  /** What is wrong first; undefined where all is well. */
  fault: Fault | undefined
}

export interface Fault {
  kind: 'changed' | 'removed' | 'reordered' | 'cut' | 'rewritten' | 'forged' | 'unreadable'
  seq: number
  told: string
}

interface EntryLine {
  kind: 'entry'
  seq: number
  at: number
  actor: string
  action: string
  target: string | null
  outcome: string
  reason: string | null
  details: Record<string, unknown> | null
  requestId: string | null
  address: string | null
  hash: string
}

interface Head {
  accountId: string
  seq: number
  hash: string
  at: number
  signature: string
}

interface RestoreMark extends Head {
  givenUpSeq: number
}

type Line =
  | { kind: 'header'; format: string; accountId: string; publicKey: string }
  | EntryLine
  | ({ kind: 'head' } & Head)
  | ({ kind: 'restored' } & RestoreMark)

export interface VerifyOptions {
  /** Ed25519 in base64url, from a place that one trusts. @default the one that the export names */
  publicKey?: string | undefined
  /** Heads kept elsewhere, as JSON lines: they show a tail that was cut with its heads. */
  heads?: readonly string[]
}

/** Lines of an export, in its order. */
export async function verifyChain(
  lines: AsyncIterable<string> | Iterable<string>,
  { publicKey, heads = [] }: VerifyOptions = {},
): Promise<Verdict> {
  const chain = createChain()
  let key = publicKey === undefined ? undefined : keyOf(publicKey)
  let accountId: string | undefined
  const others = heads.filter((line) => line.trim() !== '').map((line) => JSON.parse(line) as Head)
  for await (const text of lines) {
    if (text === '') continue
    const line = parsed(text)
    if (accountId === undefined) {
      if (line?.kind !== 'header' || line.format !== 'delta audit 1') {
        return chain.end({
          kind: 'unreadable',
          seq: 0,
          told: 'This is no audit export of DELTA: its first line is not its header',
        })
      }
      accountId = line.accountId
      key ??= keyOf(line.publicKey)
      chain.begin(accountId, key)
      continue
    }
    if (line?.kind === 'restored') {
      chain.takeRestored(line)
      continue
    }
    // Behind what was restored, which decides what heads from before are worth.
    takeOthers()
    if (!line)
      chain.tell({ kind: 'unreadable', seq: chain.next(), told: `The line of entry ${chain.next()} can not be read` })
    else if (line.kind === 'entry') chain.takeEntry(line)
    else if (line.kind === 'head') chain.takeHead(line)
  }
  if (accountId === undefined) return chain.end({ kind: 'unreadable', seq: 0, told: 'There is nothing in it' })
  takeOthers()
  return chain.end()

  function takeOthers(): void {
    chain.endRestores()
    for (const head of others.splice(0)) if (head.accountId === accountId) chain.takeAhead(head)
  }
}

function createChain() {
  let accountId = ''
  let key: KeyObject | undefined
  let previous = ''
  let entries = 0
  let fault: Fault | undefined
  let signed = { seq: 0, at: undefined as number | undefined }
  /** Heads of entries that are still to come. */
  const ahead = new Map<number, Head>()
  let highest = 0
  const restores: Verdict['restores'] = []
  /** What was signed earlier is of a state that was given up, unless it agrees. */
  let restoredAt = -Infinity
  let badMark: Fault | undefined

  const tell = (found: Fault): void => {
    fault ??= found
  }

  function begin(account: string, withKey: KeyObject): void {
    accountId = account
    key = withKey
  }

  function takeAhead(head: Head): void {
    if (isSigned(head)) keep(head)
  }

  function takeRestored(mark: RestoreMark): void {
    const { accountId: account, seq, hash: last, at, givenUpSeq } = mark
    const text = ['delta audit restored 1', account, seq, last, at, givenUpSeq]
    if (!isOurs(mark, text)) {
      badMark = { kind: 'forged', seq, told: `That a backup was restored to entry ${seq} is not signed by this key` }
      return
    }
    // One from before may have been signed by the key of another installation, from which this one was restored.
    badMark = undefined
    restores.push({ at, seq, givenUpSeq })
    restoredAt = Math.max(restoredAt, at)
    ahead.clear()
    highest = 0
    keep(mark)
  }

  function endRestores(): void {
    if (badMark) tell(badMark)
    badMark = undefined
  }

  function isOurs({ accountId: account, signature }: Head, text: readonly unknown[]): boolean {
    const bytes = Buffer.from(JSON.stringify(text))
    return account === accountId && key !== undefined && verify(null, bytes, key, Buffer.from(signature, 'base64url'))
  }

  function isSigned(head: Head): boolean {
    const { accountId: account, seq, hash: last, at } = head
    if (isOurs(head, ['delta audit head 1', account, seq, last, at])) return true
    // It may be of the platform that was there before, which had another key.
    if (at >= restoredAt) tell({ kind: 'forged', seq, told: `The head of entry ${seq} is not signed by this key` })
    return false
  }

  function keep(head: Head): void {
    if (head.at < restoredAt && head.seq > (restores.at(-1)?.seq ?? Infinity)) return
    highest = Math.max(highest, head.seq)
    ahead.set(head.seq, head)
  }

  function takeEntry(line: EntryLine): void {
    if (fault) {
      if (fault.kind === 'removed' && line.seq === fault.seq) {
        fault = { kind: 'reordered', seq: line.seq, told: `Entry ${line.seq} stands behind later ones` }
      }
      return
    }
    const next = entries + 1
    if (line.seq !== next) {
      tell(
        line.seq < next
          ? { kind: 'reordered', seq: line.seq, told: `Entry ${line.seq} stands again behind entry ${entries}` }
          : { kind: 'removed', seq: next, told: `Entry ${next} is missing: after ${entries} comes ${line.seq}` },
      )
      return
    }
    if (line.hash !== hashOf(accountId, line, previous)) {
      tell({
        kind: 'changed',
        seq: next,
        told: `Entry ${next} is not what it was: its hash does not fit it and the entry before`,
      })
      return
    }
    entries = next
    previous = line.hash
    const expected = ahead.get(next)
    if (expected) agree(expected)
  }

  function takeHead(found: Head): void {
    if (fault || !isSigned(found)) return
    if (found.seq > entries) keep(found)
    else if (found.seq === entries) agree(found)
  }

  function agree(found: Head): void {
    ahead.delete(found.seq)
    if (found.hash === previous) {
      if (found.seq > signed.seq) signed = { seq: found.seq, at: found.at }
      return
    }
    if (found.at < restoredAt) return
    tell({
      kind: 'rewritten',
      seq: signed.seq + 1,
      told: `Entries ${signed.seq + 1} to ${found.seq} were written anew: the head signed at ${found.seq} is of others`,
    })
  }

  function end(found?: Fault): Verdict {
    if (found) tell(found)
    if (highest > entries) {
      tell({
        kind: 'cut',
        seq: entries + 1,
        told: `Entries ${entries + 1} to ${highest} were signed and are not there`,
      })
    }
    return { entries, signedSeq: signed.seq, signedAt: signed.at, restores, fault }
  }

  return { begin, takeAhead, takeRestored, endRestores, takeEntry, takeHead, end, tell, next: () => entries + 1 }
}

function hashOf(accountId: string, line: EntryLine, previous: string): string {
  const { seq, at, actor, action, target, outcome, reason, details, requestId, address } = line
  const pairs = details && Object.entries(details).toSorted(([a], [b]) => (a < b ? -1 : 1))
  return hash(
    'sha256',
    JSON.stringify([
      'delta audit 1',
      accountId,
      seq,
      at,
      actor,
      action,
      target,
      outcome,
      reason,
      pairs,
      requestId,
      address,
      previous,
    ]),
  )
}

function keyOf(x: string): KeyObject {
  return createPublicKey({ key: { kty: 'OKP', crv: 'Ed25519', x }, format: 'jwk' })
}

function parsed(text: string): Line | undefined {
  try {
    return JSON.parse(text) as Line
  } catch {
    return undefined
  }
}
