import { rmSync } from 'node:fs'
import { Delta } from '@delta-agents/sdk'
import { expect } from 'vitest'
import { startAnthropicPeer } from '../packages/server/src/models/testing/anthropic-peer.ts'
import type { ScriptedPeer } from '../packages/server/src/models/testing/peer.ts'
import { newDataDir } from './global-setup.ts'
import { leftovers } from './leftovers.ts'
import { freePort, ownUids, type Platform, type PlatformOptions, startPlatform } from './platform.ts'
import { httpPid } from './processes.ts'

const password = 'a password of the tests'

/** A platform of its own whose models are asked of a peer that says what a test scripts. */
export interface ModelPlatform {
  peer: ScriptedPeer
  delta: Delta
  /** For programs that are started. */
  env: NodeJS.ProcessEnv
  /** As it is now: another one after a restart. */
  platform(): Platform
  /** The same folder, the same address: clients find it again. */
  restart(signal: 'SIGTERM' | 'SIGKILL'): Promise<void>
  /** SIGKILL of the HTTP process alone; resolves when another one answers. */
  crash(): Promise<void>
  /** Somebody who may decide: no default key may. */
  person(email: string): Promise<Delta>
  end(): Promise<void>
}

export async function startModelPlatform(
  firstUid: number,
  {
    env = {},
    kept = 1_000,
  }: { env?: NodeJS.ProcessEnv; /** Requests to the peer that can be looked at. */ kept?: number } = {},
): Promise<ModelPlatform> {
  const peer = await startAnthropicPeer({ kept })
  const dataDir = newDataDir()
  const options: PlatformOptions = {
    dataDir,
    port: await freePort(),
    env: {
      ...ownUids(100, firstUid),
      ANTHROPIC_API_KEY: peer.key,
      ANTHROPIC_BASE_URL: peer.url,
      DELTA_MODEL: 'anthropic/claude-haiku-4-5',
      ...env,
    },
  }
  let platform = await startPlatform(options)
  const { url, key } = platform
  const delta = new Delta({ url, apiKey: key })
  return {
    peer,
    delta,
    env: { ...process.env, DELTA_URL: url, DELTA_API_KEY: key },
    platform: () => platform,
    async restart(signal) {
      if (signal === 'SIGKILL') await platform.kill()
      else await platform.stop('SIGTERM')
      platform = await startPlatform(options)
    },
    async crash() {
      const gone = await httpPid(platform.pid)
      process.kill(gone, 'SIGKILL')
      const isBack = async () => {
        const answer = await fetch(`${url}/health`).catch(() => undefined)
        return answer?.ok === true && (await httpPid(platform.pid)) !== gone
      }
      await expect.poll(isBack, { timeout: 30_000 }).toBe(true)
    },
    async person(email) {
      await delta.account.invite(email)
      const link = new URL((await delta.auth.createLink(email)).url)
      const session = await delta.auth.acceptInvitation({ token: link.searchParams.get('t')!, password })
      return new Delta({ url, apiKey: delta.auth.keep(session), maxRetries: 0 })
    },
    async end() {
      await platform.stop()
      await peer.close()
      const left = leftovers(dataDir)
      if (left.length > 0) throw new Error(`There is left:\n${left.join('\n')}\n\n${platform.log()}`)
      rmSync(dataDir, { recursive: true, force: true })
    },
  }
}
