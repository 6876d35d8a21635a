import type { ProgramMemory } from './program.ts'

/**
 * Keeps at least the `most` values that were used last, and at most twice as many: when so many were used, those that were not used meanwhile are dropped at once, which costs nothing
 * for each use.
 */
export function createProgramMemory(most: number): ProgramMemory & { forget(): void } {
  let recent = new Map<string, object>()
  let before = new Map<string, object>()
  const use = (id: string, value: object) => {
    recent.set(id, value)
    if (recent.size < most) return
    before = recent
    recent = new Map()
  }
  return {
    get(id) {
      const value = recent.get(id)
      if (value) return value
      const older = before.get(id)
      if (older) use(id, older)
      return older
    },
    set: use,
    forget() {
      recent.clear()
      before.clear()
    },
  }
}
