import { randomUUID } from 'node:crypto'
import { expect, test } from 'vitest'
import { delta, refusal, request } from './target.ts'

test('a sandbox lives from create to kill', async () => {
  const sandbox = await delta.sandboxes.create({ metadata: { purpose: 'test' } })
  expect(sandbox.info).toMatchObject({
    id: expect.stringMatching(/^sbx_[a-z0-9]+$/),
    state: 'running',
    template: 'host',
    metadata: { purpose: 'test' },
    cpu: 1,
    memoryMb: 512,
    diskMb: 4096,
    processes: 512,
    timeoutMs: 300_000,
    onTimeout: 'kill',
    autoResume: true,
  })
  expect(sandbox.info.timings?.length).toBeGreaterThan(0)
  expect(Date.parse(sandbox.info.endAt ?? '')).toBeGreaterThan(Date.now())
  expect((await delta.sandboxes.get(sandbox.id)).info).toMatchObject({ id: sandbox.id, state: 'running' })

  await sandbox.kill()
  await sandbox.kill()
  expect((await sandbox.refresh()).state).toBe('killed')
  expect((await refusal(sandbox.commands.run('true'))).code).toBe('sandbox_not_running')
  expect((await refusal(sandbox.start())).status).toBe(409)
  const transitions = await sandbox.logs().all()
  expect(transitions.map(({ to }) => to)).toEqual(expect.arrayContaining(['running', 'killed']))
  for (const { reason } of transitions) expect(reason).toMatch(/\w/)
})

test('await using kills', async () => {
  let id: string
  {
    await using sandbox = await delta.sandboxes.create()
    id = sandbox.id
  }
  expect((await delta.sandboxes.get(id)).state).toBe('killed')
})

test('pause freezes every process and keeps its memory, resume lets it go on', async () => {
  await using sandbox = await delta.sandboxes.create({ autoResume: false })
  const counter = await sandbox.commands.start(
    'i=0; while true; do i=$((i+1)); echo $i > /workspace/count; sleep 0.01; done',
  )
  await expect.poll(() => sandbox.files.exists('/workspace/count')).toBe(true)
  const { pid } = counter
  expect((await sandbox.pause()).state).toBe('paused')
  expect((await sandbox.pause()).state).toBe('paused')
  expect((await refusal(sandbox.commands.run('true'))).code).toBe('sandbox_not_running')
  expect((await sandbox.resume()).state).toBe('running')
  const before = Number(await sandbox.files.readText('/workspace/count'))
  await expect.poll(async () => Number(await sandbox.files.readText('/workspace/count'))).toBeGreaterThan(before)
  expect((await sandbox.commands.list()).find(({ id }) => id === counter.id)).toMatchObject({ pid, state: 'running' })
})

test('a paused sandbox does no work', async () => {
  await using sandbox = await delta.sandboxes.create()
  await sandbox.commands.start('while true; do :; done')
  await sandbox.pause()
  const before = (await sandbox.metrics()).cpuMs
  await new Promise((done) => setTimeout(done, 500))
  expect((await sandbox.metrics()).cpuMs - before).toBeLessThan(50)
  expect((await sandbox.refresh()).state).toBe('paused')
})

test('a command wakes a paused and a stopped sandbox', async () => {
  await using sandbox = await delta.sandboxes.create()
  await sandbox.pause()
  expect((await sandbox.commands.run('echo awake')).stdout).toBe('awake\n')
  expect((await sandbox.refresh()).state).toBe('running')
  await sandbox.stop()
  expect((await sandbox.commands.run('echo back')).stdout).toBe('back\n')
  expect((await sandbox.refresh()).state).toBe('running')
})

test('stop ends the processes and keeps the files with mode and owner', async () => {
  await using sandbox = await delta.sandboxes.create({ autoResume: false, env: { KEPT: 'yes' } })
  await sandbox.commands.run(
    'echo data > /workspace/a; chmod 640 /workspace/a; mkdir -p /home/user/deep/er; ln -s a /workspace/l',
  )
  await sandbox.commands.run('echo root > /etc/mine', { user: 'root' })
  const running = await sandbox.commands.start('sleep 1000')
  const before = await sandbox.files.stat('/workspace/a')
  expect((await sandbox.stop()).state).toBe('stopped')
  expect((await sandbox.stop()).state).toBe('stopped')
  expect(await refusal(sandbox.files.readText('/workspace/a'))).toMatchObject({
    status: 409,
    code: 'sandbox_not_running',
  })
  expect((await sandbox.start()).state).toBe('running')
  expect(await sandbox.files.readText('/workspace/a')).toBe('data\n')
  expect(await sandbox.files.stat('/workspace/a')).toMatchObject({ mode: before.mode, owner: 'user', size: 5 })
  expect(await sandbox.files.stat('/workspace/l', { follow: false })).toMatchObject({
    type: 'symlink',
    symlinkTarget: 'a',
  })
  expect(await sandbox.files.readText('/etc/mine')).toBe('root\n')
  expect((await sandbox.commands.run('echo $KEPT; pgrep -x sleep')).stdout).toBe('yes\n')
  expect((await sandbox.commands.list()).some(({ id, state }) => id === running.id && state === 'running')).toBe(false)
})

test.each([
  ['kill', 'killed'],
  ['stop', 'stopped'],
  ['pause', 'paused'],
] as const)('at its timeout a sandbox does what onTimeout says: %s', async (onTimeout, state) => {
  await using sandbox = await delta.sandboxes.create({ timeoutMs: 700, onTimeout })
  await expect.poll(async () => (await sandbox.refresh()).state, { timeout: 10_000 }).toBe(state)
  expect((await sandbox.logs().all()).map(({ reason }) => reason)).toContain('timeout')
})

test('a timeout can be moved', async () => {
  await using sandbox = await delta.sandboxes.create({ timeoutMs: 1_500 })
  const { endAt } = await sandbox.setTimeout(600_000)
  expect(Date.parse(endAt ?? '') - Date.now()).toBeGreaterThan(500_000)
  await new Promise((done) => setTimeout(done, 2_000))
  expect((await sandbox.refresh()).state).toBe('running')
  await sandbox.setTimeout(1)
  await expect.poll(async () => (await sandbox.refresh()).state, { timeout: 10_000 }).toBe('killed')
})

const ids = async (options: Parameters<typeof delta.sandboxes.list>[0]) =>
  (await delta.sandboxes.list(options).all()).map(({ id }) => id).toSorted()

test('lists are filtered by metadata and state, and read in pages', async () => {
  const run = randomUUID()
  await using a = await delta.sandboxes.create({ metadata: { run, part: 'one' } })
  await using b = await delta.sandboxes.create({ metadata: { run, part: 'two' } })
  await using c = await delta.sandboxes.create({ metadata: { run, part: 'two' } })
  await c.pause()
  expect(await ids({ metadata: { run } })).toEqual([a.id, b.id, c.id].toSorted())
  expect(await ids({ metadata: { run }, pageSize: 1 })).toEqual([a.id, b.id, c.id].toSorted())
  expect(await ids({ metadata: { run, part: 'two' } })).toEqual([b.id, c.id].toSorted())
  expect(await ids({ metadata: { run }, state: 'paused' })).toEqual([c.id])
  expect(await ids({ metadata: { run }, state: ['running', 'paused'] })).toHaveLength(3)
  expect(await ids({ metadata: { run: 'nobody' } })).toEqual([])
  await b.update({ metadata: { run, part: 'three' } })
  expect(await ids({ metadata: { run, part: 'two' } })).toEqual([c.id])
})

test('the same create twice makes one sandbox, also at the same moment', async () => {
  const idempotencyKey = randomUUID()
  const metadata = { idempotent: idempotencyKey }
  const same = await Promise.all(
    Array.from({ length: 5 }, () => delta.sandboxes.create({ idempotencyKey, metadata, timeoutMs: 60_000 })),
  )
  await using first = same[0] as NonNullable<(typeof same)[0]>
  expect(new Set(same.map(({ id }) => id)).size).toBe(1)
  expect(await delta.sandboxes.list({ metadata }).all()).toHaveLength(1)
  const other = await refusal(delta.sandboxes.create({ idempotencyKey, metadata, timeoutMs: 61_000 }))
  expect([other.status, other.code]).toEqual([409, 'idempotency_conflict'])
  expect(first.state).toBe('running')
})

test('environment reaches every command and is never returned', async () => {
  await using sandbox = await delta.sandboxes.create({ env: { SECRET: 'hunter2', LANG: 'C' } })
  expect((await sandbox.commands.run('echo $SECRET $LANG')).stdout).toBe('hunter2 C\n')
  expect((await sandbox.commands.run('echo $SECRET', { env: { SECRET: 'other' } })).stdout).toBe('other\n')
  expect(await (await request(`/v1/sandboxes/${sandbox.id}`)).text()).not.toContain('hunter2')
})

test('metrics tell what a sandbox uses', async () => {
  await using sandbox = await delta.sandboxes.create({ memoryMb: 128, diskMb: 64 })
  await sandbox.commands.run(
    'i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done; head -c 8M /dev/urandom > /workspace/x; sync',
  )
  const metrics = await sandbox.metrics()
  expect(metrics.memoryLimitBytes).toBe(128 * 1024 * 1024)
  expect(metrics.memoryBytes).toBeGreaterThan(0)
  expect(metrics.memoryBytes).toBeLessThanOrEqual(metrics.memoryLimitBytes)
  expect(metrics.cpuMs).toBeGreaterThan(10)
  expect(metrics.processes).toBeGreaterThanOrEqual(1)
  expect(metrics.oomKills).toBe(0)
  expect(metrics.uptimeMs).toBeGreaterThan(0)
  if (metrics.diskBytes !== null) {
    // gVisor's sync does not wait for the file system of the host.
    await expect
      .poll(async () => (await sandbox.metrics()).diskBytes, { timeout: 20_000 })
      .toBeGreaterThan(7 * 1024 * 1024)
    expect(metrics.diskLimitBytes).toBe(64 * 1024 * 1024)
  }
})

test('twenty sandboxes at once all run and all end', async () => {
  const sandboxes = await Promise.all(Array.from({ length: 20 }, () => delta.sandboxes.create()))
  const outputs = await Promise.all(sandboxes.map(({ commands }, index) => commands.run(`echo ${index}`)))
  expect(outputs.map(({ stdout }) => stdout)).toEqual(sandboxes.map((_, index) => `${index}\n`))
  await Promise.all(sandboxes.map((sandbox) => sandbox.kill()))
  for (const sandbox of sandboxes) expect((await sandbox.refresh()).state).toBe('killed')
})
