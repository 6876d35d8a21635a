import { networkInterfaces } from 'node:os'

/** Asking the kernel costs a tenth of a millisecond; interfaces come and go seldom. */
const keptMs = 5_000

/** The addresses of this machine's interfaces but loopback. */
export function createOwnAddresses(monotonic: () => number): () => readonly string[] {
  let known: string[] = []
  let askedMs = -Infinity
  return () => {
    if (monotonic() - askedMs < keptMs) return known
    askedMs = monotonic()
    const all = Object.values(networkInterfaces()).flatMap((each) => each ?? [])
    known = all.filter(({ internal }) => !internal).map(({ address }) => address)
    return known
  }
}
