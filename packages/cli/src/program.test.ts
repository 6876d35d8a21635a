import { spawnSync } from 'node:child_process'
import { mkdir, mkdtemp, readdir, readFile, rm, stat, writeFile } from 'node:fs/promises'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterEach, beforeEach, expect, test, vi } from 'vitest'
import {
  type Answer,
  events,
  execExit,
  execInfo,
  execStart,
  failure,
  json,
  output,
  type Peer,
  sandboxInfo,
  startPeer,
} from '../../sdk/test/peer.ts'
import { encodeHeader, endOfArchive, padding } from '../../sdk/src/tar/format.ts'
import { run } from './testing.ts'

const id = 'sbx_aaaaaaaaaaaaaaaaaaaa'
const info = { ...sandboxInfo, id }
let peer: Peer | undefined
let folder: string

async function start(...answers: Answer[]): Promise<Peer> {
  peer = await startPeer(...answers)
  vi.stubEnv('DELTA_URL', peer.url)
  vi.stubEnv('DELTA_API_KEY', 'test-key')
  return peer
}
const seen = () =>
  (peer?.requests ?? []).map(({ method, target }) => `${method} ${target.replace(`/v1/sandboxes/${id}`, '')}`)
const noContent: Answer = (_, response) => void response.writeHead(204).end()

beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'delta-cli-'))
})
afterEach(async () => {
  vi.unstubAllEnvs()
  await peer?.close()
  peer = undefined
  await rm(folder, { recursive: true })
})

test('create prints the id alone and sends only what was given', async () => {
  const { requests } = await start(json(201, info))
  const args = ['--timeout', '10m', '-m', 'k=v=w', '-m', 'l=', '-e', 'A=1', '--memory', '256', '--no-auto-resume']
  expect(await run(['sandbox', 'create', ...args])).toEqual({ exitCode: 0, stdout: `${id}\n`, stderr: '' })
  expect(JSON.parse(requests[0]?.body ?? '')).toEqual({
    timeoutMs: 600_000,
    metadata: { k: 'v=w', l: '' },
    env: { A: '1' },
    memoryMb: 256,
    autoResume: false,
  })
})

test('list prints a table, --json the data', async () => {
  await start(json(200, { data: [{ ...info, metadata: { name: 'a\u001b[31m' } }], nextCursor: null }))
  const { stdout } = await run(['sandbox', 'list'])
  expect(stdout).toMatch(new RegExp(`^ID +STATE.*\n${id} +running +host +crun .* name=a`))
  expect(stdout).not.toContain('\u001b')
  expect(JSON.parse((await run(['sandbox', 'list', '--json', '--all'])).stdout)).toMatchObject([{ id }])
  expect(seen()[0]).toContain('state=creating')
  expect(seen()[1]).not.toContain('state=')
})

test('the beginning of an id is enough when only one living sandbox has it', async () => {
  const other = { ...info, id: 'sbx_abaaaaaaaaaaaaaaaaaa' }
  const list = json(200, {
    data: [info, other, { ...other, id: 'sbx_aazzzzzzzzzzzzzzzzzz', state: 'killed' }],
    nextCursor: null,
  })
  await start(list)
  expect((await run(['sandbox', 'get', 'aa'])).stdout).toContain(id)
  expect((await run(['sandbox', 'get', 'sbx_ab'])).stdout).toContain(other.id)
  const ambiguous = await run(['sandbox', 'get', 'a'])
  expect(ambiguous.exitCode).toBe(1)
  expect(ambiguous.stderr).toContain('2 sandboxes have an id that begins with sbx_a')
  expect((await run(['sandbox', 'get', 'zz'])).stderr).toContain('No sandbox has an id that begins with sbx_zz')
  expect((await run(['sandbox', 'get', '../x'])).exitCode).toBe(2)
})

test('exec passes on output and exit code; one word is a shell line, several are a program', async () => {
  const exit = { event: 'exit', data: { ...execInfo, exitCode: 3 } }
  const answer = events([execStart, output('stdout', 0, 'out'), output('stderr', 3, 'err'), exit])
  const { requests } = await start((request, response) =>
    (request.method === 'POST' ? answer : json(200, info))(request, response),
  )
  const ran = await run(['sandbox', 'exec', '-u', 'root', '-e', 'A=b', id, 'ls', '-la'])
  expect(ran).toEqual({ exitCode: 3, stdout: 'out', stderr: 'err' })
  await run(['sandbox', 'exec', id, 'ls | wc'])
  await run(['sandbox', 'exec', id, '--', '-odd'])
  const bodies = requests.filter(({ method }) => method === 'POST').map(({ body }) => JSON.parse(body))
  expect(bodies[0]).toMatchObject({ user: 'root', env: { A: 'b' }, timeoutMs: 3_600_000, stream: true })
  expect(bodies.map(({ cmd }) => cmd)).toEqual([['ls', '-la'], 'ls | wc', ['-odd']])
})

test.each([
  [{ exitCode: 0 }, 0],
  [{ exitCode: 255 }, 255],
  [{ exitCode: null, signal: 'SIGKILL', state: 'signalled' }, 137],
  [{ exitCode: null, signal: 'SIGTERM', timedOut: true }, 124],
  [{ exitCode: null, signal: null, state: 'unknown' }, 125],
])('an exec that ended with %j exits with %i', async (end, exitCode) => {
  await start(json(200, info), events([execStart, { event: 'exit', data: { ...execInfo, ...end } }]))
  expect((await run(['sandbox', 'exec', id, 'x'])).exitCode).toBe(exitCode)
})

test('an exec that DELTA could not run exits with 125', async () => {
  await start(failure(404, 'sandbox_not_found'))
  expect((await run(['sandbox', 'exec', id, 'x'])).exitCode).toBe(125)
  expect((await run(['sandbox', 'exec', id])).exitCode).toBe(2)
  expect(await run(['sandbox', 'exec', id, '--user', 'root', 'x'])).toMatchObject({
    exitCode: 2,
    stderr: expect.stringContaining('options go before it'),
  })
})

test('exec --json prints the result', async () => {
  await start(json(200, info), events([execStart, output('stdout', 0, 'hi'), execExit]))
  expect(JSON.parse((await run(['sandbox', 'exec', '--json', id, 'x'])).stdout)).toMatchObject({
    stdout: 'hi',
    exitCode: 0,
  })
})

test('piped input reaches the command', async () => {
  let finish: (() => void) | undefined
  const { requests } = await start(
    json(200, info),
    (_, response) => {
      response.writeHead(200, { 'content-type': 'text/event-stream' })
      response.write(`event: start\ndata: ${JSON.stringify(execStart.data)}\n\n`)
      finish = () => void response.end(`event: exit\ndata: ${JSON.stringify(execInfo)}\n\n`)
    },
    noContent,
  )
  const ran = run(['sandbox', 'exec', id, 'cat'], { stdin: ['one', 'two'] })
  await expect.poll(() => requests.length).toBe(5)
  finish?.()
  expect((await ran).exitCode).toBe(0)
  expect(requests.slice(2).map(({ body }) => body)).toEqual(['one', 'two', ''])
})

test('Ctrl-C interrupts the session of the command, a second one kills it', async () => {
  let finish: (() => void) | undefined
  const { requests } = await start(
    json(200, info),
    (_, response) => {
      response.writeHead(200, { 'content-type': 'text/event-stream' })
      response.write(`event: start\ndata: ${JSON.stringify(execStart.data)}\n\n`)
      response.write(`event: stdout\ndata: ${JSON.stringify({ offset: 0, data: 'aGk=', encoding: 'base64' })}\n\n`)
      const end = { ...execInfo, exitCode: null, signal: 'SIGKILL' }
      finish = () => void response.end(`event: exit\ndata: ${JSON.stringify(end)}\n\n`)
    },
    noContent,
  )
  let interrupt: (() => void) | undefined
  const ran = run(['sandbox', 'exec', id, 'sleep 100'], { interrupt: (send) => (interrupt = send) })
  await expect.poll(() => finish).toBeDefined()
  await new Promise((done) => setTimeout(done, 100))
  interrupt?.()
  await expect.poll(() => requests.length).toBe(3)
  interrupt?.()
  await expect.poll(() => requests.length).toBe(4)
  finish?.()
  expect((await ran).exitCode).toBe(137)
  expect(requests.slice(2).map(({ body }) => JSON.parse(body))).toEqual([
    { signal: 'SIGINT', scope: 'session' },
    { signal: 'SIGKILL', scope: 'session' },
  ])
})

test('exec --detach prints the id of a command without a timeout', async () => {
  const { requests } = await start(json(200, info), json(202, { ...execInfo, state: 'running' }))
  expect((await run(['sandbox', 'exec', '-d', '--tag', 't', id, 'server'])).stdout).toBe('exe_1\n')
  expect(JSON.parse(requests[1]?.body ?? '')).toMatchObject({ background: true, timeoutMs: 0, tag: 't' })
})

test('an error says what happened, why and what to do, without a stack', async () => {
  await start(failure(409, 'sandbox_state_conflict'))
  const { exitCode, stderr } = await run(['sandbox', 'pause', id])
  expect([exitCode, stderr]).toEqual([
    1,
    'error: it was sandbox_state_conflict\n  why: a reason\n  fix: mend sandbox_state_conflict\n  ref: sandbox_state_conflict, request req_1\n',
  ])
  const told = JSON.parse((await run(['sandbox', 'get', id, '--json'])).stderr)
  expect(told.error).toMatchObject({ code: 'sandbox_state_conflict', fix: 'mend sandbox_state_conflict' })
})

test('no server is exit code 3 with what to do', async () => {
  await start()
  await peer?.close()
  const { exitCode, stderr } = await run(['template', 'list'])
  peer = undefined
  expect(exitCode).toBe(3)
  expect(stderr).toMatch(/cannot be reached.*ECONNREFUSED[^]*fix:.*npm start/)
})

test.each([
  [['sandbox', 'create', '--timeout', '10'], "'10' is not a duration"],
  [['sandbox', 'create', '--cpu', 'many'], "'many' is not a number"],
  [['sandbox', 'create', '-m', 'novalue'], 'NAME=value'],
  [['sandbox', 'create', '--on-timeout', 'explode'], 'kill, stop, pause'],
  [['sandbox', 'cp', 'a', 'b'], 'One side of cp must be in a sandbox'],
  [['sandbox', 'nonsense'], 'unknown command'],
  [['sandbox', 'get'], 'missing required argument'],
])('%j is wrong usage, told without a request', async (args, message) => {
  await start()
  expect(await run(args)).toMatchObject({ exitCode: 2, stderr: expect.stringContaining(message) })
  expect(seen()).toEqual([])
})

test('help is no error', async () => {
  expect(await run(['sandbox', 'exec', '--help'])).toMatchObject({
    exitCode: 0,
    stdout: expect.stringContaining('124'),
  })
})

test('kill goes on after a failure and tells of it', async () => {
  await start(failure(404, 'sandbox_not_found'), json(200, info), noContent)
  const { exitCode, stdout, stderr } = await run(['sandbox', 'kill', 'sbx_bbbbbbbbbbbbbbbbbbbb', id])
  expect([exitCode, stdout]).toEqual([1, `${id} killed\n`])
  expect(stderr).toContain('it was sandbox_not_found')
})

const fileBody =
  (text: string): Answer =>
  (_, response) =>
    void response.writeHead(200, { etag: '"1"', 'content-length': text.length }).end(text)

const entry = { path: '/workspace/data.bin', name: 'data.bin', type: 'file', size: 5, mode: 0o644 }

test('cp sends a file into a folder under its own name, with its permissions', async () => {
  await writeFile(join(folder, 'run.sh'), 'hello', { mode: 0o755 })
  const { requests } = await start(json(200, info), json(200, { ...entry, type: 'directory' }), json(200, entry))
  const { exitCode, stderr } = await run(['sandbox', 'cp', join(folder, 'run.sh'), `${id}:/workspace`], { tty: true })
  expect(exitCode).toBe(0)
  expect(stderr).toContain('5 B of 5 B (100 %)')
  expect(seen()[2]).toBe('PUT /files?path=%2Fworkspace%2Frun.sh&mode=0755')
  expect(requests[2]?.body).toBe('hello')
})

test('cp fetches a file and leaves the old one when it fails', async () => {
  const target = join(folder, 'data.bin')
  await start(
    json(200, info),
    json(200, entry),
    fileBody('hello'),
    json(200, info),
    json(200, entry),
    failure(403, 'permission_denied'),
  )
  expect((await run(['sandbox', 'cp', `${id}:data.bin`, folder])).exitCode).toBe(0)
  expect(await readFile(target, 'utf8')).toBe('hello')
  await writeFile(target, 'mine')
  expect((await run(['sandbox', 'cp', `${id}:data.bin`, target])).exitCode).toBe(1)
  expect(await readFile(target, 'utf8')).toBe('mine')
  expect(await readdir(folder)).toEqual(['data.bin'])
})

test.each(['..', 'a/b', ''])('cp refuses the name %j that a sandbox gives a file', async (name) => {
  await start(json(200, info), json(200, { ...entry, name }))
  await mkdir(join(folder, 'in'))
  expect(await run(['sandbox', 'cp', `${id}:x`, join(folder, 'in')])).toMatchObject({ exitCode: 1 })
  expect(seen()).toHaveLength(2)
})

test('cp of a folder tells what it left out', async () => {
  const link = encodeHeader({ path: 'l', type: 'symlink', linkTarget: '/etc', size: 0, mode: 0o777, mtimeSeconds: 1 })
  const file = encodeHeader({ path: 'f', type: 'file', linkTarget: '', size: 2, mode: 0o600, mtimeSeconds: 1 })
  const archive = Buffer.concat([...link, ...file, Buffer.from('hi'), padding(2), endOfArchive()])
  await start(
    json(200, info),
    json(200, { ...entry, name: 'd', type: 'directory' }),
    (_, response) => void response.end(archive),
  )
  const { exitCode, stderr } = await run(['sandbox', 'cp', `${id}:d`, join(folder, 'out')])
  expect([exitCode, stderr]).toEqual([1, expect.stringContaining('Left out')])
  expect(await readdir(join(folder, 'out'))).toEqual(['f'])
  expect((await stat(join(folder, 'out', 'f'))).mode & 0o777).toBe(0o600)
})

test('cp - reads standard input and writes standard output', async () => {
  const { requests } = await start(json(200, info), json(200, entry), json(200, info), fileBody('hi'))
  expect((await run(['sandbox', 'cp', '-', `${id}:a`], { stdin: ['o', 'ne'] })).exitCode).toBe(0)
  expect(requests[1]?.body).toBe('one')
  expect((await run(['sandbox', 'cp', `${id}:a`, '-'])).stdout).toBe('hi')
})

test('doctor fails when a finding does', async () => {
  const finding = { name: 'cgroup', status: 'ok', found: 'v2', meaning: 'limits hold' }
  const data = [finding, { ...finding, name: 'runtime', status: 'fail', found: 'none', meaning: 'install crun' }]
  await start(json(200, { data, nextCursor: null }))
  const { exitCode, stdout } = await run(['doctor'])
  expect(exitCode).toBe(1)
  expect(stdout).toMatch(/ok +cgroup +v2\nFAIL +runtime +none\n +install crun\n\n1 ok, 0 warnings, 1 failures/)
})

test('the executable runs and exits as the command says', () => {
  const delta = join(import.meta.dirname, '../bin/delta.mjs')
  const ran = spawnSync(process.execPath, [delta, 'sandbox', 'get'], { encoding: 'utf8', input: '' })
  expect(ran).toMatchObject({ status: 2, stderr: expect.stringContaining('missing required argument') })
})

test('sandbox token prints a token for the scopes given, and --revoke ends them all', async () => {
  const made = { token: 'dat_x.y', scopes: ['port:3000', 'terminal'], expiresAt: '2026-01-01T00:00:00.000Z' }
  const { requests } = await start(json(200, info), json(201, made), json(200, info), noContent)
  const args = ['sandbox', 'token', '--scope', 'port:3000', '--scope', 'terminal', '--ttl', '10m', id]
  expect(await run(args)).toMatchObject({ exitCode: 0, stdout: 'dat_x.y\n' })
  expect(JSON.parse(requests[1]!.body)).toEqual({ scopes: ['port:3000', 'terminal'], ttlMs: 600_000 })
  expect(await run(['sandbox', 'token', id, '--revoke'])).toMatchObject({ exitCode: 0, stdout: '' })
  expect(requests[3]).toMatchObject({ method: 'DELETE', target: `/v1/sandboxes/${id}/access-tokens` })
})

test('egress is set, added to and shown; what contradicts itself is not sent', async () => {
  const list = { egress: { hosts: ['a.example', '*.b.example:22'], presets: ['packages'] } }
  const { requests } = await start(json(200, list))
  expect((await run(['egress', 'set', id, 'a.example', '*.b.example:22', '-p', 'packages'])).stdout).toBe(
    'preset packages\na.example\n*.b.example:22\n',
  )
  await run(['egress', 'set', id, 'none'])
  await run(['egress', 'allow', id, '--preset', 'git'])
  await run(['egress', 'show', id])
  const sent = requests.filter(({ target }) => target.includes('network'))
  expect(sent.map(({ method, body }) => [method, body === '' ? undefined : JSON.parse(body)])).toEqual([
    ['PUT', { egress: { hosts: ['a.example', '*.b.example:22'], presets: ['packages'] } }],
    ['PUT', { egress: 'none' }],
    ['POST', { hosts: [], presets: ['git'] }],
    ['GET', undefined],
  ])
  for (const wrong of [
    ['set', id],
    ['set', id, 'all', 'a.example'],
    ['set', id, 'none', '-p', 'git'],
    ['allow', id],
    ['log', id, '-n', '0'],
  ]) {
    expect((await run(['egress', ...wrong])).exitCode).toBe(2)
  }
})

test('create says what the sandbox may connect to', async () => {
  const { requests } = await start(json(201, info))
  await run(['sandbox', 'create', '--egress', 'a.example', '--egress', 'b.example', '--preset', 'git'])
  await run(['sandbox', 'create', '--egress', 'all'])
  expect(requests.map(({ body }) => JSON.parse(body))).toEqual([
    { network: { egress: { hosts: ['a.example', 'b.example'], presets: ['git'] } } },
    { network: { egress: 'all' } },
  ])
})

test('the log of connections is a table of as many as asked for', async () => {
  const row = {
    at: '2030-01-01T00:00:00.000Z',
    host: '2001:db8::1',
    port: 443,
    via: 'tcp',
    outcome: 'refused',
    reason: 'policy',
    bytesUp: 0,
    bytesDown: 2048,
    durationMs: 12,
    count: 3,
  }
  const page = json(200, { data: [row, { ...row, host: 'a\u001b.example' }, row], nextCursor: 'more' })
  // The first answer is to the question whose sandbox it is.
  await start(json(200, info), page)
  const { stdout } = await run(['egress', 'log', id, '-n', '2'])
  expect(stdout.split('\n')).toEqual([
    expect.stringMatching(/^AT +TO +VIA +OUTCOME +REASON +UP +DOWN +TOOK$/),
    expect.stringMatching(/ \[2001:db8::1\]:443 +tcp +refused \(3 times\) +policy +0 B +2\.0 KiB +12 ms$/),
    expect.stringContaining('a\\x1b.example:443'),
    '',
  ])
})

test('sandbox url prints an address with a token, and --public one without, keeping what is public', async () => {
  const made = { token: 'dat_x.y', scopes: ['port:3000'], expiresAt: '2026-01-01T00:00:00.000Z' }
  const urlTemplate = 'http://{port}-sbx-a.localhost:8000/'
  const ports = { urlTemplate, data: [{ port: 80, url: '', public: true, listening: null }] }
  const answers = [json(200, info), json(201, made), json(200, ports), json(200, info), json(200, ports)]
  const { requests } = await start(...answers)
  const withToken = await run(['sandbox', 'url', id, '3000'])
  expect(withToken).toMatchObject({ exitCode: 0, stdout: 'http://3000-sbx-a.localhost:8000/?delta_token=dat_x.y\n' })
  const open = await run(['sandbox', 'url', id, '3000', '--public'])
  expect(open).toMatchObject({ exitCode: 0, stdout: 'http://3000-sbx-a.localhost:8000/\n' })
  const put = requests.find(({ method }) => method === 'PUT')
  expect(JSON.parse(put?.body ?? '')).toEqual({ public: [80, 3000] })
  expect((await run(['sandbox', 'url', id, '70000'])).exitCode).not.toBe(0)
})

const template = {
  name: 'tools',
  state: 'building',
  detail: '',
  id: 'tpl_1',
  version: 2,
  tags: [],
  source: { kind: 'image', reference: 'python:3.12' },
  digest: null,
  snapshotId: null,
  config: null,
  createdAt: '2026-01-01T00:00:00.000Z',
  endedAt: null,
}
const line = (sequence: number, kind: string, text: string) => ({
  event: 'line',
  id: sequence,
  data: { sequence, at: 0, kind, text },
})
const ready = { event: 'end', data: { ...template, state: 'ready' } }

test('template create follows the log over a lost connection, counts its steps and prints the version', async () => {
  const { requests } = await start(
    json(202, template),
    events([line(1, 'step', 'Pulling python:3.12'), line(2, 'stdout', 'a\u001b[31m\n')], { cut: true }),
    events([line(2, 'stdout', 'a'), line(3, 'step', 'Layer 1 of 1'), ready]),
  )
  const ran = await run(['template', 'create', 'tools', '--image', 'python:3.12', '-t', 'stable', '-t', 'new'])
  expect(ran).toEqual({
    exitCode: 0,
    stdout: 'tools@2\n',
    stderr: '[1] Pulling python:3.12\n    a\\x1b[31m\n[2] Layer 1 of 1\n',
  })
  expect(JSON.parse(requests[0]!.body)).toEqual({
    name: 'tools',
    tags: ['stable', 'new'],
    from: { image: 'python:3.12' },
  })
  expect(requests[0]!.headers['idempotency-key']).toBeTruthy()
  expect(seen().slice(1)).toEqual(['GET /v1/templates/tpl_1/log?from=0', 'GET /v1/templates/tpl_1/log?from=2'])
})

test('template create fails with the reason where it could not be made', async () => {
  const failed = { event: 'end', data: { ...template, state: 'failed', detail: 'no such image' } }
  await start(json(202, template), events([failed]))
  const { exitCode, stdout, stderr } = await run(['template', 'create', 'tools', '--snapshot', 'snp_1'])
  expect([exitCode, stdout]).toEqual([1, ''])
  expect(stderr).toContain('tools@2 is failed: no such image')
  expect(stderr).toContain('delta template log tpl_1')
})

test('template create --dockerfile sends the folder as a tar with what was asked for', async () => {
  await writeFile(join(folder, 'Dockerfile'), 'FROM host')
  const { requests } = await start(json(202, template))
  const more = ['--file', 'Dockerfile', '--target', 'end', '--build-arg', 'A=1', '--no-cache', '-t', 'x', '--detach']
  expect(await run(['template', 'create', 'tools', '--dockerfile', folder, ...more])).toMatchObject({
    exitCode: 0,
    stdout: 'tools@2\n',
  })
  const target = new URL(requests[0]!.target, 'http://test')
  expect(target.pathname).toBe('/v1/templates/builds')
  expect(Object.fromEntries(target.searchParams)).toEqual({
    name: 'tools',
    tag: 'x',
    dockerfile: 'Dockerfile',
    options: JSON.stringify({ target: 'end', args: { A: '1' }, noCache: true }),
  })
  expect(requests[0]!.body).toContain('FROM host')
  expect(requests[0]!.body.length % 512).toBe(0)
})

test('template create --archive sends a file or standard input, with progress on a terminal', async () => {
  const { requests } = await start(json(202, template))
  await writeFile(join(folder, 'image.tar'), 'tar bytes')
  const args = ['template', 'create', 'tools', '--detach', '--archive']
  const { stderr } = await run([...args, join(folder, 'image.tar')], { tty: true })
  expect(stderr).toContain('9 B of 9 B (100 %)')
  await run([...args, '-'], { stdin: ['piped'] })
  expect(requests.map(({ target, body }) => `${target} ${body}`)).toEqual([
    '/v1/templates/import?name=tools tar bytes',
    '/v1/templates/import?name=tools piped',
  ])
})

test('template create takes one source, and a password from the environment alone', async () => {
  await start(json(202, template))
  for (const flags of [[], ['--image', 'a', '--snapshot', 'snp_1'], ['--image', 'a', '--username', 'me']]) {
    expect((await run(['template', 'create', 'tools', ...flags])).exitCode, flags.join(' ')).toBe(2)
  }
  expect(seen()).toEqual([])
})

test('template list, get, tag, cancel and remove say what is there and what became of it', async () => {
  await start(json(200, { data: [{ ...template, tags: ['stable'], state: 'ready' }], nextCursor: null }))
  expect((await run(['template', 'list'])).stdout).toMatch(/^NAME +STATE +TAGS +DETAIL\ntools@2 +ready +stable\n$/)
  expect((await run(['template', 'list', 'tools'])).exitCode).toBe(0)
  expect(seen()).toEqual(['GET /v1/templates', 'GET /v1/templates/tools/versions'])
  await peer!.close()
  const { requests } = await start(json(200, template))
  expect((await run(['template', 'get', 'tools:stable'])).stdout).toContain('made of              image python:3.12\n')
  expect((await run(['template', 'tag', 'tools@2', 'stable'])).stdout).toBe('tools:stable is tools@2\n')
  expect((await run(['template', 'cancel', 'tools@2'])).stdout).toBe('tools@2 building\n')
  await run(['template', 'tag', 'tools', 'stable', '--remove'])
  await run(['template', 'remove', 'tools@2'])
  expect(seen()).toEqual([
    'GET /v1/templates/tools%3Astable',
    'GET /v1/templates/tools%402',
    'PUT /v1/templates/tools/tags/stable',
    'POST /v1/templates/tools%402/cancel',
    'GET /v1/templates/tools',
    'DELETE /v1/templates/tools/tags/stable',
    'DELETE /v1/templates/tools%402',
  ])
  expect(JSON.parse(requests[2]!.body)).toEqual({ version: 2 })
})
