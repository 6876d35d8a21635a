/** So many at once, and so many a second in the long run. */
export interface Quota {
  take(): boolean
}

export function createQuota(
  { burst, perSecond }: { burst: number; perSecond: number },
  monotonic: () => number,
): Quota {
  let left = burst
  let countedAt = monotonic()
  return {
    take() {
      const now = monotonic()
      left = Math.min(burst, left + ((now - countedAt) / 1_000) * perSecond)
      countedAt = now
      if (left < 1) return false
      left -= 1
      return true
    },
  }
}
