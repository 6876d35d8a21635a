import { expect, test } from 'vitest'
import { createControl } from './control.ts'

test('calls that run side by side all hear of what ends them', () => {
  const control = createControl()
  const signals = [control.begin(), control.begin(), control.begin()]
  control.halt('cancel')
  expect(signals.map(({ aborted }) => aborted)).toEqual([true, true, true])
  expect(control.begin().aborted).toBe(true)
})

test('what is begun after an interruption has a signal of its own', () => {
  const control = createControl()
  const before = control.begin()
  control.interrupt()
  expect([before.aborted, control.begin().aborted]).toEqual([true, true])
  control.goOn()
  expect(control.begin().aborted).toBe(false)
})

test('a stopping server aborts nothing that runs', () => {
  const control = createControl()
  const running = control.begin()
  control.halt('stop')
  expect([running.aborted, control.left.aborted]).toEqual([false, true])
})
