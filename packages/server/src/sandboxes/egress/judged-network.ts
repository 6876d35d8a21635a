import type { Socket } from 'node:net'
import { NameError } from './names.ts'
import { awaitOutward, createOutward, type OutwardDeps } from './outward.ts'
import type { Target } from './rules.ts'

export type JudgedNetwork = ReturnType<typeof createJudgedNetwork>

/** How the server itself reaches what somebody named: public addresses, and those that the operator lists. */
export function createJudgedNetwork(owner: string, deps: OutwardDeps) {
  const { names, guard } = deps
  const any = createOutward(deps)
  // Never by the proxy: what is listed lies here.
  const listed = createOutward({
    ...deps,
    guard: { judge: (address) => (guard.judge(address) === 'listed' ? 'listed' : 'special') },
    upstream: undefined,
  })
  return {
    connect: async (target: Target, signal: AbortSignal): Promise<Socket> =>
      (await awaitOutward(any, owner, target, signal)).socket,
    /** To those that the operator lists alone. */
    connectListed: async (target: Target, signal: AbortSignal): Promise<Socket> =>
      (await awaitOutward(listed, owner, target, signal)).socket,
    /** Where a name leads, without a packet to it. `unknown`: nobody could say now. */
    async judge(host: string): Promise<'public' | 'listed' | 'refused' | 'unknown'> {
      try {
        const verdicts = (await names.resolve(owner, host)).map(guard.judge)
        if (verdicts.length > 0 && verdicts.every((one) => one === 'listed')) return 'listed'
        return verdicts.some((one) => one === 'public' || one === 'listed') ? 'public' : 'refused'
      } catch (error) {
        if (error instanceof NameError) return 'unknown'
        throw error
      }
    },
  }
}
