import { readFileSync, readdirSync } from 'node:fs'

/** The process and everything below it, by /proc's parent links. */
export function processTree(root: number): number[] {
  const children = new Map<number, number[]>()
  for (const name of readdirSync('/proc')) {
    if (!/^\d+$/.test(name)) continue
    const parent = parentOf(Number(name))
    if (parent === undefined) continue
    const siblings = children.get(parent)
    if (siblings) siblings.push(Number(name))
    else children.set(parent, [Number(name)])
  }
  const found = [root]
  for (let index = 0; index < found.length; index++) found.push(...(children.get(found[index] ?? 0) ?? []))
  return found
}

/** Nanoseconds on a processor, of all threads of the process; 0 when it is gone. */
export function cpuNanos(pid: number): number {
  try {
    return readdirSync(`/proc/${pid}/task`).reduce(
      (sum, task) => sum + Number(readFileSync(`/proc/${pid}/task/${task}/schedstat`, 'utf8').split(' ')[0]),
      0,
    )
  } catch {
    return 0
  }
}

export function residentBytes(pid: number): number {
  const match = /^VmRSS:\s+(\d+) kB/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'))
  return Number(match?.[1] ?? 0) * 1024
}

/** What the kernel could hand out now, page cache dropped first, in bytes. */
export function memoryAvailable(dropCaches: () => void): number {
  dropCaches()
  const match = /^MemAvailable:\s+(\d+) kB/m.exec(readFileSync('/proc/meminfo', 'utf8'))
  return Number(match?.[1] ?? 0) * 1024
}

function parentOf(pid: number): number | undefined {
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'utf8')
    return Number(stat.slice(stat.lastIndexOf(')') + 2).split(' ')[1])
  } catch {
    return undefined
  }
}

/** The child of the helper (or of its pid-namespace parent) that runs Node. */
export function httpProcess(helper: number): number {
  const parents = [helper]
  for (let index = 0; index < parents.length; index++) {
    for (const task of readdirSync(`/proc/${parents[index]}/task`)) {
      const children = readFileSync(`/proc/${parents[index]}/task/${task}/children`, 'utf8').trim()
      for (const child of children === '' ? [] : children.split(' ').map(Number)) {
        if (readFileSync(`/proc/${child}/cmdline`, 'utf8').includes('main.mjs')) return child
        parents.push(child)
      }
    }
  }
  throw new Error('the HTTP process is not there')
}
