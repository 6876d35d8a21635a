import type { RecordAudit } from '../../access/audit/service.ts'
import type { Asker } from '../../approvals/door.ts'
import { createAlarm } from '../../kernel/alarm.ts'
import type { Clock } from '../../kernel/clock.ts'
import type { Logger } from '../../kernel/log.ts'
import type { TaskView } from '../schema.ts'
import { webhookLimits } from './limits.ts'
import { type Network, post, type Posted } from './post.ts'
import type { DeliveryRecord, WebhookReason, WebhookRecord } from './record.ts'
import { isFailing, pauseAfter, readRetryAfter, signedHeaders } from './rules.ts'
import type { WebhookStore } from './store.ts'

/** Whose rights a webhook has. */
export interface WebhookOf extends Asker {
  accountId: string
}

export interface SenderDeps {
  store: WebhookStore
  network: Network
  /** Undefined where there is none (any more). */
  taskView(accountId: string, taskId: string): Promise<TaskView | undefined>
  /** Whether they could make a webhook for that agent, or for all, now. */
  mayStill(by: WebhookOf, agentId: string | null): Promise<boolean>
  openSecret(webhook: WebhookRecord): string | undefined
  /** Between 0 and 1. */
  chance(): number
  record: RecordAudit
  clock: Clock
  log: Logger
}

export type Sender = ReturnType<typeof createSender>

/**
 * Sends what waits in the outbox: each try is counted in its row before it is made, so a server that is killed may have sent what another sends again, under the same id, and nothing is lost.
 * A receiver that is slow takes a few of the places and no more.
 */
export function createSender(deps: SenderDeps) {
  const { store, network, taskView, mayStill, openSecret, chance, record, clock, log } = deps
  const alarm = createAlarm(clock)
  const stopped = new AbortController()
  const sending = new Map<string, Promise<void>>()
  const busy = new Map<string, number>()
  let loop = Promise.resolve()

  /** Begins what there is room for. */
  async function look(): Promise<void> {
    while (!stopped.signal.aborted) {
      const room = webhookLimits.atOnce - sending.size
      if (room <= 0) return
      const full = Array.from(busy).flatMap(([id, count]) => (count >= webhookLimits.perWebhook ? [id] : []))
      // Those just begun have no lease yet.
      const limit = room + sending.size
      const due = (await store.due(clock.now(), { but: full, limit })).filter(({ id }) => !sending.has(id))
      let isAnyBegun = false
      for (const one of due) {
        if (sending.size >= webhookLimits.atOnce) return
        if ((busy.get(one.webhookId) ?? 0) >= webhookLimits.perWebhook) continue
        begin(one)
        isAnyBegun = true
      }
      if (!isAnyBegun) return
    }
  }

  function begin(delivery: DeliveryRecord): void {
    const { id, webhookId } = delivery
    busy.set(webhookId, (busy.get(webhookId) ?? 0) + 1)
    const work = send(delivery)
      // A database that is away: the lease ends, and it is tried again.
      .catch((error: unknown) => log.warn('webhook_delivery_not_settled', { deliveryId: id, error }))
      .finally(() => {
        sending.delete(id)
        const others = busy.get(webhookId)! - 1
        if (others === 0) busy.delete(webhookId)
        else busy.set(webhookId, others)
        alarm.ring()
      })
    sending.set(id, work)
  }

  async function send(delivery: DeliveryRecord): Promise<void> {
    const webhook = await store.get(delivery.webhookId)
    if (!webhook) return store.drop(delivery, 'The webhook is gone', clock.now())
    const { accountId, agentId, asker } = webhook
    if (!(await mayStill({ accountId, ...asker }, agentId))) return end(webhook, delivery, 'asker_gone')
    const secret = openSecret(webhook)
    if (secret === undefined) return end(webhook, delivery, 'secret_unreadable')
    const body = delivery.body ?? (await bodyOf(delivery))
    if (body === undefined) return store.drop(delivery, 'The task is gone', clock.now())
    const now = clock.now()
    if (!(await store.claim(delivery, { body, now }))) return
    const claimed = { ...delivery, tries: delivery.tries + 1 }
    const headers = signedHeaders({ id: delivery.id, body, secret }, now)
    const posted = await tryOnce({ url: new URL(webhook.url), headers, body })
    if (stopped.signal.aborted && posted instanceof Error) return store.giveBack(claimed)
    await settle(webhook, claimed, posted)
  }

  /** As it is at the first try. */
  async function bodyOf({
    type,
    accountId,
    webhookId,
    taskId,
    createdAt,
  }: DeliveryRecord): Promise<string | undefined> {
    const data = taskId === null ? { webhookId } : await taskView(accountId, taskId)
    return data && JSON.stringify({ type, timestamp: new Date(createdAt).toISOString(), data })
  }

  async function tryOnce(what: { url: URL; headers: Record<string, string>; body: string }): Promise<Posted | Error> {
    const late = new AbortController()
    const disarm = clock.after(webhookLimits.timeoutMs, () => {
      late.abort(new Error(`It did not answer within ${webhookLimits.timeoutMs / 1_000} s`))
    })
    const signal = AbortSignal.any([late.signal, stopped.signal])
    try {
      return await post(network, { ...what, signal })
    } catch (cause) {
      // An aborted request tells of the abort alone, not why.
      if (signal.aborted) return signal.reason as Error
      return cause instanceof Error ? cause : new Error('It can not be reached')
    } finally {
      disarm()
    }
  }

  async function settle(webhook: WebhookRecord, delivery: DeliveryRecord, posted: Posted | Error): Promise<void> {
    const now = clock.now()
    if (!(posted instanceof Error) && posted.status >= 200 && posted.status < 300) {
      return store.delivered(delivery, posted.status, now)
    }
    const retryAfterMs = posted instanceof Error ? undefined : readRetryAfter(posted.retryAfter)
    const pause = pauseAfter(delivery.tries, { chance: chance(), retryAfterMs })
    const outcome =
      posted instanceof Error
        ? { status: null, error: posted.message.slice(0, webhookLimits.errorChars) }
        : { status: posted.status, error: `It answered ${posted.status}` }
    await store.failed(delivery, outcome, { nextTryAt: pause === undefined ? undefined : now + pause, now })
    log.info('webhook_delivery_failed', {
      deliveryId: delivery.id,
      webhookId: webhook.id,
      tries: delivery.tries,
      ...outcome,
    })
    if (outcome.status === 410) return disable(webhook.id, 'gone')
    const after = await store.get(webhook.id)
    if (after && isFailing(after, now)) await disable(webhook.id, 'failing')
  }

  async function end(webhook: WebhookRecord, delivery: DeliveryRecord, reason: WebhookReason): Promise<void> {
    await disable(webhook.id, reason)
    // One that was asked for of a webhook that is disabled already.
    await store.drop(delivery, `The webhook is disabled: ${reason}`, clock.now())
  }

  async function disable(id: string, reason: WebhookReason): Promise<void> {
    const seen = await store.get(id)
    if (seen?.state !== 'active') return
    const now = clock.now()
    // Where somebody changed it at this moment it is theirs now.
    if (!(await store.change(seen, { ...seen, state: 'disabled', reason, changedAt: now }, now))) return
    log.info('webhook_disabled', { webhookId: id, reason })
    const { accountId } = seen
    await record({ accountId, actorId: 'platform', action: 'webhook.disabled', target: id, outcome: 'done', reason })
  }

  async function keepUp(): Promise<void> {
    let tidyAt = 0
    while (!stopped.signal.aborted) {
      let restMs: number = webhookLimits.lookMs
      try {
        await look()
        if (clock.monotonic() >= tidyAt) {
          tidyAt = clock.monotonic() + webhookLimits.tidyMs
          await store.forget(clock.now() - webhookLimits.keptMs)
        }
        const next = await store.nextMoment()
        const leftMs = next === undefined ? restMs : next - clock.now()
        // What is due and not begun is being sent, and rings when it has been.
        restMs = leftMs > 0 ? Math.min(leftMs, restMs) : webhookLimits.leastMs
      } catch (error) {
        // A database that is away is asked again the next time.
        log.warn('webhooks_not_looked_at', { error })
      }
      await alarm.rest(restMs, stopped.signal)
    }
  }

  return {
    look,
    ring: alarm.ring,

    /** Resolves when all that was begun is settled. */
    async settled(): Promise<void> {
      await Promise.all(sending.values())
    },

    start(): void {
      loop = keepUp()
    },

    /** What is under way is given back, and sent by the next server. */
    async stop(): Promise<void> {
      stopped.abort(new Error('The server is stopping'))
      await loop
      await Promise.all(sending.values())
    },
  }
}
