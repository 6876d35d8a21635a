import { spawn } from 'node:child_process'
import { once } from 'node:events'
import { existsSync } from 'node:fs'
import { mkdtemp, rm } from 'node:fs/promises'
import { connect, type Socket } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { fileURLToPath } from 'node:url'
import { connectGuest } from '../client.ts'
import type { GuestConnection } from '../client.ts'

const root = fileURLToPath(new URL('../../../../../', import.meta.url))
const places = ['.build/bin/delta-guest', 'packages/guest/target/release/delta-guest']

/** The guest run as an ordinary process, with a folder of its own to work in. */
export interface RealGuest {
  readonly folder: string
  connect(): Promise<GuestConnection>
  stop(): Promise<void>
}

function findGuest(): string {
  const found = places.map((place) => join(root, place)).find((path) => existsSync(path))
  if (found) return found
  throw new Error(`No guest at ${places.join(' or ')}. Build it: cd packages/guest && cargo build --release`)
}

export async function startRealGuest(): Promise<RealGuest> {
  const binary = findGuest()
  const folder = await mkdtemp(join(tmpdir(), 'guest-wire-'))
  const path = join(folder, 'wire.sock')
  const child = spawn(binary, ['serve', '--unix', path], { stdio: ['ignore', 'inherit', 'inherit'] })
  const exited = once(child, 'exit')
  for (let waits = 0; !existsSync(path); waits++) {
    if (child.exitCode !== null || waits > 500)
      throw new Error(`${binary} serve --unix does not listen (exit ${child.exitCode})`)
    await new Promise((resolve) => setTimeout(resolve, 10))
  }
  return {
    folder,
    async connect() {
      return connectGuest(await connected(path))
    },
    async stop() {
      child.kill('SIGKILL')
      await exited
      await rm(folder, { recursive: true, force: true })
    },
  }
}

/** The socket is there a moment before anybody listens on it. */
async function connected(path: string): Promise<Socket> {
  for (let tries = 0; ; tries++) {
    const socket = connect(path)
    try {
      await once(socket, 'connect')
      return socket
    } catch (error) {
      if (tries > 100) throw error
      await new Promise((resolve) => setTimeout(resolve, 10))
    }
  }
}
