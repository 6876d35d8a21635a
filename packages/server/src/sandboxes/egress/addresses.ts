import { BlockList, isIPv4, isIPv6, SocketAddress } from 'node:net'

/** A literal address in its one canonical form; an IPv4 address in IPv6 clothes (`::ffff:1.2.3.4`) is IPv4. */
export interface Address {
  address: string
  family: 4 | 6
}

export interface Cidr extends Address {
  prefix: number
}

/** Undefined where the text is no literal address. Brackets around IPv6 are allowed, zones are not. */
export function parseAddress(text: string): Address | undefined {
  const bare = text.startsWith('[') && text.endsWith(']') ? text.slice(1, -1) : text
  if (isIPv4(bare)) return bare === text ? { address: bare, family: 4 } : undefined
  // Asked of a name, Node's own test for IPv6 tries long; each connection asks it of one.
  if (!bare.includes(':') || !isIPv6(bare) || bare.includes('%')) return undefined
  const { address } = new SocketAddress({ address: bare, family: 'ipv6' })
  const mapped = /^::ffff:([0-9.]+)$/.exec(address)
  return mapped ? { address: mapped[1]!, family: 4 } : { address, family: 6 }
}

// From the IANA registries of special-purpose addresses (iana.org/assignments/iana-ipv4-special-registry and -ipv6-special-registry, RFC
// 6890 and successors) and of multicast; a row that the registry calls globally reachable is left out where it is a service of the
// Internet's (AS112).
const refusedIpv4 = [
  '0.0.0.0/8', // "This network"
  '10.0.0.0/8', // Private
  '100.64.0.0/10', // Carrier-grade NAT; a cloud's metadata lies here too (100.100.100.200)
  '127.0.0.0/8', // Loopback
  '168.63.129.16/32', // Azure's wire server: a public number that leads to the host
  '169.254.0.0/16', // Link-local, with the metadata of most clouds
  '172.16.0.0/12', // Private
  '192.0.0.0/24', // Protocol assignments
  '192.0.2.0/24', // TEST-NET-1
  '192.88.99.0/24', // 6to4 relays, deprecated
  '192.168.0.0/16', // Private
  '198.18.0.0/15', // Benchmarks; what the guest hands out for names lies here
  '198.51.100.0/24', // TEST-NET-2
  '203.0.113.0/24', // TEST-NET-3
  '224.0.0.0/4', // Multicast
  '240.0.0.0/4', // Reserved, and broadcast
]
/** Only these of IPv6 are given out for the Internet. Private, link-local, multicast, mapped and NAT64 forms all lie outside. */
const globalIpv6 = ['2000::/3']
const refusedIpv6 = [
  '2001::/23', // Protocol assignments: Teredo, benchmarks, ORCHID
  '2001:db8::/32', // Documentation
  '2002::/16', // 6to4, which holds an IPv4 address
  '3fff::/20', // Documentation
]

export type AddressVerdict = 'public' | 'listed' | 'special' | 'own'

export interface AddressGuard {
  /** `public` and `listed` (by the operator) may be connected to; `special` and `own` (of this machine) may not. */
  judge(address: Address): AddressVerdict
}

export interface AddressGuardDeps {
  /** What the operator allows though it is not public. */
  allowCidrs: readonly Cidr[]
  /** The addresses of this machine's interfaces, asked for at each look; loopback need not be among them. */
  ownAddresses: () => readonly string[]
}

/**
 * A service of this machine that a firewall keeps from the outside is open to connections from here, so the machine's own addresses are
 * refused even where they are public; a CIDR of the operator's counts for them only when it names the one address.
 */
export function createAddressGuard({ allowCidrs, ownAddresses }: AddressGuardDeps): AddressGuard {
  const listed = blockListOf(allowCidrs)
  const listedAlone = blockListOf(allowCidrs.filter(({ prefix, family }) => prefix === (family === 4 ? 32 : 128)))
  const refused = blockListOf([...refusedIpv4, ...refusedIpv6].map(cidrOf))
  const global = blockListOf(globalIpv6.map(cidrOf))
  return {
    judge({ address, family }) {
      const kind = family === 4 ? 'ipv4' : 'ipv6'
      if (listedAlone.check(address, kind)) return 'listed'
      if (ownAddresses().includes(address)) return 'own'
      if (listed.check(address, kind)) return 'listed'
      if (refused.check(address, kind)) return 'special'
      return family === 4 || global.check(address, kind) ? 'public' : 'special'
    },
  }
}

function blockListOf(cidrs: readonly Cidr[]): BlockList {
  const list = new BlockList()
  for (const { address, prefix, family } of cidrs) list.addSubnet(address, prefix, family === 4 ? 'ipv4' : 'ipv6')
  return list
}

function cidrOf(text: string): Cidr {
  const [address, prefix] = text.split('/') as [string, string]
  return { address, prefix: Number(prefix), family: address.includes(':') ? 6 : 4 }
}
