import { parseAddress } from './addresses.ts'
import { type PresetName, presets } from './presets.ts'
import { parseRule, type Rule } from './rule-text.ts'

/** What a sandbox may connect to. Presets are stored by name. */
export type EgressPolicy = 'none' | 'all' | { hosts: string[]; presets: PresetName[] }

const mostRefusalChars = 300

export interface Target {
  host: string
  port: number
}

export type EgressDecision = { allowed: true } | { allowed: false; reason: 'host' | 'port' }

// ── deciding ─────────────────────────────────────────────────────────────────────────────────────────────────────────────────────

interface Ports {
  any: boolean
  some: Set<number>
}

interface Compiled {
  exact: Map<string, Ports>
  /** By what follows `*.`. */
  wild: Map<string, Ports>
}

type HostList = Exclude<EgressPolicy, string>

const compiledLists = new WeakMap<HostList, Compiled>()

function compile(list: HostList): Compiled {
  const known = compiledLists.get(list)
  if (known) return known
  const compiled: Compiled = { exact: new Map(), wild: new Map() }
  for (const { host, wildcard, ports } of rulesOf(list)) {
    const map = wildcard ? compiled.wild : compiled.exact
    const entry = map.get(host) ?? { any: false, some: new Set() }
    map.set(host, entry)
    if (ports === 'any') entry.any = true
    else for (const port of ports) entry.some.add(port)
  }
  compiledLists.set(list, compiled)
  return compiled
}

function rulesOf({ hosts, presets: names }: HostList): Rule[] {
  const texts = [...hosts, ...names.flatMap((name): readonly string[] => presets[name])]
  return texts.flatMap((text) => {
    const parsed = parseRule(text)
    return parsed.ok ? [parsed.value] : []
  })
}

/** Everything the policy says of a host, from the exact rule to the widest wildcard. */
function* portsOf({ exact, wild }: Compiled, host: string): Generator<Ports> {
  const own = exact.get(host)
  if (own) yield own
  if (wild.size === 0 || parseAddress(host)) return
  for (let dot = host.indexOf('.'); dot !== -1; dot = host.indexOf('.', dot + 1)) {
    const ports = wild.get(host.slice(dot + 1))
    if (ports) yield ports
  }
}

/** `host` as `hostOf` makes it. */
export function mayConnect(policy: EgressPolicy, { host, port }: Target): EgressDecision {
  if (policy === 'all') return { allowed: true }
  if (policy === 'none') return { allowed: false, reason: 'host' }
  let reason: 'host' | 'port' = 'host'
  for (const { any, some } of portsOf(compile(policy), host)) {
    if (any || some.has(port)) return { allowed: true }
    reason = 'port'
  }
  return { allowed: false, reason }
}

/** Whether `inner` allows nothing that `outer` does not: what rights that can only narrow ask. */
export function isWithin(inner: EgressPolicy, outer: EgressPolicy): boolean {
  if (inner === 'none' || outer === 'all') return true
  if (inner === 'all' || outer === 'none') return typeof inner === 'object' && rulesOf(inner).length === 0
  const compiled = compile(outer)
  return rulesOf(inner).every((rule) => covers(compiled, rule))
}

function covers(outer: Compiled, { host, wildcard, ports }: Rule): boolean {
  // What `*.a.b` allows is allowed by `*.a.b` and `*.b`, never by exact rules. A label that no rule can name stands for every one.
  const found = [...portsOf(wildcard ? { exact: new Map(), wild: outer.wild } : outer, wildcard ? `*.${host}` : host)]
  if (found.some(({ any }) => any)) return true
  return ports !== 'any' && ports.every((port) => found.some(({ some }) => some.has(port)))
}

/** The hosts of which `after` allows what `before` does not, `*.name` for all below a name, `*` for every one. */
export function beyond(after: EgressPolicy, before: EgressPolicy): string[] {
  if (after === 'none' || before === 'all') return []
  if (after === 'all') return ['*']
  const compiled = compile(before === 'none' ? { hosts: [], presets: [] } : before)
  const more = rulesOf(after).filter((rule) => !covers(compiled, rule))
  return [...new Set(more.map(({ host, wildcard }) => (wildcard ? `*.${host}` : host)))]
}

/** The policy with more allowed. */
export function widened(policy: EgressPolicy, more: HostList): EgressPolicy {
  if (policy === 'all') return 'all'
  const before = policy === 'none' ? { hosts: [], presets: [] } : policy
  return {
    hosts: [...new Set([...before.hosts, ...more.hosts])],
    presets: [...new Set([...before.presets, ...more.presets])],
  }
}

/** The policy without what `may` does not say yes to, by host, `*.name` for all below a name and `*` for every one; the same object where that is nothing. */
export function bounded(policy: EgressPolicy, may: (host: string) => boolean): EgressPolicy {
  if (policy === 'none') return policy
  if (policy === 'all') return may('*') ? policy : 'none'
  const isFine = (text: string): boolean => {
    const parsed = parseRule(text)
    return parsed.ok && may(parsed.value.wildcard ? `*.${parsed.value.host}` : parsed.value.host)
  }
  const kept = policy.presets.filter((name) => presets[name].every(isFine))
  const parts = policy.presets
    .filter((name) => !kept.includes(name))
    .flatMap((name): readonly string[] => presets[name])
  const hosts = [...new Set([...policy.hosts, ...parts])].filter(isFine)
  const isWhole = kept.length === policy.presets.length && hosts.length === policy.hosts.length
  return isWhole ? policy : { hosts, presets: kept }
}

// ── telling ──────────────────────────────────────────────────────────────────────────────────────────────────────────────────────

/** `host:port` for a sentence: printable ASCII, bounded. */
export function shownTarget({ host, port }: Target): string {
  const name = host.length > 100 ? `${host.slice(0, 97)}...` : host
  const safe = name.replaceAll(/[^\x21-\x7e]/g, '?')
  return `${safe.includes(':') ? `[${safe}]` : safe}:${port}`
}

/** `none`, `all`, or the beginning of the list. */
export function shownPolicy(policy: EgressPolicy): string {
  if (typeof policy === 'string') return policy
  const items = [...policy.presets, ...policy.hosts]
  let text = ''
  for (const [index, item] of items.entries()) {
    const next = text === '' ? item : `${text}, ${item}`
    if (next.length > 50) return `${text === '' ? item.slice(0, 40) : text}, +${items.length - index}`
    text = next
  }
  return text === '' ? 'an empty list' : text
}

/** One line that becomes an HTTP status phrase inside: it names the policy and how to change it. */
export function policyRefusal(
  target: Target,
  policy: EgressPolicy,
  sandboxId: string,
  reason: 'host' | 'port',
): string {
  const what = reason === 'port' ? ', which allows the host at other ports,' : ''
  return oneLine(
    `Egress to ${shownTarget(target)} is refused by the policy "${shownPolicy(policy)}" of ${sandboxId}${what}; ` +
      `allow it with 'delta egress allow', or ask with POST /v1/sandboxes/{id}/network/requests`,
  )
}

export function oneLine(text: string): string {
  return text.replaceAll(/[^\x20-\x7e]/g, '?').slice(0, mostRefusalChars)
}
