import type { IncomingHttpHeaders } from 'node:http'
import { BlockList, isIP, isIPv4 } from 'node:net'

export interface ProxyRange {
  address: string
  prefix: number
  family: 4 | 6
}

/** Of a request, what tells where it comes from. */
export interface Arrived {
  socket: { remoteAddress?: string | undefined }
  headers: IncomingHttpHeaders
}

/** Where a request comes from; limits, log-in attempts and the audit log all ask this. Undefined where there is no connection, or none any more. */
export type ClientAddress = (request: Arrived | undefined) => string | undefined

/** Proxies in a row that are looked through. */
const hops = 16

/**
 * Anybody can send `X-Forwarded-For`, so it counts only from a trusted proxy, and of it only what trusted proxies have written: the rightmost address
 * that is not itself one of theirs.
 */
export function createClientAddress(trusted: readonly ProxyRange[]): ClientAddress {
  if (trusted.length === 0) return (request) => request?.socket.remoteAddress
  const ranges = new BlockList()
  for (const { address, prefix, family } of trusted) ranges.addSubnet(address, prefix, family === 4 ? 'ipv4' : 'ipv6')
  const isTrusted = (address: string) => {
    const bare = unmapped(address)
    return ranges.check(bare, isIPv4(bare) ? 'ipv4' : 'ipv6')
  }
  return (request) => {
    let nearest = request?.socket.remoteAddress
    if (nearest === undefined || !isTrusted(nearest)) return nearest
    const header = [request?.headers['x-forwarded-for'] ?? []].flat().join(',')
    const said = header.split(',').slice(-hops)
    for (const item of said.toReversed()) {
      const address = addressIn(item.trim())
      // What follows to the left was written by whoever wrote this, who is not to be believed.
      if (address === undefined) return nearest
      nearest = address
      if (!isTrusted(address)) return address
    }
    return nearest
  }
}

/** Some proxies add a port. */
function addressIn(item: string): string | undefined {
  const bare = /^\[(.+)\](?::[0-9]+)?$/.exec(item)?.[1] ?? /^([0-9.]+):[0-9]+$/.exec(item)?.[1] ?? item
  return isIP(bare) === 0 || bare.includes('%') ? undefined : unmapped(bare)
}

function unmapped(address: string): string {
  return /^::ffff:([0-9.]+)$/i.exec(address)?.[1] ?? address
}
