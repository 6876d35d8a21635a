import type { Clock } from '../kernel/clock.ts'
import { DeltaError } from '../kernel/errors.ts'
import { newOrderedId } from '../kernel/ids.ts'
import type { Logger } from '../kernel/log.ts'
import { shownTokens } from '../ledger/door.ts'
import { createBreaker } from './breaker.ts'
import type { Attempt, CallModel, ModelCall, ModelReply } from './call.ts'
import type { ReplyPart } from './conversation.ts'
import { modelLimits } from './limits.ts'
import { createMetered, wasNeverConnected } from './metered.ts'
import type { Metered, MeterLedger, Settled } from './metered.ts'
import { dearestOutput } from './prices.ts'
import type { ModelRates } from './prices.ts'
import { ProviderFailure } from './provider.ts'
import type { Endpoint, FailureKind, Provider, ProviderRequest, Stop, Usage } from './provider.ts'
import { afterFailure } from './retries.ts'
import { createSettlement } from './settlement.ts'

/** A model as one account may use it now. */
export interface Usable {
  /** `<provider>/<name>` */
  model: string
  /** As its provider knows it. */
  name: string
  by: Provider
  endpoint: Endpoint
  /** Whose key it is, for the breaker: what one key is refused, another may be given. */
  keyName: string
  rates: ModelRates
  maxOutputTokens: number | undefined
}

export interface ModelCallsDeps {
  ledger: MeterLedger
  /** Several connections write to the database. */
  isShared: boolean
  clock: Clock
  log: Logger
  /** Throws why it can not be used. */
  usable: (model: string, accountId: string) => Promise<Usable>
  /** The bytes of an image of a conversation. */
  image: (digest: string, accountId: string) => Promise<Uint8Array>
  fetch: typeof globalThis.fetch
  /** From 0 to below 1. */
  random: () => number
}

export interface CallCounts {
  attempts: Record<Attempt['state'], number>
  /** Under way now. */
  active: number
  openBreakers: number
  unsettled: number
}

export interface ModelCalls {
  call: CallModel
  counts(): CallCounts
  /** What is under way ends by its own signals; what was not written yet is tried once more. */
  stop(): Promise<void>
}

/** Model calls that are held before they leave and paid for when they are over, each attempt by itself. */
export function createModelCalls(deps: ModelCallsDeps): ModelCalls {
  const { clock, log } = deps
  const settlement = createSettlement(deps)
  const breaker = createBreaker(clock.monotonic)
  const attempts: CallCounts['attempts'] = { sent: 0, ended: 0, cut: 0, failed: 0 }
  let active = 0

  async function call(wish: ModelCall): Promise<ModelReply> {
    const run: Run = { wish, attempts: [], waitedMs: 0, withOutput: 0, begun: undefined }
    active += 1
    try {
      return await ofAny(run)
    } finally {
      active -= 1
    }
  }

  /** The first of the models that answers. */
  async function ofAny(run: Run): Promise<ModelReply> {
    const { wish } = run
    let why: unknown
    for (const [index, name] of wish.models.entries()) {
      const hasOther = index < wish.models.length - 1
      try {
        const model = await deps.usable(name, wish.accountId)
        refuseDear(model, wish.maxPrice)
        return await ofOne(run, model, hasOther)
      } catch (error) {
        why = error
        if (!hasOther || run.withOutput > 0 || !isOfModel(error)) throw error
        log.warn('model_passed_over', { model: name, code: (error as DeltaError).code })
      }
    }
    throw why ?? new DeltaError('model_not_found', 'A call names no model')
  }

  async function ofOne(run: Run, model: Usable, hasOther: boolean): Promise<ModelReply> {
    const breakerName = `${model.model} ${model.keyName}`
    for (let tries = 1; ; tries += 1) {
      const admitted = breaker.admit(breakerName)
      if (!admitted.ok) {
        const failure = new ProviderFailure(
          'unavailable',
          'It failed again and again, so that it is left alone for a moment',
        )
        if (hasOther || run.waitedMs + admitted.retryAfterMs > modelLimits.waitedMs)
          throw unavailable(model, failure, admitted.retryAfterMs)
        await pause(run, admitted.retryAfterMs)
        tries -= 1
        continue
      }
      const outcome = await attempt(run, model).catch((error: unknown) => {
        breaker.told(breakerName, 'neither', admitted)
        throw error
      })
      breaker.told(breakerName, outcomeOf(outcome), admitted)
      if ('reply' in outcome) return outcome.reply
      const { failure, told } = outcome
      const soFar = { tries, withOutput: run.withOutput, waitedMs: run.waitedMs, hasOther }
      const next = afterFailure(failure, soFar, deps.random())
      if (next.do === 'wait') told.waitMs = next.ms
      tell(run, told)
      log.info('model_attempt_failed', {
        model: model.model,
        kind: failure.kind,
        status: failure.status,
        next: next.do,
      })
      if (next.do !== 'wait') throw errorOf(model, failure)
      await pause(run, next.ms)
    }
  }

  async function pause(run: Run, ms: number): Promise<void> {
    run.waitedMs += ms
    await clock.sleep(ms, run.wish.signal).catch(() => undefined)
    refuseCanceled(run.wish)
  }

  type Outcome = { reply: ModelReply } | { failure: ProviderFailure; told: Attempt }

  function outcomeOf(outcome: Outcome): 'answered' | 'failed' | 'neither' {
    if ('reply' in outcome) return 'answered'
    return outcome.failure.kind === 'unavailable' ? 'failed' : 'neither'
  }

  /** One request. Throws what says nothing of the provider: no tokens, no database, given up by whoever asked. */
  async function attempt(run: Run, model: Usable): Promise<Outcome> {
    const { wish } = run
    refuseCanceled(wish)
    const holdId = newOrderedId('hld', clock.now())
    const base = { holdId, model: model.model }
    const metered = createMetered({
      ...deps,
      settlement,
      holdId,
      payer: wish,
      rates: model.rates,
      wire: model.by.wire,
      signal: wish.signal,
      begin: () => (run.begun ??= wish.begin?.() ?? Promise.resolve()),
      onSent: () => tell(run, { ...base, state: 'sent' }),
    })
    let answer: Answered | undefined
    let thrown: unknown
    try {
      answer = await read(run, model, metered)
    } catch (error) {
      thrown = error
    }
    const ended = await metered.end()
    if (answer && ended) {
      if (!wish.paysLater) await ended.pay()
      tell(run, { ...base, state: 'ended', ...ended.settled })
      return { reply: replyOf(run, { model, answer, lowered: metered.lowered(), pay: ended.pay }) }
    }
    await ended?.pay()
    const settled = ended?.settled
    const refusal = metered.refusal()
    if (!settled || isOurs(thrown)) {
      if (settled) tell(run, { ...base, state: 'cut', ...settled })
      refuseCanceled(wish)
      if (refusal === undefined && thrown instanceof ProviderFailure) throw errorOf(model, thrown)
      throw refusal ?? thrown
    }
    if (wish.signal.aborted) {
      tell(run, { ...base, state: 'cut', ...settled })
      refuseCanceled(wish)
    }
    const failure = failureOf(thrown, model, metered.fault())
    const { kind, status, message } = failure
    const state = isCut(settled) ? 'cut' : 'failed'
    return { failure, told: { ...base, state, failure: { kind, status, message }, ...settled } }
  }

  /** Reads one answer to its end. */
  async function read(run: Run, { name, by, endpoint, ...model }: Usable, { fetch }: Metered): Promise<Answered> {
    const { wish } = run
    const { system, messages, tools, thinking = 'off', signal, accountId } = wish
    const image = (digest: string) => deps.image(digest, accountId)
    const maxOutputTokens = outputOf(wish, model.maxOutputTokens)
    const request: ProviderRequest = { model: name, system, messages, tools, maxOutputTokens, thinking, image }
    const parts: ReplyPart[] = []
    let hasBegun = false
    const { passage } = wish
    if (passage && !by.pass) throw new DeltaError('model_not_found', `Models of ${by.name} take no such request`)
    const options = { endpoint, fetch, signal }
    const events = passage
      ? by.pass!({ ...passage, model: name, maxOutputTokens }, options)
      : by.stream(request, options)
    for await (const event of events) {
      if (event.type === 'end') return { parts, stop: event.stop, answeredBy: event.model }
      // What was passed on can not be taken back.
      if (!hasBegun) run.withOutput += passage ? modelLimits.triesAfterOutput + 1 : 1
      hasBegun = true
      if (event.type === 'part') parts.push(event.part)
      try {
        wish.onEvent(event)
      } catch (cause) {
        throw new OurFault(cause)
      }
    }
    throw new ProviderFailure('unavailable', 'The answer ended before it was over')
  }

  function tell(run: Run, told: Attempt): void {
    attempts[told.state] += 1
    const index = run.attempts.findIndex(({ holdId }) => holdId === told.holdId)
    if (index === -1) run.attempts.push(told)
    else run.attempts[index] = told
    run.wish.onAttempt?.(told)
  }

  return {
    call,
    counts: () => ({ attempts, active, openBreakers: breaker.open(), unsettled: settlement.waiting() }),
    stop: settlement.stop,
  }
}

interface Run {
  wish: ModelCall
  attempts: Attempt[]
  waitedMs: number
  /** Requests that had brought output. */
  withOutput: number
  begun: Promise<void> | undefined
}

interface Answered {
  parts: readonly ReplyPart[]
  stop: Stop
  answeredBy: string | undefined
}

/** What whoever asked did wrong, and not the provider. */
class OurFault extends Error {
  override readonly name = 'OurFault'

  constructor(cause: unknown) {
    super('A listener of a model call threw', { cause })
  }
}

function isOurs(error: unknown): boolean {
  return error instanceof OurFault
}

function isCut({ usage }: Settled): boolean {
  return Object.values(usage).some((units) => units > 0)
}

function replyOf(
  { attempts }: Run,
  {
    model: { model },
    answer,
    lowered,
    pay,
  }: { model: Usable; answer: Answered; lowered: boolean; pay: () => Promise<void> },
): ModelReply {
  const { parts, stop, answeredBy } = answer
  const last = attempts.at(-1)!
  return {
    model,
    parts,
    stop,
    usage: last.usage ?? noUsage,
    cost: attempts.reduce((sum, { cost = 0 }) => sum + cost, 0),
    estimated: attempts.some(({ estimated }) => estimated),
    lowered,
    attempts,
    pay,
    ...(answeredBy !== undefined && { answeredBy }),
  }
}

const noUsage: Usage = { input: 0, cacheRead: 0, cacheWrite: 0, cacheWriteHour: 0, output: 0 }

function outputOf({ maxOutputTokens }: ModelCall, most: number | undefined): number {
  const unsaid = Math.min(most ?? modelLimits.unknownOutputTokens, modelLimits.outputTokens)
  return Math.min(maxOutputTokens ?? unsaid, most ?? Infinity)
}

function refuseCanceled({ signal }: ModelCall): void {
  if (signal.aborted) throw new DeltaError('canceled', 'The call was given up', { cause: signal.reason })
}

function refuseDear({ model, rates }: Usable, maxPrice: number | undefined): void {
  const price = shownTokens(dearestOutput(rates))
  if (maxPrice === undefined || price <= maxPrice) return
  throw new DeltaError('model_too_dear', `${model} costs ${price} tokens for a million of output`, {
    context: { model, price, maxPrice },
  })
}

/** Whether another model may do better. */
function isOfModel(error: unknown): boolean {
  return error instanceof DeltaError && ofModel.has(error.code)
}

const ofModel = new Set<string>([
  'model_unavailable',
  'model_key_missing',
  'model_key_refused',
  'model_key_unreadable',
  'model_not_found',
  'model_not_priced',
  'model_too_dear',
])

function failureOf(thrown: unknown, { endpoint: { apiKey } }: Usable, fault: Error | undefined): ProviderFailure {
  if (fault) return new ProviderFailure('unavailable', fault.message)
  if (!(thrown instanceof ProviderFailure)) {
    const message = wasNeverConnected(thrown) ? 'It can not be reached' : 'The connection broke'
    return new ProviderFailure('unavailable', message, { cause: thrown })
  }
  const { kind, message, status, retryAfterMs } = thrown
  if (apiKey === undefined || apiKey === '' || !message.includes(apiKey)) return thrown
  return new ProviderFailure(kind, message.replaceAll(apiKey, '[redacted]'), { status, retryAfterMs })
}

const codes = {
  limited: 'model_unavailable',
  unavailable: 'model_unavailable',
  key: 'model_key_refused',
  request: 'model_refused',
  too_long: 'model_too_long',
} as const satisfies Record<FailureKind, string>

export function errorOf(model: Pick<Usable, 'model'>, failure: ProviderFailure): DeltaError {
  const { kind, status, message, retryAfterMs } = failure
  if (kind === 'limited' || kind === 'unavailable') return unavailable(model, failure, retryAfterMs)
  const code = kind === 'request' && status === 404 ? 'model_not_found' : codes[kind]
  return new DeltaError(code, `${model.model}: ${message}`, {
    context: { model: model.model, ...(status !== undefined && { status }) },
  })
}

function unavailable(
  { model }: Pick<Usable, 'model'>,
  { message, status }: ProviderFailure,
  retryAfterMs: number | undefined,
): DeltaError {
  return new DeltaError('model_unavailable', `${model}: ${message}`, {
    context: {
      model,
      ...(status !== undefined && { status }),
      ...(retryAfterMs !== undefined && { retryAfterMs }),
    },
  })
}
