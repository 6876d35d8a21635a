import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { DeltaError, errorTable } from '../kernel/errors.ts'
import type { ErrorCode } from '../kernel/errors.ts'
import { chosenProtocol, closeCodeOf, credentialOf, originAllowed, placeOf, readControl } from './rules.ts'
import { terminalLimits } from './schema.ts'

describe('where a viewer begins', () => {
  test('exactly where it says, also where that is no longer kept: it will hear of the gap', () => {
    expect(placeOf({ from: 10 }, { start: 50, end: 100 })).toEqual({ ok: true, from: 10 })
    expect(placeOf({ from: 100 }, { start: 50, end: 100 })).toEqual({ ok: true, from: 100 })
  })
  test('not in the future', () => {
    expect(placeOf({ from: 101 }, { start: 50, end: 100 })).toMatchObject({ ok: false, reason: /at most 100/ })
  })
  test('else with the last of what is kept', () => {
    const end = 1_000_000
    expect(placeOf({}, { start: 0, end })).toEqual({ ok: true, from: end - terminalLimits.scrollbackBytes.default })
    expect(placeOf({}, { start: end - 9, end })).toEqual({ ok: true, from: end - 9 })
    expect(placeOf({ scrollback: 0 }, { start: 0, end })).toEqual({ ok: true, from: end })
    expect(placeOf({ scrollback: 9 }, { start: 0, end: 3 })).toEqual({ ok: true, from: 0 })
  })
})

describe('pages that may connect with the API key', () => {
  test.each([
    [undefined, 'localhost:8000', true],
    ['http://localhost:8000', 'localhost:8000', true],
    ['https://delta.example', 'Delta.Example', true],
    ['http://localhost:3000', 'localhost:8000', false],
    ['http://evil.example', 'localhost:8000', false],
    ['null', 'localhost:8000', false],
    ['', 'localhost:8000', false],
    ['file://', 'localhost:8000', false],
    ['http://localhost:8000', undefined, false],
    ['http://localhost:8000.evil.example', 'localhost:8000', false],
  ])('origin %s at host %s: %s', (origin, host, allowed) => {
    expect(originAllowed(origin, host)).toBe(allowed)
  })
})

describe('credentials', () => {
  const nothing = { authorization: undefined, protocols: undefined, token: null }
  const offered = (secret: string) => `delta.terminal.v1, delta.bearer.${Buffer.from(secret).toString('base64url')}`
  test('none', () => expect(credentialOf(nothing)).toBeUndefined())
  test('a header goes before all else', () => {
    const shown = { authorization: 'Bearer a', protocols: offered('b'), token: 'dat_c' }
    expect(credentialOf(shown)).toEqual({ kind: 'header', authorization: 'Bearer a' })
  })
  test('a key among the protocols', () => {
    expect(credentialOf({ ...nothing, protocols: offered('key') })).toEqual({
      kind: 'header',
      authorization: 'Bearer key',
    })
  })
  test('a token in the header, among the protocols or in the query', () => {
    const token = { kind: 'token', token: 'dat_x.y' }
    expect(credentialOf({ ...nothing, authorization: 'Bearer dat_x.y' })).toEqual(token)
    expect(credentialOf({ ...nothing, protocols: offered('dat_x.y') })).toEqual(token)
    expect(credentialOf({ ...nothing, token: 'dat_x.y' })).toEqual(token)
  })
  test('a key in the query is never looked at as one', () => {
    expect(credentialOf({ ...nothing, token: 'delta_key' })).toEqual({ kind: 'token', token: 'delta_key' })
  })
  test('the protocol that holds a secret is never chosen', () => {
    expect(chosenProtocol(['delta.bearer.a2V5', 'delta.terminal.v1'])).toBe('delta.terminal.v1')
    expect(chosenProtocol(['delta.bearer.a2V5'])).toBe(false)
  })
})

describe('control frames', () => {
  const read = (value: unknown) => readControl(Buffer.from(typeof value === 'string' ? value : JSON.stringify(value)))
  test('a size within bounds', () => {
    expect(read({ type: 'resize', cols: 1_000, rows: 1 })).toMatchObject({
      ok: true,
      control: { cols: 1_000, rows: 1 },
    })
  })
  test.each([0, -1, 1_001, 100_000, 1.5, '80', null, 1e99])('%s columns are refused and end nothing', (cols) => {
    expect(read({ type: 'resize', cols, rows: 24 })).toMatchObject({ ok: false, fatal: false, reason: /^cols: / })
  })
  test('the refusal of a size names the limit', () => {
    expect(read({ type: 'resize', cols: 100_000, rows: 24 })).toMatchObject({ reason: /1000/ })
  })
  test('an unknown type is refused and ends nothing, so that newer viewers can ask', () => {
    expect(read({ type: 'sing' })).toMatchObject({ ok: false, fatal: false })
  })
  test.each(['', 'hello', '{', '"\u0000', 'NaN'])('%j is no message at all', (text) => {
    expect(read(text)).toMatchObject({ ok: false, fatal: true })
  })
  test('neither is what is not UTF-8, or too long', () => {
    expect(readControl(Buffer.from([0x22, 0xff, 0xfe, 0x22]))).toMatchObject({ ok: false, fatal: true })
    expect(readControl(Buffer.alloc(terminalLimits.controlFrameBytes + 1, ' '))).toMatchObject({
      ok: false,
      fatal: true,
    })
  })
  test('no bytes make it throw', () => {
    const bytes = fc.uint8Array({ maxLength: 100 })
    fc.assert(
      fc.property(bytes, (data) => typeof readControl(Buffer.from(data)).ok === 'boolean'),
      { seed: 7 },
    )
    fc.assert(
      fc.property(fc.json(), (text) => typeof read(text).ok === 'boolean'),
      { seed: 7 },
    )
  })
})

test('every error closes with a code that tells what it was', () => {
  for (const code of Object.keys(errorTable) as ErrorCode[]) {
    const { status } = new DeltaError(code, '')
    const expected = status < 500 ? 4_000 + status : code === 'shutting_down' ? 1001 : 1011
    expect(closeCodeOf({ code, status }), code).toBe(expected)
  }
})
