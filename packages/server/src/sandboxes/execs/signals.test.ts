import fc from 'fast-check'
import { expect, test } from 'vitest'
import { signalName, signalNumber } from './signals.ts'

test('every number of a signal has a name that leads back to it', () => {
  for (let number = 1; number <= 64; number++) {
    const name = signalName(number)
    if (number === 32 || number === 33) continue // the C library's own; they have no name
    expect(signalNumber(name), name).toBe(number)
    expect(signalNumber(number)).toBe(number)
  }
})

test('names are taken with and without SIG, in any case', () => {
  expect(['SIGTERM', 'TERM', 'sigterm', 'Term', 15].map(signalNumber)).toEqual([15, 15, 15, 15, 15])
  expect([signalName(9), signalName(6), signalName(35), signalName(34)]).toEqual([
    'SIGKILL',
    'SIGABRT',
    'SIGRTMIN+1',
    'SIGRTMIN',
  ])
})

test('what is no signal is undefined', () => {
  const wrong = [
    0,
    -1,
    65,
    1.5,
    Number.NaN,
    Infinity,
    '',
    'SIG',
    'SIGNOPE',
    'SIGRTMIN+31',
    'SIGRTMIN+',
    '__proto__',
    'constructor',
    '9',
  ]
  for (const signal of wrong) expect(signalNumber(signal), String(signal)).toBeUndefined()
  fc.assert(fc.property(fc.string(), (text) => (signalNumber(text) ?? 1) >= 1))
})
