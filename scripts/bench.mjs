// Sets up, then measures under Node 24. `npm run bench -- NAME…` measures those figures alone.
import { spawnSync } from 'node:child_process'
import { join } from 'node:path'
import { root, setup } from './setup.mjs'

try {
  const { node, env } = await setup('bench', { quiet: true })
  const done = spawnSync(node, ['--expose-gc', join(root, 'bench/run.ts'), ...process.argv.slice(2)], {
    stdio: 'inherit',
    cwd: root,
    env,
  })
  process.exitCode = done.status ?? 1
} catch (error) {
  process.stderr.write(`\n${error.stack}\n`)
  process.exitCode = 1
}
