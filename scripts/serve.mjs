// Starts the platform with what the `.env` file of this folder says. The helper takes this process's place, so signals and its end are the helper's own.
import { resolve } from 'node:path'
import { findConfig } from './config-found.ts'
import { takeEnvFile } from './env-file.mjs'

// The set-up has warned of a file that others can read, and refused a wrong one.
takeEnvFile(process.env)
// The server would refuse the same, but only after the helper had mounted what it needs.
const { faults } = findConfig(process.env)
if (faults.length > 0) {
  process.stderr.write(`The configuration is not valid:\n${faults.map((fault) => `  ${fault}\n`).join('')}`)
  process.exit(1)
}
const helper = resolve(import.meta.dirname, '../.build/bin/delta-helper')
process.execve(helper, [helper, 'serve', ...process.argv.slice(2)], process.env)
