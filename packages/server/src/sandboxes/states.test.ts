import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import {
  holdsBox,
  isOver,
  mayMove,
  type SandboxAction,
  type SandboxState,
  sandboxStates,
  steps,
  type Step,
  type TransitionReason,
  transitionReasons,
  transitions,
} from './states.ts'

const reasons = Object.keys(transitionReasons) as TransitionReason[]
const moves = sandboxStates.flatMap((from) =>
  Object.entries(transitions[from]).flatMap(([to, why]) =>
    why.map((reason) => ({ from, to: to as SandboxState, reason })),
  ),
)

describe('states of a sandbox', () => {
  test('the arrows are exactly those of the design', () => {
    const arrows = new Set(moves.map(({ from, to }) => `${from}→${to}`))
    expect([...arrows].toSorted()).toEqual(
      [
        'creating→running',
        'creating→failed',
        'running→paused',
        'paused→running',
        'running→stopping',
        'paused→stopping',
        'stopping→stopped',
        'stopped→starting',
        'starting→running',
        'starting→stopped',
        ...sandboxStates.filter((state) => state !== 'killed').map((state) => `${state}→killed`),
      ].toSorted(),
    )
  })

  test('killed is final, and nothing but a kill follows failed', () => {
    for (const to of sandboxStates) {
      for (const reason of reasons) {
        expect(mayMove('killed', to, reason)).toBe(false)
        if (to !== 'killed') expect(mayMove('failed', to, reason)).toBe(false)
      }
    }
  })

  test('no state is its own successor, so each transition says something', () => {
    for (const { from, to } of moves) expect(from).not.toBe(to)
  })

  test('from every state a kill is legal, and every state but the two ends has another way on', () => {
    for (const state of sandboxStates) {
      if (state !== 'killed') expect(mayMove(state, 'killed', 'kill_requested')).toBe(true)
      if (!isOver(state)) expect(Object.keys(transitions[state]).length).toBeGreaterThan(1)
    }
  })

  test('every reason but that of the first row is used by some arrow', () => {
    const used = new Set(moves.map(({ reason }) => reason))
    expect(reasons.filter((reason) => !used.has(reason))).toEqual(['requested'])
  })

  test('along any walk of legal moves a box is held from creation until stop, kill or failure', () => {
    fc.assert(
      fc.property(fc.array(fc.nat(1_000), { maxLength: 60 }), (choices) => {
        let state: SandboxState = 'creating'
        for (const choice of choices) {
          const next = moves.filter(({ from }) => from === state)
          if (next.length === 0) break
          const move = next[choice % next.length]!
          // A box appears only by creating or starting: nothing else leads from "no box" to "box".
          if (!holdsBox(move.from) && holdsBox(move.to)) expect(move.to).toBe('starting')
          state = move.to
        }
        expect(sandboxStates).toContain(state)
      }),
    )
  })

  test('each action has a step in each state, and the step leads along a legal arrow', () => {
    const leadsTo: Record<Exclude<Step, 'done' | 'refuse' | 'settle'>, SandboxState> = {
      pause: 'paused',
      resume: 'running',
      stop: 'stopping',
      start: 'starting',
      kill: 'killed',
    }
    for (const action of Object.keys(steps) as SandboxAction[]) {
      for (const state of sandboxStates) {
        const step = steps[action][state]
        expect(step, `${action} of ${state}`).toBeDefined()
        if (step === 'done' || step === 'refuse' || step === 'settle') continue
        expect(transitions[state][leadsTo[step]], `${action} of ${state}`).toBeDefined()
      }
    }
  })

  test('only states that an interrupted operation leaves behind are settled', () => {
    for (const action of Object.keys(steps) as SandboxAction[]) {
      const settled = sandboxStates.filter((state) => steps[action][state] === 'settle')
      expect(settled).toEqual(action === 'kill' ? [] : ['creating', 'stopping', 'starting'])
    }
  })
})
