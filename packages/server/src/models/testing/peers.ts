import { startAnthropicPeer } from './anthropic-peer.ts'
import { startGooglePeer } from './google-peer.ts'
import { startOpenaiPeer } from './openai-peer.ts'
import type { PeerOptions, ScriptedPeer } from './peer.ts'

export { callTool, refuse, say } from './peer.ts'
export type {
  PeerOptions,
  PeerPart,
  PeerReply,
  PeerRefusal,
  PeerRequest,
  PeerUsage,
  Script,
  ScriptedPeer,
} from './peer.ts'

/**
 * One for each provider, on a port of its own:
 *
 *     const peer = await startPeers.anthropic()
 *     peer.script(callTool('run_terminal', { command: 'ls' }), say('There are two files.'))
 */
export const startPeers: Readonly<Record<ScriptedPeer['name'], (options?: PeerOptions) => Promise<ScriptedPeer>>> = {
  anthropic: startAnthropicPeer,
  google: startGooglePeer,
  openai: startOpenaiPeer,
}
