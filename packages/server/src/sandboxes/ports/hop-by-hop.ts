/** Headers that end at the next program on the way (RFC 9110, 7.6.1), whichever way they go. */
export const hopByHop: readonly string[] = [
  'connection',
  'keep-alive',
  'proxy-connection',
  'proxy-authenticate',
  'proxy-authorization',
  'te',
  'trailer',
  'transfer-encoding',
  'upgrade',
]

const usual = new Set(['keep-alive', 'close', 'upgrade'])

/** Headers that a Connection header declares hop by hop as well; undefined where there are none, as nearly always. */
export function namedByConnection(headers: readonly string[]): Set<string> | undefined {
  let named: Set<string> | undefined
  for (let at = 0; at < headers.length; at += 2) {
    if (headers[at]!.length !== 10 || headers[at]!.toLowerCase() !== 'connection') continue
    const value = headers[at + 1]!.toLowerCase()
    if (usual.has(value)) continue
    named ??= new Set()
    for (const part of value.split(',')) named.add(part.trim())
  }
  return named
}
