import { mkdirSync } from 'node:fs'
import { join } from 'node:path'
import { createProcessDriver } from '../../drivers/testing/process.ts'
import { connectGuest } from '../../guest/client.ts'
import type { GuestConnection } from '../../guest/client.ts'
import { DeltaError } from '../../kernel/errors.ts'
import type { OpenSandbox, SandboxDoor } from '../door.ts'

/** Whoever runs the tests; the guest, an ordinary process here, can become nobody else unless it is root. */
export const testUser = String(process.getuid!())

/** A door to the real guest, run as an ordinary process, with a folder of its own to work in. */
export async function openTestGuest() {
  const driver = await createProcessDriver()
  const spec = {
    upperId: 'upp_test',
    fresh: true,
    template: 'host',
    cpuMilli: 1000,
    memoryMb: 512,
    diskMb: 512,
    processes: 512,
    hostname: 'test',
  }
  await driver.create({ ...spec, boxId: 'box_test' })
  const folder = join(driver.folderOf('upp_test'), 'workspace')
  mkdirSync(folder, { recursive: true })
  // What the login shell of whoever runs the tests reads, runs and waits for is not under test.
  const sandbox: OpenSandbox = { id: 'sbx_test', env: { HOME: folder }, template: 'host', memoryMb: 512 }
  let connecting: Promise<GuestConnection> | undefined
  let killed = false

  async function connect(): Promise<GuestConnection> {
    const guest = await connectGuest(await driver.connect('box_test'))
    void guest.closed.then(() => (connecting = undefined))
    return guest
  }

  const door: SandboxDoor = {
    async open() {
      if (killed) throw new DeltaError('sandbox_not_running', 'The sandbox has ended')
      connecting ??= connect()
      return { guest: await connecting, sandbox }
    },
    oomKills: async () => (await driver.stats('box_test')).oomKills,
  }
  return {
    door,
    folder,
    /** Ends the connection; the guest lives on. */
    lose: async () => (await connecting)?.close(),
    async kill() {
      killed = true
      await driver.end('box_test', { keepUpper: true })
    },
    close: () => driver.close(),
  }
}
