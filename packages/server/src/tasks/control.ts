/** Why what a task is doing ends before its end. */
export type Halt = 'cancel' | 'time' | 'archived' | 'stop'

export type Control = ReturnType<typeof createControl>

/** What others want of a task while it is worked on, in the process that does. What they want is in the database too: this only makes it quick. */
export function createControl() {
  let activity = new AbortController()
  const left = new AbortController()
  let halt: Halt | undefined
  let isInterrupted = false
  let isToPause = false
  let hasMore = false

  return {
    /** A signal for what is begun now: aborted by an interruption, and by whatever ends the task. Not where the server stops: programs in sandboxes run on. */
    begin(): AbortSignal {
      // Calls that run side by side share one, so that all of them hear of it.
      if (halt === undefined && !isInterrupted && activity.signal.aborted) activity = new AbortController()
      return activity.signal
    },
    /** The first word counts, but that a stopping server leaves everything as it is. */
    halt(why: Halt): void {
      if (halt === undefined || why === 'stop') halt = why
      if (why === 'stop') left.abort(new Error(why))
      else activity.abort(new Error(why))
    },
    /** What it is doing is given up, and the task goes on with what it was told since. */
    interrupt(): void {
      isInterrupted = true
      activity.abort(new Error('interrupted'))
    },
    pause(): void {
      isToPause = true
    },
    /** There are tokens again: if it stands still for want of some, it has to look once more. */
    tokensCame(): void {
      hasMore = true
    },
    /** The server stops: what waits here for something need not any more. */
    left: left.signal,
    get halted(): Halt | undefined {
      return halt
    },
    get isInterrupted(): boolean {
      return isInterrupted
    },
    get isToPause(): boolean {
      return isToPause
    },
    get hasMore(): boolean {
      return hasMore
    },
    /** What was interrupted has ended. */
    goOn(): void {
      isInterrupted = false
    },
  }
}
