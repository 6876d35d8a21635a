import { expect } from 'vitest'
import { countAnthropicInput, startAnthropicPeer } from '../../testing/anthropic-peer.ts'
import { testProvider } from '../conformance.ts'
import { anthropic } from './anthropic.ts'

testProvider('Anthropic', {
  provider: anthropic,
  startPeer: startAnthropicPeer,
  models: ['claude-sonnet-4-5', 'claude-opus-4-7', 'claude-fable-5', 'claude-opus-4-1', 'some-model'],
  countInput: countAnthropicInput,
  showsMalformed: true,
  bound: { thinking: { signature: expect.any(String) as string } },
})
