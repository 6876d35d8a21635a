import type { FileChange } from '../drivers/driver.ts'
import type { PackageChanges } from './schema.ts'

/** What a snapshot holds beyond its template: everything by name and version. */
export interface Inventory {
  /** All of dpkg's records; null: the template's own. */
  apt: Record<string, string> | null
  pip: Record<string, string>
  npm: Record<string, string>
  /** Programs under the agent's own paths, by path. */
  tools: string[]
}

export const emptyInventory: Inventory = { apt: null, pip: {}, npm: {}, tools: [] }

export const dpkgStatusPath = '/var/lib/dpkg/status'

/** Kept of each kind; a snapshot with more says the first of them. */
const mostEntries = 5_000

/** What to look at more closely, found while all changes against the template go by. */
export interface Findings {
  isAptChanged: boolean
  pip: Record<string, string>
  /** Files whose `version` must be read, by package name. */
  npmFiles: Map<string, string>
  tools: string[]
}

const toolFolders = [
  '/usr/local/bin/',
  '/usr/local/sbin/',
  '/opt/',
  '/workspace/bin/',
  '/root/bin/',
  '/root/.local/bin/',
  '/root/.cargo/bin/',
  '/root/go/bin/',
  '/home/user/bin/',
  '/home/user/.local/bin/',
  '/home/user/.cargo/bin/',
  '/home/user/go/bin/',
]

export function createFindings(): Findings {
  return { isAptChanged: false, pip: {}, npmFiles: new Map(), tools: [] }
}

/** Takes one change against the template into account. */
export function note(findings: Findings, { kind, type, path }: FileChange): void {
  if (kind === 'removed') {
    if (path === dpkgStatusPath) findings.isAptChanged = true
    return
  }
  if (path === dpkgStatusPath) findings.isAptChanged = true
  const pip = pipPackage(path)
  if (pip && Object.keys(findings.pip).length < mostEntries) findings.pip[pip.name] = pip.version
  const npm = npmPackage(path)
  if (npm !== undefined && findings.npmFiles.size < mostEntries) findings.npmFiles.set(npm, path)
  if (type !== 'directory' && isTool(path) && findings.tools.length < mostEntries) findings.tools.push(path)
}

/** `…/site-packages/requests-2.31.0.dist-info/METADATA` */
function pipPackage(path: string): { name: string; version: string } | undefined {
  const [, name, version] =
    /\/(?:site|dist)-packages\/([A-Za-z0-9._-]+?)-([0-9][^/-]*)\.dist-info\/METADATA$/.exec(path) ?? []
  return name !== undefined && version !== undefined
    ? { name: name.replaceAll('_', '-').toLowerCase(), version }
    : undefined
}

/** `…/node_modules/zod/package.json`, `…/node_modules/@scope/name/package.json`; what lies in a package is not one by itself. */
function npmPackage(path: string): string | undefined {
  const [, name] = /\/node_modules\/((?:@[^/@]+\/)?[^/@.][^/]*)\/package\.json$/.exec(path) ?? []
  return name
}

function isTool(path: string): boolean {
  const folder = toolFolders.find((each) => path.startsWith(each))
  if (folder === undefined) return false
  const rest = path.slice(folder.length)
  // Below /opt lie whole programs; what is called from outside is in their `bin`.
  return folder === '/opt/' ? /^(?:[^/]+\/)?bin\/[^/]+$/.test(rest) || !rest.includes('/') : !rest.includes('/')
}

/** dpkg's records: installed packages with their versions. */
export function parseDpkgStatus(text: string): Record<string, string> {
  const packages: Record<string, string> = {}
  for (const paragraph of text.split('\n\n')) {
    const field = (name: string) => new RegExp(`^${name}: (.*)$`, 'm').exec(paragraph)?.[1]
    const name = field('Package')
    const version = field('Version')
    if (name === undefined || version === undefined || !field('Status')?.endsWith(' installed')) continue
    packages[name] = version
  }
  return packages
}

export function parseNpmVersion(text: string): string | undefined {
  try {
    const { version } = JSON.parse(text) as { version?: unknown }
    return typeof version === 'string' ? version.slice(0, 128) : undefined
  } catch {
    return undefined
  }
}

/** What differs between two snapshots of the same template, whose own packages are `templateApt`. */
export function compare(from: Inventory, to: Inventory, templateApt: Readonly<Record<string, string>>): PackageChanges {
  const [before, after] = [new Set(from.tools), new Set(to.tools)]
  return {
    apt: differences(from.apt ?? templateApt, to.apt ?? templateApt),
    pip: differences(from.pip, to.pip),
    npm: differences(from.npm, to.npm),
    tools: [
      ...to.tools.filter((path) => !before.has(path)).map((path) => ({ path, kind: 'added' as const })),
      ...from.tools.filter((path) => !after.has(path)).map((path) => ({ path, kind: 'removed' as const })),
    ],
  }
}

function differences(from: Readonly<Record<string, string>>, to: Readonly<Record<string, string>>) {
  const names = [...new Set([...Object.keys(from), ...Object.keys(to)])].toSorted()
  return names
    .filter((name) => from[name] !== to[name])
    .map((name) => ({ name, from: from[name] ?? null, to: to[name] ?? null }))
}
