import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import type { Sandbox } from '@delta-agents/sdk'
import { expect } from 'vitest'

const programMs = 600_000
const program = (name: string) => readFileSync(join(import.meta.dirname, name), 'utf8')

/** Runs one of the programs beside this file, as root; returns what it says. */
export async function python(sandbox: Sandbox, name: string, args: string[]): Promise<string> {
  await sandbox.files.write(`/tmp/${name}`, program(name))
  const { stdout, stderr, exitCode } = await sandbox.commands.run(['python3', `/tmp/${name}`, ...args], {
    user: 'root',
    timeoutMs: programMs,
  })
  expect(exitCode, stderr).toBe(0)
  return stdout
}

/** Line by line, so that a difference names its file. The answer keeps only both ends of a long output, hence the file. */
export async function described(sandbox: Sandbox, folders: readonly string[]): Promise<Map<string, string>> {
  await sandbox.files.write('/tmp/describe.py', program('describe.py'))
  const cmd = `python3 /tmp/describe.py ${folders.join(' ')} > /tmp/described`
  // No login shell: the history may have written anything into /root/.profile, such as a redirection to a new file.
  const argv = ['/bin/sh', '-c', cmd]
  const { exitCode, stderr } = await sandbox.commands.run(argv, { user: 'root', timeoutMs: programMs })
  expect(exitCode, stderr).toBe(0)
  const lines = (await sandbox.files.readText('/tmp/described')).split('\n').filter(Boolean)
  return new Map(lines.map((line) => [(JSON.parse(line) as { path: string }).path, line]))
}

export function expectSame(found: Map<string, string>, expected: Map<string, string>, what: string): void {
  const paths = new Set([...found.keys(), ...expected.keys()])
  const differences = [...paths]
    .filter((path) => found.get(path) !== expected.get(path))
    .map((path) => ({ path, found: found.get(path), expected: expected.get(path) }))
  expect(differences.slice(0, 20), `${what}: ${differences.length} differ`).toEqual([])
}
