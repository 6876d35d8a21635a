import type { Clock } from '../kernel/clock.ts'
import type { Logger } from '../kernel/log.ts'

export interface Loop {
  start(): void
  /** There may be work now. */
  kick(): void
  /** Resolves when the work under way has seen the signal and ended. */
  stop(): Promise<void>
}

export interface LoopOptions {
  name: string
  clock: Clock
  log: Logger
  /** Does what there is to do; resolves with the time after which to look again without being kicked. */
  work: (signal: AbortSignal) => Promise<number>
}

const afterFailureMs = 5_000
/** Given as the reason of every abort that is no fault: the default one is an exception with a stack, made for nobody. */
const kicked = 'kicked'

/** Work in the background, one piece after the other. A failure is logged and tried again. */
export function createLoop({ name, clock, log, work }: LoopOptions): Loop {
  const stopping = new AbortController()
  let wake = new AbortController()
  let isKicked = false
  let running: Promise<void> = Promise.resolve()

  async function run(): Promise<void> {
    while (!stopping.signal.aborted) {
      isKicked = false
      const againMs = await work(stopping.signal).catch((error: unknown) => {
        if (!stopping.signal.aborted) log.error('background_work_failed', { name, error })
        return afterFailureMs
      })
      if (isKicked || stopping.signal.aborted) continue
      wake = new AbortController()
      await clock.sleep(againMs, wake.signal).catch(() => undefined)
    }
  }

  return {
    start() {
      running = run()
    },
    kick() {
      isKicked = true
      wake.abort(kicked)
    },
    async stop() {
      stopping.abort(kicked)
      wake.abort(kicked)
      await running
    },
  }
}
