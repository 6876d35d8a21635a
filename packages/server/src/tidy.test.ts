import { readdirSync, readFileSync } from 'node:fs'
import { dirname, join, relative, resolve } from 'node:path'
import { describe, expect, test } from 'vitest'

// The house plan of ARCHITECTURE.md as a test. A line is `file: what it does`, so that a failure says what to mend.

const root = import.meta.dirname

interface Source {
  file: string
  folder: string
  /** The file's word: `routes` of `sandboxes/routes.ts` and of `sandboxes/execs/routes.ts`. */
  word: string
  isTest: boolean
  text: string
  imports: string[]
}

/** Low to high: a folder imports only from folders before it, and from itself. What shares a place does not know of each other. */
const order = [
  ['kernel'],
  ['guest', 'storage'],
  ['drivers'],
  ['access'],
  ['approvals'],
  ['ledger'],
  ['workspaces'],
  ['sandboxes'],
  ['templates'],
  ['terminal'],
  ['operations'],
  ['agents'],
  ['models'],
  ['memory'],
  ['messages'],
  ['tasks'],
  ['billing'],
  ['compat'],
]
const rankOf = (folder: string) => order.findIndex((rank) => rank.includes(folder))

/** A feature's words may import those to their right, and any other word of the feature that is not in this list. */
const words = ['routes', 'service', 'store', 'rules', 'schema']

function sources(): Source[] {
  return readdirSync(root, { recursive: true, encoding: 'utf8' })
    .filter((file) => file.endsWith('.ts'))
    .map((file) => {
      const text = readFileSync(join(root, file), 'utf8')
      const word = file.split('/').at(-1)!.replace(/\.ts$/, '')
      const isTest = /\.(test|program)\.ts$/.test(file) || /(^|\/)(testing|conformance)/.test(file)
      return {
        file,
        folder: file.includes('/') ? file.split('/')[0]! : '',
        word,
        isTest,
        text,
        imports: importsOf(file, text),
      }
    })
}

function importsOf(file: string, text: string): string[] {
  const matches = text.matchAll(
    /(?:^|\n)\s*(?:import|export)\b[^'"]*?from\s+'([^']+)'|\bimport\(\s*'([^']+)'|(?:^|\n)import\s+'([^']+)'/g,
  )
  return [...matches]
    .map(([, from, dynamic, bare]) => (from ?? dynamic ?? bare)!)
    .filter((path) => path.startsWith('.'))
    .map((path) => relative(root, resolve(root, dirname(file), path)))
}

const all = sources()
const production = all.filter(({ isTest }) => !isTest)
const folderOf = (path: string) => (path.includes('/') ? path.split('/')[0]! : '')
const wordOf = (path: string) => path.split('/').at(-1)!.replace(/\.ts$/, '')

/** Every import of production code as [source, imported path]. */
const edges = production.flatMap((source) => source.imports.map((imported) => [source, imported] as const))

function offences(of: readonly (readonly [Source, string])[]): string[] {
  return of.map(([{ file }, imported]) => `${file} imports ${imported}`)
}

describe('imports point one way', () => {
  test('the reader of imports finds them', () => {
    expect(edges.length).toBeGreaterThan(100)
    expect(
      importsOf(
        'a/b.ts',
        `import { x } from './c.ts'\nexport type { Y } from '../d/e.ts'\nawait import('./f.ts')\nimport z from 'zod'`,
      ),
    ).toEqual(['a/c.ts', 'd/e.ts', 'a/f.ts'])
  })

  test('every folder has its place in the order', () => {
    const folders = new Set(all.map(({ folder }) => folder).filter((folder) => folder !== ''))
    expect([...folders].filter((folder) => rankOf(folder) === -1)).toEqual([])
  })

  test('no folder imports one above it', () => {
    const upward = edges.filter(([{ folder }, imported]) => {
      if (folder === '' || folderOf(imported) === folder) return false
      return folderOf(imported) === '' || rankOf(folderOf(imported)) >= rankOf(folder)
    })
    expect(offences(upward)).toEqual([])
  })

  test('routes → service → store, rules, schema, within a feature', () => {
    const backward = edges.filter(([{ folder, word }, imported]) => {
      if (folder !== folderOf(imported) || folder === 'kernel') return false
      const [from, to] = [words.indexOf(word), words.indexOf(wordOf(imported))]
      return from !== -1 && to !== -1 && to < from
    })
    expect(offences(backward)).toEqual([])
  })

  test('rules and schemas do no I/O', () => {
    const impure = production.filter(
      ({ word, text }) =>
        ['rules', 'policy', 'states', 'schema'].includes(word) && /from 'node:(fs|net|http|child_process)/.test(text),
    )
    expect(impure.map(({ file }) => file)).toEqual([])
  })

  test('nobody but its own feature imports a store', () => {
    const strangers = edges.filter(
      ([{ folder }, imported]) => wordOf(imported) === 'store' && folderOf(imported) !== folder,
    )
    expect(offences(strangers)).toEqual([])
  })

  test('another feature is entered by its service, schema or events', () => {
    const doors = ['service', 'schema', 'door', 'events']
    const windows = edges.filter(([{ folder }, imported]) => {
      const to = folderOf(imported)
      if (folder === '' || to === folder || ['kernel', 'guest', 'storage', 'drivers', ''].includes(to)) return false
      return !doors.includes(wordOf(imported))
    })
    expect(offences(windows)).toEqual([])
  })

  test('only main.ts names concrete drivers', () => {
    const named = edges.filter(([{ file }, imported]) => {
      const concrete = /^drivers\/([^/]+)\//.exec(imported)
      return concrete && file !== 'main.ts' && !file.startsWith(`drivers/${concrete[1]}/`)
    })
    expect(offences(named)).toEqual([])
  })

  test('the client of S3 is loaded only where a bucket is configured', () => {
    const clients = production.filter(({ text }) => /from '@aws-sdk\//.test(text)).map(({ file }) => file)
    expect(clients).toEqual(['storage/s3/calls.ts'])
    const inward = edges.filter(
      ([{ file }, imported]) => !file.startsWith('storage/s3/') && imported.startsWith('storage/s3/'),
    )
    expect(offences(inward)).toEqual(['storage/open.ts imports storage/s3/s3.ts'])
    const open = production.find(({ file }) => file === 'storage/open.ts')!
    expect(open.text).toContain("await import('./s3/s3.ts')")
    expect(open.text).not.toMatch(/from '\.\/s3/)
  })

  test('the package of a provider of models is loaded when it is first asked', () => {
    expect(found(/^import (?!type\b)[^'"]*from '@ai-sdk\//m)).toEqual([])
    const asking = production.filter(({ text }) => /await import\('@ai-sdk\//.test(text)).map(({ file }) => file)
    expect(asking).toHaveLength(3)
  })

  test('only main.ts imports app.ts, and nobody imports main.ts', () => {
    const above = edges.filter(
      ([{ file }, imported]) => imported === 'main.ts' || (imported === 'app.ts' && file !== 'main.ts'),
    )
    expect(offences(above)).toEqual([])
  })

  test('production code does not import what is for tests', () => {
    const leaning = edges.filter(([, imported]) => all.some(({ file, isTest }) => isTest && file === imported))
    expect(offences(leaning)).toEqual([])
  })
})

describe('the house is tidy', () => {
  test('no default export', () => {
    expect(found(/^export default\b/m, { among: all })).toEqual([])
  })

  test('the environment is read in config.ts alone', () => {
    // The runner's is that of a sandbox.
    expect(found(/\bprocess\.env\b/, { allowed: ['kernel/config.ts', 'tasks/engine/runner.ts'] })).toEqual([])
  })

  test('the time comes from the clock', () => {
    expect(found(/\bDate\.now\(|\bnew Date\(\)/, { allowed: ['kernel/clock.ts'] })).toEqual([])
  })

  test('ids and other randomness do not come from Math.random', () => {
    expect(found(/\bMath\.random\(/)).toEqual([])
  })

  test('nothing is left to do', () => {
    const marks = new RegExp(['TO', 'DO\\b|FIX', 'ME\\b|XX', 'X\\b'].join(''))
    expect(all.filter(({ text }) => marks.test(text)).map(({ file }) => file)).toEqual([])
  })

  test('no file that could hold anything', () => {
    const vague = /(^|\/)(utils?|helpers?|common|misc|shared|lib)(\.ts$|\/)/
    expect(all.map(({ file }) => file).filter((file) => vague.test(file))).toEqual([])
  })

  test('files are named in kebab-case', () => {
    const named = /^([a-z0-9]+(-[a-z0-9]+)*\/)*[a-z0-9]+(-[a-z0-9]+)*(\.(test|program))?\.ts$/
    expect(all.map(({ file }) => file).filter((file) => !named.test(file))).toEqual([])
  })
})

/** `allowed` are files in which the pattern is right. */
function found(pattern: RegExp, { among = production, allowed = [] as string[] } = {}): string[] {
  return among
    .filter(({ file, text }) => !allowed.includes(file) && pattern.test(withoutComments(text)))
    .map(({ file }) => file)
}

function withoutComments(text: string): string {
  return text.replaceAll(/\/\*[^]*?\*\//g, '').replaceAll(/^\s*\/\/.*$/gm, '')
}
