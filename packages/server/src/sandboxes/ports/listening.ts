/** State 0A of the kernel's table. */
const listen = '0A'
const anywhere = new Set([
  '00000000',
  '0100007F',
  '00000000000000000000000000000000',
  '00000000000000000000000001000000',
  '0000000000000000FFFF00000100007F',
])
/** The guest's own proxy, where redirected connections arrive, and its name server, on 127.0.0.1: no servers of the sandbox's. */
const ofTheGuest = new Set(['0100007F:0C39', '0100007F:0C3A', '0100007F:0035'])

/**
 * Ports that something listens on where a connection from outside arrives (127.0.0.1, ::1, or any), from /proc/net/tcp and tcp6. The sandbox wrote it, so
 * what cannot be read is passed over, and no more than `most` are named.
 */
export function listeningPorts(table: string, most: number): number[] {
  const ports = new Set<number>()
  for (const line of table.split('\n')) {
    const [, address, digits, state] =
      /^ *[0-9]+: ([0-9A-F]{8}|[0-9A-F]{32}):([0-9A-F]{4}) [0-9A-F]+:[0-9A-F]{4} ([0-9A-F]{2}) /.exec(line) ?? []
    const port = Number.parseInt(digits ?? '0', 16)
    if (ofTheGuest.has(`${address}:${digits}`)) continue
    if (state === listen && port > 0 && anywhere.has(address!) && ports.size < most) ports.add(port)
  }
  return [...ports].toSorted((a, b) => a - b)
}
