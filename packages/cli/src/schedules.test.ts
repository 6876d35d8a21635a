import type { Delta } from '@delta-agents/sdk'
import { afterEach, expect, test, vi } from 'vitest'
import type { Operations } from '../../sdk/src/generated/api.ts'
import { type Answer, json, type Peer, startPeer } from '../../sdk/test/peer.ts'
import { run, type RunSettings } from './testing.ts'

const scheduleId = `sch_${'a'.repeat(20)}`
const webhookId = `whk_${'a'.repeat(20)}`
const at = '2030-01-01T00:00:00.000Z'
const schedule = {
  id: scheduleId,
  agentId: 'agt_a',
  title: 'Tidy \u001b[2J up',
  cron: '@daily',
  timeZone: 'UTC',
  at: null,
  missed: 'once',
  overlap: 'skip',
  state: 'active',
  reason: null,
  nextAt: at,
  createdBy: 'key_default',
  createdAt: at,
  changedAt: at,
  task: { text: 'Tidy \u001b[2J up', tokenBudget: 5 },
}
const scheduleRun = {
  id: 'scr_a',
  dueAt: at,
  manual: false,
  state: 'started',
  reason: null,
  taskId: 'tsk_a',
  failure: null,
  startedAt: at,
}
const webhook = {
  id: webhookId,
  url: 'https://example.com/hook',
  events: ['task.finished'],
  agentId: null,
  state: 'active',
  reason: null,
  failures: 0,
  failingSince: null,
  createdBy: 'key_default',
  createdAt: at,
  changedAt: at,
}
const delivery = {
  id: 'dlv_a',
  webhookId,
  type: 'task.finished',
  taskId: 'tsk_a',
  state: 'failed',
  tries: 10,
  nextTryAt: null,
  lastStatus: 500,
  lastError: null,
  createdAt: at,
  endedAt: at,
}
const agent = { id: 'agt_a', name: 'Worker', kind: 'main', state: 'active' }
const page = (...data: object[]) => ({ data, nextCursor: null })

let peer: Peer | undefined
afterEach(async () => {
  vi.unstubAllEnvs()
  await peer?.close()
  peer = undefined
})

async function start({ ran = scheduleRun }: { ran?: object } = {}) {
  const answerOf = (method: string, path: string): Answer => {
    if (method === 'DELETE') return (_, response) => void response.writeHead(204).end()
    if (path === '/v1/agents') return json(200, page(agent))
    if (path.endsWith('/runs')) return json(200, page(ran))
    if (path.endsWith('/run')) return json(201, ran)
    if (path.endsWith('/deliveries')) return json(200, page(delivery))
    if (path.endsWith('/test')) return json(201, delivery)
    if (path.includes('/deliveries/')) return json(200, delivery)
    if (path === '/v1/schedules') return method === 'GET' ? json(200, page(schedule)) : json(201, schedule)
    if (path.startsWith('/v1/schedules/')) return json(200, schedule)
    if (path === '/v1/webhooks' && method === 'POST') return json(201, { ...webhook, secret: 'whsec_secret' })
    return path === '/v1/webhooks' ? json(200, { data: [webhook] }) : json(200, webhook)
  }
  peer = await startPeer((request, response) =>
    answerOf(request.method, request.target.replace(/\?.*/, ''))(request, response),
  )
  vi.stubEnv('DELTA_URL', peer.url)
  vi.stubEnv('DELTA_API_KEY', 'test-key')
  const { delta, requests } = peer
  const asked = () => requests.splice(0).map(({ method, target }) => `${method} ${target.replace(/\?.*/, '')}`)
  const bodies = () => requests.filter(({ body }) => body !== '').map(({ body }) => JSON.parse(body) as object)
  const command = (args: string[], settings?: RunSettings) => run(args, settings)
  return { delta, requests, asked, bodies, command }
}

type Named<Name extends string> = Extract<keyof Operations, `${string}${Name}${string}`>

interface Way {
  asks: string
  sdk(delta: Delta): Promise<unknown>
  cli: string[]
}

const task = { text: 'Tidy up' }
const [oneSchedule, oneWebhook] = [`/v1/schedules/${scheduleId}`, `/v1/webhooks/${webhookId}`]
const deliveries = `${oneWebhook}/deliveries`

/** An operation that the server gets is missing here, which the types say. */
const ways: Record<Named<'Schedule'> | Named<'Webhook'>, Way> = {
  createSchedule: {
    asks: 'POST /v1/schedules',
    sdk: (delta) => delta.schedules.create({ agent: 'agt_a', task, cron: '@daily' }),
    cli: ['schedule', 'create', '--cron', '@daily', 'Tidy up'],
  },
  listSchedules: {
    asks: 'GET /v1/schedules',
    sdk: (delta) => delta.schedules.list().all(),
    cli: ['schedule', 'list'],
  },
  getSchedule: {
    asks: `GET ${oneSchedule}`,
    sdk: (delta) => delta.schedules.get(scheduleId),
    cli: ['schedule', 'show', scheduleId],
  },
  updateSchedule: {
    asks: `PATCH ${oneSchedule}`,
    sdk: (delta) => delta.schedules.update(scheduleId, { cron: '@hourly' }),
    cli: ['schedule', 'set', scheduleId, '--cron', '@hourly'],
  },
  deleteSchedule: {
    asks: `DELETE ${oneSchedule}`,
    sdk: (delta) => delta.schedules.remove(scheduleId),
    cli: ['schedule', 'delete', scheduleId],
  },
  pauseSchedule: {
    asks: `POST ${oneSchedule}/pause`,
    sdk: (delta) => delta.schedules.pause(scheduleId),
    cli: ['schedule', 'pause', scheduleId],
  },
  resumeSchedule: {
    asks: `POST ${oneSchedule}/resume`,
    sdk: (delta) => delta.schedules.resume(scheduleId),
    cli: ['schedule', 'resume', scheduleId],
  },
  runSchedule: {
    asks: `POST ${oneSchedule}/run`,
    sdk: (delta) => delta.schedules.run(scheduleId),
    cli: ['schedule', 'run', scheduleId],
  },
  listScheduleRuns: {
    asks: `GET ${oneSchedule}/runs`,
    sdk: (delta) => delta.schedules.runs(scheduleId).all(),
    cli: ['schedule', 'runs', scheduleId],
  },
  createWebhook: {
    asks: 'POST /v1/webhooks',
    sdk: (delta) => delta.webhooks.create({ url: 'https://example.com/hook', events: ['task.finished'] }),
    cli: ['webhook', 'create', 'https://example.com/hook'],
  },
  listWebhooks: { asks: 'GET /v1/webhooks', sdk: (delta) => delta.webhooks.list(), cli: ['webhook', 'list'] },
  getWebhook: {
    asks: `GET ${oneWebhook}`,
    sdk: (delta) => delta.webhooks.get(webhookId),
    cli: ['webhook', 'show', webhookId],
  },
  updateWebhook: {
    asks: `PATCH ${oneWebhook}`,
    sdk: (delta) => delta.webhooks.update(webhookId, { enabled: true }),
    cli: ['webhook', 'resume', webhookId],
  },
  deleteWebhook: {
    asks: `DELETE ${oneWebhook}`,
    sdk: (delta) => delta.webhooks.remove(webhookId),
    cli: ['webhook', 'delete', webhookId],
  },
  testWebhook: {
    asks: `POST ${oneWebhook}/test`,
    sdk: (delta) => delta.webhooks.test(webhookId),
    cli: ['webhook', 'test', webhookId],
  },
  listWebhookDeliveries: {
    asks: `GET ${deliveries}`,
    sdk: (delta) => delta.webhooks.deliveries(webhookId).all(),
    cli: ['webhook', 'deliveries', webhookId],
  },
  getWebhookDelivery: {
    asks: `GET ${deliveries}/dlv_a`,
    sdk: (delta) => delta.webhooks.delivery(webhookId, 'dlv_a'),
    cli: ['webhook', 'deliveries', webhookId, 'dlv_a'],
  },
  redeliverWebhook: {
    asks: `POST ${deliveries}/dlv_a/redeliver`,
    sdk: (delta) => delta.webhooks.redeliver(webhookId, 'dlv_a'),
    cli: ['webhook', 'redeliver', webhookId, 'dlv_a'],
  },
}

test('whatever the API can do with schedules and webhooks the SDK and the command line can do too', async () => {
  const { delta, asked, command } = await start()
  for (const { asks, sdk, cli } of Object.values(ways)) {
    await sdk(delta)
    expect(asked(), `${asks} by the SDK`).toEqual([asks])
    const ran = await command(cli)
    expect(ran.exitCode, `delta ${cli.join(' ')}: ${ran.stderr}`).toBe(0)
    expect(ran.stdout + ran.stderr, cli.join(' ')).not.toContain('\u001b')
    expect(asked(), cli.join(' ')).toContain(asks)
    const asJson = await command([...cli, '--json'])
    expect(() => JSON.parse(asJson.stdout) as unknown, `delta ${cli.join(' ')} --json`).not.toThrow()
    asked()
  }
})

test('a schedule is made with the options of a task and says when it runs next', async () => {
  const { bodies, command } = await start()
  const times = ['--cron', '30 7 * * MON-FRI', '--time-zone', 'Europe/Berlin', '--overlap', 'queue', '--missed', 'all']
  const made = await command(['schedule', 'create', ...times, '--budget', '5', '--paused', '-a', 'Worker'], {
    stdin: ['Read the news\n'],
  })
  expect(made).toMatchObject({ exitCode: 0, stdout: `${scheduleId}\n`, stderr: `it runs next at ${at}.\n` })
  await command(['schedule', 'create', '--at', '2030-01-01T09:00+01:00', 'Once'])
  expect(bodies()).toEqual([
    {
      agent: 'agt_a',
      task: { text: 'Read the news', tokenBudget: 5 },
      cron: '30 7 * * MON-FRI',
      timeZone: 'Europe/Berlin',
      missed: 'all',
      overlap: 'queue',
      enabled: false,
    },
    { agent: 'agt_a', task: { text: 'Once' }, at: '2030-01-01T08:00:00.000Z' },
  ])
})

test('a run whose task could not be made says why and fails', async () => {
  const failure = { code: 'balance_too_low', message: 'No tokens' }
  const { command } = await start({ ran: { ...scheduleRun, state: 'failed', taskId: null, failure } })
  expect(await command(['schedule', 'run', 'aaa'])).toMatchObject({
    exitCode: 1,
    stdout: 'failed: balance_too_low: No tokens\n',
  })
  expect((await command(['schedule', 'runs', 'aaa'])).stdout).toMatch(/due +failed +- +balance_too_low: No tokens\n/)
})

test('a webhook tells its secret once, alone on the first line, and of all events unless some are named', async () => {
  const { bodies, command } = await start()
  const made = await command(['webhook', 'create', 'https://example.com/hook'])
  expect(made.stdout).toBe(`whsec_secret\n${webhookId}. The secret is not shown again.\n`)
  await command(['webhook', 'create', 'https://example.com/hook', '-e', 'task.failed', '-a', 'Worker'])
  await command(['webhook', 'set', 'aaa', '--to', 'https://example.com/other'])
  await command(['webhook', 'pause', 'whk_aaa'])
  expect(bodies()).toEqual([
    { url: 'https://example.com/hook', events: ['task.finished', 'task.failed', 'task.needs_decision'] },
    { url: 'https://example.com/hook', events: ['task.failed'], agentId: 'agt_a' },
    { url: 'https://example.com/other' },
    { enabled: false },
  ])
})

test.each([
  [['schedule', 'create', 'x'], 'either --cron'],
  [['schedule', 'create', '--cron', '@daily', '--at', '2030-01-01T09:00', 'x'], 'either --cron'],
  [['schedule', 'create', '--at', 'tomorrow', 'x'], 'is no time'],
  [['schedule', 'create', '--at', '2030-01-01', 'x'], 'is no time'],
  [['schedule', 'create', '--at', '2027-02-31T09:00', 'x'], 'is no time'],
  [['schedule', 'create', '--cron', '@daily'], 'There is no text'],
  [['schedule', 'set', scheduleId], 'Say what to change'],
  [['schedule', 'show', '!'], 'neither a schedule'],
  [['webhook', 'create', 'https://example.com', '-e', 'task.begun'], 'is no event'],
  [['webhook', 'set', webhookId], 'Say what to change'],
])('what makes no sense is refused before anything is sent: %j', async (args, told) => {
  const { command, requests } = await start()
  expect(await command(args)).toMatchObject({ exitCode: 2, stderr: expect.stringContaining(told) })
  expect(requests).toEqual([])
})
