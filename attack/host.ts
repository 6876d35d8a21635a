import { execFileSync } from 'node:child_process'
import { readdirSync, readFileSync, readlinkSync } from 'node:fs'

// What the host sees of processes; they come and go while they are looked at.

export function read(path: string): string {
  try {
    return readFileSync(path, 'latin1')
  } catch {
    return ''
  }
}

function link(path: string): string {
  try {
    return readlinkSync(path)
  } catch {
    return ''
  }
}

function names(path: string): string[] {
  try {
    return readdirSync(path)
  } catch {
    return []
  }
}

export const allPids = () =>
  names('/proc')
    .filter((name) => /^\d+$/.test(name))
    .map(Number)

const parentOf = (pid: number) => Number(/\) . (\d+)/.exec(read(`/proc/${pid}/stat`))?.[1] ?? 0)

/** The process and all below it. */
export function descendants(pid: number): number[] {
  const children = new Map<number, number[]>()
  for (const one of allPids()) {
    const parent = parentOf(one)
    children.set(parent, [...(children.get(parent) ?? []), one])
  }
  const found = [pid]
  for (const one of found) found.push(...(children.get(one) ?? []))
  return found
}

/** The processes in a control group of that name, at any depth. */
export const pidsInGroup = (name: string) => allPids().filter((pid) => read(`/proc/${pid}/cgroup`).includes(name))

const namespaceKinds = [
  'cgroup',
  'ipc',
  'mnt',
  'net',
  'pid',
  'pid_for_children',
  'time',
  'time_for_children',
  'user',
  'uts',
]

export function namespacesOf(...pids: number[]): Set<string> {
  const links = pids.flatMap((pid) => namespaceKinds.map((kind) => link(`/proc/${pid}/ns/${kind}`)))
  return new Set(links.filter(Boolean))
}

/** What its descriptors lead to. */
export const descriptorsOf = (pid: number) => names(`/proc/${pid}/fd`).map((fd) => link(`/proc/${pid}/fd/${fd}`))

export const uidsOf = (pid: number) =>
  (/^Uid:\s+(.*)$/m.exec(read(`/proc/${pid}/status`))?.[1] ?? '').split(/\s+/).filter(Boolean).map(Number)

export const residentBytes = (pid: number) =>
  1024 * Number(/^VmRSS:\s+(\d+)/m.exec(read(`/proc/${pid}/status`))?.[1] ?? 0)

/** User and system time so far, in clock ticks of 10 ms. */
export function cpuTicks(pid: number): number {
  const fields = read(`/proc/${pid}/stat`).split(') ')[1]?.split(' ') ?? []
  return Number(fields[11] ?? 0) + Number(fields[12] ?? 0)
}

export const mountsOf = (pid: number) => read(`/proc/${pid}/mountinfo`).split('\n').filter(Boolean)

export const diskUsage = (folder: string) =>
  1024 * Number(execFileSync('du', ['-skx', folder], { encoding: 'utf8' }).split('\t')[0])

/** Another way of saying yes: the kernel makes no promise of when it counts what it was told. */
export async function eventually(seconds: number, question: () => boolean): Promise<boolean> {
  for (const end = performance.now() + seconds * 1000; performance.now() < end;) {
    if (question()) return true
    await new Promise((done) => setTimeout(done, 20))
  }
  return question()
}

/** A control group is let go of a moment after its last process. */
export function retry(act: () => void): void {
  for (let left = 100; ; left--) {
    try {
      return act()
    } catch (error) {
      if (left === 0) throw error
      Atomics.wait(new Int32Array(new SharedArrayBuffer(4)), 0, 0, 20)
    }
  }
}
