import { afterEach, describe, expect, test } from 'vitest'
import { createBox } from '../access/secrets.ts'
import { createProcessDriver, type ProcessDriver } from '../drivers/testing/process.ts'
import type { GuestConnection } from '../guest/client.ts'
import { systemClock } from '../kernel/clock.ts'
import type { Database } from '../kernel/db/database.ts'
import { testDatabases } from '../kernel/db/testing.ts'
import { testHashBody } from '../kernel/http/testing-body-hash.ts'
import { newId } from '../kernel/ids.ts'
import { silentLogger } from '../kernel/log.ts'
import { sandboxMigrations } from './migrations.ts'
import { createSandboxSchema } from './schema.ts'
import { createSandboxes, type Sandboxes } from './service.ts'
import type { Seal } from './store.ts'
import { testSeal } from './testing.ts'

const caller = { accountId: 'acc_a' }
const wish = (fields: object = {}) => createSandboxSchema.parse(fields)

testDatabases('sandboxes with a real guest', (open) => {
  const cleanUp: (() => Promise<void>)[] = []
  afterEach(async () => {
    for (const each of cleanUp.splice(0).toReversed()) await each()
  })

  async function serve(world: { database: Database; driver: ProcessDriver; seal?: Seal }): Promise<Sandboxes> {
    const sandboxes = createSandboxes({
      hashBody: testHashBody,
      seal: testSeal,
      ...world,
      clock: systemClock,
      log: silentLogger,
    })
    const { reconciled } = await sandboxes.start()
    cleanUp.push(() => sandboxes.stop('leave'))
    await reconciled
    return sandboxes
  }

  async function start() {
    const database = await open(sandboxMigrations)
    const driver = await createProcessDriver()
    cleanUp.push(() => driver.close())
    return { database, driver, sandboxes: await serve({ database, driver }) }
  }

  test('commands run through the door, before and after a stop', async () => {
    const { sandboxes } = await start()
    const { id } = await sandboxes.create(wish({ env: { GREETING: 'hello' } }), caller)
    const first = await sandboxes.door.open(id, caller)
    expect(first.sandbox).toMatchObject({ id, env: { GREETING: 'hello' }, template: 'host', memoryMb: 512 })
    expect(await run(first.guest, 'echo $((6*7))')).toEqual({ stdout: '42\n', value: 0 })
    expect((await sandboxes.door.open(id, caller)).guest).toBe(first.guest)

    await sandboxes.stopSandbox(id, caller)
    await first.guest.closed
    const second = await sandboxes.door.open(id, caller)
    expect(second.guest.bootId).not.toBe(first.guest.bootId)
    expect((await run(second.guest, 'echo again')).stdout).toBe('again\n')
  })

  test('a paused sandbox stands still until a command needs it', async () => {
    const { sandboxes } = await start()
    const { id } = await sandboxes.create(wish(), caller)
    await sandboxes.pause(id, caller)
    const { guest } = await sandboxes.door.open(id, caller)
    expect((await run(guest, 'echo awake')).stdout).toBe('awake\n')
    expect((await sandboxes.get(id, caller)).state).toBe('running')
  })

  test('a guest that is killed leaves a stopped sandbox; what waited learns it', async () => {
    const { sandboxes } = await start()
    const { id } = await sandboxes.create(wish(), caller)
    const { guest } = await sandboxes.door.open(id, caller)
    const waiting = guest.exec(requestOf('kill -9 $PPID; sleep 30')).then((stream) => stream.exit)
    await expect(waiting).rejects.toMatchObject({ code: 'connection_lost' })
    await expect.poll(async () => (await sandboxes.get(id, caller)).state).toBe('stopped')
    const { data } = await sandboxes.logs(id, caller, { limit: 10 })
    expect(data.at(-2)).toMatchObject({ from: 'running', to: 'stopping', reason: 'guest_died' })
  })

  test('under another SECRET_KEY sandboxes live on, and those with variables say that they can not be read', async () => {
    const { sandboxes, ...world } = await start()
    const secret = await sandboxes.create(wish({ env: { DBPW: 'x' } }), caller)
    const plain = await sandboxes.create(wish(), caller)
    await sandboxes.stop('leave')

    const later = await serve({ ...world, seal: createBox(Buffer.alloc(32, 1)) })
    const envOf = async (id: string) => (await later.door.open(id, caller)).sandbox.env
    expect(await envOf(plain.id)).toEqual({})
    expect(await envOf(secret.id)).toBeNull()
    await later.stopSandbox(secret.id, caller)
    expect((await later.startSandbox(secret.id, caller)).state).toBe('running')
    expect(await envOf(secret.id)).toBeNull()
    await later.stop('leave')

    // The key was only mislaid.
    const last = await serve(world)
    expect((await last.door.open(secret.id, caller)).sandbox.env).toEqual({ DBPW: 'x' })
  })

  test('variables that an earlier version stored in clear are sealed when the server starts', async () => {
    const { sandboxes, ...world } = await start()
    const { id } = await sandboxes.create(wish(), caller)
    await sandboxes.stop('leave')
    const rows = world.database.of<{ sandboxes: { env: string } }>()
    await rows.run(rows.sql.updateTable('sandboxes').set({ env: '{"DBPW":"planted"}' }).compile())

    const later = await serve(world)
    expect((await later.door.open(id, caller)).sandbox.env).toEqual({ DBPW: 'planted' })
    const [row] = await rows.all(rows.sql.selectFrom('sandboxes').select('env').compile())
    expect(row!.env).not.toMatch(/DBPW|planted|\{/)
  })

  test('a server that comes back finds guest and execs as they were', async () => {
    const { sandboxes, ...world } = await start()
    const { id } = await sandboxes.create(wish(), caller)
    const { guest } = await sandboxes.door.open(id, caller)
    const request = requestOf('sleep 0.3; echo done; exit 5')
    await guest.start(request)
    await sandboxes.stop('leave')
    await guest.closed

    const next = await serve(world)
    const again = await next.door.open(id, caller)
    expect(again.guest.bootId).toBe(guest.bootId)
    const stream = await again.guest.attach(request.execId)
    expect(await stream.exit).toMatchObject({ kind: 'exited', value: 5 })
  })

  describe('a guest that misbehaves', () => {
    test('one that never says hello cannot become a running sandbox, and nothing of it is left', async () => {
      const database = await open(sandboxMigrations)
      // Accepts connections, and then says nothing.
      const driver = await createProcessDriver({ guest: process.execPath, args: ['-e', 'setInterval(() => {}, 1000)'] })
      cleanUp.push(() => driver.close())
      const sandboxes = createSandboxes({
        hashBody: testHashBody,
        seal: testSeal,
        database,
        driver,
        clock: systemClock,
        log: silentLogger,
        helloTimeoutMs: 200,
      })
      await sandboxes.start()
      cleanUp.push(() => sandboxes.stop('leave'))
      await expect(sandboxes.create(wish(), caller)).rejects.toMatchObject({ code: 'guest_unreachable' })
      expect(await driver.leftovers()).toEqual([])
      const [failed] = (await sandboxes.list(caller, { metadata: {}, limit: 10 })).data
      expect(failed).toMatchObject({ state: 'failed', reason: 'create_failed' })
    })

    test('one that says something else is told apart, and ended', async () => {
      const database = await open(sandboxMigrations)
      const liar = `const net = require('node:net')
        net.createServer((socket) => socket.on('error', () => {}).end(Buffer.alloc(200, 0x41))).listen({ fd: 3 })`
      const driver = await createProcessDriver({ guest: process.execPath, args: ['-e', liar] })
      cleanUp.push(() => driver.close())
      const sandboxes = createSandboxes({
        hashBody: testHashBody,
        seal: testSeal,
        database,
        driver,
        clock: systemClock,
        log: silentLogger,
      })
      await sandboxes.start()
      cleanUp.push(() => sandboxes.stop('leave'))
      await expect(sandboxes.create(wish(), caller)).rejects.toMatchObject({ code: 'guest_protocol_error' })
      expect(await driver.leftovers()).toEqual([])
    })
  })
})

function requestOf(script: string) {
  return {
    execId: newId('exe'),
    argv: ['/bin/sh', '-c', script],
    env: { PATH: '/usr/bin:/bin' },
    cwd: '/',
    user: `${process.getuid!()}`,
    timeoutMs: 20_000,
    keepStdin: false,
  }
}

async function run(guest: GuestConnection, script: string): Promise<{ stdout: string; value: number }> {
  const stream = await guest.exec(requestOf(script))
  let stdout = ''
  const { value } = await stream.consume(({ bytes }) => void (stdout += bytes.toString()))
  return { stdout, value }
}
