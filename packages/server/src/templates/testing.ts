import { createHash } from 'node:crypto'
import { mkdtempSync, rmSync } from 'node:fs'
import { connect } from 'node:net'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { FileChange, TemplateStatus } from '../drivers/driver.ts'
import { systemClock } from '../kernel/clock.ts'
import type { Database } from '../kernel/db/database.ts'
import { DeltaError } from '../kernel/errors.ts'
import { testHashBody } from '../kernel/http/testing-body-hash.ts'
import { silentLogger } from '../kernel/log.ts'
import type { Logger } from '../kernel/log.ts'
import type { BuildBox, OpenBox } from './box.ts'
import type { Found } from './context/context.ts'
import { expandLayer } from '../storage/expand.ts'
import type { BuildDisks, DiskLayer } from './disks.ts'
import { createRegistry } from './registry/client.ts'
import type { ConnectTo } from './registry/http.ts'
import { createTemplates } from './service.ts'

/** Disks as maps of paths to contents, and boxes that know three commands: `write path text`, `fail` and `sleep`. */
export interface Bench {
  disks: Map<string, { name: string; files: Map<string, string> }>
  snapshots: Map<string, Map<string, string>>
  pins: Map<string, Set<string>>
  openBoxes: Set<string>
  /** Layers that were applied, as text. */
  layers: string[]
}

export interface StartOptions {
  database: Database
  machine?: Map<string, TemplateStatus>
  buildTemplate?: (name: string) => Promise<void>
  registryHost?: string
  log?: Logger
  registryHosts?: readonly string[]
  bench?: Bench
}

export const platform = `linux/${process.arch === 'x64' ? 'amd64' : process.arch}`

export function newBench(): Bench {
  return { disks: new Map(), snapshots: new Map(), pins: new Map(), openBoxes: new Set(), layers: [] }
}

export function startTemplates({
  database,
  machine,
  buildTemplate,
  registryHost,
  registryHosts = registryHost === undefined ? [] : [registryHost],
  bench = newBench(),
  log = silentLogger,
}: StartOptions) {
  const folder = mkdtempSync(join(tmpdir(), 'delta-templates-'))
  const known = machine ?? new Map([['host', { name: 'host', state: 'ready' as const, detail: 'python3' }]])
  const driver = {
    templates: () => Promise.resolve([...known.values()]),
    buildTemplate: buildTemplate ?? (() => Promise.reject(new Error('not expected'))),
    room: () => ({ state: 'fine' as const }),
    changes: ({ snapshotId }: { snapshotId: string }) => changesOf(bench, snapshotId),
    readFile: ({ snapshotId, path }: { snapshotId: string; path: string }) => contentOf(bench, snapshotId, path),
  }
  const ended: string[] = []
  const built: string[] = []
  const templates = createTemplates({
    database,
    driver,
    disks: fakeDisks(bench),
    openBox: fakeBoxes(bench),
    endBoxesOf: (templateId) => Promise.resolve(void ended.push(templateId)),
    onBuilt: (name) => void built.push(name),
    registry: createRegistry({
      connect: refuse,
      connectListed: connectAll,
      registries: registryHosts.map((host) => ({ host, scheme: 'http' })),
      clock: systemClock,
    }),
    hashBody: testHashBody,
    clock: systemClock,
    log,
    settings: { folder, platform },
  })
  return { templates, bench, ended, built, folder, remove: () => rmSync(folder, { recursive: true, force: true }) }
}

const refuse: ConnectTo = () =>
  Promise.reject(Object.assign(new Error('it leads to an address that is not public'), { outcome: 'refused' }))
const connectAll: ConnectTo = ({ host, port }, signal) =>
  new Promise((resolve, reject) => {
    const socket = connect({ host, port, signal })
    socket.once('connect', () => resolve(socket)).once('error', reject)
  })

async function* changesOf(bench: Bench, snapshotId: string): AsyncGenerator<FileChange> {
  for (const path of bench.snapshots.get(snapshotId)!.keys()) yield { kind: 'added', type: 'file', size: 0, path }
}

async function* contentOf(bench: Bench, snapshotId: string, path: string): AsyncGenerator<Uint8Array> {
  yield Buffer.from(bench.snapshots.get(snapshotId)!.get(path) ?? '')
}

let count = 0

function fakeDisks({ disks, snapshots, pins, layers }: Bench): BuildDisks {
  async function apply(id: string, tar: AsyncIterable<Uint8Array>) {
    const parts: Uint8Array[] = []
    for await (const chunk of tar) parts.push(chunk)
    const text = Buffer.concat(parts).toString('latin1')
    layers.push(text)
    disks.get(id)!.files.set(`/layer-${layers.length}`, text)
    return { entries: 1, bytes: text.length }
  }

  return {
    open(name, base) {
      const id = `wsp_${(count += 1)}`
      const from =
        'snapshotId' in base ? snapshots.get(base.snapshotId)! : new Map([['/base', Object.values(base)[0]!]])
      disks.set(id, { name, files: new Map(from) })
      return Promise.resolve(id)
    },
    async openImage(name, image) {
      const id = `wsp_${(count += 1)}`
      disks.set(id, { name, files: new Map([['/base', 'scratch']]) })
      for (const [at, layer] of image.layers.entries()) {
        image.onLayer(at, { isHere: false })
        await apply(id, checked(layer, image.bounds.maxBytes))
      }
      return { workspaceId: id, snapshotId: await this.snapshot(id, image.comment, { accountId: '' }) }
    },
    apply,
    snapshot(id) {
      const snapshotId = `snp_${(count += 1)}`
      snapshots.set(snapshotId, new Map(disks.get(id)!.files))
      return Promise.resolve(snapshotId)
    },
    isSnapshot: (id) => Promise.resolve(snapshots.has(id)),
    pin(id, owner) {
      pins.set(id, (pins.get(id) ?? new Set()).add(owner))
      return Promise.resolve(snapshots.has(id))
    },
    unpin(id, owner) {
      pins.get(id)?.delete(owner)
      return Promise.resolve()
    },
    remove(name) {
      const [id] = [...disks].find(([, disk]) => disk.name === name) ?? []
      if (id === undefined)
        return Promise.reject(new DeltaError('workspace_not_found', `There is no workspace ${name}`))
      disks.delete(id)
      return Promise.resolve()
    },
  }
}

async function* checked(layer: DiskLayer, maxBytes: number): AsyncGenerator<Uint8Array> {
  const parts: Uint8Array[] = []
  for await (const chunk of layer.open(0)) parts.push(chunk)
  const bytes = Buffer.concat(parts)
  const found = `sha256:${createHash('sha256').update(bytes).digest('hex')}`
  if (found !== layer.digest) {
    throw new DeltaError('image_invalid', 'The image can not be used', {
      cause: `the layer ${layer.digest} came with the digest ${found}`,
    })
  }
  yield* expandLayer(once(bytes), { ...layer, maxBytes })
}

function fakeBoxes({ disks, openBoxes }: Bench): OpenBox {
  return (workspaceId, { signal }) => {
    const { files } = disks.get(workspaceId)!
    openBoxes.add(workspaceId)
    const box: BuildBox = {
      async run({ argv, env, user, cwd }, onOutput) {
        const [word, path = '', ...text] = argv.at(-1)!.split(' ')
        onOutput('stdout', `${user} in ${cwd}\n`)
        if (word === 'fail') return { exitCode: 3, signal: null, timedOut: false, oomKilled: false }
        if (word === 'sleep')
          await new Promise((_, reject) => signal.addEventListener('abort', () => reject(signal.reason as Error)))
        files.set(
          path,
          text.join(' ').replaceAll(/\$(\w+)/g, (_, name: string) => env[name] ?? ''),
        )
        return { exitCode: 0, signal: null, timedOut: false, oomKilled: false }
      },
      async place(all) {
        for await (const { item, path, mode, owner } of all) {
          let content = ''
          for await (const chunk of item.open()) content += Buffer.from(chunk).toString()
          files.set(path, item.type === 'file' ? `${content} ${mode.toString(8)} ${owner}` : item.type)
        }
      },
      isFolder: (path) => Promise.resolve(files.get(path) === 'directory'),
      find(pattern) {
        const content = files.get(pattern)
        if (content === undefined) return Promise.resolve([])
        const name = pattern.split('/').at(-1)!
        const bytes = Buffer.from(content)
        const item = {
          type: 'file' as const,
          path: name,
          mode: 0o644,
          modifiedSeconds: 0,
          size: bytes.length,
          target: '',
        }
        const found: Found = { kind: 'file', name, items: [{ ...item, open: () => once(bytes) }] }
        return Promise.resolve([found])
      },
      end: () => Promise.resolve(void openBoxes.delete(workspaceId)),
    }
    return Promise.resolve(box)
  }
}

async function* once(bytes: Uint8Array): AsyncGenerator<Uint8Array> {
  yield bytes
}
