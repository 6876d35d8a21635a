import { expect, test } from 'vitest'
import { attacks, isWell, type Outcome, type Row, titleOf } from './battery.ts'
import { count, line, matrix } from './matrix.ts'

const outcome = (state: Outcome['state'], detail = ''): Outcome => ({ state, detail, ms: 0 })
const row = (strong: Outcome['state'], weak: Outcome['state'], at = 0): Row => ({
  attack: titleOf(attacks[at]!),
  strong: outcome(strong),
  weak: outcome(weak),
})

test('every attack has a name of its own', () => {
  expect(new Set(attacks.map(({ name }) => name)).size).toBe(attacks.length)
})

test('an attack is well only where the sandbox holds and the defence is shown to be needed', () => {
  expect(isWell(row('held', 'fell'))).toBe(true)
  expect(isWell(row('missing', 'missing'))).toBe(true)
  expect(isWell(row('held', 'unshown'))).toBe(true)
  for (const [strong, weak] of [
    ['fell', 'fell'],
    ['held', 'held'],
    ['held', 'broken'],
    ['broken', 'fell'],
    ['held', 'missing'],
    ['fell', 'unshown'],
    ['broken', 'unshown'],
    ['missing', 'unshown'],
  ] as const)
    expect(isWell(row(strong, weak)), `${strong} and ${weak}`).toBe(false)
})

test('what holds also without the defence is called unproven, counts as a failure and says why', () => {
  const unproven = row('held', 'held')
  expect(matrix(new Map([['crun', [unproven]]]))).toContain('UNPROVEN')
  expect(count([unproven, row('held', 'fell', 1)])).toEqual({ held: 2, felt: 1, failed: 1, missing: 0, unshown: 0 })
  expect(line(unproven)).toMatch(/^FAIL .*proves nothing/)
})

test('the matrix has a line for each attack and a column for each runtime', () => {
  const text = matrix(
    new Map([
      ['crun', [row('held', 'fell', 0), row('fell', 'fell', 1)]],
      ['runsc', [row('missing', 'missing', 0)]],
    ]),
  )
  const [head, first, second] = text.split('\n')
  expect(head).toMatch(/^attack +promise +crun +runsc/)
  expect(first).toMatch(new RegExp(`^${attacks[0]!.name} +1 +held +n/a$`))
  expect(second).toMatch(new RegExp(`^${attacks[1]!.name} +1 +FELL +-$`))
})

test('what cannot be shown to do harm is marked so, with the reason, and is counted apart', () => {
  const unshown: Row = { ...row('held', 'unshown'), weak: outcome('unshown', 'no such module') }
  const text = matrix(new Map([['crun', [unshown]]]))
  expect(text).toMatch(/ held\*$/m)
  expect(text).toContain(`* ${attacks[0]!.name}: not shown to do harm without the defence: no such module`)
  expect(count([unshown])).toEqual({ held: 1, felt: 0, failed: 0, missing: 0, unshown: 1 })
  expect(line(unshown)).toMatch(/^ok .*no such module/)
})
