import { randomBytes, randomInt } from 'node:crypto'
import type { FindAgent, KnownCaller } from '../../access/callers/door.ts'
import { askerOf } from '../../approvals/door.ts'
import type { Database } from '../../kernel/db/database.ts'
import { targetOf } from '../../kernel/http/request-once.ts'
import { DeltaError } from '../../kernel/errors.ts'
import { pageOf, readCursor } from '../../kernel/http/cursors.ts'
import { isId, newId } from '../../kernel/ids.ts'
import { createTurns } from '../../kernel/turns.ts'
import { webhookLimits } from './limits.ts'
import type { DeliveryRecord, WebhookRecord } from './record.ts'
import { mayUse, secretText, shownUrl, sightOf } from './rules.ts'
import type {
  CreateWebhook,
  DeliveryListQuery,
  DeliveryView,
  UpdateWebhook,
  WebhookView,
  WebhookWithSecret,
} from './schema.ts'
import { createSender, type SenderDeps } from './sender.ts'
import { createWebhookStore } from './store.ts'

export { createDeliverySteps } from './outbox.ts'
export type { DeliverySteps, TaskHappening } from './outbox.ts'

export interface WebhooksDeps extends Omit<SenderDeps, 'store' | 'openSecret' | 'chance'> {
  database: Database
  findAgent: FindAgent
  /** Keeps the secrets. */
  box: { seal(text: string, place: string): string; open(sealed: string, place: string): string | undefined }
}

export type Webhooks = ReturnType<typeof createWebhooks>

export function createWebhooks({ database, findAgent, box, ...deps }: WebhooksDeps) {
  const { network, clock } = deps
  const store = createWebhookStore(database)
  const placeOf = (id: string) => `webhook ${id}`
  const sender = createSender({
    ...deps,
    store,
    openSecret: ({ id, sealedSecret }) => box.open(sealedSecret, placeOf(id)),
    chance: () => randomInt(1_001) / 1_000,
  })
  const turns = createTurns('webhooks of')

  async function create(wish: CreateWebhook, caller: KnownCaller): Promise<WebhookWithSecret> {
    const { accountId } = caller
    const agentId = wish.agentId ?? null
    requireChange(caller, agentId)
    if (agentId !== null && !(await findAgent(agentId, accountId))) {
      throw new DeltaError('agent_not_found', `There is no agent ${agentId.slice(0, 64)}`)
    }
    await requireReachable(wish.url)
    const id = newId('whk')
    const secret = secretText(randomBytes(32))
    const now = clock.now()
    const made: WebhookRecord = {
      id,
      accountId,
      url: new URL(wish.url).href,
      events: wish.events,
      agentId,
      sealedSecret: box.seal(secret, placeOf(id)),
      state: 'active',
      reason: null,
      asker: askerOf(caller),
      failures: 0,
      failingSince: null,
      revision: 1,
      createdAt: now,
      changedAt: now,
    }
    await turns.take(accountId, async () => {
      const limit = webhookLimits.perAccount
      if ((await store.countOf(accountId)) >= limit) {
        throw new DeltaError('webhook_limit_reached', `The account has ${limit} webhooks`, { context: { limit } })
      }
      await store.insert(made)
    })
    return { ...view(made, caller), secret }
  }

  /** Judged again at every try: a name may lead elsewhere by then. */
  async function requireReachable(text: string): Promise<void> {
    const url = new URL(text)
    const verdict = await network.judge(targetOf(url).host)
    if (url.protocol === 'http:' && verdict !== 'listed') {
      throw new DeltaError(
        'webhook_address_refused',
        `${url.host} is not encrypted, and no address that the operator lists`,
      )
    }
    if (verdict === 'refused') {
      throw new DeltaError('webhook_address_refused', `${url.host} leads to an address that is not public`)
    }
  }

  async function recordFor(id: string, { accountId, principal }: KnownCaller): Promise<WebhookRecord> {
    const found = isId('whk', id) ? await store.get(id) : undefined
    if (found?.accountId !== accountId || !mayUse(principal, found.agentId, 'read')) throw notFound(id)
    return found
  }

  async function recordToChange(id: string, caller: KnownCaller): Promise<WebhookRecord> {
    const found = await recordFor(id, caller)
    requireChange(caller, found.agentId)
    return found
  }

  /** Whoever changes it answers for it from then on. */
  async function update(
    id: string,
    { url, events, enabled }: UpdateWebhook,
    caller: KnownCaller,
  ): Promise<WebhookView> {
    await recordToChange(id, caller)
    if (url !== undefined) await requireReachable(url)
    for (let left: number = webhookLimits.clashes; left > 0; left--) {
      const seen = await recordToChange(id, caller)
      const now = clock.now()
      const isAnew = enabled === true && seen.state !== 'active'
      const next: WebhookRecord = {
        ...seen,
        ...(url !== undefined && { url: new URL(url).href }),
        ...(events && { events }),
        ...(isAnew && { state: 'active', reason: null, failures: 0, failingSince: null }),
        ...(enabled === false && seen.state === 'active' && { state: 'paused' }),
        asker: askerOf(caller),
        changedAt: now,
      }
      if (await store.change(seen, next, now)) return view(next, caller)
    }
    throw new DeltaError('webhook_state_conflict', `Something else changed ${id} at the same moment`)
  }

  async function remove(id: string, caller: KnownCaller): Promise<void> {
    await recordToChange(id, caller)
    await store.remove(id)
  }

  async function list({ accountId, ...caller }: KnownCaller): Promise<{ data: WebhookView[] }> {
    const sight = sightOf(caller.principal)
    const found = sight === null ? [] : await store.list(accountId, sight)
    return { data: found.map((one) => view(one, caller)) }
  }

  /** Also to one that rests or is disabled: to see whether it would arrive. */
  async function test(id: string, caller: KnownCaller): Promise<DeliveryView> {
    const webhook = await recordToChange(id, caller)
    const now = clock.now()
    const delivery: DeliveryRecord = {
      id: newId('dlv'),
      webhookId: id,
      accountId: webhook.accountId,
      type: 'webhook.test',
      taskId: null,
      createdAt: now,
      state: 'waiting',
      tries: 0,
      nextTryAt: now,
      body: null,
      lastStatus: null,
      lastError: null,
      endedAt: null,
    }
    await store.insertDelivery(delivery)
    sender.ring()
    return deliveryView(delivery)
  }

  async function deliveryFor(id: string, deliveryId: string, caller: KnownCaller): Promise<DeliveryRecord> {
    await recordFor(id, caller)
    const found = isId('dlv', deliveryId) ? await store.delivery(deliveryId) : undefined
    if (found?.webhookId !== id) {
      throw new DeltaError('delivery_not_found', `There is no delivery ${deliveryId.slice(0, 64)}`)
    }
    return found
  }

  async function deliver(id: string, deliveryId: string, caller: KnownCaller): Promise<DeliveryView> {
    const found = await deliveryFor(id, deliveryId, caller)
    await recordToChange(id, caller)
    if (!(await store.again(found, clock.now()))) {
      throw new DeltaError('delivery_waiting', `${deliveryId} is still being tried`)
    }
    sender.ring()
    return deliveryView((await store.delivery(deliveryId)) ?? found)
  }

  async function listDeliveries(id: string, { limit, cursor, state }: DeliveryListQuery, caller: KnownCaller) {
    const before = readCursor(cursor, ['dlv'])
    await recordFor(id, caller)
    const { items, nextCursor } = pageOf(await store.listDeliveries(id, { state, before, limit: limit + 1 }), limit)
    return { data: items.map(deliveryView), nextCursor }
  }

  return {
    create,
    update,
    remove,
    list,
    test,
    deliver,
    listDeliveries,
    get: async (id: string, caller: KnownCaller) => view(await recordFor(id, caller), caller),
    getDelivery: async (id: string, deliveryId: string, caller: KnownCaller) =>
      deliveryView(await deliveryFor(id, deliveryId, caller)),
    /** Something may wait to be sent; what nobody says is found at the next look. */
    wake: sender.ring,
    look: sender.look,
    settled: sender.settled,
    start: sender.start,
    stop: sender.stop,
  }
}

function requireChange({ principal }: KnownCaller, agentId: string | null): void {
  if (mayUse(principal, agentId, 'write')) return
  const message =
    principal.kind === 'agent'
      ? 'Webhooks are made and changed by people and their keys, not by agents'
      : 'This needs the right write:tasks for the agent, or without one for all agents'
  throw new DeltaError('forbidden', message, { context: { right: 'write:tasks' } })
}

function view(record: WebhookRecord, { principal }: Pick<KnownCaller, 'principal'>): WebhookView {
  const { id, url, events, agentId, state, reason, failures, failingSince, asker, createdAt, changedAt } = record
  return {
    id,
    url: mayUse(principal, agentId, 'write') ? url : shownUrl(url),
    events: [...events],
    agentId,
    state,
    reason,
    failures,
    failingSince: orNull(failingSince),
    createdBy: asker.actorId,
    createdAt: iso(createdAt),
    changedAt: iso(changedAt),
  }
}

function deliveryView(record: DeliveryRecord): DeliveryView {
  const { id, webhookId, type, taskId, state, tries, nextTryAt, lastStatus, lastError, createdAt, endedAt } = record
  return {
    id,
    webhookId,
    type,
    taskId,
    state,
    tries,
    nextTryAt: state === 'waiting' ? iso(nextTryAt) : null,
    lastStatus,
    lastError,
    createdAt: iso(createdAt),
    endedAt: orNull(endedAt),
  }
}

function notFound(id: string): DeltaError {
  return new DeltaError('webhook_not_found', `There is no webhook ${id.slice(0, 64)}`)
}

const iso = (at: number) => new Date(at).toISOString()
const orNull = (at: number | null) => (at === null ? null : iso(at))
