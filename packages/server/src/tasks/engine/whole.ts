type Fields = Readonly<Record<string, unknown>>

/** An answer that is wanted in one piece, put together from its events as https://docs.claude.com/en/docs/build-with-claude/streaming says. */
export function createWhole() {
  let message: Record<string, unknown> = {}
  const blocks = new Map<number, Record<string, unknown>>()
  const inputs = new Map<number, string>()

  function change(index: number, delta: Fields): void {
    const block = blocks.get(index)
    if (!block) return
    for (const field of ['text', 'thinking', 'signature']) {
      const more = delta[field]
      if (typeof more === 'string') block[field] = textOf(block[field]) + more
    }
    if (typeof delta['partial_json'] === 'string') {
      inputs.set(index, (inputs.get(index) ?? '') + delta['partial_json'])
    }
    if (delta['type'] === 'citations_delta') {
      const cited = Array.isArray(block['citations']) ? block['citations'] : []
      block['citations'] = [...cited, delta['citation']]
    }
  }

  return {
    add(event: Fields): void {
      const index = Number(event['index'])
      if (event['type'] === 'message_start') message = { ...recordIn(event['message']) }
      else if (event['type'] === 'content_block_start') blocks.set(index, { ...recordIn(event['content_block']) })
      else if (event['type'] === 'content_block_delta') change(index, recordIn(event['delta']))
      else if (event['type'] === 'message_delta') {
        const { type: _, index: __, delta, usage, ...rest } = event
        message = { ...message, ...rest, ...recordIn(delta) }
        message['usage'] = { ...recordIn(message['usage']), ...recordIn(usage) }
      }
    },
    text(): string {
      for (const [index, written] of inputs) blocks.get(index)!['input'] = parsed(written)
      const content = Array.from(blocks)
        .toSorted(([a], [b]) => a - b)
        .map(([, block]) => block)
      return JSON.stringify({ ...message, content })
    },
  }
}

function textOf(value: unknown): string {
  return typeof value === 'string' ? value : ''
}

function recordIn(value: unknown): Fields {
  return typeof value === 'object' && value !== null && !Array.isArray(value) ? (value as Fields) : {}
}

/** What was cut in its middle is no JSON; then it says nothing, as with Anthropic. */
function parsed(text: string): unknown {
  try {
    return JSON.parse(text === '' ? '{}' : text) as unknown
  } catch {
    return {}
  }
}
