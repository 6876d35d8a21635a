import { defineConfig } from 'vitest/config'

export default defineConfig({
  test: {
    include: ['e2e/**/*.test.ts'],
    globalSetup: ['e2e/global-setup.ts'],
    setupFiles: ['e2e/worker-uids.ts'],
    testTimeout: 120_000,
    hookTimeout: 120_000,
    // A command under gVisor on a busy machine takes seconds.
    expect: { poll: { timeout: 20_000, interval: 50 } },
    // Several files at once would measure each other's memory and bombs; `npm test` runs side by side what measures nothing.
    fileParallelism: false,
    isolate: false,
    experimental: { viteModuleRunner: false },
  },
})
