export const imageLimits = { bytes: 5 * 1024 * 1024, sidePixels: 8_000 } as const
