import type { AccessDoor, CallerDoor, CountRequest } from '../../access/door.ts'
import type { Clock } from '../../kernel/clock.ts'
import type { Database } from '../../kernel/db/database.ts'
import type { Feature } from '../../kernel/http/api.ts'
import type { ClientAddress } from '../../kernel/http/client-address.ts'
import { createHostCheck } from '../../kernel/http/host-check.ts'
import type { Logger } from '../../kernel/log.ts'
import type { DoorCaller, SandboxDoor } from '../door.ts'
import { parseDomain } from './address.ts'
import { createPortsFront } from './front.ts'
import { createGateway, type Gateway } from './gateway.ts'
import { portsFeature } from './routes.ts'
import { openPorts, type PortsService } from './service.ts'
import type { SandboxState } from '../states.ts'

export interface PortsFeatureParts {
  database: Database
  clock: Clock
  log: Logger
  door: SandboxDoor
  tokens: AccessDoor
  access: CallerDoor
  findSandbox(sandboxId: string, caller: DoorCaller): Promise<{ state: SandboxState }>
  count: CountRequest
  /** Told to the program inside. */
  clientAddress: ClientAddress
  settings: {
    host: string
    hosts: readonly string[]
    /** See `Config.portsDomain`. */
    portsDomain: string
  }
  serverPort: () => number
}

export interface PortsFeature extends Feature {
  /** The sandbox is gone for good. */
  forget(sandboxId: string): void
  counts: Gateway['counts']
  service: PortsService
}

/** Ports with all their parts. */
export async function openPortsFeature(parts: PortsFeatureParts): Promise<PortsFeature> {
  const { clock, settings } = parts
  const domain = parseDomain(settings.portsDomain)
  if (!domain) throw new Error(`${settings.portsDomain} passed the configuration's check and is no domain`)
  const gateway = createGateway({ clock })
  const ports = await openPorts({ ...parts, gateway, domain })
  const front = createPortsFront({
    ...parts,
    gateway,
    domain,
    publicOwner: ports.publicOwner,
    isServer: createHostCheck(settings),
    now: clock.now,
  })
  return { ...portsFeature({ ports, gateway, front }), forget: ports.forget, counts: gateway.counts, service: ports }
}
