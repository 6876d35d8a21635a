import type { LookupAddress } from 'node:dns'
import { type Address, parseAddress } from './addresses.ts'

export type Lookup = (host: string) => Promise<LookupAddress[]>

/** Of the system's resolver, which has eight threads of this process (half of UV_THREADPOOL_SIZE, set by the helper): one sandbox's slow names take two. */
const mostRunning = 8
const mostRunningPerOwner = 2
const mostWaitingPerOwner = 256
/** Long enough that the connections of one page share an answer; an address is judged at every connection all the same. */
const keepMs = 5_000
const mostKept = 1_024
const mostAddresses = 16

export class NameError extends Error {
  readonly code: 'not_found' | 'temporary' | 'busy'
  constructor(code: NameError['code'], message: string, options?: ErrorOptions) {
    super(message, options)
    this.name = 'NameError'
    this.code = code
  }
}

export interface NamesDeps {
  lookup: Lookup
  /** Names with addresses the operator stated. */
  hosts: ReadonlyMap<string, readonly string[]>
  monotonic: () => number
}

export interface Names {
  /** What can be said without asking: of literal addresses, of names the operator stated or that were asked for lately. */
  known(host: string): Address[] | undefined
  /** Every address of a name; for a literal address, itself. Owners take turns. */
  resolve(owner: string, host: string): Promise<Address[]>
}

interface Queue {
  running: number
  waiting: (() => void)[]
}

export function createNames({ lookup, hosts, monotonic }: NamesDeps): Names {
  const stated = new Map(
    Array.from(hosts, ([host, addresses]) => [host, addressesOf(addresses.map((address) => ({ address, family: 0 })))]),
  )
  const kept = new Map<string, { until: number; addresses: Address[] }>()
  const asked = new Map<string, Promise<Address[]>>()
  const queues = new Map<string, Queue>()
  let running = 0

  const enter = async (owner: string): Promise<Queue> => {
    const queue = queues.get(owner) ?? { running: 0, waiting: [] }
    queues.set(owner, queue)
    if (running >= mostRunning || queue.running >= mostRunningPerOwner) {
      if (queue.waiting.length >= mostWaitingPerOwner) {
        throw new NameError('busy', 'Too many names are being resolved for this sandbox')
      }
      await new Promise<void>((resolve) => queue.waiting.push(resolve))
    } else {
      running += 1
      queue.running += 1
    }
    return queue
  }

  const leave = (owner: string, queue: Queue): void => {
    running -= 1
    queue.running -= 1
    // Who was served goes to the end of the row.
    queues.delete(owner)
    if (queue.running > 0 || queue.waiting.length > 0) queues.set(owner, queue)
    for (const next of queues.values()) {
      if (next.waiting.length === 0 || next.running >= mostRunningPerOwner) continue
      running += 1
      next.running += 1
      next.waiting.shift()!()
      return
    }
  }

  const ask = async (owner: string, host: string): Promise<Address[]> => {
    const queue = await enter(owner)
    try {
      const found = addressesOf(await lookup(host))
      if (found.length === 0) throw new NameError('not_found', `${host} has no address`)
      if (kept.size >= mostKept) kept.delete(kept.keys().next().value!)
      kept.set(host, { until: monotonic() + keepMs, addresses: found })
      return found
    } catch (cause) {
      throw nameErrorOf(host, cause)
    } finally {
      leave(owner, queue)
    }
  }

  const lately = (host: string): Address[] | undefined => {
    const entry = kept.get(host)
    return entry && entry.until > monotonic() ? entry.addresses : undefined
  }

  const known = (host: string): Address[] | undefined => {
    const literal = parseAddress(host)
    return literal ? [literal] : (stated.get(host) ?? lately(host))
  }

  return {
    known,
    async resolve(owner, host) {
      const there = known(host)
      if (there) return there
      // By owner: nobody waits in another's queue.
      const key = `${owner} ${host}`
      const asking = asked.get(key) ?? ask(owner, host).finally(() => asked.delete(key))
      asked.set(key, asking)
      return asking
    },
  }
}

function addressesOf(found: readonly LookupAddress[]): Address[] {
  return found.slice(0, mostAddresses).flatMap(({ address }) => parseAddress(address) ?? [])
}

function nameErrorOf(host: string, cause: unknown): NameError {
  if (cause instanceof NameError) return cause
  const { code } = cause as NodeJS.ErrnoException
  if (code === 'ENOTFOUND' || code === 'ENODATA') return new NameError('not_found', `${host} is not known`, { cause })
  return new NameError('temporary', `${host} could not be resolved (${code ?? 'error'})`, { cause })
}
