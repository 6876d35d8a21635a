// Writes packages/sdk/src/generated/api.ts from the server's own OpenAPI document. `--check` only compares and fails when it is not up to date.
// Needs Node 24 (it imports the server's TypeScript); no helper and no sandbox.
import { spawnSync } from 'node:child_process'
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs'
import { dirname, resolve } from 'node:path'
import { accessFeature } from '../packages/server/src/access/routes.ts'
import { createApp } from '../packages/server/src/app.ts'
import { systemClock } from '../packages/server/src/kernel/clock.ts'
import { createLogger } from '../packages/server/src/kernel/log.ts'
import { createMetrics } from '../packages/server/src/kernel/metrics.ts'
import { operationsFeature } from '../packages/server/src/operations/routes.ts'
import { addEgressRoutes } from '../packages/server/src/sandboxes/egress/routes.ts'
import { addExecRoutes } from '../packages/server/src/sandboxes/execs/routes.ts'
import { addFileRoutes } from '../packages/server/src/sandboxes/files/routes.ts'
import { portsFeature } from '../packages/server/src/sandboxes/ports/routes.ts'
import { sandboxesFeature } from '../packages/server/src/sandboxes/routes.ts'
import { templatesFeature } from '../packages/server/src/templates/routes.ts'
import { terminalsFeature } from '../packages/server/src/terminal/routes.ts'
import { typesOf } from './openapi-types.ts'

const target = resolve(import.meta.dirname, '../packages/sdk/src/generated/api.ts')
const text = formatted(typesOf(await serverDocument()))
const current = read(target)
if (process.argv.includes('--check')) {
  if (current !== text) {
    process.stderr.write(
      `${target} does not match the server's OpenAPI document. Run: node scripts/generate-sdk-types.mjs\n`,
    )
    process.exitCode = 1
  }
} else if (current !== text) {
  mkdirSync(dirname(target), { recursive: true })
  writeFileSync(target, text)
  process.stdout.write(`wrote ${target}\n`)
}

async function serverDocument() {
  // Describing a route does not run it, so no service is there to be called. Only routes are asked for: metrics would listen to services.
  const service = new Proxy(
    {},
    {
      get: (_, name) => () => {
        throw new Error(`${String(name)} was called while the API was described`)
      },
    },
  )
  const features = [
    accessFeature({ tokens: service, findSandbox: service }),
    sandboxesFeature(service),
    { name: 'egress', routes: (routes) => addEgressRoutes(routes, { sandboxes: service, egress: service }) },
    { name: 'execs', routes: (routes) => addExecRoutes(routes, service) },
    { name: 'files', routes: (routes) => addFileRoutes(routes, service) },
    terminalsFeature(service, service),
    portsFeature({ ports: service, gateway: service, front: {} }),
    templatesFeature({ templates: service }),
    operationsFeature({ driver: service }),
  ]
  const { api } = createApp({
    features: features.map(({ name, routes }) => ({ name, routes })),
    authenticate: () => null,
    log: createLogger({ level: 'error', write: (line) => process.stderr.write(line) }),
    clock: systemClock,
    metrics: createMetrics(),
    checkDatabase: async () => {},
    settings: { version: '0', host: '127.0.0.1', hosts: [], environment: 'production', installation: () => ({}) },
  })
  const answer = await api.request('http://127.0.0.1/openapi.json')
  if (!answer.ok) throw new Error(`/openapi.json answered ${answer.status}: ${await answer.text()}`)
  return answer.json()
}

function read(path) {
  try {
    return readFileSync(path, 'utf8')
  } catch (error) {
    if (error.code === 'ENOENT') return undefined
    throw error
  }
}

/** As `oxfmt --check` wants it. */
function formatted(source) {
  const oxfmt = resolve(import.meta.dirname, '../node_modules/oxfmt/bin/oxfmt')
  const done = spawnSync(process.execPath, [oxfmt, '--stdin-filepath', target], { input: source, encoding: 'utf8' })
  if (done.status !== 0) throw new Error(`oxfmt failed: ${done.stderr || done.error?.message}`)
  return done.stdout
}
