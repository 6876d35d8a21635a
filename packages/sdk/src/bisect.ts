import type { CommandResult } from './command-handle.ts'
import { DeltaApiError, DeltaError } from './errors.ts'
import type { CreateSandboxOptions } from './sandbox.ts'
import type { Snapshot } from './snapshots.ts'
import type { Workspaces } from './workspaces.ts'

export interface BisectOptions {
  /** Id of a snapshot in which the command ends with 0. */
  good: string
  /** Id of a later one in which it does not. */
  bad: string
  /** Run in each that is tried, as `sandbox.commands.run` does. One that cannot be started counts as failed. */
  command: string | string[]
  /** Longest time the command may take; a command that takes longer counts as failed. @default 60,000 */
  timeoutMs?: number
  /** How the sandboxes are made: network, environment, memory. */
  sandbox?: Omit<CreateSandboxOptions, 'template' | 'diskMb' | 'workspace' | 'keep' | 'timeoutMs'>
  /** Believe `good` and `bad` without trying them. @default false */
  trust?: boolean
  onStep?: (step: BisectStep) => void
  /** Ends the search; the fork that is being tried is removed first. */
  signal?: AbortSignal
}

export interface BisectStep {
  snapshot: Snapshot
  passed: boolean
  /** Null where the command could not be started: `why` says what hindered it. */
  result: CommandResult | null
  why: string | null
  /** Snapshots that may still be the first bad one. */
  left: number
}

export interface BisectResult {
  /** The first snapshot in which the command fails. */
  firstBad: Snapshot
  /** The one before it. */
  lastGood: Snapshot
  steps: BisectStep[]
}

export type BisectProblem = 'same_snapshot' | 'not_an_ancestor' | 'history_too_long' | 'good_fails' | 'bad_passes'

/** The search has no answer, for a reason that lies in what was asked; nothing is left behind. */
export class BisectError extends DeltaError {
  override name = 'BisectError'
  readonly problem: BisectProblem
  /** What to do. */
  readonly remediation: string

  constructor(problem: BisectProblem, message: string, remediation: string) {
    super(message)
    this.problem = problem
    this.remediation = remediation
  }
}

/** Longest chain that is searched. */
const mostSnapshots = 10_000
/** A sandbox lives a little longer than its command may. */
const graceMs = 60_000
/** Tells what a fork is for, should this program be killed before it could remove it. */
const forkMark = 'delta.bisect'

/** Binary search over the parents of `bad` back to `good`: of n snapshots, at most ⌈log₂ n⌉ are tried. */
export async function bisect(workspaces: Pick<Workspaces, 'snapshot'>, options: BisectOptions): Promise<BisectResult> {
  const { signal, good, bad } = options
  const chain = await chainOf(workspaces, options)
  const steps: BisectStep[] = []
  const tryOne = async (at: number, left: number): Promise<BisectStep> => {
    signal?.throwIfAborted()
    const snapshot = chain[at]!
    const step = { snapshot, left, ...(await runIn(snapshot, options)) }
    steps.push(step)
    options.onStep?.(step)
    return step
  }
  let low = 0
  let high = chain.length - 1
  if (!options.trust) {
    const first = await tryOne(low, high)
    if (!first.passed) throw goodFails(good, first)
    if ((await tryOne(high, high)).passed) {
      throw new BisectError(
        'bad_passes',
        `The command succeeds in ${bad}, which was said to be bad`,
        'Check that the command looks at what broke, and ends with another code than 0 where it is broken; or name a later snapshot as bad.',
      )
    }
  }
  while (high - low > 1) {
    const middle = (low + high) >> 1
    if ((await tryOne(middle, high - low - 1)).passed) low = middle
    else high = middle
  }
  return { firstBad: chain[high]!, lastGood: chain[low]!, steps }
}

function goodFails(good: string, { result, why }: BisectStep): BisectError {
  if (result === null) {
    return new BisectError(
      'good_fails',
      `The command cannot be started in ${good}, which was said to be good: ${why}`,
      'Check the name of the program; give the command as one text to have it run by a shell.',
    )
  }
  const how = result.timedOut ? 'takes too long' : `ends with ${result.exitCode ?? result.signal}`
  return new BisectError(
    'good_fails',
    `The command fails in ${good} already, which was said to be good: it ${how}`,
    result.timedOut
      ? 'Give it more time, or name an earlier snapshot as good.'
      : 'Check the command in a fork of that snapshot, or name an earlier snapshot as good.',
  )
}

/** From `good` to `bad`, oldest first. */
async function chainOf(
  workspaces: Pick<Workspaces, 'snapshot'>,
  { good, bad, signal }: Pick<BisectOptions, 'good' | 'bad' | 'signal'>,
): Promise<Snapshot[]> {
  if (good === bad) {
    throw new BisectError(
      'same_snapshot',
      `The good and the bad snapshot are the same: ${good}`,
      'Name two snapshots of one history, the good one before the bad one.',
    )
  }
  // One that does not exist is told as what it is.
  const goodSnapshot = await workspaces.snapshot(good)
  const chain = await ancestors(workspaces, { from: await workspaces.snapshot(bad), to: good, signal })
  if (chain[0]!.id === good) return chain
  if (chain.length >= mostSnapshots) {
    throw new BisectError(
      'history_too_long',
      `${good} is not among the ${mostSnapshots} snapshots before ${bad}`,
      'Name a good snapshot that is nearer to the bad one.',
    )
  }
  const turned = await ancestors(workspaces, { from: goodSnapshot, to: bad, signal })
  throw new BisectError(
    'not_an_ancestor',
    `${good} is not among the snapshots that led to ${bad}`,
    turned[0]!.id === bad
      ? 'It came after it: the good one must be the earlier of the two.'
      : 'Both must lie on one line of the history, which is searched from the bad one back to the good one; snapshots in between that were removed cut it.',
  )
}

/** From `to`, or the first there is, to `from`. */
async function ancestors(
  workspaces: Pick<Workspaces, 'snapshot'>,
  { from, to, signal }: { from: Snapshot; to: string; signal: AbortSignal | undefined },
): Promise<Snapshot[]> {
  const newestFirst = [from]
  for (let next = from; next.id !== to && newestFirst.length < mostSnapshots; newestFirst.push(next)) {
    signal?.throwIfAborted()
    const { parentId } = next.info
    if (parentId === null) break
    const parent = await workspaces.snapshot(parentId).catch(ifGone)
    if (parent === undefined) break
    next = parent
  }
  return newestFirst.toReversed()
}

/** A snapshot names its parent also where that one was removed. */
function ifGone(error: unknown): undefined {
  if (error instanceof DeltaApiError && error.code === 'snapshot_not_found') return undefined
  throw error
}

type Outcome = Pick<BisectStep, 'passed' | 'result' | 'why'>

async function runIn(snapshot: Snapshot, options: BisectOptions): Promise<Outcome> {
  const { command, timeoutMs = 60_000, sandbox: settings, signal } = options
  const [fork] = await snapshot.fork()
  try {
    await fork!.update({ autoSnapshot: false, metadata: { [forkMark]: snapshot.id } })
    signal?.throwIfAborted()
    await using sandbox = await fork!.start({ ...settings, timeoutMs: timeoutMs + graceMs, onTimeout: 'kill' })
    signal?.throwIfAborted()
    const result = await sandbox.commands.run(command, { timeoutMs, ...(signal && { signal }) })
    return { passed: result.exitCode === 0, result, why: null }
  } catch (error) {
    // What a shell says with 127 is told by the API as an error.
    if (!(error instanceof DeltaApiError) || error.code !== 'exec_start_failed') throw error
    return { passed: false, result: null, why: typeof error.cause === 'string' ? error.cause : error.message }
  } finally {
    await fork!.remove()
  }
}
