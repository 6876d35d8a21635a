import { defineConfig } from 'vitest/config'

export default defineConfig({
  test: {
    include: ['packages/*/src/**/*.test.ts', 'scripts/**/*.test.ts', 'attack/**/*.test.ts'],
    testTimeout: 30_000,
    hookTimeout: 60_000,
    // What is waited for comes; on a busy machine, or by way of PostgreSQL, not within the second that is the default.
    expect: { poll: { timeout: 20_000 } },
    // Files share what Node has loaded, and Node strips the types itself, as it does for the product: a third of the processor time less.
    // So nothing may be replaced in a module, and no module may hold what a test changes.
    isolate: false,
    experimental: { viteModuleRunner: false },
    // Half of the tests wait for a disk, a process or a socket: a processor less than there are, which is the default, would lie idle.
    maxWorkers: 2,
  },
})
