// Sets up, then runs the battery of hostile programs under Node 24. `npm run attack -- --runtime all --only NAME`
import { spawnSync } from 'node:child_process'
import { join } from 'node:path'
import { root, setup } from './setup.mjs'

try {
  process.stdout.write('Setting up\n')
  const { node, env } = await setup('start')
  const done = spawnSync(node, [join(root, 'attack/run.ts'), ...process.argv.slice(2)], {
    stdio: 'inherit',
    cwd: root,
    env,
  })
  process.exitCode = done.status ?? 1
} catch (error) {
  process.stderr.write(`\n${error.name === 'Error' ? error.message : error.stack}\n`)
  process.exitCode = 1
}
