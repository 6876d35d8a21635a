import type { Logger } from './log.ts'

export interface Events<EventMap> {
  emit<Name extends keyof EventMap & string>(name: Name, payload: EventMap[Name]): void
  /** Returns the function that stops listening. */
  on<Name extends keyof EventMap & string>(name: Name, listener: (payload: EventMap[Name]) => void): () => void
}

/** News from a lower feature to higher ones. Synchronous; a listener that throws is logged and harms neither emitter nor neighbours. */
export function createEvents<EventMap>({ log }: { log: Logger }): Events<EventMap> {
  const listeners = new Map<string, Set<(payload: never) => void>>()
  return {
    emit(name, payload) {
      // A copy: a listener may add and remove listeners.
      for (const listener of Array.from(listeners.get(name) ?? [])) {
        try {
          listener(payload as never)
        } catch (error) {
          log.error('listener_failed', { emitted: name, error })
        }
      }
    },
    on(name, listener) {
      const set = listeners.get(name) ?? new Set()
      listeners.set(name, set)
      set.add(listener)
      return () => void set.delete(listener)
    },
  }
}
