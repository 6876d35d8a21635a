import { chmodSync, mkdirSync, mkdtempSync, readFileSync, rmSync } from 'node:fs'
import { join } from 'node:path'
import type { Delta, Sandbox } from '@delta-agents/sdk'
import type { Attack, Ground, RuntimeName, StrongGround } from './attack.ts'
import { bombAttacks } from './attacks/bombs.ts'
import { fileAttacks } from './attacks/files.ts'
import { kernelAttacks } from './attacks/kernel.ts'
import { networkAttacks } from './attacks/network.ts'
import { processAttacks } from './attacks/processes.ts'
import { attemptStrongly, programInside } from './strong-box.ts'
import { attemptWeakly, makeWeakRoot } from './weak-box.ts'

/** In this order: what takes memory, disk or counters away comes last. */
export const attacks: Attack[] = [
  ...fileAttacks,
  ...processAttacks,
  ...networkAttacks,
  ...kernelAttacks,
  ...bombAttacks,
]

/**
 * `held`: the canary stands; `fell`: it does not; `broken`: the attack could not be made; `missing`: it proves nothing here; `unshown`: there
 * is no place without the defence where it could be tried.
 */
export type Outcome = { state: 'held' | 'fell' | 'broken' | 'missing' | 'unshown'; detail: string; ms: number }

/** Where the battery is run: in sandboxes of a runtime, or in the HTTP process. */
export type Column = RuntimeName | 'server'

/** What there is to say of an attack. */
export interface Title {
  name: string
  promise: number
  tries: string
  without: string
}

export interface Row {
  attack: Title
  strong: Outcome
  weak: Outcome
}

/** An attack is well where the sandbox holds and the same program does harm without the defence, or says why that cannot be shown. */
export const isWell = ({ strong, weak }: Row): boolean =>
  (strong.state === 'held' && (weak.state === 'fell' || weak.state === 'unshown')) ||
  (strong.state === 'missing' && weak.state === 'missing')

export interface BatteryOptions {
  runtime: RuntimeName
  delta: Delta
  platform: StrongGround['platform']
  tool: string
  helper: string
  /** A folder whose parents strangers may pass, on a real disk. */
  scratch: string
  chosen: readonly Attack[]
  onRow(row: Row): void
}

/** Runs each attack in a real sandbox, then where its defence is missing. */
export async function runBattery(options: BatteryOptions): Promise<Row[]> {
  const { delta, chosen } = options
  const life = { timeoutMs: 1_800_000, runtime: options.runtime }
  await using shared = await delta.sandboxes.create(life)
  await using neighbour = await delta.sandboxes.create(life)
  for (const sandbox of [shared, neighbour]) await bringProgram(sandbox, options.tool)
  const rows: Row[] = []
  for (const attack of chosen) {
    const why = attack.missing?.(options)
    const missing: Outcome = { state: 'missing', detail: why ?? '', ms: 0 }
    const row: Row = {
      attack: titleOf(attack),
      strong: why === undefined ? await made(() => attackStrongly(attack, { ...options, shared, neighbour })) : missing,
      weak: why === undefined ? (unshownOf(attack) ?? (await made(() => showHarm(attack, options)))) : missing,
    }
    rows.push(row)
    options.onRow(row)
  }
  return rows
}

export const titleOf = (attack: Attack): Title => ({
  name: attack.name,
  promise: attack.promise,
  tries: attack.tries,
  without: 'weak' in attack ? ('without' in attack.weak ? attack.weak.without : '') : attack.without,
})

/** What stands in the place of a weak side that an attack has not. */
function unshownOf(attack: Attack): Outcome | undefined {
  const weak = 'weak' in attack ? attack.weak : attack.weakly
  return 'unshown' in weak ? { state: 'unshown', detail: weak.unshown, ms: 0 } : undefined
}

export async function timed(act: () => Promise<string | undefined>): Promise<Outcome> {
  const startedAt = performance.now()
  const ms = () => Math.round(performance.now() - startedAt)
  try {
    const fell = await act()
    // A judge that saw nothing it could judge says so.
    if (fell?.startsWith('nothing:')) return { state: 'broken', detail: fell, ms: ms() }
    return { state: fell === undefined ? 'held' : 'fell', detail: fell ?? '', ms: ms() }
  } catch (error) {
    return { state: 'broken', detail: error instanceof Error ? error.message : String(error), ms: ms() }
  }
}

/** Once more where the attack could not be made, on a busy machine say: that proves nothing either way. What fell is not tried again. */
async function made(act: () => Promise<string | undefined>): Promise<Outcome> {
  const first = await timed(act)
  return first.state === 'broken' ? timed(act) : first
}

const bringProgram = (sandbox: Sandbox, tool: string) =>
  sandbox.files.write(programInside, readFileSync(tool), { mode: 0o755 })

async function attackStrongly(
  attack: Attack,
  options: BatteryOptions & { shared: Sandbox; neighbour: Sandbox },
): Promise<string | undefined> {
  const { runtime, delta, platform, tool, shared, neighbour } = options
  const own = 'own' in attack && attack.own !== undefined ? { ...attack.own, runtime } : undefined
  const sandbox = own === undefined ? shared : await delta.sandboxes.create(enough(own))
  const scene = makeScene(options)
  const ground: StrongGround = { ...scene, isWeak: false, tool, runtime, delta, sandbox, neighbour, platform }
  try {
    if (own !== undefined) await bringProgram(sandbox, tool)
    if (!('place' in attack)) return await attack.strong(ground)
    const canary = await attack.place(ground)
    try {
      const { user = 'root', program = attack.name } = attack
      const mayEnd = own !== undefined || attack.mayEnd === true
      return await attemptStrongly({ ground, user, args: [program, ...canary.args], mayEnd }, async (attempt) =>
        canary.fell(attempt),
      )
    } finally {
      await canary.end?.()
    }
  } finally {
    if (own !== undefined) await sandbox.kill().catch(() => {})
    rmSync(ground.folder, { recursive: true, force: true })
  }
}

/** gVisor's own kernel lives within the sandbox's memory. */
const enough = <T extends { memoryMb?: number; runtime: string }>(own: T): T =>
  own.runtime === 'runsc' ? { ...own, memoryMb: Math.max(own.memoryMb ?? 512, 256) } : own

/** Twice where it must be: what the kernel gives back late may lie ready for the canary once. The real sandbox is judged by one. */
async function showHarm(attack: Attack, options: BatteryOptions): Promise<string | undefined> {
  return (await attackWeakly(attack, options)) ?? attackWeakly(attack, options)
}

async function attackWeakly(attack: Attack, options: BatteryOptions): Promise<string | undefined> {
  const scene = makeScene(options)
  const ground: Ground = { ...scene, isWeak: true, tool: options.tool, runtime: options.runtime }
  try {
    makeWeakRoot(ground.weakRoot, ground.tool)
    if (!('place' in attack)) return 'unshown' in attack.weakly ? undefined : await attack.weakly(ground)
    const { weak, program = attack.name } = attack
    if ('unshown' in weak) return undefined
    const canary = await attack.place(ground)
    try {
      const args = [program, ...canary.args]
      return await attemptWeakly({ ground, weak, helper: options.helper, args }, async (attempt) =>
        canary.fell(attempt),
      )
    } finally {
      await canary.end?.()
    }
  } finally {
    rmSync(ground.folder, { recursive: true, force: true })
  }
}

export function makeScene({ scratch }: { scratch: string }): { folder: string; weakRoot: string } {
  const folder = mkdtempSync(join(scratch, 'scene-'))
  chmodSync(folder, 0o755)
  const weakRoot = join(folder, 'root')
  mkdirSync(weakRoot)
  return { folder, weakRoot }
}
