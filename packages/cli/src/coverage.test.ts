import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Delta } from '@delta-agents/sdk'
import { afterAll, afterEach, beforeAll, expect, test, vi } from 'vitest'
import { type Answer, events, json, type Peer, sandboxInfo, startPeer } from '../../sdk/test/peer.ts'
import { testDatabases } from '../../server/src/kernel/db/testing.ts'
import { apiMigrations, startApi } from '../../server/src/workspaces/testing-api.ts'
import { run } from './testing.ts'

// Whatever the API can do with workspaces, snapshots, volumes and templates, the SDK and the command line can do too.

const snapshotId = `snp_${'a'.repeat(20)}`
const otherId = `snp_${'b'.repeat(20)}`
const folder = mkdtempSync(join(tmpdir(), 'delta-coverage-'))
const archive = join(folder, 'image.tar')
const context = join(folder, 'context')

interface Way {
  sdk(delta: Delta): Promise<unknown>
  cli: string[]
}

const workspaceOf = (delta: Delta) => delta.workspaces.get('w')
const snapshotOf = (delta: Delta) => delta.workspaces.snapshot(snapshotId)

const ways: Record<string, Way> = {
  createWorkspace: { sdk: (delta) => delta.workspaces.create({ name: 'w' }), cli: ['workspace', 'create', 'w'] },
  listWorkspaces: { sdk: (delta) => delta.workspaces.list().all(), cli: ['workspace', 'list'] },
  getWorkspace: { sdk: workspaceOf, cli: ['workspace', 'get', 'w'] },
  patchWorkspace: {
    sdk: async (delta) => (await workspaceOf(delta)).update({ diskMb: 64 }),
    cli: ['workspace', 'set', 'w', '--disk', '64'],
  },
  removeWorkspace: { sdk: async (delta) => (await workspaceOf(delta)).remove(), cli: ['workspace', 'remove', 'w'] },
  createSnapshot: { sdk: async (delta) => (await workspaceOf(delta)).snapshot(), cli: ['workspace', 'snapshot', 'w'] },
  listSnapshots: { sdk: async (delta) => (await workspaceOf(delta)).snapshots().all(), cli: ['workspace', 'log', 'w'] },
  rollbackWorkspace: {
    sdk: async (delta) => (await workspaceOf(delta)).rollback(snapshotId),
    cli: ['workspace', 'rollback', 'w', snapshotId],
  },
  forkWorkspace: { sdk: async (delta) => (await workspaceOf(delta)).fork(), cli: ['workspace', 'fork', 'w'] },
  importWorkspace: {
    sdk: (delta) => delta.workspaces.import('tar', { name: 'w' }),
    cli: ['workspace', 'import', archive, 'w'],
  },
  restoreWorkspaces: { sdk: (delta) => delta.workspaces.restore(), cli: ['workspace', 'restore'] },
  getSnapshot: { sdk: snapshotOf, cli: ['workspace', 'show', snapshotId] },
  patchSnapshot: {
    sdk: async (delta) => (await snapshotOf(delta)).update({ name: 'n' }),
    cli: ['workspace', 'name', snapshotId, 'n'],
  },
  removeSnapshot: {
    sdk: async (delta) => (await snapshotOf(delta)).remove(),
    cli: ['workspace', 'forget', snapshotId],
  },
  forkSnapshot: { sdk: async (delta) => (await snapshotOf(delta)).fork(), cli: ['workspace', 'fork', snapshotId] },
  listChanges: {
    sdk: async (delta) => (await snapshotOf(delta)).changes().all(),
    cli: ['workspace', 'changes', snapshotId],
  },
  diffSnapshots: {
    sdk: async (delta) => (await snapshotOf(delta)).diff(otherId),
    cli: ['workspace', 'diff', snapshotId, otherId],
  },
  readSnapshotFile: {
    sdk: async (delta) => (await snapshotOf(delta)).read('/a'),
    cli: ['workspace', 'cat', snapshotId, '/a'],
  },
  exportSnapshot: {
    sdk: async (delta) => (await snapshotOf(delta)).image(),
    cli: ['workspace', 'export', snapshotId, '-'],
  },
  createVolume: { sdk: (delta) => delta.volumes.create({ name: 'v' }), cli: ['volume', 'create', 'v'] },
  listVolumes: { sdk: (delta) => delta.volumes.list(), cli: ['volume', 'list'] },
  getVolume: { sdk: (delta) => delta.volumes.get('v'), cli: ['volume', 'get', 'v'] },
  removeVolume: { sdk: (delta) => delta.volumes.remove('v'), cli: ['volume', 'remove', 'v'] },
  listTemplates: { sdk: (delta) => delta.templates.list(), cli: ['template', 'list'] },
  createTemplate: {
    sdk: (delta) => delta.templates.create({ name: 't', from: { image: 'python:3.12' } }),
    cli: ['template', 'create', 't', '--image', 'python:3.12', '--detach'],
  },
  importTemplate: {
    sdk: (delta) => delta.templates.import('tar', { name: 't' }),
    cli: ['template', 'create', 't', '--archive', archive, '--detach'],
  },
  buildTemplateFiles: {
    sdk: (delta) => delta.templates.dockerfile({ name: 't', context }),
    cli: ['template', 'create', 't', '--dockerfile', context, '--detach'],
  },
  buildTemplate: { sdk: (delta) => delta.templates.build('t'), cli: ['template', 'build', 't'] },
  getTemplate: { sdk: (delta) => delta.templates.get('t'), cli: ['template', 'get', 't'] },
  listTemplateVersions: { sdk: (delta) => delta.templates.versions('t'), cli: ['template', 'list', 't'] },
  deleteTemplate: { sdk: (delta) => delta.templates.remove('t'), cli: ['template', 'remove', 't'] },
  cancelTemplate: { sdk: (delta) => delta.templates.cancel('t'), cli: ['template', 'cancel', 't'] },
  setTemplateTag: { sdk: (delta) => delta.templates.tag('t', 'stable', 1), cli: ['template', 'tag', 't', 'stable'] },
  deleteTemplateTag: {
    sdk: (delta) => delta.templates.untag('t', 'stable'),
    cli: ['template', 'tag', 't', 'stable', '--remove'],
  },
  streamTemplateLog: { sdk: (delta) => delta.templates.ready('t'), cli: ['template', 'log', 't'] },
}

const template = {
  name: 't',
  state: 'ready',
  detail: '',
  id: 'tpl_a',
  version: 1,
  tags: [],
  source: { kind: 'machine' },
  digest: null,
  snapshotId: null,
  config: null,
  createdAt: null,
  endedAt: null,
}
const packages = { apt: [], pip: [], npm: [], tools: [] }

/** One answer with every field that a workspace, a snapshot, a volume, a page and a diff have. */
const anything = {
  ...template,
  ...sandboxInfo,
  workspaceId: 'wsp_a',
  parentId: null,
  comment: '',
  reason: 'manual',
  frozenMicros: 0,
  isLocal: true,
  heldBy: null,
  headSnapshotId: null,
  retention: { keepLast: 20 },
  autoSnapshot: true,
  changes: null,
  save: { state: 'saved', savedBytes: 0, error: null, layer: null },
  sandboxIds: [],
  data: [],
  skipped: [],
  nextCursor: null,
  added: 0,
  changed: 0,
  removed: 0,
  bytes: 0,
  packages,
}

const answer: Answer = (request, response) => {
  if (request.target.includes('/log')) return events([{ event: 'end', data: template }])(request, response)
  if (request.method === 'DELETE') return void response.writeHead(204).end()
  return json(200, anything)(request, response)
}

let peer: Peer

beforeAll(() => {
  mkdirSync(context)
  writeFileSync(join(context, 'Dockerfile'), 'FROM host\n')
  writeFileSync(archive, 'tar')
})
afterEach(async () => {
  vi.unstubAllEnvs()
  await peer?.close()
})
afterAll(() => rmSync(folder, { recursive: true }))

interface Operation {
  operationId: string
  method: string
  pattern: RegExp
}

testDatabases('the description of the API', (open) => {
  async function operations(): Promise<Operation[]> {
    const { api } = await startApi(await open(apiMigrations))
    const { paths = {} } = api.getOpenAPI31Document({ openapi: '3.1.0', info: { title: 'test', version: '0' } })
    const ours = Object.entries(paths).filter(([path]) => path.startsWith('/v1/'))
    return ours.flatMap(([path, methods]) =>
      Object.entries(methods as Record<string, { operationId: string }>).map(([method, { operationId }]) => ({
        operationId,
        method: method.toUpperCase(),
        pattern: new RegExp(`^${path.replaceAll(/\{.+?\}/g, '[^/]+')}$`),
      })),
    )
  }

  test('names nothing of workspaces, volumes and templates that the SDK and the command line cannot do', async () => {
    const all = await operations()
    expect(all.map(({ operationId }) => operationId).toSorted()).toEqual(Object.keys(ways).toSorted())
    peer = await startPeer(answer)
    vi.stubEnv('DELTA_URL', peer.url)
    vi.stubEnv('DELTA_API_KEY', 'test-key')
    for (const { operationId, method, pattern } of all) {
      const asked = () =>
        peer.requests.splice(0).some((seen) => seen.method === method && pattern.test(seen.target.replace(/\?.*/, '')))
      const way = ways[operationId]!
      await way.sdk(peer.delta)
      expect(asked(), `${operationId} by the SDK`).toBe(true)
      const ran = await run(way.cli)
      expect(ran.exitCode, `delta ${way.cli.join(' ')}: ${ran.stderr}`).toBe(0)
      expect(asked(), `${operationId} by delta ${way.cli.join(' ')}`).toBe(true)
      // Bytes are bytes; everything else is said as JSON too.
      if (way.cli.includes('-')) continue
      const asJson = await run([...way.cli, '--json'])
      expect(asJson.exitCode, operationId).toBe(0)
      expect(() => JSON.parse(asJson.stdout) as unknown, `delta ${way.cli.join(' ')} --json`).not.toThrow()
    }
  })
})
