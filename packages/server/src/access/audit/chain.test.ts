import { createPublicKey, verify } from 'node:crypto'
import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { hashOf, headKeys, type Link, linkOf, noHead, type SignedHead, signedText, signHead } from './chain.ts'
import type { AuditEntry } from './entry.ts'
import type { ExportLine } from './service.ts'

const vectors = readFileSync(join(import.meta.dirname, '../../../../../docs/audit-vectors.jsonl'), 'utf8')
  .trim()
  .split('\n')
  .map((line) => JSON.parse(line) as ExportLine)

const entry: AuditEntry = { accountId: 'acc_a', actorId: 'key_a', action: 'createSandbox', outcome: 'done' }

describe('the chain', () => {
  test('is as the vectors of docs/audit.md have it', () => {
    const [header, ...lines] = vectors
    if (header?.kind !== 'header') throw new Error('No header')
    const { privateKey, publicKey } = headKeys(Buffer.alloc(32, 1))
    expect(header).toEqual({ kind: 'header', format: 'delta audit 1', accountId: 'acc_vectors', publicKey })
    let previous = ''
    for (const line of lines) {
      if (line.kind === 'entry') {
        const { kind: _, hash, ...link } = line
        expect(hash).toBe(hashOf('acc_vectors', link, previous))
        previous = hash
      } else if (line.kind === 'head') {
        const { kind: _, ...head } = line
        expect(head).toEqual(signHead('acc_vectors', { seq: head.seq, hash: previous }, head.at, privateKey))
      }
    }
  })

  test('no two different entries have one hash', () => {
    const text = fc.option(fc.string({ maxLength: 12 }), { nil: null })
    const link: fc.Arbitrary<Omit<Link, 'hash'>> = fc.record({
      seq: fc.integer({ min: 1, max: 3 }),
      at: fc.integer({ min: 0, max: 3 }),
      actor: fc.string({ maxLength: 3 }),
      action: fc.string({ maxLength: 3 }),
      target: text,
      outcome: fc.constantFrom('done' as const, 'refused' as const),
      reason: text,
      details: fc.option(
        fc.dictionary(fc.string({ maxLength: 3 }), fc.oneof(fc.string(), fc.boolean(), fc.integer())),
        {
          nil: null,
        },
      ),
      requestId: text,
      address: text,
    })
    fc.assert(
      fc.property(link, link, fc.string({ maxLength: 3 }), (a, b, previous) => {
        const isSame = JSON.stringify(sorted(a)) === JSON.stringify(sorted(b))
        return isSame === (hashOf('acc_a', a, previous) === hashOf('acc_a', b, previous))
      }),
    )
    const { hash } = linkOf(entry, noHead, 1)
    expect(linkOf({ ...entry, accountId: 'acc_b' }, noHead, 1).hash).not.toBe(hash)
    expect(linkOf(entry, { seq: 0, hash: 'x' }, 1).hash).not.toBe(hash)
  })

  test('a head is signed for its account, place, hash and time', () => {
    const { privateKey, publicKey } = headKeys(Buffer.alloc(32, 2))
    const key = createPublicKey({ key: { kty: 'OKP', crv: 'Ed25519', x: publicKey }, format: 'jwk' })
    const head = signHead('acc_a', { seq: 7, hash: 'ab' }, 5, privateKey)
    const holds = (changes: Partial<SignedHead>) =>
      verify(null, signedText({ ...head, ...changes }), key, Buffer.from(head.signature, 'base64url'))
    expect(holds({})).toBe(true)
    for (const changes of [{ accountId: 'acc_b' }, { seq: 8 }, { hash: 'ac' }, { at: 6 }])
      expect(holds(changes)).toBe(false)
  })
})

function sorted(link: Omit<Link, 'hash'>) {
  return { ...link, details: link.details && Object.entries(link.details).toSorted(([a], [b]) => (a < b ? -1 : 1)) }
}
