import { constants } from 'node:os'

const REALTIME_MIN = 34
const REALTIME_MAX = 64

// SIGABRT and SIGIO come before their older names of the same number, so the first name seen is the one answered.
const numberByName = new Map<string, number>(Object.entries(constants.signals))
const nameByNumber = new Map<number, string>()
for (const name of ['SIGABRT', 'SIGIO', 'SIGCHLD', 'SIGSYS', ...numberByName.keys()]) {
  const number = numberByName.get(name)
  if (number !== undefined && !nameByNumber.has(number)) nameByNumber.set(number, name)
}

/** 'SIGKILL' for 9, 'SIGRTMIN+1' for 35. */
export function signalName(number: number): string {
  const name = nameByNumber.get(number)
  if (name !== undefined) return name
  if (number >= REALTIME_MIN && number <= REALTIME_MAX) {
    return number === REALTIME_MIN ? 'SIGRTMIN' : `SIGRTMIN+${number - REALTIME_MIN}`
  }
  return `SIG${number}`
}

/** The number of 'SIGTERM', 'TERM', 'SIGRTMIN+2' or 15; undefined for anything that is no signal of Linux. */
export function signalNumber(signal: string | number): number | undefined {
  if (typeof signal === 'number') {
    return Number.isInteger(signal) && signal >= 1 && signal <= REALTIME_MAX ? signal : undefined
  }
  const upper = signal.toUpperCase()
  const name = upper.startsWith('SIG') ? upper : `SIG${upper}`
  const known = numberByName.get(name)
  if (known !== undefined) return known
  const realtime = /^SIGRTMIN(?:\+(\d{1,2}))?$/.exec(name)
  if (realtime === null) return undefined
  const number = REALTIME_MIN + Number(realtime[1] ?? 0)
  return number <= REALTIME_MAX ? number : undefined
}
