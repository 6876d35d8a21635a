#!/usr/bin/env node
// Plain JavaScript for Node 18 and newer: hands over to Node 24 where the running one is older and the set-up has installed it.
import { spawn } from 'node:child_process'
import { existsSync, readdirSync } from 'node:fs'
import module from 'node:module'
import { constants } from 'node:os'
import { join, resolve } from 'node:path'
import { fileURLToPath } from 'node:url'

const packages = fileURLToPath(new URL('../../', import.meta.url))
const build = resolve(packages, '../.build')
const main = fileURLToPath(new URL('../src/main.ts', import.meta.url))

if (Number(process.versions.node.split('.')[0]) >= 24) {
  // What Node has compiled is kept in the checkout, never in a folder that others may write: it is code. A command then starts in a third of the time.
  if (existsSync(build)) module.enableCompileCache(join(build, 'compile-cache'))
  await import(main)
} else {
  const node = installedNode()
  if (node === undefined) {
    process.stderr.write(
      `error: delta needs Node 24 or newer, this is ${process.versions.node}\n  fix: run 'npm start' or 'npm test' once in the DELTA folder, which installs Node 24 beside it, or install Node 24.\n`,
    )
    process.exitCode = 3
  } else handOver(node)
}

function installedNode() {
  const folder = join(build, 'node/node_modules')
  if (!existsSync(folder)) return undefined
  const candidates = readdirSync(folder)
    .filter((name) => name.startsWith('node-linux-'))
    .map((name) => join(folder, name, 'bin/node'))
  return candidates.find((path) => existsSync(path))
}

function handOver(node) {
  const child = spawn(node, [fileURLToPath(import.meta.url), ...process.argv.slice(2)], { stdio: 'inherit' })
  // A terminal sends its signals to both; this process only waits for what the other makes of them.
  for (const signal of ['SIGINT', 'SIGQUIT', 'SIGHUP']) process.on(signal, () => {})
  process.on('SIGTERM', () => child.kill('SIGTERM'))
  child.on('error', (error) => {
    process.stderr.write(`error: ${node} cannot be run: ${error.message}\n`)
    process.exitCode = 3
  })
  child.on('exit', (code, signal) => {
    process.exitCode = code ?? 128 + (constants.signals[signal] ?? 0)
  })
}
