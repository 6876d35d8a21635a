import fc from 'fast-check'
import { expect, test } from 'vitest'
import { createOutputTexts } from './event-text.ts'
import type { OutputPiece, OutputStream } from './event-text.ts'

interface Cut {
  stream: OutputStream
  bytes: Buffer
}

function play(cuts: Cut[], encoding: 'utf8' | 'base64', from = 0): OutputPiece[] {
  const texts = createOutputTexts(encoding)
  const pieces: OutputPiece[] = []
  let offset = 0
  for (const { stream, bytes } of cuts) {
    const end = offset + bytes.length
    if (end > from) {
      const skipped = Math.max(0, from - offset)
      const piece = texts.push(stream, offset + skipped, bytes.subarray(skipped))
      if (piece) pieces.push(piece)
    }
    offset = end
  }
  return [...pieces, ...texts.flush()]
}

const said = (pieces: OutputPiece[], stream: OutputStream) =>
  pieces
    .filter((piece) => piece.stream === stream)
    .map(({ data }) => data)
    .join('')

/** Two texts, cut into bytes anywhere and interleaved. */
const interleaved = fc
  .tuple(
    fc.string({ unit: 'grapheme', maxLength: 20 }),
    fc.string({ unit: 'grapheme', maxLength: 20 }),
    fc.array(fc.tuple(fc.boolean(), fc.integer({ min: 1, max: 5 })), { maxLength: 60 }),
  )
  .map(([out, err, turns]) => {
    const rest = { stdout: Buffer.from(out), stderr: Buffer.from(err) }
    const cuts: Cut[] = []
    const take = (stream: OutputStream, length: number) => {
      const bytes = rest[stream].subarray(0, length)
      rest[stream] = rest[stream].subarray(length)
      if (bytes.length > 0) cuts.push({ stream, bytes })
    }
    for (const [second, length] of turns) take(second ? 'stderr' : 'stdout', length)
    take('stdout', Infinity)
    take('stderr', Infinity)
    return { out, err, cuts }
  })

test('texts cut into chunks anywhere, of two streams in any order, arrive whole', () => {
  fc.assert(
    fc.property(interleaved, ({ out, err, cuts }) => {
      const pieces = play(cuts, 'utf8')
      expect(said(pieces, 'stdout')).toBe(out)
      expect(said(pieces, 'stderr')).toBe(err)
    }),
  )
})

test('resuming at any stated position loses no byte of either stream', () => {
  fc.assert(
    fc.property(interleaved, fc.nat(), ({ out, err, cuts }, choice) => {
      const pieces = play(cuts, 'utf8')
      const stated = pieces.findLastIndex(
        ({ resumeAt }, index) => resumeAt !== undefined && index <= choice % (pieces.length + 1),
      )
      const resumeAt = stated < 0 ? 0 : pieces[stated]!.resumeAt!
      const seen = pieces.slice(0, stated + 1)
      const more = play(cuts, 'utf8', resumeAt)
      // After the stated position each stream goes on exactly where what was seen ended.
      expect(said(seen, 'stdout') + said(more, 'stdout')).toBe(out)
      expect(said(seen, 'stderr') + said(more, 'stderr')).toBe(err)
    }),
  )
})

test('base64 pieces are the exact bytes and always state where to resume', () => {
  const bytes = Buffer.from([0xe2, 0x82])
  expect(play([{ stream: 'stdout', bytes }], 'base64')).toEqual([
    { stream: 'stdout', data: '4oI=', offset: 0, resumeAt: 2 },
  ])
})
