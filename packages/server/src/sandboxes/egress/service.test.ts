import { once } from 'node:events'
import { type AddressInfo, createServer, type Socket } from 'node:net'
import { afterEach, expect, test } from 'vitest'
import { type EgressRequest, GuestError } from '../../guest/client.ts'
import { createReader, createWriter, frameTypes } from '../../guest/codec.ts'
import { ops } from '../../guest/messages.ts'
import { connectPeer } from '../../guest/testing/peer.ts'
import { type ManualClock, manualClock } from '../../kernel/clock.ts'
import type { Database } from '../../kernel/db/database.ts'
import { testDatabases } from '../../kernel/db/testing.ts'
import { silentLogger } from '../../kernel/log.ts'
import { sandboxMigrations } from '../migrations.ts'
import { ledgerMigrations } from '../../ledger/migrations.ts'
import { createTestLedger, type TestLedger } from '../metering/testing.ts'
import { createAddressGuard } from './addresses.ts'
import { connectSocket } from './connect.ts'
import type { EgressEvents } from './events.ts'
import { createNames } from './names.ts'
import { createOutward } from './outward.ts'
import type { EgressPolicy } from './rules.ts'
import { createEgress, type Egress, egressLimits } from './service.ts'

const sandboxId = `sbx_${'a'.repeat(20)}`
const accountId = 'acc_a'
const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve))

testDatabases('egress', (open) => {
  const cleanUp: (() => unknown)[] = []
  afterEach(async () => {
    for (const each of cleanUp.splice(0).toReversed()) await each()
  })

  /** A server on loopback that says hello, echoes, and goes by the names of the tests. */
  async function origin(): Promise<{ port: number; sockets: Socket[] }> {
    const sockets: Socket[] = []
    const server = createServer({ allowHalfOpen: true }, (socket) => {
      sockets.push(socket)
      socket.on('error', () => {})
      socket.write('hello ')
      socket.pipe(socket)
    }).listen(0, '127.0.0.1')
    await once(server, 'listening')
    cleanUp.push(() => {
      for (const socket of sockets) socket.destroy()
      server.close()
    })
    return { port: (server.address() as AddressInfo).port, sockets }
  }

  interface World {
    database: Database
    clock: ManualClock
    egress: Egress
    ended: EgressEvents['egress.ended'][]
    /** Where bytes are paid. */
    ledger?: TestLedger | undefined
  }

  async function start({
    tokens,
    ...bounds
  }: { mostConnections?: number; mostSandboxes?: number; tokens?: number } = {}): Promise<World> {
    const database: Database = await open([...sandboxMigrations, ...ledgerMigrations])
    const clock = manualClock(1_789_000_000_000)
    const ledger = tokens === undefined ? undefined : await createTestLedger(database, clock, tokens)
    const connectOutward = createOutward({
      names: createNames({
        lookup: async () => [{ address: '127.0.0.1', family: 4 }],
        hosts: new Map(),
        monotonic: clock.monotonic,
      }),
      guard: createAddressGuard({
        allowCidrs: [{ address: '127.0.0.1', prefix: 32, family: 4 }],
        ownAddresses: () => [],
      }),
      connect: connectSocket,
      clock,
    })
    const egress = createEgress({
      database,
      clock,
      log: silentLogger,
      connectOutward,
      ledger,
      ...bounds,
    })
    const ended: EgressEvents['egress.ended'][] = []
    egress.events.on('egress.ended', (event) => ended.push(event))
    cleanUp.push(() => egress.stop())
    return { database, clock, egress, ended, ledger }
  }

  /** A guest whose programs want connections. */
  async function box({ egress }: World, policy: { now: EgressPolicy }, id = sandboxId) {
    const { guest, peer } = await connectPeer()
    guest.onEgress(egress.handlerFor({ sandboxId: id, accountId, policy: () => policy.now }))
    cleanUp.push(() => guest.close())
    let channel = 0
    const ask = (host: string, port: number, via = 1): number => {
      channel += 2
      peer.send('open', channel, createWriter().u8(ops.egress).str(host).u16(port).u8(via))
      return channel
    }
    /** The next frame that is no credit, in words. */
    const next = async (): Promise<string> => {
      for (;;) {
        const { type, payload } = await peer.next()
        const reader = createReader(payload)
        if (type === frameTypes.opened) return 'OPENED'
        if (type === frameTypes.data) return payload.subarray(9).toString()
        if (type === frameTypes.end) return 'END'
        if (type === frameTypes.close) return `CLOSE ${reader.u16('code')} ${reader.str('message')}`.trimEnd()
      }
    }
    return { guest, peer, ask, next }
  }

  const logged = async ({ egress }: World, id = sandboxId) => (await egress.list(id, accountId, { limit: 100 })).data

  test('an allowed connection carries bytes and is logged with them at its end', async () => {
    const { port } = await origin()
    const world = await start()
    const { ask, next, peer } = await box(world, { now: { hosts: [`a.example:${port}`], presets: [] } })
    const channel = ask('A.Example.', port)
    expect([await next(), await next()]).toEqual(['OPENED', 'hello '])
    expect(world.egress.open()).toBe(1)
    peer.data(channel, 0, 0, 'world')
    peer.send('end', channel)
    expect([await next(), await next(), await next()]).toEqual(['world', 'END', 'CLOSE 0'])
    expect(world.ended).toMatchObject([
      {
        sandboxId,
        accountId,
        host: 'a.example',
        port,
        via: 'connect',
        outcome: 'allowed',
        reason: 'closed',
        bytesUp: 5,
        bytesDown: 11,
      },
    ])
    expect(world.egress.open()).toBe(0)
    expect(await logged(world)).toMatchObject([
      {
        host: 'a.example',
        port,
        address: '127.0.0.1',
        via: 'connect',
        outcome: 'allowed',
        bytesUp: 5,
        bytesDown: 11,
        count: 1,
      },
    ])
  })

  test('bytes are held for before they pass, and paid for as many as did', async () => {
    const { port } = await origin()
    const world = await start({ tokens: 100_000 })
    const ledger = world.ledger!
    const { ask, next, peer } = await box(world, { now: 'all' })
    const channel = ask('a.example', port)
    expect([await next(), await next()]).toEqual(['OPENED', 'hello '])
    expect((await ledger.balances()).held).toBeGreaterThan(0)
    peer.data(channel, 0, 0, 'world')
    peer.send('end', channel)
    expect([await next(), await next(), await next()]).toEqual(['world', 'END', 'CLOSE 0'])
    await world.egress.stop()
    expect(ledger.commits.map(({ lines }) => lines)).toEqual([[{ meter: 'egress_bytes', quantity: 16, cost: 1 }]])
    expect((await ledger.balances()).balance).toBe(99_999)
  })

  test('where nobody pays a connection ends with a line that says how to get tokens, and no byte has passed', async () => {
    const { port } = await origin()
    const world = await start({ tokens: 0 })
    const { ask, next } = await box(world, { now: 'all' })
    ask('a.example', port)
    const said = [await next()]
    if (said[0] === 'OPENED') said.push(await next())
    expect(said.at(-1)).toMatch(
      /^CLOSE 6 Egress to a\.example:\d+ has ended \(balance_too_low\): nobody can pay .* tokens/,
    )
    expect(await logged(world)).toMatchObject([{ reason: 'out_of_tokens', bytesUp: 0, bytesDown: 0 }])
  })

  test('a refused one names the policy, is logged, and no name is resolved for it', async () => {
    const world = await start()
    const { ask, next } = await box(world, { now: 'none' })
    ask('pypi.org', 443, 2)
    expect(await next()).toBe(
      `CLOSE 6 Egress to pypi.org:443 is refused by the policy "none" of ${sandboxId}; allow it with 'delta egress allow', or ask with POST /v1/sandboxes/{id}/network/requests`,
    )
    await world.clock.advance(1)
    ask('a b\0c', 443)
    expect(await next()).toMatch(/^CLOSE 1 .*is no host/)
    ask('pypi.org', 0, 3)
    expect(await next()).toMatch(/^CLOSE 1 .*is no host/)
    expect(await logged(world)).toMatchObject([
      { outcome: 'refused', reason: 'invalid_host', address: null },
      { outcome: 'refused', reason: 'invalid_host', address: null },
      { host: 'pypi.org', port: 443, via: 'http', outcome: 'refused', reason: 'policy', address: null },
    ])
  })

  test('a change of policy cuts what it refuses and nothing else, and lets new ones in', async () => {
    const { port } = await origin()
    const world = await start()
    const policy: { now: EgressPolicy } = { now: 'all' }
    const { ask, next, peer } = await box(world, policy)
    const kept = ask('kept.example', port)
    expect([await next(), await next()]).toEqual(['OPENED', 'hello '])
    ask('cut.example', port)
    expect([await next(), await next()]).toEqual(['OPENED', 'hello '])
    policy.now = { hosts: [`kept.example:${port}`], presets: [] }
    world.egress.enforce(sandboxId)
    expect(await next()).toMatch(/^CLOSE 6 Egress to cut.example/)
    peer.data(kept, 0, 0, 'still')
    expect(await next()).toBe('still')
    expect(world.ended).toMatchObject([
      { host: 'cut.example', outcome: 'allowed', reason: 'policy_changed', bytesDown: 6 },
    ])
    ask('cut.example', port)
    expect(await next()).toMatch(/^CLOSE 6 /)
  })

  test('a change of policy also ends what is still connecting', async () => {
    const database = await open(sandboxMigrations)
    const clock = manualClock(0)
    const egress = createEgress({
      database,
      clock,
      log: silentLogger,
      connectOutward:
        (_owner, _target, { failed }) =>
        (reason) =>
          failed(reason),
    })
    cleanUp.push(() => egress.stop())
    const policy: { now: EgressPolicy } = { now: 'all' }
    const { ask, next } = await box({ database, clock, egress, ended: [] }, policy)
    ask('slow.example', 443)
    await turn()
    policy.now = 'none'
    egress.enforce(sandboxId)
    expect(await next()).toMatch(/^CLOSE 6 Egress to slow.example:443 is refused by the policy "none"/)
  })

  test('what the guest can no longer take is refused, and the connection to the far side is closed', async () => {
    const { port, sockets } = await origin()
    const world = await start()
    const refused = new Promise((resolve) => {
      const handle = world.egress.handlerFor({ sandboxId, accountId, policy: () => 'all' })
      handle({
        host: 'a.example',
        port,
        via: 'connect',
        join() {
          throw new GuestError('limit', 'no memory')
        },
        refuse: (code, message) => resolve(`${code} ${message}`),
        onAbandoned() {},
      })
    })
    expect(await refused).toContain('limit Egress to a.example')
    await expect.poll(() => sockets.length).toBe(1)
    sockets[0]!.resume()
    await expect.poll(() => sockets[0]!.closed).toBe(true)
    expect(world.egress.open()).toBe(0)
    expect(await logged(world)).toMatchObject([{ outcome: 'refused', reason: 'server_full' }])
  })

  test('the end of a box ends its connections, and those alone', async () => {
    const { port, sockets } = await origin()
    const world = await start()
    const first = await box(world, { now: 'all' })
    const second = await box(world, { now: 'all' }, `sbx_${'b'.repeat(20)}`)
    for (const each of [first, second]) {
      each.ask('a.example', port)
      expect([await each.next(), await each.next()]).toEqual(['OPENED', 'hello '])
    }
    world.egress.endAll(sandboxId, 'paused')
    expect(await first.next()).toMatch(/^CLOSE 20 /)
    expect(world.ended).toMatchObject([{ sandboxId, reason: 'paused' }])
    second.guest.close()
    await once(sockets[1]!, 'close')
    expect(world.ended[1]).toMatchObject({ reason: 'closed_inside' })
    expect(world.egress.open()).toBe(0)
  })

  test('connections are bounded for a sandbox and for all', async () => {
    const { port } = await origin()
    const world = await start({ mostConnections: 6, mostSandboxes: 1_000 })
    const { ask, next } = await box(world, { now: 'all' })
    for (let index = 0; index < 3; index++) ask('a.example', port)
    const said = []
    for (let index = 0; index < 6; index++) said.push(await next())
    expect(said.filter((word) => word === 'OPENED').length).toBe(3)
    ask('a.example', port)
    expect(await next()).toMatch(/^CLOSE 14 .*the server has as many/)
  })

  test('however many connections others hold, each sandbox has its part, and the first leaves half to the next', async () => {
    const { port } = await origin()
    const world = await start({ mostConnections: 40, mostSandboxes: 5 })
    /** Asks until it is refused. Returns how many it got. */
    const fill = async (id: string): Promise<number> => {
      const { ask, next } = await box(world, { now: 'all' }, id)
      for (let got = 0; ; got++) {
        ask('a.example', port)
        const word = await next()
        if (word.startsWith('CLOSE 14 ')) return got
        expect([word, await next()]).toEqual(['OPENED', 'hello '])
      }
    }
    const got = []
    for (const name of ['a', 'b', 'c', 'd', 'e']) got.push(await fill(`sbx_${name.repeat(20)}`))
    expect(got).toEqual([14, 9, 6, 5, 5])
    expect(world.egress.open()).toBeLessThanOrEqual(40)
  })

  test('a flood of new connections is held to a number a second', async () => {
    const world = await start()
    const { ask, next } = await box(world, { now: 'none' })
    let limited = 0
    for (let index = 0; index < egressLimits.opens.burst + 20; index++) {
      ask('a.example', 443)
      if ((await next()).startsWith('CLOSE 14 ')) limited += 1
    }
    expect(limited).toBe(20)
    await world.clock.advance(1_000)
    ask('a.example', 443)
    expect(await next()).toMatch(/^CLOSE 6 /)
  })

  test('what is refused in a flood is counted in one row', async () => {
    const world = await start()
    const { ask, next } = await box(world, { now: 'none' })
    for (let index = 0; index < 500; index++) {
      ask(`h${index}.example`, 443)
      await next()
    }
    expect(world.ended.length).toBe(500)
    await world.clock.advance(egressLimits.countedRowMs)
    const rows = await logged(world)
    expect(rows.length).toBe(egressLimits.refusedRows.burst + 1)
    expect(rows.reduce((sum, { count }) => sum + count, 0)).toBe(500)
    expect(rows.find(({ count }) => count > 1)).toMatchObject({ host: 'h499.example', outcome: 'refused' })
  })

  test('nothing of the log is lost by an orderly stop', async () => {
    const { port } = await origin()
    const world = await start()
    const { ask, next } = await box(world, { now: 'all' })
    ask('a.example', port)
    expect([await next(), await next()]).toEqual(['OPENED', 'hello '])
    await world.egress.stop()
    expect(await logged(world)).toMatchObject([{ host: 'a.example', reason: 'server_stopped', bytesDown: 6 }])
    const late = { refuse: (code: string) => expect(code).toBe('limit') }
    world.egress.handlerFor({ sandboxId, accountId, policy: () => 'all' })({
      ...late,
      host: 'a.example',
      port,
      via: 'tcp',
    } as unknown as EgressRequest)
  })

  test('the log comes in pages, newest first, to its own account', async () => {
    const world = await start()
    const { ask, next } = await box(world, { now: 'none' })
    for (let index = 0; index < 5; index++) {
      ask(`h${index}.example`, 443)
      await next()
      if (index !== 2) await world.clock.advance(1)
    }
    const hosts: string[] = []
    let cursor: string | undefined
    do {
      const page = await world.egress.list(sandboxId, accountId, { limit: 2, cursor })
      hosts.push(...page.data.map(({ host }) => host))
      cursor = page.nextCursor ?? undefined
    } while (cursor !== undefined)
    expect(hosts.toSorted()).toEqual([0, 1, 2, 3, 4].map((index) => `h${index}.example`))
    expect([hosts[0], hosts[4]]).toEqual(['h4.example', 'h0.example'])
    expect((await world.egress.list(sandboxId, 'acc_b', { limit: 10 })).data).toEqual([])
    await expect(world.egress.list(sandboxId, accountId, { limit: 10, cursor: 'x' })).rejects.toMatchObject({
      code: 'invalid_request',
    })
  })
})
