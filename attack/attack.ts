import type { CreateSandboxOptions, Delta, Sandbox } from '@delta-agents/sdk'
import type { OciConfig } from './weak-box.ts'

export type RuntimeName = 'crun' | 'runc' | 'runsc'

/** A hostile program that has done its worst and still holds what it got. */
export interface Attempt {
  /** What it has said: its loot. */
  said: string
  /** The processes of its box as the host sees them. */
  pids(): number[]
  /** The namespaces its box had before. */
  namespaces: ReadonlySet<string>
  /** Where the host finds a path of the box; under gVisor it does not. */
  path(inside: string): string
  /** What its box holds of the disk. */
  diskBytes(): Promise<number>
}

/** Something on the host that stands or falls. */
export interface Canary {
  args: string[]
  /** What happened to it, in words; undefined where it stands. Asked while the attempt still holds what it got. */
  fell(attempt: Attempt): Promise<string | undefined> | string | undefined
  /** Removes the canary, and puts right what fell. */
  end?(): unknown
}

/** Where an attack takes place. */
export interface Ground {
  /** The battery's program, on the host. */
  tool: string
  /** A folder of this attack alone. */
  folder: string
  /** True where the defence is taken away. */
  isWeak: boolean
  runtime: RuntimeName
  /** The root folder of the weak box, as the host names it. */
  weakRoot: string
}

/** Ground with a real sandbox on it. */
export interface StrongGround extends Ground {
  delta: Delta
  /** The attacker's. */
  sandbox: Sandbox
  neighbour: Sandbox
  platform: { pid: number; dataDir: string; url: string; key: string }
}

/** Nowhere can it be shown that the attack would do harm: no stand-in takes that place, the matrix says so. */
export interface Unshown {
  /** Why not, in words. */
  unshown: string
}

export interface Weakness {
  /** The defence that is taken away, in words. */
  without: string
  /** Changes the configuration that the helper would give the runtime. */
  edit?(config: OciConfig, ground: Ground): void
  /** `runtime`: an OCI runtime with that configuration; `chroot`: another root and nothing else; `host`: nothing at all. @default "runtime" */
  way?: 'runtime' | 'chroot' | 'host'
  /** Who the program runs as on the host; without a runtime only. @default root */
  uid?: number
  /** Words before the program's own, which put it where others are; without a runtime only. */
  within?(ground: Ground): string[]
  /** A folder of the host left open as descriptor 3. */
  leak?: string
}

interface Described {
  name: string
  /** Of DESIGN's promises, the one it tries to break. */
  promise: 1 | 2 | 3 | 4 | 9 | 10
  /** What it tries, in words. */
  tries: string
  /** Why it proves nothing on this machine or runtime; undefined where it does. */
  missing?(ground: { runtime: RuntimeName }): string | undefined
  /** Long form only. @default false */
  isLong?: boolean
}

/** One program, once in a real sandbox and once where its defence is missing. */
export interface ProgramAttack extends Described {
  /** Of the battery's programs. @default the attack's own name */
  program?: string
  /** Who it runs as inside. @default "root" */
  user?: 'root' | 'user'
  /** Some sandboxes end who tries it; one with limits of its own always may. @default false */
  mayEnd?: boolean
  /** A sandbox of its own, with these limits. */
  own?: CreateSandboxOptions
  place(ground: Ground | StrongGround): Promise<Canary> | Canary
  weak: Weakness | Unshown
}

/** An attack that is more than a program; each side says what fell. */
export interface OwnAttack extends Described {
  strong(ground: StrongGround): Promise<string | undefined>
  weakly: ((ground: Ground) => Promise<string | undefined>) | Unshown
  without: string
}

export type Attack = ProgramAttack | OwnAttack

export const isStrong = (ground: Ground | StrongGround): ground is StrongGround => !ground.isWeak
