import { spawnSync } from 'node:child_process'
import { type ConformanceOptions, testDriver } from '../conformance.ts'
import { openHelper } from './testing.ts'

const usual = process.env['DELTA_RUNTIME'] ?? 'crun'
// The long form tries what `npm test` has not.
const isLong = process.env['DELTA_TEST_ALL'] === '1'
const runtimes = isLong ? ['crun', 'runc', 'runsc'].filter((name) => name !== usual) : [usual]

/** docs/drivers says the same to users. */
const lacks: Record<string, ConformanceOptions['lacks']> = {
  runsc: {
    'files as they are':
      'gVisor keeps pipes, links and times of what runs to itself; end to end a history is compared after a start',
    memory: 'gVisor holds the memory of all processes inside in one of its own, so the kernel ends the whole sandbox',
    processes: 'gVisor’s own threads count, and it ends when it cannot start one',
    'own uid': 'gVisor runs as nobody outside and has a user namespace of its own making inside',
  },
}

for (const runtime of runtimes) {
  const missing = spawnSync(runtime, ['--version']).error
  // What is not installed is left out, which is said; the usual one never is.
  if (missing && runtime !== usual) {
    process.stderr.write(`driver oci (${runtime}): not tried, since ${runtime} is not installed\n`)
    continue
  }
  testDriver(`oci (${runtime})`, () => openHelper({ runtime }), { lacks: lacks[runtime] ?? {} })
}
