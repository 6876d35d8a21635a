// Sets up, then asks the real providers whose keys the environment has, under Node 24. Costs a few hundred tokens of each.
import { spawnSync } from 'node:child_process'
import { join } from 'node:path'
import { root, setup } from './setup.mjs'

try {
  const { node, env } = await setup('start', { quiet: true })
  const program = join(root, 'scripts/live.ts')
  const done = spawnSync(node, ['--disable-warning=ExperimentalWarning', program], { stdio: 'inherit', cwd: root, env })
  process.exitCode = done.status ?? 1
} catch (error) {
  process.stderr.write(`\n${error.stack}\n`)
  process.exitCode = 1
}
