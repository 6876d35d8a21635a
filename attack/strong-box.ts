import type { Sandbox } from '@delta-agents/sdk'
import type { Attempt, StrongGround } from './attack.ts'
import { namespacesOf, pidsInGroup } from './host.ts'

/** Where the program lies inside. */
export const programInside = '/usr/local/bin/attack'
const doneMs = 30_000

export const pidsOf = (sandbox: Sandbox) => pidsInGroup(`/box_${sandbox.id.slice(4)}`)

/** Runs a program of the battery in a real sandbox, and gives it to `look` while it holds what it got. */
export async function attemptStrongly(
  { ground, user, args, mayEnd }: { ground: StrongGround; user: 'root' | 'user'; args: string[]; mayEnd: boolean },
  look: (attempt: Attempt) => Promise<string | undefined>,
): Promise<string | undefined> {
  const { sandbox } = ground
  const pids = pidsOf(sandbox)
  // Most judges look at the processes of the box: where none is found they would find nothing wrong with any of them.
  if (pids.length === 0)
    throw new Error(`no process of ${sandbox.id} was found on the host: its control group has another name`)
  const before = namespacesOf(...pids)
  const handle = await sandbox.commands.start([programInside, ...args], {
    user,
    stdinOpen: true,
    cwd: '/',
    timeoutMs: doneMs,
  })
  try {
    const said = await untilDone(handle, mayEnd)
    const [first] = pidsOf(sandbox)
    return await look({
      said,
      pids: () => pidsOf(sandbox),
      namespaces: before,
      path: (inside) => `/proc/${first ?? 0}/root${inside}`,
      diskBytes: async () => (await sandbox.metrics()).diskBytes ?? 0,
    })
  } finally {
    await handle.kill().catch(() => {})
  }
}

/** Without the word the program was ended from outside: by a limit of a sandbox of its own, or the attack was never made. */
async function untilDone(output: AsyncIterable<{ text: string }>, mayEnd: boolean): Promise<string> {
  let said = ''
  try {
    for await (const { text } of output) {
      said = (said + text).slice(-8_000_000)
      if (said.includes('\ndone\n')) return said
    }
  } catch (error) {
    if (!mayEnd) throw error
  }
  if (!mayEnd) throw new Error(`it ended before it was done: ${said.slice(-1_000)}`)
  return said
}
