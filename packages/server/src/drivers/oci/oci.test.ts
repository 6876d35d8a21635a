import { spawnSync } from 'node:child_process'
import { testDriver } from '../conformance.ts'
import { openHelper } from './testing.ts'

const all = process.env['DELTA_TEST_ALL'] === '1'
const runtimes = all ? ['crun', 'runc', 'runsc'] : ['crun']

for (const runtime of runtimes) {
  const missing = spawnSync(runtime, ['--version']).error
  // The long form tries what is installed; that what is not is left out is said, and the default one is never left out.
  if (missing && runtime !== 'crun') {
    process.stderr.write(`driver oci (${runtime}): not tried, since ${runtime} is not installed\n`)
    continue
  }
  testDriver(`oci (${runtime})`, () => openHelper({ runtime }))
}
