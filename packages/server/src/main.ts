import { lookup } from 'node:dns/promises'
import { Socket } from 'node:net'
import { openAccessTokens } from './access/access-tokens.ts'
import { createApiKeyAuthentication } from './access/api-key.ts'
import type { Authenticate } from './access/api-key.ts'
import { accessMigrations } from './access/migrations.ts'
import { accessFeature } from './access/routes.ts'
import { createApp } from './app.ts'
import type { App } from './app.ts'
import { roomStates } from './drivers/driver.ts'
import type { DriverInfo } from './drivers/driver.ts'
import { createOciDriver } from './drivers/oci/oci.ts'
import type { OciDriver } from './drivers/oci/oci.ts'
import { systemClock } from './kernel/clock.ts'
import { readProcessConfig } from './kernel/config.ts'
import type { Config } from './kernel/config.ts'
import type { Database } from './kernel/db/database.ts'
import { openDatabase } from './kernel/db/open.ts'
import type { Feature, StopMode } from './kernel/http/api.ts'
import { createHostCheck } from './kernel/http/host-check.ts'
import { listen } from './kernel/http/server.ts'
import type { HttpServer } from './kernel/http/server.ts'
import { newId } from './kernel/ids.ts'
import { limits } from './kernel/limits.ts'
import { createLogWriter } from './kernel/log-writer.ts'
import { createLogger } from './kernel/log.ts'
import type { Logger } from './kernel/log.ts'
import { createMetrics } from './kernel/metrics.ts'
import { operationsFeature } from './operations/routes.ts'
import { createAddressGuard } from './sandboxes/egress/addresses.ts'
import { connectSocket } from './sandboxes/egress/connect.ts'
import { createNames } from './sandboxes/egress/names.ts'
import { createOwnAddresses } from './sandboxes/egress/own-addresses.ts'
import { createOutward } from './sandboxes/egress/outward.ts'
import { egressFeature } from './sandboxes/egress/routes.ts'
import { createEgress } from './sandboxes/egress/service.ts'
import type { Egress } from './sandboxes/egress/service.ts'
import { createUpstream } from './sandboxes/egress/upstream.ts'
import { addExecRoutes } from './sandboxes/execs/routes.ts'
import { createExecs } from './sandboxes/execs/service.ts'
import { addFileRoutes } from './sandboxes/files/routes.ts'
import { createFiles } from './sandboxes/files/service.ts'
import { sandboxMigrations } from './sandboxes/migrations.ts'
import { openPortsFeature } from './sandboxes/ports/feature.ts'
import { portMigrations } from './sandboxes/ports/migrations.ts'
import { sandboxesFeature } from './sandboxes/routes.ts'
import { createSandboxes } from './sandboxes/service.ts'
import { templatesFeature } from './templates/routes.ts'
import { createTemplates } from './templates/service.ts'
import { createConnections } from './terminal/connections.ts'
import { terminalsFeature } from './terminal/routes.ts'
import { createTerminals } from './terminal/service.ts'

const version = '0.1.0'
/** The privileged helper, this process's parent, has opened its socket here. */
const helperDescriptor = 3

const writer = createLogWriter({ descriptor: 1 })
const clock = systemClock
const newExecId = () => newId('exe')

/** The last act: nothing is lost of what was logged. */
function exit(code: number): never {
  writer.flush()
  process.exit(code)
}

async function main(): Promise<void> {
  const config = readProcessConfig()
  const log = createLogger({ level: config.logLevel, write: writer.write })
  process.on('uncaughtException', (error) => {
    // What threw is in an unknown state; the helper starts a new process, which adopts the sandboxes.
    log.error('uncaught', { error })
    exit(1)
  })
  await serve(config, log)
}

async function serve(config: Config, log: Logger): Promise<void> {
  const driver = createOciDriver({ helper: new Socket({ fd: helperDescriptor }), wireDir: config.wireDir, log })
  void driver.closed.then(() => {
    log.error('helper_gone')
    exit(1)
  })
  const [database, info] = await Promise.all([openStores(config, log), driver.info()])
  const egress = buildEgress({ config, database, log })
  const sandboxes = createSandboxes({
    database,
    driver,
    clock,
    log,
    egress,
    maxSandboxes: config.maxSandboxes,
    poolSize: config.poolSize,
  })
  const { door } = sandboxes
  const authenticate = createApiKeyAuthentication({ sha256: config.apiKeySha256 })
  const accessTokens = await openAccessTokens({ database, clock })
  let serverPort = config.port
  const ports = await openPortsFeature({
    database,
    clock,
    log,
    door,
    tokens: accessTokens,
    authenticate,
    findSandbox: sandboxes.get,
    settings: config,
    serverPort: () => serverPort,
  })
  sandboxes.events.on('sandbox.changed', ({ sandboxId, to }) => {
    if (to !== 'killed') return
    accessTokens.forget(sandboxId)
    ports.forget(sandboxId)
  })
  const execs = createExecs({ door, newExecId })
  const room = () => driver.room().state
  const terminals = createTerminals({ execs })
  const features: Feature[] = [
    accessFeature({ tokens: accessTokens, findSandbox: sandboxes.get }),
    egressFeature({ sandboxes, egress }),
    sandboxesFeature(sandboxes),
    { name: 'execs', routes: (api) => addExecRoutes(api, execs) },
    { name: 'files', routes: (api) => addFileRoutes(api, createFiles({ door, newExecId, room })) },
    ports,
    // After what serves other host names: those are for programs inside, whatever the path.
    terminalsFeature(
      terminals,
      createConnections({ terminals, authenticate, access: accessTokens, clock, log, ...pagesOf(config) }),
    ),
    templatesFeature({ templates: createTemplates({ driver, log }) }),
    operationsFeature({ driver }),
  ]
  const app = buildApp({ config, log, database, features, info, driver, authenticate })
  const { reconciled } = await sandboxes.start()
  const fronts = features.flatMap(({ front }) => front ?? [])
  const server = await listen(app.api, { port: config.port, host: config.host, fronts })
  serverPort = server.port
  log.info('listening', { port: server.port, host: config.host, startMs: Math.round(process.uptime() * 1000) })
  const startedMs = clock.monotonic()
  void reconciled.then(() => {
    log.info('reconciled', { durationMs: Math.round(clock.monotonic() - startedMs) })
    sandboxes.warmUp().catch((error: unknown) => log.error('pool_not_started', { error }))
  })
  stopWhenAsked({ app, server, features, database, driver, log, onStopping: sandboxes.rest })
}

function openStores(config: Config, log: Logger): Promise<Database> {
  return openDatabase({
    url: config.databaseUrl,
    path: config.databasePath,
    log,
    migrations: [...sandboxMigrations, ...portMigrations, ...accessMigrations],
    // A new process opens it anew; this one could only refuse.
    onLost: () => exit(1),
  })
}

function buildEgress({ config, database, log }: Pick<AppParts, 'config' | 'database' | 'log'>): Egress {
  const { allowCidrs, hosts, proxy } = config.egress
  const connectOutward = createOutward({
    names: createNames({ lookup: (name) => lookup(name, { all: true }), hosts, monotonic: clock.monotonic }),
    guard: createAddressGuard({ allowCidrs, ownAddresses: createOwnAddresses(clock.monotonic) }),
    connect: connectSocket,
    clock,
    upstream: proxy && createUpstream(proxy),
  })
  return createEgress({ database, clock, log, connectOutward })
}

interface AppParts {
  config: Config
  log: Logger
  database: Database
  features: Feature[]
  info: DriverInfo
  driver: OciDriver
  authenticate: Authenticate
}

/** Who may connect from where. */
function pagesOf({ host, hosts, environment }: Config) {
  return { goesBy: createHostCheck({ host, hosts }), anyOrigin: environment === 'development' }
}

function buildApp({ config, log, database, features, info, driver, authenticate }: AppParts): App {
  const metrics = createMetrics()
  const { counts } = database
  metrics.counterFrom('delta_database_operations_total', 'Operations given to the database', () => counts.operations)
  metrics.counterFrom('delta_database_commits_total', 'Commits, each of one or more operations', () => counts.commits)
  metrics.gauge('delta_database_waiting', 'Operations that wait for the database', () => counts.waiting)
  metrics.gauge('delta_pool_room', 'Whether disks of sandboxes may grow: 1 for the present state', () =>
    roomStates.map((state) => ({ labels: { state }, value: driver.room().state === state ? 1 : 0 })),
  )
  metrics.gauge('process_resident_memory_bytes', 'Resident memory', () => process.memoryUsage.rss())
  metrics.counterFrom('process_cpu_seconds_total', 'Processor time', () => cpuSeconds(process.cpuUsage()))
  const { name, runtime, runtimeVersion, cgroup, pool } = info
  const { host, hosts, environment } = config
  return createApp({
    features,
    authenticate,
    log,
    clock,
    metrics,
    checkDatabase: database.check,
    settings: {
      version,
      host,
      hosts,
      environment,
      installation: () => ({ driver: { name, runtime, runtimeVersion, cgroup, pool }, storage: driver.room() }),
    },
  })
}

function cpuSeconds({ user, system }: NodeJS.CpuUsage): number {
  return (user + system) / 1e6
}

interface Running {
  app: App
  server: HttpServer
  features: Feature[]
  database: Database
  driver: OciDriver
  log: Logger
  /** While requests are still being finished. */
  onStopping: () => void
}

function stopWhenAsked(running: Running): void {
  let wanted: StopMode | undefined
  const ask = (mode: StopMode) => {
    const first = wanted === undefined
    // Ctrl-C reaches this process and the helper alike: the helper's word, which may come a moment later, decides.
    if (wanted !== 'stop-all') wanted = mode
    if (first) void stop(running, () => wanted!)
  }
  running.driver.onShutdown((mode) => ask(mode === 'stop' ? 'stop-all' : 'leave'))
  process.on('SIGTERM', () => ask('leave'))
  process.on('SIGINT', () => ask('leave'))
}

async function stop(running: Running, mode: () => StopMode): Promise<void> {
  const { app, server, features, database, log, onStopping } = running
  const startedMs = clock.monotonic()
  setTimeout(() => {
    log.error('shutdown_too_slow', { limitMs: limits.shutdownMs })
    exit(1)
  }, limits.shutdownMs).unref()
  server.stopAccepting()
  onStopping()
  await clock.sleep(limits.shutdownOrderMs)
  log.info('stopping', { mode: mode(), pending: app.pending() })
  await drained(app, mode() === 'leave' ? limits.shutdownRequestsMs : 0)
  app.drain()
  // From high to low: what uses a feature ends before it.
  for (const feature of features.toReversed()) {
    await feature.stop?.(mode()).catch((error: unknown) => log.error('stop_failed', { feature: feature.name, error }))
  }
  await server.close()
  await database.close()
  log.info('stopped', { mode: mode(), durationMs: Math.round(clock.monotonic() - startedMs) })
  exit(0)
}

async function drained(app: App, limitMs: number): Promise<void> {
  const untilMs = clock.monotonic() + limitMs
  while (app.pending() > 0 && clock.monotonic() < untilMs) await clock.sleep(10)
}

await main().catch((error: unknown) => {
  createLogger({ level: 'error', write: writer.write }).error('start_failed', { error })
  exit(1)
})
