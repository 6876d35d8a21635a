/**
 * What the ledger must do, said a second time: maps in memory, the rules of `rules.ts`, and a copy of everything, taken before each operation, to go back to if it is refused. Slow, and
 * meant to be read.
 */
import type { Answer, Operation } from '../operations.ts'
import { Refused, type ModelState, type OwnId } from './model-state.ts'
import { decide } from './rules.ts'

export type Model = ReturnType<typeof createModel>

export function createModel(idOf: OwnId) {
  let state: ModelState = { accounts: new Map(), holds: new Map() }
  return {
    state: () => state,
    apply(operation: Operation): Answer {
      const before = structuredClone(state)
      try {
        return decide(state, operation, idOf)
      } catch (cause) {
        state = before
        if (cause instanceof Refused) return cause.answer
        throw cause
      }
    },
  }
}
