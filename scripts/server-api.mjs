// The server's routes and their description, without a service behind them.
import { agentTokensFeature } from '../packages/server/src/access/agent-tokens/routes.ts'
import { keysFeature } from '../packages/server/src/access/keys/routes.ts'
import { auditFeature } from '../packages/server/src/access/audit/routes.ts'
import { accessFeature } from '../packages/server/src/access/routes.ts'
import { mailFeature } from '../packages/server/src/access/mail/routes.ts'
import { peopleFeature } from '../packages/server/src/access/people/routes.ts'
import { tokenRequestsFeature } from '../packages/server/src/agents/requests/routes.ts'
import { agentsFeature } from '../packages/server/src/agents/routes.ts'
import { approvalsFeature } from '../packages/server/src/approvals/routes.ts'
import { createApp } from '../packages/server/src/app.ts'
import { systemClock } from '../packages/server/src/kernel/clock.ts'
import { createLogger } from '../packages/server/src/kernel/log.ts'
import { createMetrics } from '../packages/server/src/kernel/metrics.ts'
import { ledgerFeature } from '../packages/server/src/ledger/routes.ts'
import { backupsFeature } from '../packages/server/src/operations/backup/routes.ts'
import { modelsFeature } from '../packages/server/src/models/routes.ts'
import { operationsFeature } from '../packages/server/src/operations/routes.ts'
import { addEgressRoutes } from '../packages/server/src/sandboxes/egress/routes.ts'
import { addExecRoutes } from '../packages/server/src/sandboxes/execs/routes.ts'
import { addFileRoutes } from '../packages/server/src/sandboxes/files/routes.ts'
import { portsFeature } from '../packages/server/src/sandboxes/ports/routes.ts'
import { sandboxesFeature } from '../packages/server/src/sandboxes/routes.ts'
import { tasksRoutes } from '../packages/server/src/tasks/routes.ts'
import { schedulesFeature } from '../packages/server/src/tasks/schedules/routes.ts'
import { webhooksFeature } from '../packages/server/src/tasks/webhooks/routes.ts'
import { templatesFeature } from '../packages/server/src/templates/routes.ts'
import { terminalsFeature } from '../packages/server/src/terminal/routes.ts'
import { volumesFeature } from '../packages/server/src/workspaces/volumes/routes.ts'
import { workspacesFeature } from '../packages/server/src/workspaces/routes.ts'

/** All routes as they are served; each would fail if it were called. */
export function serverApi() {
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
    keysFeature({ keys: service }),
    agentTokensFeature({ agentTokens: service }),
    mailFeature({ mailbox: service, requireOperator: service }),
    peopleFeature({ people: service, cookies: service, clock: service }),
    workspacesFeature(service),
    sandboxesFeature(service),
    {
      name: 'egress',
      routes: (routes) => addEgressRoutes(routes, { sandboxes: service, egress: service, approvals: service }),
    },
    approvalsFeature({ approvals: service }),
    tokenRequestsFeature({ tokenRequests: service, suspension: service }),
    schedulesFeature({ schedules: service }),
    webhooksFeature({ webhooks: service }),
    ledgerFeature({ ledger: service, ledgerApi: service }),
    modelsFeature({ models: service }),
    { name: 'execs', routes: (routes) => addExecRoutes(routes, service) },
    { name: 'files', routes: (routes) => addFileRoutes(routes, service) },
    terminalsFeature(service, service),
    agentsFeature({
      agents: service,
      computerRoutes(routes) {
        addExecRoutes(routes, service)
        addFileRoutes(routes, service)
        terminalsFeature(service, service).routes(routes)
      },
    }),
    portsFeature({ ports: service, gateway: service, front: {} }),
    { name: 'tasks', routes: (routes) => tasksRoutes(routes, service) },
    auditFeature({ audit: service }),
    volumesFeature({ volumes: service }),
    templatesFeature({ templates: service }),
    operationsFeature({ driver: service, settings: service }),
    backupsFeature({ backups: service, requireDataFolderKey: service }),
  ]
  const { api } = createApp({
    features: features.map(({ name, routes }) => ({ name, routes })),
    access: { authenticate: () => null },
    log: createLogger({ level: 'error', write: (line) => process.stderr.write(line) }),
    clock: systemClock,
    metrics: createMetrics(),
    checkDatabase: async () => {},
    settings: { version: '0', host: '127.0.0.1', hosts: [], environment: 'production', installation: () => ({}) },
  })
  return api
}

/** The document that `/openapi.json` answers with. */
export async function serverDocument(api = serverApi()) {
  const answer = await api.request('http://127.0.0.1/openapi.json')
  if (!answer.ok) throw new Error(`/openapi.json answered ${answer.status}: ${await answer.text()}`)
  return answer.json()
}
