import { spawn } from 'node:child_process'
import { rmSync } from 'node:fs'
import { join } from 'node:path'
import type { Attempt, Canary, Ground, ProgramAttack } from './attack.ts'
import { roomForBoxes, type ServerAttack, serverAttacks } from './attacks/server.ts'
import { attacks, makeScene, type Outcome, type Row, timed } from './battery.ts'
import { descendants, namespacesOf } from './host.ts'
import { takeOver, type TakenOver } from './server-ground.ts'
import { ended, untilDone } from './weak-box.ts'

/**
 * What a sandbox is attacked with and the HTTP process can be too. Not those that would hurt the machine where nothing holds them
 * back, which here is the machine itself; nor the network, on which this process is meant to be.
 */
const shared = new Set(
  'file-direct file-proc-root file-descriptor file-handle proc-sys sysfs kernel-log process-kill process-trace process-list uid clock domain reboot bpf io-uring userfaultfd perf fanotify mount-api namespace-mount namespace-cgroup namespace-uts namespace-ipc namespace-user namespace-pid namespace-network namespace-time mount keys abi-32 abi-x32 aio sockets shared-memory'.split(
    ' ',
  ),
)
const sharedAttacks = attacks.filter((attack): attack is ProgramAttack => 'place' in attack && shared.has(attack.name))

export const serverNames = [...sharedAttacks.map(({ name }) => name), ...serverAttacks.map(({ name }) => name)]

export interface ServerBatteryOptions {
  tool: string
  helper: string
  scratch: string
  isChosen(name: string): boolean
  onRow(row: Row): void
}

/** Plays a taken-over HTTP process: each attack once below the real helper, once as root of the host. */
export async function runServerBattery(options: ServerBatteryOptions): Promise<{ rows: Row[]; left: string[] }> {
  const rows: Row[] = []
  const put = (row: Row) => {
    rows.push(row)
    options.onRow(row)
  }
  let left: string[] = []
  const takenOver = await takeOver({ ...options, ranges: roomForBoxes })
  try {
    for (const attack of sharedAttacks.filter(({ name }) => options.isChosen(name)))
      put(await attackBoth(attack, takenOver, options))
    for (const attack of serverAttacks.filter(({ name }) => options.isChosen(name)))
      put(await attackAsServer(attack, takenOver, options))
  } finally {
    left = await takenOver.stop()
  }
  return { rows, left }
}

const unconfined = 'confinement: as root of the host'

async function attackBoth(attack: ProgramAttack, takenOver: TakenOver, options: ServerBatteryOptions): Promise<Row> {
  const title = { name: attack.name, promise: attack.promise, tries: attack.tries, without: unconfined }
  const why = attack.missing?.({ runtime: 'crun' })
  if (why !== undefined) {
    const missing: Outcome = { state: 'missing', detail: why, ms: 0 }
    return { attack: title, strong: missing, weak: missing }
  }
  const program = attack.program ?? attack.name
  const both = async (isWeak: boolean) => {
    const ground: Ground = { ...makeScene(options), isWeak, tool: options.tool, runtime: 'crun' }
    try {
      return await attempt(
        { canary: await attack.place(ground), program, isWeak, takenOver, folder: ground.folder },
        options,
      )
    } finally {
      rmSync(ground.folder, { recursive: true, force: true })
    }
  }
  return { attack: title, strong: await timed(() => both(false)), weak: await timed(() => both(true)) }
}

async function attackAsServer(attack: ServerAttack, takenOver: TakenOver, options: ServerBatteryOptions): Promise<Row> {
  const { name, promise, tries, without, program, place } = attack
  const unshown = attack.weakly !== undefined && 'unshown' in attack.weakly ? attack.weakly.unshown : undefined
  const weakly = typeof attack.weakly === 'function' ? attack.weakly : undefined
  const weakGround = { takeOver: (ranges: number) => takeOver({ ...options, ranges, beside: 96 }) }
  const both = async (isWeak: boolean) => {
    const { folder } = makeScene(options)
    try {
      if (place === undefined) return await (isWeak ? weakly?.(weakGround) : attack.strong?.(takenOver))
      const where = isWeak
        ? { dataDir: join(folder, 'data'), programDir: join(folder, 'program'), helperPid: 0 }
        : takenOver
      const canary = place({ ...where, tool: options.tool, isWeak })
      return await attempt({ canary, program: program ?? name, isWeak, takenOver, folder }, options)
    } finally {
      rmSync(folder, { recursive: true, force: true })
    }
  }
  return {
    attack: { name, promise, tries, without },
    strong: await timed(() => both(false)),
    weak: unshown === undefined ? await timed(() => both(true)) : { state: 'unshown', detail: unshown, ms: 0 },
  }
}

interface Scene {
  canary: Canary
  program: string
  isWeak: boolean
  takenOver: TakenOver
  folder: string
}

async function attempt(scene: Scene, options: ServerBatteryOptions): Promise<string | undefined> {
  try {
    return await (scene.isWeak ? attemptAsRoot(scene, options) : attemptConfined(scene))
  } finally {
    await scene.canary.end?.()
  }
}

async function attemptConfined({ canary, program, takenOver }: Scene): Promise<string | undefined> {
  const server = takenOver.serverPid()
  const namespaces = namespacesOf(server)
  // The only place it can write to.
  const own = join(takenOver.dataDir, 'server/tmp')
  const there = (path: string) => path.replace(/^\/tmp\//, `${own}/`)
  const args = [program, ...canary.args.map(there)]
  const { pid, said } = await takenOver.order<{ pid: number; said: string }>({ order: 'start', args })
  try {
    return await canary.fell({
      said,
      namespaces,
      pids: () => descendants(server),
      path: there,
      diskBytes: async () => 0,
    })
  } finally {
    await takenOver.order({ order: 'end', pid })
  }
}

async function attemptAsRoot(
  { canary, program, folder }: Scene,
  { tool }: ServerBatteryOptions,
): Promise<string | undefined> {
  const there = (path: string) => path.replace(/^\/tmp\//, `${folder}/`)
  const args = [program, ...canary.args.map(there)]
  // What it mounts goes with it, and what it leaves in the usual places too.
  const script = 'mount -t tmpfs none /tmp; exec 3</; exec "$@"'
  const child = spawn('unshare', ['-m', 'sh', '-c', script, 'sh', tool, ...args], { stdio: 'pipe' })
  try {
    const said = await untilDone(child)
    const pid = child.pid ?? 0
    const seen: Attempt = {
      said,
      namespaces: namespacesOf(pid),
      pids: () => descendants(pid),
      path: there,
      diskBytes: async () => 0,
    }
    return await canary.fell(seen)
  } finally {
    await ended(child, () => child.kill('SIGKILL'))
  }
}
