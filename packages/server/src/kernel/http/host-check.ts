import { isIP } from 'node:net'

// More different ones than this are not worth remembering; they are then checked each time.
const remembered = 64

/**
 * Whether a request addresses this server by a name it goes by. A web page that has its own name resolve to 127.0.0.1 could otherwise speak to
 * the server as if it were its own (DNS rebinding).
 */
export function createHostCheck({
  host,
  hosts,
}: {
  host: string
  hosts: readonly string[]
}): (header: string | undefined) => boolean {
  const names = new Set([
    'localhost',
    '127.0.0.1',
    '[::1]',
    isIP(host) === 6 ? `[${host}]` : host.toLowerCase(),
    ...hosts,
  ])
  const suffixes = ['.localhost', ...hosts.filter((name) => name.startsWith('*.')).map((name) => name.slice(1))]
  const allowed = new Set<string>()
  return (header) => {
    if (header === undefined) return false
    if (names.has('*') || allowed.has(header)) return true
    const name = nameOf(header)
    const fits = names.has(name) || suffixes.some((suffix) => name.endsWith(suffix) && name.length > suffix.length)
    if (fits && allowed.size < remembered) allowed.add(header)
    return fits
  }
}

function nameOf(header: string): string {
  return header.replace(/:\d{1,5}$/, '').toLowerCase()
}
