import { expect, test } from 'vitest'
import { afterFailure } from './retries.ts'
import type { SoFar } from './retries.ts'

const first: SoFar = { tries: 1, withOutput: 0, waitedMs: 0, hasOther: false }

test('pauses grow to a bound, each anywhere between nothing and that', () => {
  const most = [1, 2, 3].map((tries) => afterFailure({ kind: 'unavailable' }, { ...first, tries }, 0.999999))
  expect(most).toEqual([500, 1_000, 2_000].map((ms) => ({ do: 'wait', ms })))
  expect(afterFailure({ kind: 'unavailable' }, first, 0)).toEqual({ do: 'wait', ms: 0 })
})

test.each([
  ['after four requests', { tries: 4 }, {}],
  ['after the second that had brought output', { tries: 2, withOutput: 2 }, {}],
  ['for longer than a minute', {}, { retryAfterMs: 60_001 }],
  ['when all pauses together would be too long', { waitedMs: 100_000 }, { retryAfterMs: 20_001 }],
  ['for a key that is not taken', {}, { kind: 'key' as const }],
])('nobody waits %s', (_when, soFar, failure) => {
  const failed = { kind: 'limited' as const, ...failure }
  expect(afterFailure(failed, { ...first, ...soFar }, 0.5)).toEqual({ do: 'give_up' })
  const hasOutput = 'withOutput' in soFar
  const other = afterFailure(failed, { ...first, ...soFar, hasOther: true }, 0.5)
  expect(other).toEqual({ do: hasOutput ? 'give_up' : 'other' })
})

test.each(['request', 'too_long'] as const)('a fault of the request (%s) is not asked again, of nobody', (kind) => {
  expect(afterFailure({ kind }, { ...first, hasOther: true }, 0)).toEqual({ do: 'give_up' })
})

test('what had begun is asked again once, of the same model', () => {
  const soFar = { ...first, withOutput: 1, hasOther: true }
  expect(afterFailure({ kind: 'unavailable' }, soFar, 0)).toEqual({ do: 'wait', ms: 0 })
})
