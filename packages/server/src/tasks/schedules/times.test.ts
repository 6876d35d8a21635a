import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import { scheduleLimits } from './limits.ts'
import { type MissedPolicy, missedPolicies } from './record.ts'
import { planOf } from './rules.ts'
import { cronFault, isTimeZone, lastTimes, nextTime } from './times.ts'

const minute = 60_000
const hour = 60 * minute
const day = 24 * hour
const by = (cron: string, timeZone = 'UTC') => ({ cron, timeZone, at: null })
const time = (text: string) => Date.parse(text)

function following(cron: string, timeZone: string, from: string, count: number): string[] {
  const found: string[] = []
  let at = time(from)
  for (let left = count; left > 0; left--) {
    at = nextTime(by(cron, timeZone), at)!
    found.push(new Date(at).toISOString().replace(':00.000Z', 'Z'))
  }
  return found
}

describe('where the clock is set forward', () => {
  // tzdata: Rule EU 1981 max, last Sunday of March at 01:00 UTC: 02:00 to 03:00 is missing in Berlin on 2026-03-29.
  test('a time in the gap is the first moment after it, once', () => {
    expect(following('30 2 * * *', 'Europe/Berlin', '2026-03-28T02:00Z', 3)).toEqual([
      '2026-03-29T01:00Z',
      '2026-03-30T00:30Z',
      '2026-03-31T00:30Z',
    ])
    expect(following('0,30 2 * * *', 'Europe/Berlin', '2026-03-28T02:00Z', 3)).toEqual([
      '2026-03-29T01:00Z',
      '2026-03-30T00:00Z',
      '2026-03-30T00:30Z',
    ])
    expect(following('0 2,3 * * *', 'Europe/Berlin', '2026-03-28T03:00Z', 3)).toEqual([
      '2026-03-29T01:00Z',
      '2026-03-30T00:00Z',
      '2026-03-30T01:00Z',
    ])
  })

  // Rule US 2007 max, second Sunday of March at 02:00.
  test('in New York, where it is the hour after two too', () => {
    expect(following('5 2 * * SUN', 'America/New_York', '2026-03-02T00:00Z', 2)).toEqual([
      '2026-03-08T07:00Z',
      '2026-03-15T06:05Z',
    ])
  })

  // Rule Brazil 2018: midnight of 4 November was missing in Sao Paulo.
  test('a midnight that does not exist is one o’clock', () => {
    expect(following('0 0 * * *', 'America/Sao_Paulo', '2018-11-03T12:00Z', 2)).toEqual([
      '2018-11-04T03:00Z',
      '2018-11-05T02:00Z',
    ])
  })

  // Rule LH: the clock of Lord Howe Island is set forward by half an hour, at 02:00 of 4 October 2026.
  test('a gap of half an hour', () => {
    expect(following('15 2 * * *', 'Australia/Lord_Howe', '2026-10-03T00:00Z', 2)).toEqual([
      '2026-10-03T15:30Z',
      '2026-10-04T15:15Z',
    ])
  })

  test('what goes by what has passed goes on evenly', () => {
    expect(following('*/30 * * * *', 'Europe/Berlin', '2026-03-29T00:00Z', 4)).toEqual([
      '2026-03-29T00:30Z',
      '2026-03-29T01:00Z',
      '2026-03-29T01:30Z',
      '2026-03-29T02:00Z',
    ])
  })

  // Samoa had no 30 December 2011.
  test('a day that does not exist has no times', () => {
    expect(following('0 12 * * *', 'Pacific/Apia', '2011-12-29T00:00Z', 3)).toEqual([
      '2011-12-29T22:00Z',
      '2011-12-30T22:00Z',
      '2011-12-31T22:00Z',
    ])
  })
})

describe('where the clock is set back', () => {
  test('a time that comes twice is one, the first', () => {
    expect(following('30 2 * * *', 'Europe/Berlin', '2026-10-24T12:00Z', 2)).toEqual([
      '2026-10-25T00:30Z',
      '2026-10-26T01:30Z',
    ])
    expect(following('0,30 1 * * *', 'America/New_York', '2026-10-31T12:00Z', 3)).toEqual([
      '2026-11-01T05:00Z',
      '2026-11-01T05:30Z',
      '2026-11-02T06:00Z',
    ])
    // Also when somebody asks between the two.
    expect(following('30 2 * * *', 'Europe/Berlin', '2026-10-25T00:45Z', 1)).toEqual(['2026-10-26T01:30Z'])
  })

  test('what goes by what has passed runs in both hours', () => {
    expect(following('*/30 * * * *', 'Europe/Berlin', '2026-10-25T00:00Z', 4)).toEqual([
      '2026-10-25T00:30Z',
      '2026-10-25T01:00Z',
      '2026-10-25T01:30Z',
      '2026-10-25T02:00Z',
    ])
  })
})

test('days of the month and of the week', () => {
  expect(following('0 9 L * *', 'UTC', '2028-02-01T00:00Z', 2)).toEqual(['2028-02-29T09:00Z', '2028-03-31T09:00Z'])
  expect(following('0 9 * * MON#1', 'UTC', '2026-11-23T00:00Z', 1)).toEqual(['2026-12-07T09:00Z'])
  expect(following('@daily', 'Asia/Kolkata', '2026-11-23T00:00Z', 1)).toEqual(['2026-11-23T18:30Z'])
})

test('of a time that never comes there is none', () => {
  expect(nextTime(by('0 0 30 2 *'), time('2026-01-01'))).toBe(null)
  expect(nextTime({ cron: null, timeZone: 'UTC', at: 5 }, 5)).toBe(null)
  expect(nextTime({ cron: null, timeZone: 'UTC', at: 5 }, 4)).toBe(5)
})

test.each([
  ['* * * * * *', false],
  ['* * * *', false],
  ['60 * * * *', false],
  ['* 24 * * *', false],
  ['* * 32 * *', false],
  ['*/0 * * * *', false],
  ['? * * * *', false],
  ['* * * * ?', false],
  ['5/5 * * * *', false],
  ['', false],
  ['2026-01-01T00:00', false],
  ['@reboot', false],
  ['a b c d e', false],
  ['* * * * *', true],
  ['1-5,10-20/2 */3 1,L JAN-MAR MON-FRI', true],
])('%s as a cron expression', (cron, isFine) => {
  expect(cronFault(cron) === undefined).toBe(isFine)
})

test('time zones are those of the IANA', () => {
  for (const name of ['UTC', 'Europe/Berlin', 'America/Argentina/Buenos_Aires', 'Etc/GMT+5']) {
    expect(isTimeZone(name)).toBe(true)
  }
  for (const name of ['+01:00', '', 'Mars/Olympus', 'Europe/Berlin ', '../etc/passwd', '01:00']) {
    expect(isTimeZone(name)).toBe(false)
  }
})

// An oracle that knows no rules of any zone: it looks at the wall clock of every minute.
const zones = ['Europe/Berlin', 'America/New_York', 'Australia/Lord_Howe', 'America/Sao_Paulo', 'Asia/Kolkata', 'UTC']
const formats = new Map(
  zones.map((timeZone) => [
    timeZone,
    new Intl.DateTimeFormat('en-US', {
      timeZone,
      hourCycle: 'h23',
      year: 'numeric',
      month: 'numeric',
      day: 'numeric',
      hour: 'numeric',
      minute: 'numeric',
    }),
  ]),
)

/** Minutes of the wall clock, as if it stood in UTC. */
function wallOf(at: number, zone: string): number {
  const parts = Object.fromEntries(
    formats
      .get(zone)!
      .formatToParts(at)
      .map(({ type, value }) => [type, Number(value)]),
  )
  const { year, month, day: date, hour: hours, minute: minutes } = parts
  return Date.UTC(year!, month! - 1, date, hours, minutes) / minute
}

const offsetOf = (at: number, zone: string) => wallOf(at, zone) - Math.floor(at / minute)

/** Each minute of the span at which a job of stated minutes and hours runs, by what is documented. */
function statedTimes(wanted: (wall: number) => boolean, zone: string, from: number, until: number): number[] {
  const found: number[] = []
  const seen = new Set<number>()
  let last = wallOf(from - 2 * hour, zone)
  for (let at = from - 2 * hour + minute; at <= until; at += minute) {
    const wall = wallOf(at, zone)
    const skipped = Array.from({ length: Math.max(0, wall - last - 1) }, (_, step) => last + 1 + step)
    if (!seen.has(wall) && (wanted(wall) || skipped.some(wanted))) found.push(at)
    seen.add(wall)
    last = wall
  }
  return found.filter((at) => at >= from)
}

const transitions = [
  '2026-03-29T01:00Z',
  '2026-10-25T01:00Z',
  '2026-03-08T07:00Z',
  '2026-11-01T06:00Z',
  '2026-10-03T15:30Z',
  '2026-04-04T15:00Z',
  '2018-11-04T03:00Z',
  '2018-02-18T02:00Z',
]
const aSpan = fc
  .tuple(fc.constantFrom(...transitions), fc.integer({ min: -600, max: 60 }))
  .map(([near, offset]) => time(near) + offset * minute)
const aZone = fc.constantFrom(...zones)

test('stated times are those that every minute’s wall clock shows, around changes of the clock', () => {
  fc.assert(
    fc.property(
      aZone,
      aSpan,
      fc.uniqueArray(fc.integer({ min: 0, max: 59 }), { minLength: 1, maxLength: 3 }),
      fc.uniqueArray(fc.integer({ min: 0, max: 23 }), { minLength: 1, maxLength: 6 }),
      (zone, from, minutes, hours) => {
        const until = from + 12 * hour
        const wanted = (wall: number) => minutes.includes(wall % 60) && hours.includes(Math.floor(wall / 60) % 24)
        const timing = by(`${minutes.join(',')} ${hours.join(',')} * * *`, zone)
        const found: number[] = []
        for (let at = nextTime(timing, from - 1); at !== null && at <= until; at = nextTime(timing, at)) found.push(at)
        expect(found).toEqual(statedTimes(wanted, zone, from, until))
      },
    ),
    { numRuns: 100, seed: 7 },
  )
})

test('steps of minutes run whenever the wall clock shows one, in every hour that passes', () => {
  fc.assert(
    fc.property(aZone, aSpan, fc.constantFrom(5, 10, 15, 20, 30), (zone, from, step) => {
      const timing = by(`*/${step} * * * *`, zone)
      const until = from + 6 * hour
      const found: number[] = []
      for (let at = nextTime(timing, from - 1); at !== null && at <= until; at = nextTime(timing, at)) found.push(at)
      const expected = Array.from({ length: 361 }, (_, index) => from + index * minute)
      expect(found).toEqual(expected.filter((at) => (Math.floor(at / minute) + offsetOf(at, zone)) % step === 0))
    }),
    { numRuns: 60, seed: 7 },
  )
})

const aCron = fc.constantFrom('30 2 * * *', '*/15 * * * *', '0,30 1-3 * * *', '0 2 * * SUN', '7 */2 * * *', '0 0 * * *')

test('looking back finds what looking forward does', () => {
  fc.assert(
    fc.property(aZone, aSpan, aCron, fc.integer({ min: 0, max: 30 * 60 }), (zone, from, cron, length) => {
      const timing = by(cron, zone)
      const until = from + length * minute
      const forward: number[] = []
      for (let at = nextTime(timing, from - 1); at !== null && at <= until; at = nextTime(timing, at)) forward.push(at)
      expect(lastTimes(timing, { from, until, most: 10_000 })).toEqual(forward)
      expect(lastTimes(timing, { from, until, most: 3 })).toEqual(forward.slice(-3))
    }),
    { numRuns: 60, seed: 7 },
  )
})

describe('what is due', () => {
  const plan = (missed: MissedPolicy, cron: string, nextAt: string, now: string) => {
    const { runs, nextAt: then } = planOf({ ...by(cron), missed }, { nextAt: time(nextAt), now: time(now) })
    const shown = runs.map(({ at, skipped }) => `${new Date(at).toISOString().slice(11, 16)} ${skipped ?? 'run'}`)
    return [...shown, new Date(then!).toISOString().slice(11, 16)]
  }

  test('in time it runs, whatever becomes of those that were missed', () => {
    for (const missed of missedPolicies) {
      expect(plan(missed, '0 * * * *', '2026-01-01T10:00Z', '2026-01-01T10:00:00.002Z')).toEqual(['10:00 run', '11:00'])
      expect(plan(missed, '0 * * * *', '2026-01-01T10:00Z', '2026-01-01T10:04:59Z')).toEqual(['10:00 run', '11:00'])
    }
  })

  test.each([
    ['skip', ['12:00 missed', '13:00']],
    ['once', ['12:00 run', '13:00']],
    ['all', ['10:00 run', '11:00 run', '12:00 run', '13:00']],
  ] as const)('two and a half hours too late, with %s', (missed, expected) => {
    expect(plan(missed, '0 * * * *', '2026-01-01T10:00Z', '2026-01-01T12:30Z')).toEqual(expected)
  })

  test('of those that came meanwhile the last may be in time', () => {
    expect(plan('skip', '0 * * * *', '2026-01-01T10:00Z', '2026-01-01T12:03Z')).toEqual(['12:00 run', '13:00'])
  })

  test('no more are made up for than the limit', () => {
    const { runs } = planOf({ ...by('* * * * *'), missed: 'all' }, { nextAt: 0, now: 30 * day })
    expect(runs).toHaveLength(scheduleLimits.madeUp)
    expect(runs.at(-1)!.at).toBe(30 * day)
  })

  test('one for a time is over after it', () => {
    const once = { cron: null, timeZone: 'UTC', at: 1_000 }
    expect(planOf({ ...once, missed: 'once' }, { nextAt: 1_000, now: day })).toEqual({
      runs: [{ at: 1_000, skipped: null }],
      nextAt: null,
    })
    expect(planOf({ ...once, missed: 'skip' }, { nextAt: 1_000, now: day }).runs[0]!.skipped).toBe('missed')
  })

  test('the next time lies after now and after what ran, for any span', () => {
    fc.assert(
      fc.property(aZone, aSpan, aCron, fc.integer({ min: 0, max: 100 * 60 }), (timeZone, from, cron, late) => {
        const timing = { cron, timeZone, at: null, missed: 'all' as const }
        const nextAt = nextTime(timing, from)!
        const now = nextAt + late * minute
        const planned = planOf(timing, { nextAt, now })
        expect(planned.nextAt).toBeGreaterThan(now)
        const times = planned.runs.map(({ at }) => at)
        expect(times).toEqual([...new Set(times)].toSorted((a, b) => a - b))
        expect(times.every((at) => at >= nextAt && at <= now)).toBe(true)
        if (times.length < scheduleLimits.madeUp) expect(times[0]).toBe(nextAt)
      }),
      { numRuns: 60, seed: 7 },
    )
  })
})
