import { isId } from '../../kernel/ids.ts'

/** A port of a sandbox as a request names it. Says nothing about whether either exists. */
export interface PortAddress {
  sandboxId: string
  port: number
}

/** Where ports are found by host name. */
export interface PortsDomain {
  scheme: 'http' | 'https'
  /** Lower case. */
  name: string
  /** As it stands in a URL: `:8443`, or nothing where it is the scheme's own or the server's. */
  port: string
}

const domainShape = /^(?:(https?):\/\/)?([a-z0-9](?:[a-z0-9.-]*[a-z0-9])?)(:[0-9]{1,5})?\/?$/

/** Undefined where it is none. */
export function parseDomain(text: string): PortsDomain | undefined {
  const [, scheme, name, port] = domainShape.exec(text.toLowerCase()) ?? []
  if (name === undefined || name.length > 200 || name.includes('..')) return undefined
  return { scheme: scheme === 'https' ? 'https' : 'http', name, port: port ?? '' }
}

/** An id has an underscore, which no host name may have. */
export function portLabel({ sandboxId, port }: { sandboxId: string; port: number | string }): string {
  return `${port}-${sandboxId.replace('_', '-')}`
}

export type Named = { kind: 'port'; address: PortAddress } | { kind: 'unfit' } | undefined

/**
 * What a Host header names: a port, something that only looks like one (and is refused, never served by the API), or something else. The port
 * number in the header is not looked at: it is where the server listens, or a proxy before it.
 */
export function parseHost(header: string, domain: string): Named {
  const name = header.replace(/:[0-9]{0,5}$/, '').toLowerCase()
  if (!name.endsWith(`.${domain}`)) return undefined
  const label = name.slice(0, -domain.length - 1)
  if (!/^[0-9]+-/.test(label)) return undefined
  const [, digits, id] = /^([1-9][0-9]{0,4})-sbx-([a-z0-9]{1,40})$/.exec(label) ?? []
  const port = Number(digits)
  if (id === undefined || port > 65_535) return { kind: 'unfit' }
  return { kind: 'port', address: { sandboxId: `sbx_${id}`, port } }
}

export interface PathAddress extends PortAddress {
  /** What the program inside is asked for; empty where the slash after the port is missing. */
  target: string
  /** What stands before it. */
  prefix: string
}

const pathShape = /^(\/v1\/sandboxes\/([a-z0-9_]{1,64})\/ports\/([1-9][0-9]{0,4}))(\/[^]*|\?[^]*|)$/

export function parsePath(url: string): PathAddress | undefined {
  if (!url.startsWith('/v1/sandboxes/')) return undefined
  const [, prefix, sandboxId, digits, target] = pathShape.exec(url) ?? []
  const port = Number(digits)
  if (prefix === undefined || !isId('sbx', sandboxId!) || port > 65_535) return undefined
  return { sandboxId: sandboxId!, port, target: target!, prefix }
}
