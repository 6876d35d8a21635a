export interface HeldLimits {
  /** Of one sandbox. */
  heldPerSandboxBytes: number
  /** Of all; while they hold more, none may hold more than `heldShareBytes`. */
  heldBytes: number
  heldShareBytes: number
}

/** Bytes that wait for slow clients. One sandbox's clients must not take the room of all others'. */
export interface Held {
  readonly bytes: number
  /** May be less than nothing: what is no longer held. */
  add(sandboxId: string, bytes: number): void
  /** Whoever adds to what this sandbox holds is to be cut off. */
  isTooMuch(sandboxId: string): boolean
}

export function createHeld({ heldPerSandboxBytes, heldBytes, heldShareBytes }: HeldLimits): Held {
  const perSandbox = new Map<string, number>()
  let all = 0
  return {
    get bytes() {
      return all
    },
    add(sandboxId, bytes) {
      all += bytes
      const now = (perSandbox.get(sandboxId) ?? 0) + bytes
      if (now === 0) perSandbox.delete(sandboxId)
      else perSandbox.set(sandboxId, now)
    },
    isTooMuch(sandboxId) {
      return (perSandbox.get(sandboxId) ?? 0) > (all > heldBytes ? heldShareBytes : heldPerSandboxBytes)
    },
  }
}
