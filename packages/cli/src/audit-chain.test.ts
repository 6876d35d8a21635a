import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { describe, expect, test } from 'vitest'
import { verifyChain } from './audit-chain.ts'

const vectors = readFileSync(join(import.meta.dirname, '../../../docs/audit-vectors.jsonl'), 'utf8')
  .trim()
  .split('\n')
// header, 1, 2, head of 2, 3, 4, head of 4
const [header = '', one = '', two = '', headOfTwo = '', three = '', four = '', headOfFour = ''] = vectors
const { publicKey } = JSON.parse(header) as { publicKey: string }

function edited(line: string, changes: object): string {
  return JSON.stringify({ ...(JSON.parse(line) as object), ...changes })
}

describe('an export of the audit log', () => {
  test('that is whole is so, up to its last signed head', async () => {
    expect(await verifyChain(vectors)).toEqual({
      entries: 4,
      signedSeq: 4,
      signedAt: (JSON.parse(headOfFour) as { at: number }).at,
      restores: [],
      fault: undefined,
    })
    expect(await verifyChain(vectors.slice(0, 5), { publicKey })).toMatchObject({ entries: 3, signedSeq: 2 })
  })

  test.each([
    [
      'a changed entry',
      [header, one, two, headOfTwo, edited(three, { actor: 'key_x' }), four, headOfFour],
      'changed',
      3,
      2,
    ],
    ['a changed hash', [header, edited(one, { hash: '0'.repeat(64) }), two, headOfTwo], 'changed', 1, 0],
    [
      'a changed detail',
      [header, one, two, headOfTwo, edited(three, { details: { b: false } }), four],
      'changed',
      3,
      2,
    ],
    ['a removed entry', [header, one, two, headOfTwo, four, headOfFour], 'removed', 3, 2],
    ['a removed first entry', [header, two, headOfTwo, three, four, headOfFour], 'removed', 1, 0],
    ['two entries in the other order', [header, one, two, headOfTwo, four, three, headOfFour], 'reordered', 3, 2],
    ['an entry twice', [header, one, two, headOfTwo, two, three], 'reordered', 2, 2],
    ['a cut tail whose head is there', [header, one, two, headOfTwo, three, headOfFour], 'cut', 4, 2],
    ['a head of another key', [header, one, two, edited(headOfTwo, { signature: 'A'.repeat(86) })], 'forged', 2, 0],
    ['a head moved to another entry', [header, one, edited(headOfTwo, { seq: 1 }), two], 'forged', 1, 0],
    ['a line that is no JSON', [header, one, '{', two], 'unreadable', 2, 0],
    ['no header', [one, two], 'unreadable', 0, 0],
    ['nothing', [], 'unreadable', 0, 0],
  ] as const)('with %s says where, and how far all is well', async (_, lines, kind, seq, signedSeq) => {
    const verdict = await verifyChain(lines, { publicKey })
    expect(verdict).toMatchObject({ fault: { kind, seq }, signedSeq })
  })

  test('that was cut with its heads is shown by heads kept elsewhere', async () => {
    const cut = [header, one, two, headOfTwo, three]
    expect((await verifyChain(cut)).fault).toBeUndefined()
    expect(await verifyChain(cut, { heads: [headOfFour, ''] })).toMatchObject({
      fault: { kind: 'cut', seq: 4 },
      signedSeq: 2,
    })
  })

  test('that was written anew by somebody without the key is shown by its heads', async () => {
    // As one does who can compute hashes: entry 3 is another, and 4 follows it.
    const { hashOf } = await import('../../server/src/access/audit/chain.ts')
    const rewrite = (line: string, previous: string, changes: object) => {
      const { kind: _, hash: __, ...link } = { ...JSON.parse(line), ...changes }
      return { kind: 'entry', ...link, hash: hashOf('acc_vectors', link, previous) }
    }
    const newThree = rewrite(three, (JSON.parse(two) as { hash: string }).hash, { actor: 'key_x' })
    const newFour = rewrite(four, newThree.hash, {})
    const lines = [header, one, two, headOfTwo, JSON.stringify(newThree), JSON.stringify(newFour), headOfFour]
    expect(await verifyChain(lines)).toMatchObject({ fault: { kind: 'rewritten', seq: 3 }, signedSeq: 2 })
  })
})
