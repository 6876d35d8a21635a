import fc from 'fast-check'
import { expect, test } from 'vitest'
import { createFrameDecoder, createReader, createWriter, encodeFrame, maxPayloadBytes, WireError } from './codec.ts'
import { readRecords } from './call.ts'
import { liveBytes } from './testing/memory.ts'
import {
  readEgress,
  readEntry,
  readExecs,
  readExit,
  readHello,
  readMetrics,
  readMore,
  readOpenedExec,
  readWatchEvent,
} from './messages.ts'
import type { Frame, Reader } from './codec.ts'

interface Decoded {
  frames: { type: number; channel: number; payload: string }[]
  fault: string | undefined
}

/** Feeds the bytes in pieces and watches that no more is held than arrived. */
function decode(bytes: Buffer, cuts: readonly number[]): Decoded {
  const decoder = createFrameDecoder()
  const frames: Decoded['frames'] = []
  const keep = (frame: Frame): void => {
    frames.push({ type: frame.type, channel: frame.channel, payload: frame.payload.toString('hex') })
  }
  const places = [0, ...cuts.toSorted((a, b) => a - b), bytes.length]
  let fault: string | undefined
  try {
    for (let index = 1; index < places.length; index++) {
      decoder.push(Buffer.from(bytes.subarray(places[index - 1], places[index]))).forEach(keep)
      if (decoder.error) throw decoder.error
      expect(decoder.heldBytes).toBeLessThanOrEqual(places[index]!)
    }
  } catch (error) {
    if (!(error instanceof WireError)) throw error
    fault = error.fault
  }
  return { frames, fault }
}

const frame = fc.record({
  type: fc.integer({ min: 1, max: 11 }),
  channel: fc.integer({ min: 0, max: 0xffff_ffff }),
  payload: fc.uint8Array({ maxLength: 200 }),
})
const goodBytes = fc.array(frame, { maxLength: 8 }).map((frames) => ({
  frames,
  bytes: Buffer.concat(frames.map(({ type, channel, payload }) => encodeFrame(type, channel, payload))),
}))
const cutsOf = (length: number): fc.Arbitrary<number[]> =>
  fc.array(fc.integer({ min: 0, max: length }), { maxLength: 12 })

test('frames come out as they went in, however the stream is cut', () => {
  fc.assert(
    fc.property(
      goodBytes.chain((made) => fc.tuple(fc.constant(made), cutsOf(made.bytes.length))),
      ([{ frames, bytes }, cuts]) => {
        const expected = frames.map((one) => ({ ...one, payload: Buffer.from(one.payload).toString('hex') }))
        expect(decode(bytes, cuts)).toEqual({ frames: expected, fault: undefined })
      },
    ),
    { numRuns: 500 },
  )
})

test('a truncated stream gives the frames before the cut and waits for the rest', () => {
  const bytes = Buffer.concat([
    encodeFrame(9, 0, Buffer.alloc(8)),
    encodeFrame(4, 1, Buffer.alloc(30)),
    encodeFrame(6, 3),
  ])
  for (let end = 0; end <= bytes.length; end++) {
    const { frames, fault } = decode(bytes.subarray(0, end), [])
    expect(fault).toBeUndefined()
    expect(frames.length).toBe([17, 56, 65].filter((whole) => whole <= end).length)
    for (let cut = 0; cut <= end; cut++) expect(decode(bytes.subarray(0, end), [cut]).frames).toEqual(frames)
  }
})

test('arbitrary bytes give frames or a typed fault, the same for every cutting', () => {
  // Small lengths are frequent so that runs get past the first header.
  const lyingFrame = fc
    .tuple(
      fc.oneof(fc.integer({ min: 0, max: 40 }), fc.integer({ min: 0, max: 0xffff_ffff })),
      fc.uint8Array({ maxLength: 60 }),
    )
    .map(([length, rest]) => {
      const head = Buffer.alloc(4)
      head.writeUInt32LE(length)
      return Buffer.concat([head, rest])
    })
  const bytes = fc.oneof(
    fc.uint8Array({ maxLength: 400 }).map((raw) => Buffer.from(raw)),
    fc
      .array(
        fc.oneof(
          lyingFrame,
          goodBytes.map((made) => made.bytes),
        ),
        { maxLength: 6 },
      )
      .map((parts) => Buffer.concat(parts)),
  )
  fc.assert(
    fc.property(
      bytes.chain((made) => fc.tuple(fc.constant(made), cutsOf(made.length))),
      ([made, cuts]) => {
        const whole = decode(made, [])
        expect(decode(made, cuts)).toEqual(whole)
        expect(decode(made, Array.from(made.keys()))).toEqual(whole)
      },
    ),
    { numRuns: 1000 },
  )
})

test('large DATA in pieces is the same bytes as whole, and records stay whole', () => {
  const dataFrame = fc
    .record({ stream: fc.integer({ min: 0, max: 3 }), channel: fc.nat(9), size: fc.integer({ min: 0, max: 20_000 }) })
    .map(({ stream, channel, size }) => {
      const payload = Buffer.alloc(9 + size, channel + 1)
      payload[0] = stream
      return encodeFrame(4, channel, payload)
    })
  const arbitrary = fc
    .array(
      fc.oneof(
        dataFrame,
        frame.map((one) => encodeFrame(one.type, one.channel, one.payload)),
      ),
      { maxLength: 5 },
    )
    .map((parts) => Buffer.concat(parts))
    .chain((bytes) => fc.tuple(fc.constant(bytes), cutsOf(bytes.length)))
  fc.assert(
    fc.property(arbitrary, ([bytes, cuts]) => {
      const decoder = createFrameDecoder({ splitData: true })
      const merged: Decoded['frames'] = []
      const places = [0, ...cuts.toSorted((a, b) => a - b), bytes.length]
      for (let index = 1; index < places.length; index++) {
        for (const piece of decoder.push(bytes.subarray(places[index - 1], places[index]))) {
          const payload = piece.payload.toString('hex')
          if (!piece.continues) {
            merged.push({ type: piece.type, channel: piece.channel, payload })
            continue
          }
          expect(merged.at(-1)).toMatchObject({ type: 4, channel: piece.channel })
          expect(merged.at(-1)!.payload.slice(0, 2)).not.toBe('03')
          merged.at(-1)!.payload += payload
        }
      }
      expect({ frames: merged, fault: undefined }).toEqual(decode(bytes, []))
    }),
  )
})

test('good frames before a bad one are delivered, then every push throws the fault', () => {
  const decoder = createFrameDecoder()
  const frames = decoder.push(Buffer.concat([encodeFrame(9, 0, Buffer.alloc(8)), Buffer.alloc(9)]))
  expect(frames).toHaveLength(1)
  expect(decoder.error?.fault).toBe('frame_too_short')
  expect(() => decoder.push(encodeFrame(9, 0, Buffer.alloc(8)))).toThrow(WireError)
})

test('a frame of the largest size passes byte by byte and holds little more than arrived', () => {
  const decoder = createFrameDecoder()
  const bytes = encodeFrame(4, 1, Buffer.alloc(maxPayloadBytes, 5))
  for (let at = 0; at < bytes.length - 1; at += 1000) {
    expect(decoder.push(bytes.subarray(at, Math.min(at + 1000, bytes.length - 1)))).toEqual([])
  }
  const [whole] = decoder.push(bytes.subarray(bytes.length - 1))
  expect(whole!.payload.equals(Buffer.alloc(maxPayloadBytes, 5))).toBe(true)
  expect(whole!.payload.buffer.byteLength).toBeLessThanOrEqual(bytes.length * 2)
  expect(decoder.heldBytes).toBe(0)
})

test('a claimed length allocates nothing', () => {
  const header = encodeFrame(4, 1)
  header.writeUInt32LE(5 + maxPayloadBytes, 0)
  const before = liveBytes()
  const decoders = Array.from({ length: 2000 }, () => createFrameDecoder())
  for (const one of decoders) one.push(header)
  // 2,000 claims of 64 KiB would be 125 MiB.
  expect(liveBytes() - before).toBeLessThan(8 * 1024 * 1024)
  expect(decoders[0]!.heldBytes).toBe(header.length)
})

const readers: Record<string, (reader: Reader) => unknown> = {
  readEgress,
  readEntry,
  readExecs,
  readExit,
  readHello,
  readMetrics,
  readMore,
  readOpenedExec,
  readWatchEvent,
}

test.each(Object.entries(readers))('%s of arbitrary bytes answers or throws WireError', (_name, read) => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 300 }), (raw) => {
      try {
        read(createReader(Buffer.from(raw)))
      } catch (error) {
        expect(error).toBeInstanceOf(WireError)
      }
    }),
    { numRuns: 500 },
  )
})

test('records of arbitrary bytes are read or refused', () => {
  fc.assert(
    fc.property(fc.uint8Array({ maxLength: 300 }), (raw) => {
      try {
        readRecords(Buffer.from(raw), readWatchEvent)
      } catch (error) {
        expect(error).toBeInstanceOf(WireError)
      }
    }),
  )
})

test('a list that claims four billion items is refused before the first', () => {
  const payload = createWriter().u32(0xffff_ffff).raw(Buffer.alloc(1000)).payload()
  let reads = 0
  const count = (reader: Reader): number => (reads++, reader.u8('item'))
  expect(() => createReader(payload).list('items', 1, count)).toThrow(/claims 4294967295 items/)
  expect(reads).toBe(0)
})

test('fields come back as they were written', () => {
  fc.assert(
    fc.property(
      fc.nat(255),
      fc.nat(65535),
      fc.nat(0xffff_ffff),
      fc.bigInt({ min: 0n, max: 2n ** 64n - 1n }),
      fc.maxSafeNat(),
      fc.bigInt({ min: -(2n ** 63n), max: 2n ** 63n - 1n }),
      fc.string({ unit: 'grapheme', maxLength: 400 }),
      fc.uint8Array({ maxLength: 400 }),
      fc.array(fc.string(), { maxLength: 5 }),
      fc.option(fc.string(), { nil: undefined }),
      (a, b, c, d, e, f, text, bytes, list, maybe) => {
        const payload = createWriter(4)
          .u8(a)
          .u16(b)
          .u32(c)
          .u64(d)
          .u64(e)
          .i64(f)
          .str(text)
          .bytes(bytes)
          .list(list, (writer, item) => writer.str(item))
          .opt(maybe, (writer, value) => writer.str(value))
          .raw(Buffer.from('tail'))
          .payload()
        const reader = createReader(payload)
        expect([
          reader.u8(''),
          reader.u16(''),
          reader.u32(''),
          reader.u64(''),
          reader.count(''),
          reader.i64(''),
        ]).toEqual([a, b, c, d, e, f])
        expect(reader.str('')).toBe(text)
        expect(reader.bytes('')).toEqual(Buffer.from(bytes))
        expect(reader.list('', 4, (one) => one.str(''))).toEqual(list)
        expect(reader.opt('', (one) => one.str(''))).toBe(maybe)
        expect(reader.remaining).toBe(4)
        expect(() => reader.u64('the rest')).toThrow('the rest is cut short')
      },
    ),
  )
})

test('a count beyond 2^53 is refused, a size is cut', () => {
  const payload = createWriter()
    .u64(2n ** 53n)
    .payload()
  expect(() => createReader(payload).count('offset')).toThrow(WireError)
  expect(createReader(payload).size('size')).toBe(Number.MAX_SAFE_INTEGER)
})

test('bytes that are no UTF-8 are kept beside their text', () => {
  const payload = createWriter()
    .bytes(Buffer.from([0x2f, 0xff]))
    .bytes(Buffer.from('/\ufffd'))
    .payload()
  const reader = createReader(payload)
  expect(reader.text('path')).toEqual({ text: '/\ufffd', raw: Buffer.from([0x2f, 0xff]) })
  expect(reader.text('path')).toEqual({ text: '/\ufffd' })
  expect(() => createReader(payload).str('name')).toThrow('name is not UTF-8')
})
