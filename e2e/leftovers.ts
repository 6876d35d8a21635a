import { readdirSync, readFileSync, readlinkSync } from 'node:fs'

/** What on this machine still refers to a data folder or to one of its boxes: processes, mounts, loop devices, cgroups. */
export function leftovers(dataDir: string, boxIds: readonly string[] = []): string[] {
  const marks = [dataDir, ...boxIds]
  const marked = (text: string) => marks.some((mark) => text.includes(mark))
  return [
    ...processes().filter(marked),
    ...lines('/proc/self/mounts')
      .filter(marked)
      .map((line) => `mount ${line}`),
    ...loopDevices().filter(marked),
    ...cgroups(boxIds),
  ]
}

function processes(): string[] {
  return readdirSync('/proc')
    .filter((name) => /^\d+$/.test(name) && Number(name) !== process.pid)
    .map((pid) => {
      const command = attempt(() => readFileSync(`/proc/${pid}/cmdline`, 'utf8').replaceAll('\0', ' '))
      const folder = attempt(() => readlinkSync(`/proc/${pid}/cwd`))
      return `process ${pid} ${command} in ${folder}`
    })
}

function loopDevices(): string[] {
  return readdirSync('/sys/block')
    .filter((name) => name.startsWith('loop'))
    .map((name) => `/dev/${name} ${attempt(() => readFileSync(`/sys/block/${name}/loop/backing_file`, 'utf8').trim())}`)
}

function cgroups(boxIds: readonly string[]): string[] {
  if (boxIds.length === 0) return []
  return groupsBelow('/sys/fs/cgroup')
    .filter((path) => boxIds.some((boxId) => path.endsWith(boxId)))
    .map((path) => `cgroup ${path}`)
}

/** One by one: those of other platforms go while one looks, and a listing of all at once would fail with them. */
function groupsBelow(folder: string): string[] {
  try {
    return readdirSync(folder, { withFileTypes: true })
      .filter((entry) => entry.isDirectory())
      .flatMap(({ name }) => [`${folder}/${name}`, ...groupsBelow(`${folder}/${name}`)])
  } catch {
    return []
  }
}

const lines = (path: string) => readFileSync(path, 'utf8').split('\n')

/** Processes and devices come and go while they are looked at. */
function attempt(read: () => string): string {
  try {
    return read()
  } catch {
    return ''
  }
}
