import { execFileSync } from 'node:child_process'
import { existsSync, readdirSync, readFileSync, realpathSync, statSync } from 'node:fs'
import { basename, dirname, join } from 'node:path'
import type { CpioEntry } from './cpio.ts'

/** A root made of programs of this machine with the libraries they need, under the paths they have here. */
export function createRoot() {
  const entries = new Map<string, CpioEntry>()

  const folder = (path: string): void => {
    if (path === '/' || entries.has(path)) return
    folder(dirname(path))
    entries.set(path, { path, kind: 'folder' })
  }
  const file = (path: string, bytes: Buffer | string, mode = 0o755): void => {
    folder(dirname(path))
    entries.set(path, { path, kind: 'file', bytes: Buffer.from(bytes as string), mode })
  }
  const link = (path: string, target: string): void => {
    folder(dirname(path))
    entries.set(path, { path, kind: 'link', target })
  }
  // Debian's /bin is a link to /usr/bin; files are put where they really are.
  for (const name of ['bin', 'sbin', 'lib', 'lib64']) link(`/${name}`, `usr/${name}`)
  for (const name of ['bin', 'sbin', 'lib', 'lib64']) folder(`/usr/${name}`)

  const copy = (path: string): void => {
    const real = join(realpathSync(dirname(path)), basename(path))
    if (!entries.has(real)) file(real, readFileSync(realpathSync(path)), statSync(path).mode & 0o755)
  }
  const program = (path: string): void => {
    copy(path)
    for (const library of librariesOf(path)) copy(library)
  }
  return { folder, file, link, program, entries: () => Array.from(entries.values()) }
}

function librariesOf(program: string): string[] {
  try {
    const said = execFileSync('ldd', [program], { encoding: 'utf8', stdio: ['ignore', 'pipe', 'ignore'] })
    return Array.from(said.matchAll(/(?:=> |^\s+)(\/\S+) \(0x/gm), ([, path]) => path!)
  } catch {
    // Static, or a script.
    return []
  }
}

/** The module and what it needs, in the order to load them. What is not there is built into the kernel. */
export function modulesFor(names: string[], modules: string): string[] {
  const byName = new Map<string, string>()
  for (const path of readdirSync(modules, { recursive: true, encoding: 'utf8' })) {
    if (path.endsWith('.ko')) byName.set(basename(path, '.ko').replaceAll('-', '_'), join(modules, path))
  }
  const ordered = new Set<string>()
  const need = (name: string): void => {
    const path = byName.get(name.replaceAll('-', '_'))
    if (path === undefined || ordered.has(path)) return
    const [, depends = ''] = /\0depends=([^\0]*)\0/.exec(readFileSync(path, 'latin1')) ?? []
    for (const each of depends.split(',').filter(Boolean)) need(each)
    ordered.add(path)
  }
  for (const name of names) need(name)
  return Array.from(ordered)
}

export function onPath(name: string): string {
  for (const place of ['/usr/sbin', '/usr/bin', '/usr/local/bin']) {
    if (existsSync(join(place, name))) return join(place, name)
  }
  throw new Error(`${name} is not installed`)
}
