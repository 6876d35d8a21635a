import type { RightName } from '../kernel/http/needs.ts'
import type { Role } from './principal.ts'

/**
 * A right as keys and tokens name it: `verb:resource[:selector]`. `read:*` and `write:*` are every resource; the acts take a selector: `egress:*.example.com`,
 * `send:email:welcome`, `allocate:500`, `approve:egress`.
 */
export type Right = string & { readonly right: unique symbol }

interface Row {
  roles: readonly Role[]
  /** What may stand behind the name, and what it then means. @default nothing may */
  selector?: SelectorKind
  /** Only in the account of who runs the installation: it is about the machine, not about an account. */
  operator?: true
  /** Who may not have it handed on to them: `programs` are keys made by keys and tokens of agents, `agents` the latter alone. */
  not?: 'programs' | 'agents'
  says: string
}

type SelectorKind = 'host' | 'path' | 'amount'

const everyone = ['owner', 'admin', 'member', 'viewer'] as const
const members = ['owner', 'admin', 'member'] as const
const admins = ['owner', 'admin'] as const

/** Every right there is. One line each. */
// oxfmt-ignore
export const rightsTable = {
  'read:agents': { roles: everyone, says: 'list and look at agents' },
  'write:agents': { roles: members, says: 'make, change and end agents' },
  'read:sandboxes': { roles: everyone, says: 'list sandboxes, look at their state, figures, network and ports' },
  'write:sandboxes': { roles: members, says: 'make, change, start, stop and kill sandboxes; their network and public ports' },
  'read:exec': { roles: everyone, says: 'list execs and terminals, see their output, watch a terminal' },
  'write:exec': { roles: members, says: 'run programs, type into terminals, reach ports, make access tokens' },
  'read:files': { roles: members, says: 'read what files hold, of sandboxes and snapshots' },
  'write:files': { roles: members, says: 'write, move and remove files' },
  'read:workspaces': { roles: everyone, says: 'list workspaces, volumes and templates and their histories' },
  'write:workspaces': { roles: members, says: 'make, change and remove workspaces, volumes and templates' },
  'read:tasks': { roles: everyone, says: 'list tasks and read their transcripts' },
  'write:tasks': { roles: members, says: 'give tasks, speak to them, cancel them' },
  'read:memory': { roles: members, says: 'search memory' },
  'write:memory': { roles: members, says: 'add to memory and remove from it' },
  'read:skills': { roles: everyone, says: 'list skills' },
  'write:skills': { roles: members, says: 'add, share and remove skills' },
  'read:keys': { roles: members, not: 'agents', says: 'list API keys; of others’ keys only as owner or admin' },
  'write:keys': { roles: members, not: 'agents', says: 'make, rotate and revoke API keys, never wider than one’s own rights' },
  'read:members': { roles: everyone, says: 'list the people of the account' },
  'write:members': { roles: admins, not: 'agents', says: 'invite people, change their roles, remove them' },
  'read:account': { roles: everyone, says: 'look at the account' },
  'write:account': { roles: ['owner'], not: 'agents', says: 'change owners, delete the account' },
  'read:billing': { roles: everyone, says: 'usage, balances and bills' },
  'write:billing': { roles: admins, not: 'agents', says: 'give out tokens of the reserve by a key; means of payment, the account’s own keys of models among them' },
  'read:audit': { roles: admins, not: 'agents', says: 'read and export the audit log' },
  'read:operations': { roles: admins, operator: true, not: 'agents', says: 'figures of the server for Prometheus, its settings, and the doctor' },
  'write:operations': { roles: admins, operator: true, not: 'agents', says: 'settings of the whole installation' },
  'egress': { roles: members, selector: 'host', says: 'reach a host outside: let sandboxes and builds connect to it, fetch images from it' },
  'send': { roles: members, selector: 'path', says: 'send a message: channel, template' },
  'delegate': { roles: members, says: 'hand narrower rights on to an agent, for a part of a task' },
  'allocate': { roles: members, selector: 'amount', says: 'give an agent tokens, at most so many at once' },
  'request': { roles: members, says: 'ask a person for what one may not do oneself' },
  'approve': { roles: members, selector: 'path', not: 'programs', says: 'decide on what others ask for' },
} as const satisfies Record<RightName, Row>

export const rightNames = Object.keys(rightsTable) as RightName[]

/** One right taken apart. `name` is undefined for `read:*` and `write:*`. */
interface Parsed {
  name: RightName | undefined
  verb: 'read' | 'write' | undefined
  /** `*` or absent: any. */
  selector: string
}

const parsed = new Map<string, Parsed>()
/** Texts taken apart that are known again. */
const remembered = 4_096

const any = '*'
const selectorShapes: Record<SelectorKind, RegExp> = {
  host: /^(\*|(\*\.)?[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?)$/,
  path: /^(\*|[a-z0-9][a-z0-9_-]{0,63}(:(\*|[a-z0-9][a-z0-9_.-]{0,63}))?)$/,
  amount: /^(\*|0|[1-9][0-9]{0,9})$/,
}

export function isRight(text: string): text is Right {
  return read(text) !== undefined
}

/** For what is written in this program. */
export function right(text: string): Right {
  if (!isRight(text)) throw new RangeError(`${text} is no right`)
  return text
}

function read(text: string): Parsed | undefined {
  const known = parsed.get(text)
  if (known) return known
  const found = parse(text)
  if (!found) return undefined
  if (parsed.size >= remembered) parsed.clear()
  parsed.set(text, found)
  return found
}

function parse(text: string): Parsed | undefined {
  if (text === 'read:*' || text === 'write:*') {
    return { name: undefined, verb: text === 'read:*' ? 'read' : 'write', selector: any }
  }
  const name = nameOf(text)
  if (name === undefined) return undefined
  const verb = name.startsWith('read:') ? 'read' : name.startsWith('write:') ? 'write' : undefined
  if (name === text) return { name, verb, selector: any }
  const kind = rowOf(name).selector
  const selector = text.slice(name.length + 1)
  if (kind === undefined || text[name.length] !== ':' || !selectorShapes[kind].test(selector)) return undefined
  // `send:email:*` is `send:email`.
  return { name, verb, selector: kind === 'path' && selector.endsWith(':*') ? selector.slice(0, -2) : selector }
}

function nameOf(text: string): RightName | undefined {
  if (isName(text)) return text
  const act = text.slice(0, text.indexOf(':'))
  return isName(act) ? act : undefined
}

function isName(text: string): text is RightName {
  return Object.hasOwn(rightsTable, text)
}

function rowOf(name: RightName): Row {
  return rightsTable[name]
}

export function roleHas(role: Role, name: RightName): boolean {
  return rowOf(name).roles.includes(role)
}

export function isOperators(name: RightName): boolean {
  return rowOf(name).operator === true
}

/** Who may not have it handed on to them. `read:*` and `write:*` never mean these: each is bounded by its row when it is used. */
export function withheldFrom(one: Right | RightName): Row['not'] {
  const { name } = read(one)!
  return name && rowOf(name).not
}

/** All that somebody of that role has. */
export function rightsOfRole(role: Role): Right[] {
  return rightNames.filter((name) => roleHas(role, name)).map((name) => right(name))
}

/** The name of a right; undefined for `read:*` and `write:*`. */
export function rightName(one: Right): RightName | undefined {
  return read(one)!.name
}

/** Whether whoever has `own` may do `name`, on the host, channel or amount that `selector` says; without one: on any at all. */
export function allows(own: readonly Right[], name: RightName, selector?: string): boolean {
  const asked = read(selector === undefined ? name : `${name}:${selector}`)
  return asked !== undefined && own.some((one) => meets(read(one)!, asked, selector === undefined))
}

function meets(own: Parsed, asked: Parsed, anySelector: boolean): boolean {
  if (own.name === undefined) return own.verb === asked.verb
  if (own.name !== asked.name) return false
  return anySelector || includes(rowOf(own.name).selector, own.selector, asked.selector)
}

/** Whether `own` is at least `asked`. */
export function covers(own: Right, asked: Right): boolean {
  const [outer, inner] = [read(own)!, read(asked)!]
  if (outer.name === undefined) return outer.verb === inner.verb
  if (outer.name !== inner.name) return false
  return includes(rowOf(outer.name).selector, outer.selector, inner.selector)
}

function includes(kind: SelectorKind | undefined, outer: string, inner: string): boolean {
  if (outer === any || outer === inner) return true
  if (inner === any || kind === undefined) return false
  if (kind === 'amount') return Number(inner) <= Number(outer)
  if (kind === 'path') return inner.startsWith(`${outer}:`)
  return outer.startsWith('*.') && inner.endsWith(outer.slice(1))
}

/** What is in both: the narrower of each pair. Rights are nested or apart, so nothing else is. */
export function narrow(parent: readonly Right[], wanted: readonly Right[]): Right[] {
  const both = new Set<Right>()
  for (const one of wanted) {
    for (const own of parent) {
      if (covers(own, one)) both.add(one)
      else if (covers(one, own)) both.add(own)
    }
  }
  return [...both]
}
