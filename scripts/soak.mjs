// Sets up, then runs what takes too long for every test run under Node 24. `npm run soak -- 100000` does as many operations.
import { spawnSync } from 'node:child_process'
import { join } from 'node:path'
import { root, setup } from './setup.mjs'

try {
  const { node, env } = await setup('bench', { quiet: true })
  const done = spawnSync(node, [join(root, 'scripts/soak-ledger.ts'), ...process.argv.slice(2)], {
    stdio: 'inherit',
    cwd: root,
    env,
  })
  process.exitCode = done.status ?? 1
} catch (error) {
  process.stderr.write(`\n${error.stack}\n`)
  process.exitCode = 1
}
