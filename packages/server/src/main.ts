import { lookup } from 'node:dns/promises'
import { Socket } from 'node:net'
import { join } from 'node:path'
import { openAccessTokens } from './access/access-tokens.ts'
import { createAgentTokens } from './access/agent-tokens/service.ts'
import type { FindRoot } from './access/agent-tokens/service.ts'
import { agentTokensFeature } from './access/agent-tokens/routes.ts'
import { createDefaultKeyReader, defaultKeyId, operator } from './access/api-key.ts'
import { createCallerDoor } from './access/authenticate.ts'
import { createSharedAttempts } from './access/limits/attempts.ts'
import { createRateLimits } from './access/limits/rate-limits.ts'
import type { RateLimits } from './access/limits/rate-limits.ts'
import { openSharedCounts } from './access/limits/shared-counts.ts'
import type { SharedCounts } from './access/limits/shared-counts.ts'
import type { MailEvents } from './access/mail/events.ts'
import { mailFeature } from './access/mail/routes.ts'
import { createMailbox } from './access/mail/service.ts'
import type { Mailbox } from './access/mail/service.ts'
import { openSmtp } from './access/mail/smtp.ts'
import { createAttempts } from './access/people/attempts.ts'
import { attemptLimits } from './access/people/limits.ts'
import { createCookies, shownOf } from './access/people/cookies.ts'
import { refusalPage } from './access/people/pages.ts'
import { peopleFeature, requireDataFolderKey, requireOperator } from './access/people/routes.ts'
import { createPeople } from './access/people/service.ts'
import type { People, PeopleDeps } from './access/people/service.ts'
import type { CallerDoor } from './access/door.ts'
import { openKeys } from './access/keys/open.ts'
import { openRevocations } from './access/revocations.ts'
import type { Revocations } from './access/revocations.ts'
import { accessFeature } from './access/routes.ts'
import { auditFronts } from './access/audit/fronts.ts'
import { auditRefusals, auditRequests } from './access/audit/requests.ts'
import { auditFeature } from './access/audit/routes.ts'
import { createAudit } from './access/audit/service.ts'
import type { Audit } from './access/audit/service.ts'
import { checkSecretKey } from './access/secret-key.ts'
import { createBox, createSecrets } from './access/secrets.ts'
import { createStanding, type Formerly, toAskAbout } from './access/standing.ts'
import { createDirectory } from './agents/directory.ts'
import { tokensApproval } from './agents/requests/approval.ts'
import { openTokenRequests } from './agents/requests/feature.ts'
import { agentsFeature } from './agents/routes.ts'
import type { AgentLedger } from './agents/purses.ts'
import { createAgents } from './agents/service.ts'
import { createApp } from './app.ts'
import { approvalsFeature } from './approvals/routes.ts'
import { createApprovals } from './approvals/service.ts'
import type { App, CookieAuthorization } from './app.ts'
import { roomStates } from './drivers/driver.ts'
import type { DriverInfo } from './drivers/driver.ts'
import { createOciDriver } from './drivers/oci/oci.ts'
import type { OciDriver } from './drivers/oci/oci.ts'
import { connectGuest } from './guest/client.ts'
import type { Secrets } from './access/secrets.ts'
import { giveBackWhenCalm } from './kernel/calm-memory.ts'
import { systemClock } from './kernel/clock.ts'
import { describeProcessSettings, readProcessConfig, unknownProcessSettings } from './kernel/config.ts'
import type { Config } from './kernel/config.ts'
import type { Database } from './kernel/db/database.ts'
import { openDatabase } from './kernel/db/open.ts'
import type { ApiContext, Feature, StopMode } from './kernel/http/api.ts'
import { createEvents } from './kernel/events.ts'
import { createBodyHash } from './kernel/http/body-hash.ts'
import type { HashBody } from './kernel/http/body-hash.ts'
import { createClientAddress } from './kernel/http/client-address.ts'
import type { ClientAddress } from './kernel/http/client-address.ts'
import { createHostCheck } from './kernel/http/host-check.ts'
import { listen } from './kernel/http/server.ts'
import type { HttpServer } from './kernel/http/server.ts'
import { createHeldBytes } from './kernel/held-bytes.ts'
import type { HeldBytes } from './kernel/held-bytes.ts'
import { isId, newId } from './kernel/ids.ts'
import { limits } from './kernel/limits.ts'
import { createLogWriter } from './kernel/log-writer.ts'
import { createLogger } from './kernel/log.ts'
import type { Logger } from './kernel/log.ts'
import { createMetrics } from './kernel/metrics.ts'
import { createOtlpTraces } from './kernel/otlp.ts'
import { noTraces } from './kernel/traces.ts'
import { microPerToken } from './ledger/amounts.ts'
import { createLedgerApi } from './ledger/api.ts'
import { readRateCard } from './ledger/rate-card.ts'
import { createLedgerReading } from './ledger/reading.ts'
import { ledgerFeature } from './ledger/routes.ts'
import { createLedger } from './ledger/service.ts'
import type { Ledger } from './ledger/service.ts'
import { allMigrations } from './migrations.ts'
import { modelsFeature } from './models/routes.ts'
import { createModels, type ModelsDeps } from './models/service.ts'
import { providers } from './models/providers/providers.ts'
import { finishRestore, finishSwap } from './operations/backup/finish.ts'
import { backupsFeature } from './operations/backup/routes.ts'
import { createBackups } from './operations/backup/service.ts'
import type { Backups } from './operations/backup/service.ts'
import { operationsFeature } from './operations/routes.ts'
import { createAddressGuard } from './sandboxes/egress/addresses.ts'
import { connectPlainly, connectSocket } from './sandboxes/egress/connect.ts'
import type { ConnectSocket } from './sandboxes/egress/connect.ts'
import { createJudgedNetwork, type JudgedNetwork } from './sandboxes/egress/judged-network.ts'
import { createNames } from './sandboxes/egress/names.ts'
import { createOwnAddresses } from './sandboxes/egress/own-addresses.ts'
import { awaitOutward, createOutward } from './sandboxes/egress/outward.ts'
import type { ConnectOutward } from './sandboxes/egress/outward.ts'
import { askForHost, egressApproval } from './sandboxes/egress/requests.ts'
import { egressFeature } from './sandboxes/egress/routes.ts'
import { createEgress } from './sandboxes/egress/service.ts'
import type { Egress } from './sandboxes/egress/service.ts'
import { createProxiedFetch } from './sandboxes/egress/proxied-fetch.ts'
import { createUpstream } from './sandboxes/egress/upstream.ts'
import { addExecRoutes } from './sandboxes/execs/routes.ts'
import { createExecs } from './sandboxes/execs/service.ts'
import type { Execs } from './sandboxes/execs/service.ts'
import { addFileRoutes } from './sandboxes/files/routes.ts'
import { createFiles } from './sandboxes/files/service.ts'
import { openPortsFeature } from './sandboxes/ports/feature.ts'
import { meteringFeature } from './sandboxes/metering/feature.ts'
import type { MeterLedger } from './sandboxes/metering/ledger.ts'
import { sandboxesFeature } from './sandboxes/routes.ts'
import type { ResolveTemplate } from './workspaces/origin.ts'
import { createSandboxes } from './sandboxes/service.ts'
import type { Sandboxes } from './sandboxes/service.ts'
import { isOver } from './sandboxes/states.ts'
import { volumesFeature } from './workspaces/volumes/routes.ts'
import { createVolumes } from './workspaces/volumes/service.ts'
import { createBoxes } from './templates/box.ts'
import { createBuildDisks } from './templates/disks.ts'
import { createRegistry } from './templates/registry/client.ts'
import { toolCallApproval } from './tasks/approval.ts'
import { createAttachmentStore } from './tasks/attachment-store.ts'
import { createAttachments } from './tasks/attachments.ts'
import { openTasks } from './tasks/feature.ts'
import { schedulesFeature } from './tasks/schedules/routes.ts'
import { createSchedules } from './tasks/schedules/service.ts'
import { webhooksFeature } from './tasks/webhooks/routes.ts'
import { createWebhooks } from './tasks/webhooks/service.ts'
import { templatesFeature } from './templates/routes.ts'
import { createTemplates } from './templates/service.ts'
import type { Templates } from './templates/service.ts'
import type { BlobStore } from './storage/blobs.ts'
import { openStorage } from './storage/open.ts'
import { createSpace } from './storage/space.ts'
import { createConnections } from './terminal/connections.ts'
import { terminalsFeature } from './terminal/routes.ts'
import { createTerminals } from './terminal/service.ts'
import { createStorageCharges } from './workspaces/storage-charges.ts'
import { workspacesFeature } from './workspaces/routes.ts'
import { createWorkspaces } from './workspaces/service.ts'
import type { Workspaces } from './workspaces/service.ts'

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
  for (const { name, nearest } of unknownProcessSettings()) log.warn('setting_unknown', { name, nearest })
  await serve(config, log)
}

async function serve(config: Config, log: Logger): Promise<void> {
  const driver = createOciDriver({ helper: new Socket({ fd: helperDescriptor }), wireDir: config.wireDir, log })
  void driver.closed.then(() => {
    log.error('helper_gone')
    exit(1)
  })
  await finishSwap({ folder: config.dataDir, path: config.databasePath, log })
  const [database, info] = await Promise.all([openStores(config, log), driver.info()])
  const ledger = buildLedger({ config, database, log })
  const meterLedger: MeterLedger = {
    ...ledger,
    sandboxHoursOf: async (accountId) => (await ledger.planOf(accountId)).sandboxHours,
  }
  const isBucket = config.storage.s3 !== undefined
  const attachmentStore = createAttachmentStore(database)
  const storageCharges = createStorageCharges({ database, ledger, clock, log, isBucket, others: attachmentStore })
  const egress = buildEgress({ config, database, log, ledger: meterLedger })
  const secrets = createSecrets(config)
  await checkSecretKey({ database, secrets, log, isLost: config.secretKeyLost })
  const mayKeepMore = storageCharges.refuseOwing
  const hashBody = createBodyHash(secrets.deriveKey('bodies of repeatable requests'))
  const volumes = createVolumes({ database, driver, hashBody, clock, log, mayKeepMore })
  const held = createHeldBytes({ accounts: config.maxSandboxes })
  const resolveTemplate: ResolveTemplate = (name, caller) => templates.resolve(name, caller)
  const blobs = await openStorage({ config: config.storage, clock, log })
  const audit = createAudit({ database, clock, log, documents: blobs, seed: secrets.deriveKey('audit heads') })
  const workspaces = createWorkspaces({
    database,
    driver,
    clock,
    log,
    blobs,
    hashBody,
    resolveTemplate,
    settle: (sandboxId) => sandboxes.settleFiles(sandboxId),
    folder: join(config.dataDir, 'layers'),
    // Beside the templates themselves a copy of them would only take room.
    saveTemplates: isBucket,
    mayKeepMore,
    chainLayers: config.layersMax,
  })
  const revocations = await openRevocations({ database, clock, log })
  const shared =
    config.redisUrl === undefined ? undefined : await openSharedCounts({ url: config.redisUrl, clock, log })
  const rateLimits = createRateLimits({ settings: config.rates, shared })
  const endKeysSteps = (userId: string, accountId: string) => keys.endKeysSteps(userId, accountId)
  const { people, mailbox } = await buildPeople({
    config,
    database,
    log,
    revocations,
    secrets,
    audit,
    endKeysSteps,
    shared,
  })
  const otlp = config.traces && createOtlpTraces({ ...config.traces, version, clock, log })
  const traces = otlp ?? noTraces
  const attachments = createAttachments({ store: attachmentStore, blobs, mayKeepMore, clock, log })
  const models = createModels({
    database,
    ledger,
    clock,
    log,
    traces,
    seal: createBox(secrets.deriveKey('model keys')),
    providers,
    settings: config.models,
    ...modelFetch(config),
    image: attachments.read,
  })
  const ledgerApi = createLedgerApi({
    ledger,
    reading: createLedgerReading(database),
    requireAccount: async (accountId) => void (await people.members.account(accountId)),
    clock,
  })
  const cookies = createCookies({ publicUrl: config.publicUrl, origins: config.corsOrigins })
  const defaultKey = createDefaultKeyReader({ sha256: config.apiKeySha256 })
  const hasSecondFactor = people.secondFactor.isOn
  const keys = openKeys({ database, revocations, hasSecondFactor, clock, log })
  const findRoot: FindRoot = (id, accountId) =>
    id === defaultKeyId ? operator : isId('ses', id) ? people.sessions.find(id, accountId) : keys.find(id)
  const directory = createDirectory({ database, revocations, clock })
  const { findAgent } = directory
  const agentTokens = createAgentTokens({ signing: secrets.signing, findRoot, findAgent, revocations, clock })
  const mayStill = createStanding({ findRoot, findAgent, roleOf: people.roleOf, revocations })
  const access = createCallerDoor({
    readers: [keys.reader, agentTokens.reader, people.sessions.reader, defaultKey],
    revocations,
    clock,
  })
  const sandboxes = createSandboxes({
    database,
    driver,
    hashBody,
    clock,
    log,
    egress,
    volumes,
    connectGuest: (stream, options) => connectGuest(stream, { ...options, held: held.account() }),
    workspaces,
    resolveTemplate,
    ledger: meterLedger,
    seal: createBox(secrets.deriveKey('sandbox variables')),
    maxSandboxes: config.maxSandboxes,
    poolSize: config.poolSize,
    isOver: access.isOver,
  })
  const { door } = sandboxes
  const approvals = createApprovals({
    database,
    kinds: [
      egressApproval(sandboxes),
      tokensApproval((...asked) => requests.tokenRequests.grant(...asked)),
      toolCallApproval(),
    ],
    hasSecondFactor,
    mayStillAsk: ({ accountId, asker, sandboxId }) => mayStill({ accountId, ...asker }, toAskAbout(sandboxId)),
    record: audit.record,
    clock,
    log,
  })
  revocations.onRevoked((id) => isId('tok', id) && void approvals.tokenRevoked(id))
  const clientAddress = createClientAddress(config.trustedProxies)
  const frontAccess = auditFronts(access, { record: audit.record, rateLimits, log })
  const accessTokens = await openAccessTokens({ database, clock, log, callers: revocations })
  let serverPort = config.port
  const ports = await openPortsFeature({
    database,
    clock,
    log,
    door,
    tokens: accessTokens,
    access: frontAccess,
    findSandbox: sandboxes.get,
    count: rateLimits.count,
    clientAddress,
    settings: config,
    serverPort: () => serverPort,
  })
  sandboxes.events.on('sandbox.changed', ({ sandboxId, to }) => {
    if (!isOver(to)) return
    accessTokens.forget(sandboxId)
    ports.forget(sandboxId)
  })
  const execs = createExecs({ door, newExecId })
  const room = () => driver.room().state
  const terminals = createTerminals({ execs })
  const templates = buildTemplates({ config, database, driver, log, workspaces, sandboxes, execs, hashBody })
  const agents = createAgents({
    database,
    directory,
    ledger: agentLedger(ledger),
    revocations,
    sandboxes,
    workspaces,
    hashBody,
    clock,
    log,
  })
  ledger.events.on('purse.archived', ({ purseId }) => {
    if (isId('agt', purseId)) agents.purseArchived(purseId)
    else if (isId('tsk', purseId)) tasks.purseArchived(purseId)
  })
  ledger.events.on('purse.filled', ({ purseId }) => {
    if (isId('agt', purseId) || isId('tsk', purseId)) tasks.purseFilled(purseId)
  })
  const requests = openTokenRequests({
    database,
    agents,
    agentStore: directory.store,
    approvals,
    ledger,
    record: audit.record,
    hashBody,
    clock,
    log,
  })
  const connections = createConnections({
    terminals,
    access: frontAccess,
    tokens: accessTokens,
    computerOf: (agentId, caller) => agents.computerOf(agentId, caller),
    count: rateLimits.count,
    clientAddress,
    clock,
    log,
    ...pagesOf(config),
  })
  const terminalFeature = terminalsFeature(terminals, connections)
  const files = createFiles({ door, newExecId, room })
  const outward = outwardOf(config, connectPlainly)
  const {
    tasks,
    feature: tasksFeature,
    start: startTasks,
  } = openTasks({
    database,
    attachments,
    agents,
    directory,
    ledger,
    models,
    approvals,
    tokenRequests: requests.tokenRequests,
    sandboxes,
    workspaces,
    hashBody,
    execs,
    tools: {
      execs,
      files,
      ports: ports.service,
      askForHost: (sandboxId, wish, caller) => askForHost(sandboxId, wish, caller, { sandboxes, approvals }),
      connect: async (target, signal) => (await awaitOutward(outward, 'mcp', target, signal)).socket,
    },
    seal: createBox(secrets.deriveKey('external servers of tasks')),
    owner: newId('srv'),
    traces,
    clock,
    log,
  })
  const mayStillGive = (by: Formerly, agentId: string | null) =>
    mayStill(by, { right: 'write:tasks', resource: 'agent', ...(agentId !== null && { id: agentId }) })
  const schedules = createSchedules({
    database,
    createTask: ({ wish, by: { accountId, ...asker }, rights }, key) =>
      tasks.createBy(wish, { accountId, asker, rights }, key),
    taskState: async (accountId, taskId) => (await tasks.view(taskId, accountId))?.state,
    findAgent,
    mayStill: mayStillGive,
    box: createBox(secrets.deriveKey('scheduled tasks')),
    record: audit.record,
    clock,
    log,
  })
  const webhooks = createWebhooks({
    database,
    network: judgedNetwork('webhooks', config),
    findAgent,
    taskView: (accountId, taskId) => tasks.view(taskId, accountId),
    mayStill: mayStillGive,
    box: createBox(secrets.deriveKey('webhooks')),
    record: audit.record,
    clock,
    log,
  })
  tasks.events.on('task.changed', (news) => {
    schedules.taskChanged(news)
    webhooks.wake()
  })
  tasks.events.on('task.needs_decision', () => webhooks.wake())
  agents.events.on('agent.archived', ({ agentId }) => schedules.agentArchived(agentId))
  const features: Feature[] = [
    // First, so that it stops last: every other may have something to write down.
    auditFeature({ audit }),
    // After all that is traced has ended.
    ...(otlp ? [{ name: 'traces', metrics: otlp.metrics, stop: otlp.stop }] : []),
    {
      name: 'callers',
      async stop() {
        revocations.stop()
        access.stop()
      },
    },
    ledgerFeature({ ledger, ledgerApi }),
    // After the ledger, so that what calls have cost is written before that stops.
    modelsFeature({ models }),
    keys.feature,
    agentTokensFeature({ agentTokens }),
    accessFeature({ tokens: accessTokens, findSandbox: sandboxes.get }),
    mailFeature({ mailbox, requireOperator }),
    peopleFeature({ people, cookies, clock }),
    meteringFeature({ sandboxes, egress, storage: storageCharges }),
    egressFeature({ sandboxes, egress, approvals }),
    volumesFeature({ volumes }),
    // Before the sandboxes, which give their workspaces back when they stop.
    workspacesFeature(workspaces, { close: blobs.close }),
    sandboxesFeature(sandboxes),
    // After what it acts on, so that it stops first.
    approvalsFeature({ approvals }),
    { name: 'execs', routes: (api) => addExecRoutes(api, execs) },
    { name: 'files', routes: (api) => addFileRoutes(api, files) },
    ports,
    // After what serves other host names: those are for programs inside, whatever the path.
    terminalFeature,
    agentsFeature({
      agents,
      computerRoutes(api) {
        addExecRoutes(api, execs)
        addFileRoutes(api, files)
        terminalFeature.routes?.(api)
      },
    }),
    // After agents and approvals, on which it acts.
    requests.feature,
    tasksFeature,
    schedulesFeature({ schedules }),
    webhooksFeature({ webhooks }),
    templatesFeature({ templates }),
    operationsFeature({ driver, settings: describeProcessSettings }),
    {
      name: 'limits',
      metrics: rateLimits.metrics,
      async stop() {
        shared?.close()
      },
    },
    backupsFeature({
      backups: buildBackups({ config, database, driver, log, blobs, workspaces, audit }),
      requireDataFolderKey,
    }),
  ]
  await finishRestore({
    folder: config.dataDir,
    database,
    blobs,
    async knownLayers() {
      return workspaces.keepStored(0, async ({ stored }) => new Set((await stored()).map(({ digest }) => digest)))
    },
    publishAgain: workspaces.publishAgain,
    continueAudit: audit.continueAfter,
    log,
  })
  void audit.start().catch((error: unknown) => log.error('audit_not_checked', { error }))
  const app = buildApp({
    config,
    log,
    database,
    features,
    info,
    driver,
    access,
    audit,
    rateLimits,
    clientAddress,
    held,
    cookieAuthorization: (c) => cookies.authorization(shownOf(c)),
  })
  await people.start()
  mailbox.start()
  await workspaces.start()
  const { reconciled } = await sandboxes.start()
  // After what pays for the holds of the process before this one by what was used: the ledger settles those that are left.
  await ledger.start()
  storageCharges.start()
  // Before the first request: a sandbox that is being made has its volumes before its row.
  await volumes.start(sandboxes.isAlive)
  await templates.start()
  await approvals.start()
  await agents.start()
  requests.start()
  await startTasks()
  schedules.start()
  webhooks.start()
  const fronts = features.flatMap(({ front }) => front ?? [])
  const server = await listen(app.api, { port: config.port, host: config.host, fronts })
  serverPort = server.port
  log.info('listening', { port: server.port, host: config.host, startMs: Math.round(process.uptime() * 1000) })
  await inviteOwner(people)
  giveBackWhenCalm()
  const startedMs = clock.monotonic()
  void reconciled.then(() => {
    log.info('reconciled', { durationMs: Math.round(clock.monotonic() - startedMs) })
    sandboxes.warmUp().catch((error: unknown) => log.error('pool_not_started', { error }))
  })
  stopWhenAsked({ app, server, features, database, driver, log, onStopping: sandboxes.rest })
}

function agentLedger(ledger: Ledger): AgentLedger {
  return { ...ledger, mostAgents: async (accountId) => (await ledger.planOf(accountId)).agents ?? undefined }
}

function openStores(config: Config, log: Logger): Promise<Database> {
  return openDatabase({
    url: config.databaseUrl,
    path: config.databasePath,
    log,
    migrations: allMigrations,
    // A new process opens it anew; this one could only refuse.
    onLost: () => exit(1),
  })
}

function buildLedger({ config, database, log }: Pick<AppParts, 'config' | 'database' | 'log'>): Ledger {
  const { grantTokens, defaultPlan, rateCardText } = config.ledger
  return createLedger({
    database,
    clock,
    log,
    rates: readRateCard(rateCardText),
    grant: grantTokens * microPerToken,
    planAtStart: (accountId) => (accountId === operator.accountId ? 'enterprise' : defaultPlan),
    incarnation: newId('srv'),
  })
}

interface PeopleParts extends Pick<AppParts, 'config' | 'database' | 'log'> {
  revocations: Revocations
  secrets: Secrets
  audit: Audit
  endKeysSteps: PeopleDeps['endKeysSteps']
  shared: SharedCounts | undefined
}

async function buildPeople({
  config,
  database,
  log,
  revocations,
  secrets,
  audit,
  endKeysSteps,
  shared,
}: PeopleParts): Promise<{ people: People; mailbox: Mailbox }> {
  const { smtpUrl, from } = config.mail
  const deliver = smtpUrl === undefined ? undefined : await openSmtp({ url: smtpUrl, from })
  const mailbox = createMailbox({ database, clock, log, secrets, deliver })
  const mails = createEvents<MailEvents>({ log })
  mails.on('mail.wanted', mailbox.accept)
  const own = createAttempts({ clock, kept: attemptLimits.kept })
  const people = createPeople({
    attempts: shared ? createSharedAttempts({ shared, own }) : own,
    database,
    clock,
    log,
    secrets,
    revocations,
    sendMail: (mail) => mails.emit('mail.wanted', mail),
    endKeysSteps,
    mustRecord: audit.mustWork,
    record: audit.record,
    settings: config,
  })
  return { people, mailbox }
}

/** Beside the log, not in it: whoever has the link becomes the owner. */
async function inviteOwner(people: People): Promise<void> {
  const link = await people.firstLink()
  if (!link) return
  process.stderr.write(`
DELTA has no owner yet. Open this link to become the owner; it is good once, for an hour:

  ${link.url}

Programs go on with the key in the data folder; \`delta login\` takes it from there.

`)
}

interface EgressParts extends Pick<AppParts, 'config' | 'database' | 'log'> {
  ledger: MeterLedger
}

function buildEgress({ config, database, log, ledger }: EgressParts): Egress {
  return createEgress({
    database,
    ledger,
    clock,
    log,
    connectOutward: outwardOf(config, connectSocket),
    mostSandboxes: config.maxSandboxes,
  })
}

function outwardOf({ egress: { allowCidrs, hosts, proxy } }: Config, connect: ConnectSocket): ConnectOutward {
  return createOutward({
    names: createNames({ lookup: (name) => lookup(name, { all: true }), hosts, monotonic: clock.monotonic }),
    guard: createAddressGuard({ allowCidrs, ownAddresses: createOwnAddresses(clock.monotonic) }),
    connect,
    clock,
    upstream: proxy && createUpstream(proxy),
  })
}

/** As webhooks reach the servers they tell. */
function judgedNetwork(owner: string, { egress: { allowCidrs, hosts, proxy } }: Config): JudgedNetwork {
  return createJudgedNetwork(owner, {
    names: createNames({ lookup: (name) => lookup(name, { all: true }), hosts, monotonic: clock.monotonic }),
    guard: createAddressGuard({ allowCidrs, ownAddresses: createOwnAddresses(clock.monotonic) }),
    connect: connectPlainly,
    clock,
    upstream: proxy && createUpstream(proxy),
  })
}

/** What models are asked by where there is a proxy. */
function modelFetch(config: Config): Partial<Pick<ModelsDeps, 'fetch'>> {
  const { proxy } = config.egress
  if (!proxy) return {}
  const { judge } = judgedNetwork('models', config)
  return { fetch: createProxiedFetch({ judge, upstream: createUpstream(proxy) }) }
}

interface BackupParts extends Pick<AppParts, 'config' | 'database' | 'driver' | 'log' | 'audit'> {
  blobs: BlobStore
  workspaces: Workspaces
}

function buildBackups({ config, database, driver, log, blobs, workspaces, audit }: BackupParts): Backups {
  const { dataDir, databaseUrl, databasePath, secretKey, jwtSecretKey } = config
  return createBackups({
    database,
    place: { url: databaseUrl, path: databasePath },
    migrations: allMigrations,
    blobs,
    blobsStay: config.storage.s3 !== undefined,
    keepStored: workspaces.keepStored,
    auditHeads: audit.backupHeads,
    secrets: { secretKey, jwtSecretKey },
    space: createSpace({ folder: dataDir, room: driver.room }),
    clock,
    log,
    folder: dataDir,
    version,
    // The helper starts the next one. At once: what is still written here is written to what has been given up.
    restart: () => void clock.sleep(limits.restartMs).then(() => exit(0)),
  })
}

interface TemplateParts extends Pick<AppParts, 'config' | 'database' | 'driver' | 'log'> {
  workspaces: Workspaces
  sandboxes: Sandboxes
  execs: Execs
  hashBody: HashBody
}

function buildTemplates({
  config,
  database,
  driver,
  log,
  workspaces,
  sandboxes,
  execs,
  hashBody,
}: TemplateParts): Templates {
  const { hosts } = config.egress
  const owner = 'registries'
  const outward = outwardOf(config, connectPlainly)
  // The operator named these hosts, so they may lie anywhere.
  const listed = createOutward({
    names: createNames({ lookup: (name) => lookup(name, { all: true }), hosts, monotonic: clock.monotonic }),
    guard: { judge: () => 'listed' },
    connect: connectPlainly,
    clock,
  })
  const registry = createRegistry({
    connect: async (target, signal) => (await awaitOutward(outward, owner, target, signal)).socket,
    connectListed: async (target, signal) => (await awaitOutward(listed, owner, target, signal)).socket,
    registries: config.registries,
    clock,
  })
  return createTemplates({
    database,
    driver,
    disks: createBuildDisks({ workspaces, driver }),
    onBuilt: sandboxes.templateBuilt,
    openBox: createBoxes({ sandboxes, execs, door: sandboxes.door, newExecId }),
    async endBoxesOf(templateId, caller) {
      const { data } = await sandboxes.list(caller, { metadata: { 'delta.build': templateId }, limit: 100 })
      for (const { id } of data) await sandboxes.kill(id, caller)
    },
    registry,
    hashBody,
    clock,
    log,
    settings: { folder: config.dataDir, platform: `linux/${process.arch === 'x64' ? 'amd64' : process.arch}` },
  })
}

interface AppParts {
  config: Config
  log: Logger
  database: Database
  features: Feature[]
  info: DriverInfo
  driver: OciDriver
  access: CallerDoor
  audit: Audit
  rateLimits: RateLimits
  clientAddress: ClientAddress
  cookieAuthorization: (c: ApiContext) => CookieAuthorization | undefined
  held: HeldBytes
}

/** Who may connect from where. */
function pagesOf({ host, hosts, environment }: Config) {
  return { goesBy: createHostCheck({ host, hosts }), anyOrigin: environment === 'development' }
}

function buildApp({
  config,
  log,
  database,
  features,
  info,
  driver,
  access,
  audit,
  rateLimits,
  clientAddress,
  held,
  cookieAuthorization,
}: AppParts): App {
  const metrics = createMetrics()
  const { counts } = database
  metrics.counterFrom('delta_database_operations_total', 'Operations given to the database', () => counts.operations)
  metrics.counterFrom('delta_database_commits_total', 'Commits, each of one or more operations', () => counts.commits)
  metrics.gauge('delta_database_waiting', 'Operations that wait for the database', () => counts.waiting)
  metrics.gauge(
    'delta_held_bytes',
    'Memory held for bytes that wait for slow peers, of all sandboxes',
    () => held.bytes,
  )
  metrics.gauge('delta_pool_room', 'Whether disks of sandboxes may grow: 1 for the present state', () =>
    roomStates.map((state) => ({ labels: { state }, value: driver.room().state === state ? 1 : 0 })),
  )
  metrics.gauge('process_resident_memory_bytes', 'Resident memory', () => process.memoryUsage.rss())
  metrics.counterFrom('process_cpu_seconds_total', 'Processor time', () => cpuSeconds(process.cpuUsage()))
  const { name, runtime, runtimeVersion, cgroup, pool } = info
  const { host, hosts, environment } = config
  return createApp({
    features,
    access,
    watchRequests: auditRequests(audit),
    watchRefusals: auditRefusals(audit),
    rateLimits,
    clientAddress,
    cookieAuthorization,
    refusalPage,
    log,
    clock,
    metrics,
    checkDatabase: database.check,
    settings: {
      version,
      host,
      hosts,
      environment,
      corsOrigins: config.corsOrigins,
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
