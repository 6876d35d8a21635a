import type { GuestConnection } from '../../guest/client.ts'
import type { Database } from '../../kernel/db/database.ts'
import { DeltaError } from '../../kernel/errors.ts'
import type { DoorCaller, SandboxDoor } from '../door.ts'
import { inTime } from '../patience.ts'
import { isOver, type SandboxState } from '../states.ts'
import { type PortAddress, type PortsDomain, portLabel } from './address.ts'
import { forbidden } from './faults.ts'
import type { Gateway } from './gateway.ts'
import { listeningPorts } from './listening.ts'
import type { Ports } from './schema.ts'
import { createPortStore } from './store.ts'

export interface PortsDeps {
  database: Database
  door: SandboxDoor
  /** Rejects where the caller has no such sandbox. */
  findSandbox(sandboxId: string, caller: DoorCaller): Promise<{ state: SandboxState }>
  gateway: Gateway
  domain: PortsDomain
  /** Where the server listens, for addresses under a domain that names no port. */
  serverPort: () => number
}

export type PortsService = Awaited<ReturnType<typeof openPorts>>

/** A table of a sandbox that multiplies its sockets is not read to its end. */
const tableBytes = 256 * 1024
const tableMs = 5_000
const mostListed = 256

/** Which ports are public, known without reading the database: every request through a port asks. */
export async function openPorts({ database, door, findSandbox, gateway, domain, serverPort }: PortsDeps) {
  const store = createPortStore(database)
  const shared = new Map<string, { accountId: string; ports: Set<number> }>()
  for (const { sandboxId, accountId, port } of await store.all()) {
    const known = shared.get(sandboxId)
    if (known) known.ports.add(port)
    else shared.set(sandboxId, { accountId, ports: new Set([port]) })
  }

  async function put(sandboxId: string, ports: readonly number[], caller: DoorCaller): Promise<Ports> {
    await findAlive(sandboxId, caller)
    const next = new Set(ports)
    await store.put(sandboxId, caller.accountId, [...next])
    // It may have been killed meanwhile, and forgotten here.
    await findAlive(sandboxId, caller)
    if (next.size > 0) shared.set(sandboxId, { accountId: caller.accountId, ports: next })
    else shared.delete(sandboxId)
    gateway.cutPublic(sandboxId, next, forbidden())
    return list(sandboxId, caller)
  }

  /** What is over has no ports, and must not get any that tell it from a sandbox that never was. */
  async function findAlive(sandboxId: string, caller: DoorCaller): Promise<void> {
    const { state } = await findSandbox(sandboxId, caller)
    if (isOver(state)) throw new DeltaError('sandbox_state_conflict', `Sandbox ${sandboxId} is ${state}`)
  }

  async function list(sandboxId: string, caller: DoorCaller): Promise<Ports> {
    const { state } = await findSandbox(sandboxId, caller)
    const open = shared.get(sandboxId)?.ports ?? new Set<number>()
    const listening = state === 'running' ? await listeningIn(sandboxId, caller) : undefined
    const ports = [...new Set([...open, ...(listening ?? [])])].toSorted((a, b) => a - b)
    return {
      urlTemplate: urlOf(sandboxId, '{port}'),
      data: ports.map((port) => ({
        port,
        url: urlOf(sandboxId, port),
        public: open.has(port),
        listening: listening ? listening.includes(port) : null,
      })),
    }
  }

  async function listeningIn(sandboxId: string, caller: DoorCaller): Promise<number[] | undefined> {
    try {
      const { guest } = await door.open(sandboxId, caller, { wake: false })
      const tables = await inTime(tableMs, (signal) =>
        Promise.all(['/proc/net/tcp', '/proc/net/tcp6'].map((path) => tableText(guest, path, signal))),
      )
      return listeningPorts(tables.join('\n'), mostListed)
    } catch {
      // The list is worth having without it.
      return undefined
    }
  }

  function urlOf(sandboxId: string, port: number | string): string {
    const { scheme, name, port: given } = domain
    const own = given !== '' || scheme === 'https' ? given : `:${serverPort()}`
    return `${scheme}://${portLabel({ sandboxId, port })}.${name}${own}/`
  }

  return {
    put,
    list,
    /** Whose sandbox it is, where the port is public. */
    publicOwner({ sandboxId, port }: PortAddress): string | undefined {
      const known = shared.get(sandboxId)
      return known?.ports.has(port) ? known.accountId : undefined
    },
    /** The sandbox is gone for good; its rows go with its own. */
    forget: (sandboxId: string) => void shared.delete(sandboxId),
  }
}

async function tableText(guest: GuestConnection, path: string, signal: AbortSignal): Promise<string> {
  const { body } = await guest.read(path, { signal, length: tableBytes })
  const chunks: Buffer[] = []
  for await (const chunk of body) chunks.push(chunk)
  return Buffer.concat(chunks).toString('latin1')
}
