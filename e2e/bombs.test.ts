import type { Sandbox } from '@delta-agents/sdk'
import { afterAll, beforeAll, expect, test } from 'vitest'
import { delta, refusal, serverMemoryBytes } from './target.ts'

const mib = 1024 * 1024
let neighbour: Sandbox
let memoryBefore: number
beforeAll(async () => {
  neighbour = await delta.sandboxes.create({ timeoutMs: 1_800_000 })
  memoryBefore = await serverMemoryBytes()
})
afterAll(async () => {
  await neighbour.kill()
  expect((await serverMemoryBytes()) - memoryBefore).toBeLessThan(128 * mib)
})

const isGvisor = () => neighbour.info.runtime === 'runsc'

/** gVisor's kernel lives within the sandbox's own limit and goes with it; the host sees a kill for memory, or only that it ended. */
async function expectEnded(sandbox: Sandbox): Promise<void> {
  await expect.poll(async () => (await sandbox.refresh()).state).not.toBe('running')
  expect((await sandbox.logs().all()).map(({ reason }) => reason).join()).toMatch(/memory|oom|guest_died/)
}

/** Meanwhile a neighbour answers, which is what a bomb must not prevent. */
async function neighbourAnswers(): Promise<void> {
  expect((await neighbour.commands.run('echo fine', { timeoutMs: 20_000 })).stdout).toBe('fine\n')
}

test('a full disk is 507, reading and removing go on, and there is room again after', async () => {
  await using sandbox = await delta.sandboxes.create({ diskMb: 64 })
  if ((await sandbox.metrics()).diskBytes === null)
    return expect((await delta.health())['driver']).toMatchObject({ pool: 'folder' })
  await sandbox.files.write('/workspace/kept', 'kept')
  const error = await refusal(sandbox.files.write('/workspace/huge', new Blob([new Uint8Array(100 * mib)])))
  expect([error.status, error.code]).toEqual([507, 'disk_full'])
  expect(await sandbox.files.exists('/workspace/huge')).toBe(false)
  const filled = await sandbox.commands.run('head -c 100M /dev/zero > /workspace/fill')
  expect(filled.exitCode).not.toBe(0)
  expect(filled.stderr).toMatch(/No space|quota/i)
  expect(await sandbox.files.readText('/workspace/kept')).toBe('kept')
  await neighbourAnswers()
  await sandbox.files.remove('/workspace/fill')
  await expect
    .poll(
      () =>
        sandbox.files.write('/workspace/small', new Uint8Array(mib)).then(
          ({ size }) => size,
          () => 0,
        ),
      { timeout: 20_000 },
    )
    .toBe(mib)
})

test('a fork bomb stops at its limit', async () => {
  await using sandbox = await delta.sandboxes.create({ processes: 64 })
  const bomb = await sandbox.commands.start('bomb() { bomb | bomb & }; bomb; sleep 20')
  // gVisor's own kernel needs threads of the same limit, and ends where it gets none: with all that was in it.
  const processes = () =>
    sandbox.metrics().then(
      (metrics) => metrics.processes,
      async (error: unknown) => {
        if (isGvisor() && (await sandbox.refresh()).state !== 'running') return 64
        throw error
      },
    )
  await expect.poll(processes, { timeout: 15_000 }).toBeGreaterThan(40)
  expect(await processes()).toBeLessThanOrEqual(70)
  await neighbourAnswers()
  await bomb.kill().catch(() => {})
  await sandbox.kill()
  expect((await sandbox.refresh()).state).toBe('killed')
})

test('a memory bomb is killed and named as such, the sandbox goes on', async () => {
  await using sandbox = await delta.sandboxes.create({ memoryMb: 64 })
  const result = await sandbox.commands.run('tail /dev/zero', { timeoutMs: 60_000 })
  await neighbourAnswers()
  if (isGvisor()) return expectEnded(sandbox)
  expect(result).toMatchObject({ exitCode: null, signal: 'SIGKILL', oomKilled: true })
  expect((await sandbox.commands.run('echo alive')).stdout).toBe('alive\n')
  const metrics = await sandbox.metrics()
  expect(metrics.oomKills).toBeGreaterThan(0)
  expect(metrics.memoryPeakBytes).toBeLessThanOrEqual(64 * mib * 1.1)
})

test('shared memory counts as memory', async () => {
  await using sandbox = await delta.sandboxes.create({ memoryMb: 64 })
  await sandbox.commands.run('head -c 200M /dev/zero > /dev/shm/fill', { timeoutMs: 60_000 })
  await neighbourAnswers()
  if (isGvisor()) return expectEnded(sandbox)
  expect((await sandbox.metrics()).memoryBytes).toBeLessThanOrEqual(64 * mib * 1.1)
})

test('a CPU hog does not starve its neighbour', async () => {
  await using sandbox = await delta.sandboxes.create({ cpu: 0.5 })
  await sandbox.commands.start('for i in 1 2 3 4 5 6 7 8; do (while :; do :; done) & done; wait')
  await neighbourAnswers()
  const before = await sandbox.metrics()
  await new Promise((done) => setTimeout(done, 2_000))
  const after = await sandbox.metrics()
  const cores = (after.cpuMs - before.cpuMs) / (after.uptimeMs - before.uptimeMs)
  expect(cores).toBeLessThan(0.75)
})

test('a flood of files ends at the disk limit', async () => {
  await using sandbox = await delta.sandboxes.create({ diskMb: 64 })
  await sandbox.commands.run(
    'mkdir f && cd f && for i in $(seq 20); do seq $((i*1000)) $((i*1000+999)) | xargs touch; done',
    { timeoutMs: 60_000 },
  )
  await neighbourAnswers()
  await sandbox.files.remove('/workspace/f', { recursive: true })
  expect(await sandbox.files.exists('/workspace/f')).toBe(false)
})

test('many execs at once all end', async () => {
  await using sandbox = await delta.sandboxes.create()
  // gVisor's ptrace platform spends several processes of the host on each of its own, all counted against the limit of 512.
  const count = isGvisor() ? 20 : 100
  const results = await Promise.all(Array.from({ length: count }, (_, index) => sandbox.commands.run(`echo ${index}`)))
  expect(results.map(({ stdout }) => stdout.trim())).toEqual(results.map((_, index) => String(index)))
})

test('a very long line, and output without an end of line, pass', async () => {
  await using sandbox = await delta.sandboxes.create()
  const { outputBytes, stdout } = await sandbox.commands.run('head -c 30M /dev/zero | tr "\\0" "a"')
  expect(outputBytes).toBe(30 * mib)
  expect(stdout).toHaveLength(2 * mib)
})

test('a deep tree of folders is listed and removed', async () => {
  await using sandbox = await delta.sandboxes.create()
  await sandbox.commands.run('d=/workspace/deep; mkdir $d; cd $d; for i in $(seq 300); do mkdir d; cd d; done')
  expect((await sandbox.files.list('/workspace/deep', { depth: 100 }).all()).length).toBe(100)
  await sandbox.files.remove('/workspace/deep', { recursive: true })
  expect(await sandbox.files.exists('/workspace/deep')).toBe(false)
})

test('a sandbox that holds more locks of files than any program needs is stopped and says why; its disk is kept', async () => {
  await using sandbox = await delta.sandboxes.create({ memoryMb: isGvisor() ? 256 : 128 })
  await sandbox.files.write('/workspace/kept', 'kept')
  const locker = `import fcntl, time
for file in range(200):
  held = open(f'/tmp/{file}', 'w')
  for at in range(500): fcntl.lockf(held, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, 2 * at)
  globals()[f'held{file}'] = held
print('all', flush=True); time.sleep(5)`
  const ended = sandbox.commands.run(['python3', '-c', locker], { timeoutMs: 20_000 }).catch(() => undefined)
  // Its locks are those of its own kernel, in its own memory.
  if (isGvisor()) return expect((await ended)?.stdout).toBe('all\n')
  await expect.poll(async () => (await sandbox.refresh()).state, { timeout: 20_000 }).toBe('stopped')
  expect(sandbox.info).toMatchObject({ reason: 'locks_exceeded', detail: expect.stringContaining('start it again') })
  await ended
  await neighbourAnswers()
  await sandbox.start()
  expect(await sandbox.files.readText('/workspace/kept')).toBe('kept')
})
