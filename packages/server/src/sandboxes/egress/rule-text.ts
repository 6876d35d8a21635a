import { domainToASCII } from 'node:url'
import { parseAddress } from './addresses.ts'

export const ruleLimits = { hosts: 256, ruleChars: 300, nameChars: 253 } as const

/** Where a rule names no port. */
export const webPorts: readonly number[] = [80, 443]

/** One entry of a list of hosts. */
export interface Rule {
  /** A name in lower case and ASCII, or a literal address in canonical form; for a wildcard, what follows `*.`. */
  host: string
  wildcard: boolean
  ports: readonly number[] | 'any'
}

export type Parsed<T> = { ok: true; value: T } | { ok: false; reason: string }

/**
 * The one form of a host that programs write in many: names in lower case without a final dot, international ones in ASCII, literal
 * addresses canonical. Undefined where it is none. Numbers that resolvers take for addresses (`127.1`, `0x7f000001`) are none.
 */
export function hostOf(text: string): string | undefined {
  const literal = parseAddress(text)
  if (literal) return literal.address
  if (text.length > ruleLimits.ruleChars) return undefined
  // oxlint-disable-next-line no-control-regex
  const ascii = /^[\x00-\x7f]*$/.test(text) ? text.toLowerCase() : domainToASCII(text)
  const name = ascii.endsWith('.') ? ascii.slice(0, -1) : ascii
  if (name.length === 0 || name.length > ruleLimits.nameChars) return undefined
  const labels = name.split('.')
  if (!labels.every((label) => /^[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?$/.test(label))) return undefined
  return /^([0-9]+|0x[0-9a-f]*)$/.test(labels.at(-1)!) ? undefined : name
}

/** `example.com`, `*.example.com`, `example.com:22`, `example.com:*`, `203.0.113.7`, `[2001:db8::1]:443`. */
export function parseRule(text: string): Parsed<Rule> {
  const shown = text.slice(0, 80)
  const no = (reason: string): Parsed<Rule> => ({ ok: false, reason: `'${shown}' ${reason}` })
  if (text.length > ruleLimits.ruleChars) return no(`is longer than ${ruleLimits.ruleChars} characters`)
  if (text.includes('://')) return no('has a scheme: name only the host, such as example.com or example.com:8443')
  if (/^[0-9a-f.:[\]]+\/[0-9]+$/i.test(text)) return no('is a range of addresses: name each address, or a host')
  if (/[/?#@\s]/.test(text)) return no('has more than a host and a port')
  const split = splitPort(text)
  if (!split) return no('has a port that is neither 1 to 65535 nor *')
  const { ports } = split
  if (split.host === '*') return no('means every host: use "egress": "all" for that')
  const wildcard = split.host.startsWith('*.')
  const rest = wildcard ? split.host.slice(2) : split.host
  if (rest.includes('*')) return no('has * inside: a wildcard stands for whole first labels only, as in *.example.com')
  const host = hostOf(rest)
  if (host === undefined || (wildcard && parseAddress(host))) return no('is not a host name or address')
  return { ok: true, value: { host, wildcard, ports } }
}

function splitPort(text: string): { host: string; ports: Rule['ports'] } | undefined {
  if (parseAddress(text)) return { host: text, ports: webPorts }
  const at = text.lastIndexOf(':')
  if (at === -1 || text.endsWith(']')) return { host: text, ports: webPorts }
  const port = text.slice(at + 1)
  if (port === '*') return { host: text.slice(0, at), ports: 'any' }
  if (!/^[0-9]{1,5}$/.test(port) || Number(port) < 1 || Number(port) > 65_535) return undefined
  return { host: text.slice(0, at), ports: [Number(port)] }
}

export function formatRule({ host, wildcard, ports }: Rule): string {
  const name = `${wildcard ? '*.' : ''}${host.includes(':') ? `[${host}]` : host}`
  if (ports === webPorts) return name.startsWith('[') ? host : name
  return `${name}:${ports === 'any' ? '*' : ports[0]}`
}
