import { readdirSync, readFileSync } from 'node:fs'
import { setTimeout as sleep } from 'node:timers/promises'

// What tests that kill the platform know of its processes and folders, which come and go while they are looked at.

const eventuallyMs = 30_000

export function entriesOf(folder: string): string[] {
  try {
    return readdirSync(folder)
  } catch (error) {
    // A process ends while it is looked at; a pool that is no longer mounted has no folders.
    if ((error as NodeJS.ErrnoException).code === 'ENOENT' || (error as NodeJS.ErrnoException).code === 'ESRCH')
      return []
    throw error
  }
}

/** Pid of the process that speaks HTTP, a descendant of the helper; waits for the next where one has just ended. */
export async function httpPid(helperPid: number): Promise<number> {
  const deadline = performance.now() + eventuallyMs
  for (;;) {
    const family = [helperPid]
    for (const pid of family) family.push(...childrenOf(pid))
    const found = family.find((pid) => textOf(`/proc/${pid}/cmdline`).includes('main.mjs'))
    if (found !== undefined) return found
    if (performance.now() > deadline) throw new Error('There is no HTTP process')
    await sleep(10)
  }
}

export function childrenOf(pid: number): number[] {
  return entriesOf(`/proc/${pid}/task`).flatMap((task) =>
    textOf(`/proc/${pid}/task/${task}/children`).split(' ').filter(Boolean).map(Number),
  )
}

export const environmentOf = (pid: number) => textOf(`/proc/${pid}/environ`).split('\0')

/** Processes come and go while they are looked at. */
function textOf(path: string): string {
  try {
    return readFileSync(path, 'utf8')
  } catch {
    return ''
  }
}
