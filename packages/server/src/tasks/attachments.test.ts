import { expect, onTestFinished, test } from 'vitest'
import type { Database } from '../kernel/db/database.ts'
import { testDatabases } from '../kernel/db/testing.ts'
import { DeltaError } from '../kernel/errors.ts'
import { newId } from '../kernel/ids.ts'
import { silentLogger } from '../kernel/log.ts'
import { firstCard } from '../ledger/rate-card.ts'
import { createLedger } from '../ledger/service.ts'
import { say } from '../models/testing/peers.ts'
import { createStorageCharges } from '../workspaces/storage-charges.ts'
import { openTestStorage } from '../workspaces/testing.ts'
import { volumeMigrations } from '../workspaces/volumes/migrations.ts'
import { createAttachmentStore } from './attachment-store.ts'
import { attach, createAttachments, digestOf } from './attachments.ts'
import { taskLimits } from './limits.ts'
import { accountId, anna, atRest, give, newAgent, newWorld, taskTestMigrations } from './testing.ts'

/** One pixel. */
const png = 'iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=='
const image = { mediaType: 'image/png' as const, data: png }
const file = (content: string) => ({ path: 'a.txt', content, encoding: 'utf8' as const })

testDatabases('what comes with a task', (open) => {
  async function start(options: Parameters<typeof newWorld>[1] = {}) {
    const database: Database = (await open(taskTestMigrations)).of()
    const world = await newWorld(database, options)
    const server = await world.serve()
    const agent = await newAgent(server)
    const stored = async () => {
      const found: string[] = []
      for await (const { digest } of world.blobs.list()) found.push(digest)
      return found.toSorted()
    }
    return { world, server, agent, stored, used: createAttachmentStore(database) }
  }

  test.each([
    ['an image that is none', { images: [image, { ...image, mediaType: 'image/gif' }] }, 'invalid_request'],
    ['a model that is none', { model: 'openai/none' }, 'model_not_priced'],
    ['a tool that is none', { tools: { nonsense: 'off' } }, 'invalid_request'],
    ['a schema that is none', { resultSchema: { type: 'nonsense' } }, 'invalid_request'],
    ['more tokens than there are', { tokenBudget: 1_000_000 }, 'balance_too_low'],
  ])('is nowhere when the task is refused for %s', async (_, wish, code) => {
    const { server, agent, stored, used } = await start()
    const given = give(server, agent.id, { files: [file('refused')], images: [image], ...wish })
    await expect(given).rejects.toMatchObject({ code })
    expect(await stored()).toEqual([])
    expect(await used.bytesOf(accountId)).toBe(0)
  })

  test('counts once for its account, and stays when somebody else is refused the same', async () => {
    const { world, server, agent, stored, used } = await start()
    world.peer.script(say('done'), say('done'))
    const wish = { files: [file('the same')], images: [image] }
    await atRest(world, (await give(server, agent.id, wish)).id)
    await atRest(world, (await give(server, agent.id, wish)).id)
    await expect(give(server, agent.id, { ...wish, tokenBudget: 1_000_000 })).rejects.toMatchObject({
      code: 'balance_too_low',
    })
    const bytes = [Buffer.from('the same'), Buffer.from(png, 'base64')]
    expect(await stored()).toEqual(bytes.map(digestOf).toSorted())
    expect(await used.bytesOf(accountId)).toBe(bytes[0]!.length + bytes[1]!.length)
    expect(await used.accounts()).toEqual([accountId])
  })

  test('is nowhere when its message is refused', async () => {
    const { world, server, agent, stored, used } = await start()
    world.peer.script(say('done'))
    const ended = await give(server, agent.id)
    await atRest(world, ended.id)
    const told = { text: 'Look', images: [image], interrupt: false }
    await expect(server.tasks.message(ended.id, told, anna)).rejects.toMatchObject({ code: 'task_over' })
    world.peer.script({ ...say('hello'), firstMs: 60_000 })
    const { id } = await give(server, agent.id, { chat: true })
    const wrong = { ...told, images: [image, { ...image, mediaType: 'image/gif' as const }] }
    await expect(server.tasks.message(id, wrong, anna)).rejects.toMatchObject({ code: 'invalid_request' })
    for (let seq = 0; seq < taskLimits.inbox; seq++) {
      await world.store.addToInbox(id, { parts: [], by: 'usr_anna', createdAt: 0 }, undefined)
    }
    await expect(server.tasks.message(id, told, anna)).rejects.toMatchObject({ code: 'task_state_conflict' })
    expect(await stored()).toEqual([])
    expect(await used.bytesOf(accountId)).toBe(0)
  })

  test('counts too where it comes with a message', async () => {
    const { world, server, agent, used } = await start()
    world.peer.script(say('seen'))
    const { id } = await give(server, agent.id, { chat: true })
    await atRest(world, id)
    expect(await used.bytesOf(accountId)).toBe(0)
    world.peer.script(say('seen'))
    await server.tasks.message(id, { text: 'Look', images: [image], interrupt: false }, anna)
    expect(await used.bytesOf(accountId)).toBe(Buffer.from(png, 'base64').length)
  })

  test('is refused an account that owes for what it keeps; a task without anything is not', async () => {
    const owes = new DeltaError('account_owes', 'It owes')
    const { world, server, agent, stored } = await start({ mayKeepMore: () => Promise.reject(owes) })
    await expect(give(server, agent.id, { files: [file('more')] })).rejects.toMatchObject({ code: 'account_owes' })
    expect(await stored()).toEqual([])
    world.peer.script(say('done'))
    await atRest(world, (await give(server, agent.id)).id)
  })
})

testDatabases('blobs of attachments', (open) => {
  async function start() {
    const database: Database = await open([...taskTestMigrations, ...volumeMigrations])
    const { blobs } = await openTestStorage((end) => onTestFinished(end))
    const store = createAttachmentStore(database)
    let now = 1_000_000
    const clock = {
      now: () => now,
      monotonic: () => now,
      sleep: async (ms: number) => void (now += ms),
      after: () => () => {},
      every: () => () => {},
    }
    const parts = { store, blobs, clock, log: silentLogger, mayKeepMore: async () => undefined }
    return { database, blobs, store, clock, attachments: createAttachments(parts) }
  }

  const some = attach([], [file('some')])
  const [digest] = [...some.blobs.keys()] as [`sha256:${string}`]

  test('that lay there before are not removed: they may be the layer of a workspace', async () => {
    const { blobs, attachments } = await start()
    await blobs.put({
      digest,
      size: 4,
      async *open() {
        yield Buffer.from('some')
      },
    })
    await attachments.keep({ useId: 'tsk_a', accountId }, some)
    await attachments.release('tsk_a')
    expect(await blobs.has(digest)).toBe(4)
  })

  test('are there for whoever stores them while they are removed', async () => {
    const { blobs, store, attachments, clock } = await start()
    await attachments.keep({ useId: 'tsk_a', accountId }, some)
    await store.release('tsk_a', digest)
    expect(await store.removing(digest, clock.now())).toBe(true)
    const slept: Promise<void>[] = []
    const { sleep } = clock
    clock.sleep = async (ms) => {
      await sleep(ms)
      // The other server is done meanwhile.
      slept.push(blobs.remove(digest).then(() => store.removed(digest)))
      await slept.at(-1)
    }
    await attachments.keep({ useId: 'tsk_b', accountId }, some)
    expect(slept).toHaveLength(1)
    expect(await blobs.has(digest)).toBe(4)
    expect(await store.removing(digest, clock.now())).toBe(false)
  })

  test('whose removal a server died over can be stored again after a while', async () => {
    const { blobs, store, attachments, clock } = await start()
    await attachments.keep({ useId: 'tsk_a', accountId }, some)
    await store.release('tsk_a', digest)
    await store.removing(digest, clock.now())
    const again = () => attachments.keep({ useId: 'tsk_b', accountId }, some)
    await expect(again()).rejects.toMatchObject({ code: 'storage_unavailable' })
    expect(await store.usedBy('tsk_b')).toEqual([])
    await clock.sleep(taskLimits.attachments.removalMs)
    await again()
    expect(await blobs.has(digest)).toBe(4)
  })

  test('are paid with all else that the account keeps, once a day', async () => {
    const { database, store, attachments, clock } = await start()
    const ledger = createLedger({
      database,
      clock,
      log: silentLogger,
      rates: firstCard,
      grant: 1_000_000,
      planAtStart: () => 'enterprise',
      incarnation: newId('srv'),
    })
    await ledger.ensure(accountId)
    const large = attach([], [file('a'.repeat(1_000_000)), file('b'.repeat(1_000_000))])
    await attachments.keep({ useId: 'tsk_a', accountId }, large)
    await attachments.keep({ useId: 'tsk_b', accountId }, large)
    const stop = new AbortController()
    const asleep = {
      ...clock,
      sleep: () => new Promise<void>((done) => stop.signal.addEventListener('abort', () => done())),
    }
    const charges = createStorageCharges({
      database,
      ledger,
      clock: asleep,
      log: silentLogger,
      isBucket: false,
      others: store,
    })
    onTestFinished(() => (stop.abort(), charges.stop()))
    charges.start()
    const used = async () => (await ledger.balanceOf(accountId, ledger.reserveOf(accountId))).used
    await expect.poll(used).toBe(ledger.price('storage_mb_days', 2))
  })
})
