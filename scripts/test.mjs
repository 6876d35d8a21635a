// Sets up, then runs the tests under Node 24. `--all` runs the long form: every runtime, database and kill point. `--check` runs types, lint and format only.
import { spawnSync } from 'node:child_process'
import { join } from 'node:path'
import { root, setup } from './setup.mjs'

const all = process.argv.includes('--all')
try {
  process.stdout.write('Setting up\n')
  const { node, env } = await setup(all ? 'all' : 'test')
  const done = spawnSync(node, [join(root, 'scripts/run-tests.ts'), ...process.argv.slice(2)], {
    stdio: 'inherit',
    cwd: root,
    env,
  })
  process.exitCode = done.status ?? 1
} catch (error) {
  process.stderr.write(`\n${error.name === 'Error' ? error.message : error.stack}\n`)
  process.exitCode = 1
}
