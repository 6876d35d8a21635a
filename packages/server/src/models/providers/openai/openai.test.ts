import { countOpenaiInput, startOpenaiPeer } from '../../testing/openai-peer.ts'
import { testProvider } from '../conformance.ts'
import { openai } from './openai.ts'

testProvider('OpenAI-compatible', {
  provider: openai,
  startPeer: startOpenaiPeer,
  models: ['qwen3:8b', 'gpt-4o-mini', 'meta-llama/Llama-3.3-70B-Instruct'],
  countInput: countOpenaiInput,
  showsMalformed: true,
  bound: { thinking: {} },
})
