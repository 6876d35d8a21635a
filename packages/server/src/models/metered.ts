import type { Clock } from '../kernel/clock.ts'
import { DeltaError } from '../kernel/errors.ts'
import type { Ledger } from '../ledger/service.ts'
import { modelLimits } from './limits.ts'
import { affordableOutput, inputBound, linesOf, outputBound, unknownInput } from './prices.ts'
import type { ModelLine, ModelRates, Possible } from './prices.ts'
import type { Usage, UsageReader, Wire } from './provider.ts'
import type { Settlement } from './settlement.ts'

export type MeterLedger = Pick<Ledger, 'ensure' | 'hold' | 'sent' | 'commit' | 'charge' | 'price' | 'bound'>

export interface Payer {
  accountId: string
  payer: string
  agentId: string
  taskId: string
}

export interface MeteredOptions {
  ledger: MeterLedger
  settlement: Settlement
  clock: Clock
  /** What goes to the outside. */
  fetch: typeof globalThis.fetch
  holdId: string
  payer: Payer
  rates: ModelRates
  wire: Wire
  signal: AbortSignal
  /** Written with the hold, before anything is sent. */
  begin: () => Promise<void>
  /** Several connections write to the database, which keep no order. */
  isShared: boolean
  /** It is held and about to leave. */
  onSent: () => void
}

/** How one request ended, and what it came to. */
export interface Settled {
  usage: Usage
  /** Micro-tokens. */
  cost: number
  estimated: boolean
}

export interface Ended {
  settled: Settled
  /** Writes that down, once: for whoever calls it, or with the first of several. */
  pay(): Promise<void>
}

export interface Metered {
  /** For one request. */
  fetch: typeof globalThis.fetch
  /** What it rejected with before anything was sent, such as a balance that is too low: whatever the provider makes of it. */
  refusal(): unknown
  /** Why it was given up on the way, by us. */
  fault(): Error | undefined
  /** The balance allowed for less output than was asked for. */
  lowered(): boolean
  /** When the provider is done with the answer, in whichever way: what it used, which must then be paid for. Undefined where nothing was sent. */
  end(): Promise<Ended | undefined>
}

const nothing: Usage = { input: 0, cacheRead: 0, cacheWrite: 0, cacheWriteHour: 0, output: 0 }

type Answer = 'none' | 'unreached' | 'refused' | 'streaming'

interface Sent {
  possible: Possible
  limit: number
  /** 0: it costs nothing, so that nothing is held. */
  held: number
  answer: Answer
  reader: UsageReader
  observedMs: number
}

/**
 * A `fetch` for one request to a provider. Held is what the body that is really sent can come to at most; the answer's bytes are read for what was used while they pass. Whatever
 * becomes of the answer, `end` says what it came to.
 */
export function createMetered(options: MeteredOptions): Metered {
  const { ledger, clock, holdId, payer, rates, wire, signal } = options
  const giveUp = new AbortController()
  let isAsked = false
  let refusal: unknown
  let lowered = false
  let sent: Sent | undefined
  let ending: Promise<Ended | undefined> | undefined
  let letGo: (() => Promise<void>) | undefined
  const watch = createWatch(clock, (ms) => giveUp.abort(new Error(`The provider sent nothing for ${ms} ms`)))

  async function prepare(text: string): Promise<{ text: string; sent: Sent }> {
    const body = JSON.parse(text) as Record<string, unknown>
    const wanted = wire.outputLimit(body)
    if (wanted === undefined) throw new Error('A request to a model must say how much it may answer')
    const possible: Possible = { input: wire.inputBound(body, Buffer.byteLength(text)), writes: writesOf(text) }
    const state = { possible, answer: 'none', reader: wire.usageReader(), observedMs: clock.monotonic() } as const
    const forInput = inputBound(rates, possible, ledger)
    const amount = forInput + outputBound(rates, possible, wanted, ledger)
    if (amount === 0) {
      await options.begin()
      return { text, sent: { ...state, limit: wanted, held: 0 } }
    }
    const least = Math.min(wanted, modelLimits.leastOutputTokens)
    const atLeast = Math.max(1, forInput + outputBound(rates, possible, least, ledger))
    const held = await hold({ amount, atLeast })
    if (held === amount) return { text, sent: { ...state, limit: wanted, held } }
    const limit = affordableOutput(rates, possible, { wanted, amount: held - forInput }, ledger)
    lowered = true
    return { text: JSON.stringify(wire.withOutputLimit(body, limit)), sent: { ...state, limit, held } }
  }

  /** Asked for in one breath, so that all are one commit: from then on a process that dies pays for it. */
  async function hold(wish: { amount: number; atLeast: number }): Promise<number> {
    const { accountId, payer: purse, agentId, taskId } = payer
    // The account's month may have to be begun first, which would let the second one pass the first.
    await ledger.ensure(accountId)
    const purpose = { kind: 'model', agentId, taskId }
    // Its row comes first: of a step that nobody knows of nothing may be held.
    const beginning = options.begin()
    if (options.isShared) await beginning
    const [begun, held, noted] = await Promise.allSettled([
      beginning,
      ledger.hold({ ...wish, accountId, payer: purse, purpose, holdId }),
      ledger.sent(holdId, accountId),
    ])
    const failed = [begun, held, noted].find(({ status }) => status === 'rejected') as PromiseRejectedResult | undefined
    if (!failed && held.status === 'fulfilled') return held.value.amount
    // Where nobody knows whether it was written: nothing was sent, so it costs nothing.
    if (held.status === 'fulfilled' || isInDoubt(held.reason)) void pay([], false)
    throw failed!.reason
  }

  async function pay(lines: readonly ModelLine[], estimated: boolean): Promise<void> {
    const { accountId } = payer
    const write = () =>
      ledger.commit(holdId, accountId, lines, { excess: 'absorb', ...(estimated && { estimated }) }).catch(unlessNever)
    await options.settlement.settle({ holdId, write })
  }

  /** Of what costs nothing: it is metered all the same. */
  async function book(lines: readonly ModelLine[]): Promise<void> {
    if (lines.length === 0) return
    const { accountId, payer: purse, agentId, taskId } = payer
    const purpose = { kind: 'model', agentId, taskId }
    const write = () => ledger.charge({ accountId, payer: purse, lines, purpose, key: `model ${holdId}` })
    await options.settlement.settle({ holdId, write })
  }

  function settle({ possible, limit, held, answer, reader }: Sent): Ended {
    const { usage, lines, estimated } =
      answer === 'unreached' || answer === 'refused'
        ? { usage: nothing, lines: [], estimated: false }
        : useOf({ rates, possible, limit, reader, ledger })
    let paying: Promise<void> | undefined
    return {
      settled: { usage, cost: Math.min(costOf(lines), held), estimated },
      pay: () => (paying ??= held === 0 ? book(lines) : pay(lines, estimated)),
    }
  }

  /** So that a process that dies pays for what came and not for all that might have come. */
  function observe(state: Sent): void {
    const { possible, limit, held, reader } = state
    if (held === 0 || ending || clock.monotonic() - state.observedMs < modelLimits.observedMs) return
    const { lines } = useOf({ rates, possible, limit, reader, ledger, ahead: modelLimits.observedAheadTokens })
    state.observedMs = clock.monotonic()
    // What can not be written now is written with the next, or the hold counts whole.
    ledger.sent(holdId, payer.accountId, Math.min(costOf(lines), held)).catch(() => undefined)
  }

  async function send(input: string | URL | Request, init: RequestInit): Promise<Response> {
    const leaving = AbortSignal.any([signal, giveUp.signal, ...(init.signal ? [init.signal] : [])])
    leaving.throwIfAborted()
    const prepared = await prepare(String(init.body))
    sent = prepared.sent
    options.onSent()
    // It may have been given up while it was held for; then it never leaves.
    if (leaving.aborted) sent.answer = 'unreached'
    leaving.throwIfAborted()
    watch.begin(modelLimits.firstByteMs)
    let response: Response
    try {
      // A key goes to the host it was meant for and to no other: an answer that leads elsewhere is no success.
      response = await options.fetch(input, { ...init, body: prepared.text, signal: leaving, redirect: 'manual' })
    } catch (error) {
      if (wasNeverConnected(error)) sent.answer = 'unreached'
      throw error
    }
    sent.answer = response.ok ? 'streaming' : 'refused'
    if (!response.body) return response
    const body = passing(response.body, sent)
    const { status, statusText, headers } = response
    return new Response(body, { status, statusText, headers })
  }

  function passing(body: ReadableStream<Uint8Array>, state: Sent): ReadableStream<Uint8Array> {
    const reader = body.getReader()
    let received = 0
    letGo = () => reader.cancel().catch(() => undefined)
    return new ReadableStream<Uint8Array>(
      {
        async pull(controller) {
          const { done, value } = await reader.read()
          if (done) {
            watch.end()
            return controller.close()
          }
          watch.begin(modelLimits.idleMs)
          received += value.byteLength
          if (received > modelLimits.answerBytes) {
            giveUp.abort(new Error(`The answer has more than ${modelLimits.answerBytes} bytes`))
            throw giveUp.signal.reason
          }
          if (state.answer === 'streaming') {
            state.reader.push(value)
            observe(state)
          }
          controller.enqueue(value)
        },
        cancel: () => reader.cancel(),
      },
      { highWaterMark: 0 },
    )
  }

  return {
    async fetch(input, init = {}) {
      if (isAsked) throw new Error('A provider asked for a second request')
      isAsked = true
      try {
        return await send(input, init)
      } catch (error) {
        if (!sent) refusal = error
        throw error
      }
    },
    refusal: () => refusal,
    fault: () => giveUp.signal.reason as Error | undefined,
    lowered: () => lowered,
    end() {
      ending ??= (async () => {
        watch.end()
        if (!sent) return undefined
        await letGo?.()
        return settle(sent)
      })()
      return ending
    },
  }
}

/** Only Anthropic's format marks what is to be kept, and only what is marked is written: the mark may be anywhere in the body, also in a text that means something else. */
function writesOf(text: string): Possible['writes'] {
  if (!text.includes('cache_control')) return 'none'
  return text.includes('1h') ? 'hour' : 'minutes'
}

interface UseOptions {
  rates: ModelRates
  possible: Possible
  limit: number
  reader: UsageReader
  ledger: MeterLedger
  /** Output that may come before anybody looks again. @default 0 */
  ahead?: number
}

/** Exact where the provider said so at its end; else what it had said, and the bound of what it had not. */
function useOf({ rates, possible, limit, reader, ledger, ahead = 0 }: UseOptions) {
  const reported = reader.reported()
  const isInputKnown = reported.input !== undefined
  const isExact = reader.ended() && isInputKnown && reported.output !== undefined
  if (isExact) {
    const usage = { ...nothing, ...reported }
    return { usage, lines: linesOf(rates, usage, ledger), estimated: false }
  }
  const output = Math.max(reported.output ?? 0, Math.min(limit, reader.receivedBound() + ahead))
  const usage = { ...nothing, ...reported, ...(!isInputKnown && { input: possible.input }), output }
  if (isInputKnown) return { usage, lines: linesOf(rates, usage, ledger), estimated: true }
  const input = unknownInput(rates, possible, ledger)
  // By the tier that so much input would be in.
  const rest = linesOf(rates, usage, ledger).filter(({ meter }) => /:(own_key_)?output(_over_\d+)?$/.test(meter))
  return { usage, lines: [...input, ...rest], estimated: true }
}

function costOf(lines: readonly ModelLine[]): number {
  return lines.reduce((sum, { cost }) => sum + cost, 0)
}

function isInDoubt(error: unknown): boolean {
  return !(error instanceof DeltaError) || error.status >= 500
}

/** What was in doubt was not written after all. */
function unlessNever(error: unknown): void {
  if (error instanceof DeltaError && error.code === 'hold_not_found') return
  throw error
}

const unreachedCodes = new Set([
  'ECONNREFUSED',
  'ENOTFOUND',
  'EAI_AGAIN',
  'EHOSTUNREACH',
  'ENETUNREACH',
  'UND_ERR_CONNECT_TIMEOUT',
])

/** Whether it failed before a byte of the request could leave. */
export function wasNeverConnected(error: unknown): boolean {
  for (let one = error, depth = 0; one instanceof Error && depth < 5; one = one.cause, depth++) {
    const { code } = one as { code?: unknown }
    if (typeof code === 'string' && unreachedCodes.has(code)) return true
    if (one instanceof AggregateError && one.errors.length > 0) return one.errors.every(wasNeverConnected)
  }
  return false
}

/** One timer for all pieces of an answer, however many come. */
function createWatch(clock: Clock, onSilent: (ms: number) => void) {
  let sinceMs = 0
  let allowedMs = 0
  let cancel: (() => void) | undefined
  const look = () => {
    const leftMs = sinceMs + allowedMs - clock.monotonic()
    if (leftMs <= 0) return onSilent(allowedMs)
    cancel = clock.after(leftMs, look)
  }
  return {
    begin(ms: number) {
      if (ms < allowedMs) cancel = void cancel?.()
      sinceMs = clock.monotonic()
      allowedMs = ms
      cancel ??= clock.after(ms, look)
    },
    end() {
      cancel?.()
      cancel = undefined
    },
  }
}
