import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test, vi } from 'vitest'
import {
  type Answer,
  execInfo,
  execStart,
  events,
  failure,
  json,
  type Peer,
  sandboxInfo,
  startPeer,
} from '../../sdk/test/peer.ts'
import { run } from './testing.ts'

const workspace = {
  id: 'wsp_aaaaaaaaaaaaaaaaaaaa',
  name: 'research',
  template: 'host',
  headSnapshotId: null,
  heldBy: null,
  diskMb: 4_096,
  retention: { keepLast: 20 },
  autoSnapshot: true,
  metadata: { a: '1', b: '2' },
  isLocal: true,
  createdAt: '2030-01-01T00:00:00.000Z',
  changedAt: '2030-01-01T00:00:00.000Z',
}

const idOf = (letter: string) => `snp_${letter.repeat(20)}`

function snapshot(letter: string, parent: string | null, more: object = {}) {
  return {
    id: idOf(letter),
    workspaceId: workspace.id,
    parentId: parent === null ? null : idOf(parent),
    template: 'host',
    name: null,
    comment: '',
    reason: 'manual',
    bytes: null,
    flushMicros: 0,
    frozenMicros: 1_500,
    isLocal: true,
    changes: null,
    save: { state: 'saved', savedBytes: 0, error: null, layer: null },
    createdAt: '2030-01-01T00:00:00.000Z',
    ...more,
  }
}

const history = [snapshot('c', 'b'), snapshot('b', 'a', { name: 'tuned' }), snapshot('a', null, { name: 'good' })]
let peer: Peer
let folder: string

/** Answers by method and path; what is not there is not found. */
async function start(routes: Record<string, Answer>): Promise<Peer> {
  const known: Record<string, Answer> = {
    'GET /v1/workspaces/research': json(200, workspace),
    [`GET /v1/workspaces/${workspace.id}/snapshots`]: json(200, { data: history, nextCursor: null }),
    ...Object.fromEntries(history.map((one) => [`GET /v1/snapshots/${one.id}`, json(200, one)])),
    ...routes,
  }
  peer = await startPeer((request, response) => {
    const name = `${request.method} ${request.target.replace(/\?.*/, '')}`
    return (known[name] ?? failure(404, 'not_found'))(request, response)
  })
  vi.stubEnv('DELTA_URL', peer.url)
  vi.stubEnv('DELTA_API_KEY', 'test-key')
  return peer
}

const bodyOf = (method: string) => JSON.parse(peer.requests.findLast((one) => one.method === method)?.body ?? 'null')
const noContent: Answer = (_, response) => void response.writeHead(204).end()

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'delta-cli-'))
})
afterEach(async () => {
  vi.unstubAllEnvs()
  await peer?.close()
  await rm(folder, { recursive: true })
})

test('set changes what is named, and keeps the other labels', async () => {
  const path = `PATCH /v1/workspaces/${workspace.id}`
  await start({ [path]: json(200, { ...workspace, name: 'other', autoSnapshot: false }) })
  const flags = ['--name', 'other', '--keep-last', '5', '--no-auto-snapshot', '--disk', '64', '-m', 'c=3']
  const { exitCode, stdout } = await run(['workspace', 'set', 'research', ...flags, '--remove-metadata', 'a'])
  expect([exitCode, stdout]).toEqual([0, expect.stringMatching(/^name +other$/m)])
  expect(bodyOf('PATCH')).toEqual({
    name: 'other',
    retention: { keepLast: 5 },
    autoSnapshot: false,
    diskMb: 64,
    metadata: { b: '2', c: '3' },
  })
  await run(['ws', 'set', 'research', '--auto-snapshot'])
  expect(bodyOf('PATCH')).toEqual({ autoSnapshot: true })
  expect(JSON.parse((await run(['ws', 'set', 'research', '--disk', '64', '--json'])).stdout)).toMatchObject({
    name: 'other',
  })
})

test('set without anything to change is wrong usage, and sends nothing', async () => {
  await start({})
  expect(await run(['workspace', 'set', 'research'])).toMatchObject({
    exitCode: 2,
    stderr: expect.stringContaining('Say what to change'),
  })
  expect(peer.requests).toEqual([])
})

test.each([
  [['set', 'research', '--keep-last', 'many'], "'many' is not a number"],
  [['set', 'research', '-m', 'novalue'], 'NAME=value'],
  [['changes', idOf('a'), '-n', '0'], 'whole number above 0'],
  [['fork', 'research', '--count', '-1'], 'whole number above 0'],
  [['start', 'research', '--idle', 'soon'], 'is not a duration'],
  [['show', 'good'], 'WORKSPACE@NAME'],
  [['diff', idOf('a'), '@'], 'WORKSPACE@NAME'],
  [['export', idOf('a'), 'x.tar', '--layers', 'gzip'], 'Allowed choices are tar, zstd'],
  [['bisect', 'research', '--good', 'good', '--', 'true'], "required option '--bad"],
  [['bisect', 'research', '--good', 'good', '--bad', 'tuned'], "missing required argument 'command'"],
  [['get'], "missing required argument 'workspace'"],
  [['explode'], "unknown command 'explode'"],
  [['list', '--what'], "unknown option '--what'"],
])('workspace %j is wrong usage', async (args, words) => {
  await start({})
  const ran = await run(['workspace', ...args])
  expect(ran).toMatchObject({ exitCode: 2, stdout: '', stderr: expect.stringContaining(words) })
})

test('a snapshot is named by its id, by WORKSPACE@NAME, and with its workspace by its name or the beginning of its id', async () => {
  await start({
    [`POST /v1/workspaces/${workspace.id}/rollback`]: json(200, workspace),
    [`GET /v1/workspaces/${workspace.id}`]: json(200, workspace),
    [`GET /v1/snapshots/${idOf('a')}/diff/${idOf('b')}`]: json(200, {
      added: 1,
      changed: 0,
      removed: 0,
      bytes: 3,
      data: [{ kind: 'added', type: 'file', size: 3, path: '/x\u001b' }],
      nextCursor: null,
      packages: { apt: [], pip: [], npm: [], tools: [] },
    }),
  })
  for (const name of [idOf('a'), 'good', 'snp_aaa', 'research@good']) {
    expect((await run(['ws', 'rollback', 'research', name])).stdout).toBe(`research is as it was in ${idOf('a')}\n`)
    expect(bodyOf('POST')).toEqual({ snapshotId: idOf('a') })
  }
  expect((await run(['ws', 'diff', 'research@good', idOf('b')])).stdout).toBe(
    '+ /x\\x1b  3 B\n1 added, 0 changed, 0 removed, 3 B\n',
  )
  expect(await run(['ws', 'rollback', 'research', 'missing'])).toMatchObject({
    exitCode: 1,
    stderr: expect.stringMatching(/research has no snapshot missing\n.*fix:.*delta workspace log research/),
  })
  expect((await run(['ws', 'rollback', 'research', 'snp_'])).stderr).toContain('3 snapshots of research')
})

test('a template is made of a snapshot by its name', async () => {
  await start({ 'POST /v1/templates': json(202, { name: 'mine', version: 1 }) })
  const ran = await run(['template', 'create', 'mine', '--snapshot', 'research@good', '--detach'])
  expect(ran).toMatchObject({ exitCode: 0, stdout: 'mine@1\n' })
  expect(bodyOf('POST')).toEqual({ name: 'mine', from: { snapshot: idOf('a') } })
})

test('show tells what is known of a snapshot, cat prints a file as it was, comment says what it is', async () => {
  const path = `/v1/snapshots/${idOf('a')}`
  const bytes: Answer = (_, response) => void response.writeHead(200).end('was')
  const first = [{ kind: 'removed', type: 'file', size: 0, path: '/gone' }]
  const packages = { apt: [], pip: [{ name: 'numpy', from: null, to: '2.1.0' }], npm: [], tools: [] }
  const changes = { added: 0, changed: 0, removed: 1, bytes: 0, first, packages }
  const failed = { state: 'failed', savedBytes: 0, error: 'storage_unavailable: no route', layer: null }
  await start({
    [`GET ${path}`]: json(200, snapshot('a', null, { name: 'good', changes, save: failed })),
    [`GET ${path}/files`]: bytes,
    [`PATCH ${path}`]: json(200, snapshot('a', null, { comment: 'of old' })),
  })
  const shown = (await run(['ws', 'show', idOf('a')])).stdout
  expect(shown).toMatch(/^name +good$/m)
  expect(shown).toMatch(/^saved +not yet: storage_unavailable: no route$/m)
  expect(shown).toMatch(/^frozen +1\.5 ms$/m)
  expect(shown).toMatch(/^packages +pip numpy 2\.1\.0$/m)
  expect(shown).toMatch(/^- \/gone$/m)
  expect((await run(['ws', 'cat', idOf('a'), '/x'])).stdout).toBe('was')
  expect(JSON.parse((await run(['ws', 'cat', idOf('a'), '/x', '--json'])).stdout)).toEqual({
    path: '/x',
    base64: Buffer.from('was').toString('base64'),
  })
  expect((await run(['ws', 'comment', idOf('a'), 'of old'])).exitCode).toBe(0)
  expect(bodyOf('PATCH')).toEqual({ comment: 'of old' })
})

test('an export replaces a file only when it is whole', async () => {
  const file = join(folder, 'image.tar')
  await writeFile(file, 'before')
  const path = `GET /v1/snapshots/${idOf('a')}/image`
  await start({ [path]: (_, response) => void response.writeHead(200).end('archive') })
  expect((await run(['ws', 'export', idOf('a'), file, '--layers', 'zstd'])).stdout).toBe(`${file} written\n`)
  expect(peer.requests.at(-1)?.target).toContain('layers=zstd')
  expect(await readFile(file, 'utf8')).toBe('archive')
  expect((await run(['ws', 'export', idOf('a'), '-'])).stdout).toBe('archive')
  await peer.close()

  const cut: Answer = (_, response) => {
    response.writeHead(200, { 'content-length': '100' })
    response.write('half', () => response.destroy())
  }
  await start({ [path]: cut })
  expect((await run(['ws', 'export', idOf('a'), file])).exitCode).not.toBe(0)
  expect(await readFile(file, 'utf8')).toBe('archive')
  expect(await readdir(folder)).toEqual(['image.tar'])
})

test('save waits, says once why it is not saved yet, and gives up where it is told to', async () => {
  const save = { state: 'failed', savedBytes: 0, error: 'storage_unavailable: no route', layer: null }
  const saved = { state: 'saved', savedBytes: 0, error: null, layer: { size: 2_048 } }
  let asked = 0
  const routes = (last: object) => ({
    [`GET /v1/workspaces/${workspace.id}/snapshots`]: json(200, {
      data: [snapshot('c', 'b', { save })],
      nextCursor: null,
    }),
    [`GET /v1/snapshots/${idOf('c')}`]: ((request, response) =>
      json(200, snapshot('c', 'b', { save: (asked += 1) > 2 ? last : save }))(request, response)) satisfies Answer,
  })
  await start(routes(saved))
  const ran = await run(['ws', 'save', 'research'])
  expect(ran).toMatchObject({ exitCode: 0, stdout: `${idOf('c')} saved, 2.0 KiB\n` })
  expect(ran.stderr).toBe(`${idOf('c')} is not saved yet: storage_unavailable: no route\n`)
  await peer.close()

  await start(routes(save))
  expect(await run(['ws', 'save', 'research', '--timeout', '100ms'])).toMatchObject({
    exitCode: 1,
    stderr: expect.stringMatching(/was not saved within 0 s: storage_unavailable[\s\S]*fix:/),
  })
})

test('restore tells what could not be used, and fails then', async () => {
  const answer = (skipped: object[]) => ({
    'POST /v1/workspaces/restore': json(200, { data: [{ ...workspace, isLocal: false }], skipped }),
  })
  await start(answer([]))
  expect((await run(['ws', 'restore'])).stdout).toMatch(/research .*in storage/)
  await peer.close()
  await start(answer([{ document: 'workspaces/wsp_x', reason: 'no such snapshot' }]))
  expect(await run(['ws', 'restore'])).toMatchObject({
    exitCode: 1,
    stdout: expect.stringContaining('research'),
    stderr: expect.stringContaining('workspaces/wsp_x (no such snapshot)'),
  })
})

test('what the server refuses is told with what to do, and as JSON where it is asked for', async () => {
  await start({ 'GET /v1/workspaces/missing': failure(404, 'workspace_not_found') })
  expect(await run(['ws', 'get', 'missing'])).toEqual({
    exitCode: 1,
    stdout: '',
    stderr:
      'error: it was workspace_not_found\n  why: a reason\n' +
      '  fix: Check the id or name: `delta workspace list` shows yours, `delta workspace restore` finds those that only storage knows.\n' +
      '  ref: workspace_not_found, request req_1\n',
  })
  const { exitCode, stderr } = await run(['ws', 'get', 'missing', '--json'])
  expect([exitCode, JSON.parse(stderr)]).toMatchObject([1, { error: { code: 'workspace_not_found' } }])
})

/** A fork of each snapshot, in which the command ends with what is said for it; counts the forks that are left. */
function tried(codes: Record<string, number | 'hangs' | 'no program'>) {
  const open = new Set<string>()
  const routes: Record<string, Answer> = {
    'POST /v1/sandboxes': (request, response) => {
      const { workspace: fork } = JSON.parse(request.body) as { workspace: string }
      return json(201, { ...sandboxInfo, id: fork.replace('wsp_', 'sbx_') })(request, response)
    },
  }
  for (const [letter, code] of Object.entries(codes)) {
    const fork = { ...workspace, id: `wsp_fork${letter}` }
    routes[`POST /v1/snapshots/${idOf(letter)}/forks`] = (request, response) => {
      open.add(fork.id)
      return json(201, { data: [fork] })(request, response)
    }
    routes[`PATCH /v1/workspaces/${fork.id}`] = json(200, fork)
    routes[`DELETE /v1/workspaces/${fork.id}`] = (request, response) => {
      open.delete(fork.id)
      return noContent(request, response)
    }
    routes[`DELETE /v1/sandboxes/sbx_fork${letter}`] = noContent
    routes[`POST /v1/sandboxes/sbx_fork${letter}/execs`] = (request, response) => {
      if (code === 'no program') return failure(400, 'exec_start_failed')(request, response)
      const exit = { event: 'exit', data: { ...execInfo, exitCode: code } }
      if (code !== 'hangs') return events([execStart, exit])(request, response)
      response.writeHead(200, { 'content-type': 'text/event-stream' })
      response.write(`event: start\ndata: ${JSON.stringify(execStart.data)}\n\n`)
      return undefined
    }
    routes[`POST /v1/sandboxes/sbx_fork${letter}/execs/${execInfo.id}/signal`] = noContent
  }
  return { routes, open }
}

const search = ['workspace', 'bisect', 'research', '--good', 'good', '--bad', idOf('c'), '--']

test('bisect finds the first bad snapshot by names and ids, and says how each was', async () => {
  const { routes, open } = tried({ a: 0, b: 'no program', c: 4 })
  await start(routes)
  const ran = await run([...search, 'check-it'])
  expect(ran).toMatchObject({
    exitCode: 0,
    stdout: expect.stringMatching(new RegExp(`^${idOf('b')} is the first bad`)),
  })
  expect(ran.stderr).toBe(
    `${idOf('a')} is good, 2 to choose from\n${idOf('c')} is bad (exit code 4), 2 to choose from\n` +
      `${idOf('b')} is bad (could not be started: a reason), 1 to choose from\n`,
  )
  expect(open.size).toBe(0)
  const { stdout } = await run([...search.slice(0, -1), '--json', '--', 'check-it'])
  expect(JSON.parse(stdout)).toMatchObject({ firstBad: { id: idOf('b') }, lastGood: { id: idOf('a') } })
})

test.each([
  [
    'fails where it should not',
    { a: 3, c: 4 },
    search,
    /fails in snp_a+ already.*it ends with 3[\s\S]*earlier snapshot/,
  ],
  [
    'cannot be started',
    { a: 'no program', c: 4 },
    search,
    /cannot be started in snp_a+.*a reason[\s\S]*name of the program/,
  ],
  ['passes where it should not', { a: 0, c: 0 }, search, /succeeds in snp_c+[\s\S]*looks at what broke/],
  [
    'is given ends that are turned round',
    {},
    ['workspace', 'bisect', 'research', '--good', idOf('c'), '--bad', 'good', '--'],
    /is not among the snapshots[\s\S]*must be the earlier/,
  ],
  [
    'is given one snapshot twice',
    {},
    ['workspace', 'bisect', 'research', '--good', 'good', '--bad', 'research@good', '--'],
    /are the same[\s\S]*Name two/,
  ],
] as const)('bisect with a command that %s says so and leaves nothing', async (_, codes, args, words) => {
  const { routes, open } = tried(codes)
  await start(routes)
  const ran = await run([...args, 'check-it'])
  expect(ran).toMatchObject({ exitCode: 1, stdout: '', stderr: expect.stringMatching(words) })
  expect(ran.stderr).not.toContain('fault of the command')
  expect(open.size).toBe(0)
})

test('Ctrl-C ends a bisect in order: the fork is removed, and the exit code says so', async () => {
  const { routes, open } = tried({ a: 'hangs', c: 4 })
  await start(routes)
  const interrupt = (send: () => void) => {
    const timer = setInterval(() => {
      if (!peer.requests.some(({ target }) => target.endsWith('/execs'))) return
      clearInterval(timer)
      send()
    }, 5)
  }
  const ran = await run([...search, 'check-it'], { interrupt })
  expect(ran).toMatchObject({ exitCode: 130, stdout: '', stderr: expect.stringContaining('is removed first') })
  expect(ran.stderr).not.toContain('error:')
  expect(open.size).toBe(0)
  expect(peer.requests.map(({ method, target }) => `${method} ${target}`)).toEqual(
    expect.arrayContaining(['DELETE /v1/sandboxes/sbx_forka', 'DELETE /v1/workspaces/wsp_forka']),
  )
})
