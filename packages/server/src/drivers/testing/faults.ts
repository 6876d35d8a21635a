/** Counts the calls of several objects together and lets one, or all from one on, fail. */
export interface Faults {
  /** The same object whose promise-returning methods are counted. */
  wrap<Target extends object>(target: Target, options?: { except?: readonly string[] }): Target
  readonly calls: number
  /** Counts anew from now on, and fails as this says. */
  cut(plan: FaultPlan): void
  /** From now on nothing fails. */
  heal(): void
}

export interface FaultPlan {
  /** Which call fails, from 1. */
  at: number
  /** `after`: it did its work, and only the answer is lost. */
  when: 'before' | 'after'
  /** `one` call, or `all` from there on, as when the process is killed. */
  count: 'one' | 'all'
}

export class InjectedFault extends Error {
  override readonly name = 'InjectedFault'
}

export function createFaults(first?: FaultPlan): Faults {
  let plan = first
  let calls = 0
  let healed = false

  const fails = (number: number): boolean => {
    if (!plan || healed) return false
    return plan.count === 'one' ? number === plan.at : number >= plan.at
  }

  const counted = async (name: string, work: () => unknown): Promise<unknown> => {
    calls += 1
    const number = calls
    if (!fails(number)) return work()
    // What a killed process asks for after its end is never done.
    if (plan!.when === 'after' && number === plan!.at) await work()
    throw new InjectedFault(`call ${number} (${name})`)
  }

  /** A stream counts as one call, made when it is begun. */
  async function* countedStream(name: string, work: () => AsyncIterable<unknown>): AsyncGenerator<unknown> {
    await counted(name, () => undefined)
    yield* work()
  }

  return {
    wrap(target, { except = [] } = {}) {
      return new Proxy(target, {
        get(object, name) {
          const value: unknown = Reflect.get(object, name)
          if (typeof value !== 'function' || typeof name !== 'string' || except.includes(name)) return value
          if (value.constructor.name === 'AsyncGeneratorFunction') {
            return (...args: unknown[]) =>
              countedStream(name, () => Reflect.apply(value, object, args) as AsyncIterable<unknown>)
          }
          return (...args: unknown[]) => counted(name, () => Reflect.apply(value, object, args))
        },
      })
    },
    get calls() {
      return calls
    },
    cut(next) {
      plan = next
      calls = 0
    },
    heal() {
      healed = true
    },
  }
}
