import { Cron } from 'croner'
import type { Timing } from './record.ts'

/**
 * Of five fields. Where minute and hour are stated (no `*`, no step) a time is one of the wall clock: where the clock is set forward over it, it is the first moment after the gap; one
 * that comes twice counts once, the first time. All else (`* * * * *`, or with a step) goes by what has passed: neither a gap nor an hour that comes twice makes a difference to it.
 */
function parse({ cron, timeZone }: { cron: string; timeZone: string }): Cron {
  return new Cron(cron, { timezone: timeZone, mode: '5-part', fixedTimeRule: 'no-wildcard', paused: true })
}

// `?` would mean the moment at which the text is read.
const cronShape = /^(@[a-z]+|[0-9A-Za-z*,/#+-]+( +[0-9A-Za-z*,/#+-]+){4})$/
/** As the IANA has them: an offset such as `+01:00` knows no summer. */
const zoneShape = /^[A-Za-z][A-Za-z0-9_+-]*(\/[A-Za-z0-9_+-]+)*$/

/** What is wrong with it, in words; undefined where nothing is. */
export function cronFault(cron: string): string | undefined {
  if (!cronShape.test(cron)) return 'must be five fields: minute, hour, day of month, month, day of week'
  try {
    parse({ cron, timeZone: 'UTC' })
    return undefined
  } catch (error) {
    return (error as Error).message.replace(/^CronPattern: /, '').slice(0, 200)
  }
}

export function isTimeZone(name: string): boolean {
  if (!zoneShape.test(name)) return false
  try {
    return new Intl.DateTimeFormat('en', { timeZone: name }).resolvedOptions().timeZone !== ''
  } catch {
    return false
  }
}

/** The first time after that moment; null where there is none. */
export function nextTime({ cron, timeZone, at }: Timing, after: number): number | null {
  if (cron === null) return at !== null && at > after ? at : null
  return parse({ cron, timeZone }).nextRun(new Date(after))?.getTime() ?? null
}

/** The last times of a span, its ends included, in their order. */
export function lastTimes(
  { cron, timeZone, at }: Timing,
  { from, until, most }: { from: number; until: number; most: number },
): number[] {
  if (cron === null) return at !== null && at >= from && at <= until ? [at] : []
  const job = parse({ cron, timeZone })
  const found: number[] = []
  // One by one: asked for many of a rare job at once, it would look through centuries. What it finds lies before the moment that is given.
  for (let before = until + 1; found.length < most;) {
    const time = job.previousRuns(1, new Date(before))[0]?.getTime()
    if (time === undefined || time < from) break
    if (time <= until) found.unshift(time)
    before = time
  }
  return found
}
