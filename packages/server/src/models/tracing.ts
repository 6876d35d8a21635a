import type { Span, Traces } from '../kernel/traces.ts'
import type { Attempt, CallModel, ModelReply } from './call.ts'
import { parseModel } from './names.ts'
import type { ProviderName, Stop } from './provider.ts'

/** The conventions' words. What speaks as OpenAI does is `openai` there too, whoever it is. */
const providers = {
  anthropic: 'anthropic',
  google: 'gcp.gemini',
  openai: 'openai',
  recording: 'delta.recording',
} as const satisfies Record<ProviderName, string>

const finishReasons = {
  end: 'stop',
  tool_calls: 'tool_call',
  cut: 'length',
  refused: 'content_filter',
  other: 'other',
} as const satisfies Record<Stop, string>

/** A span for each request to a provider, by OpenTelemetry's conventions for generative AI. No word of what is asked or answered is in it. */
export function traceCalls(call: CallModel, traces: Traces): CallModel {
  return async (wish) => {
    const open = new Map<string, Span>()
    const begin = ({ holdId, model }: Attempt) => {
      const { provider, name } = parseModel(model) ?? {}
      const attributes = {
        'gen_ai.operation.name': 'chat',
        'gen_ai.provider.name': provider && providers[provider],
        'gen_ai.request.model': name,
        'gen_ai.conversation.id': wish.taskId,
        'gen_ai.agent.id': wish.agentId,
      }
      open.set(holdId, traces.span(`chat ${name}`, attributes, { within: wish.span, kind: 'client' }))
    }
    const end = (attempt: Attempt, reply?: ModelReply) => {
      open.get(attempt.holdId)?.end({ ...usageOf(attempt), ...(reply && endOf(reply)) }, failureOf(attempt))
      open.delete(attempt.holdId)
    }
    try {
      const reply = await call({
        ...wish,
        onAttempt(attempt) {
          wish.onAttempt?.(attempt)
          if (attempt.state === 'sent') begin(attempt)
          // How it ended is said by the reply.
          else if (attempt.state !== 'ended') end(attempt)
        },
      })
      const last = reply.attempts.at(-1)
      if (last) end(last, reply)
      return reply
    } finally {
      // None is left but where the call broke off without a word of the attempt.
      for (const span of open.values()) span.end({}, 'canceled')
    }
  }
}

/** All input counts, from the cache and into it too. */
function usageOf({ usage, estimated }: Attempt) {
  if (!usage) return {}
  const cacheWrite = usage.cacheWrite + usage.cacheWriteHour
  return {
    'gen_ai.usage.input_tokens': usage.input + usage.cacheRead + cacheWrite,
    'gen_ai.usage.output_tokens': usage.output,
    'gen_ai.usage.cache_read.input_tokens': usage.cacheRead || undefined,
    'gen_ai.usage.cache_creation.input_tokens': cacheWrite || undefined,
    'delta.usage.estimated': estimated ? 'true' : undefined,
  }
}

function endOf({ stop, answeredBy }: ModelReply) {
  return { 'gen_ai.response.finish_reasons': [finishReasons[stop]], 'gen_ai.response.model': answeredBy }
}

/** The status where there is one, else in which way it failed. */
function failureOf({ state, failure }: Attempt): string | undefined {
  if (failure) return failure.status === undefined ? failure.kind : String(failure.status)
  return state === 'cut' ? 'canceled' : undefined
}
