import { expect, test } from 'vitest'
import { systemClock } from '../../kernel/clock.ts'
import { testDatabases } from '../../kernel/db/testing.ts'
import { DeltaError } from '../../kernel/errors.ts'
import { sandboxMigrations } from '../migrations.ts'
import { moved } from '../records.ts'
import type { SandboxState } from '../states.ts'
import { createSandboxStore } from '../store.ts'
import { testRecord, testSeal } from '../testing.ts'
import { createGateway } from './gateway.ts'
import { portMigrations } from './migrations.ts'
import { openPorts } from './service.ts'

const caller = { accountId: 'acc_a' }
const address = { sandboxId: 'sbx_aaaaaaaaaaaaaaaaaaaa', port: 3000 }

testDatabases('which ports are public', (open) => {
  async function start({ state = 'stopped' }: { state?: SandboxState } = {}) {
    const database = await open([...sandboxMigrations, ...portMigrations])
    const store = createSandboxStore(database, testSeal)
    const record = testRecord(address.sandboxId, { ...caller, state })
    await store.insert(record)
    const now: { state: SandboxState } = { state }
    const openAgain = () =>
      openPorts({
        database,
        door: {
          open: () => Promise.reject(new DeltaError('sandbox_not_running', 'It does not run')),
          oomKills: async () => 0,
        },
        findSandbox: async () => ({ ...now }),
        gateway: createGateway({ clock: systemClock }),
        domain: { scheme: 'http', name: 'localhost', port: '' },
        serverPort: () => 8000,
      })
    const end = async (to: 'killed' | 'failed') => {
      now.state = to
      const reason = to === 'killed' ? 'kill_requested' : 'create_failed'
      expect(await store.move(record, moved(record, { to, reason }, 1))).toBe(true)
    }
    return { now, end, openAgain, ports: await openAgain() }
  }

  test('they are known again after a restart', async () => {
    const { ports, openAgain } = await start()
    await ports.put(address.sandboxId, [3000], caller)
    expect(ports.publicOwner(address)).toBe('acc_a')
    expect((await openAgain()).publicOwner(address)).toBe('acc_a')
  })

  test.each(['killed', 'failed'] as const)(
    'those of a sandbox that was %s are as unknown as any other, also after a restart, and it gets no new ones',
    async (state) => {
      const { ports, end, openAgain } = await start({ state: 'creating' })
      await ports.put(address.sandboxId, [3000], caller)
      await end(state)
      ports.forget(address.sandboxId)
      const again = await openAgain()
      expect([ports.publicOwner(address), again.publicOwner(address)]).toEqual([undefined, undefined])
      await expect(again.put(address.sandboxId, [3000], caller)).rejects.toMatchObject({
        code: 'sandbox_state_conflict',
      })
      expect(again.publicOwner(address)).toBeUndefined()
    },
  )

  test('a sandbox killed while its ports are made public stays unknown', async () => {
    const { ports, now } = await start()
    const putting = ports.put(address.sandboxId, [3000], caller)
    await Promise.resolve()
    now.state = 'killed'
    ports.forget(address.sandboxId)
    await expect(putting).rejects.toMatchObject({ code: 'sandbox_state_conflict' })
    expect(ports.publicOwner(address)).toBeUndefined()
  })
})
