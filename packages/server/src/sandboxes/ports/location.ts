/** Where a port is found by path. */
export interface PathPlace {
  /** As the client named the server. */
  host: string
  prefix: string
  port: number
  /** What the program was asked for. */
  target: string
}

/**
 * Where a redirect leads that came by path, whose origin is the API's. The client follows it with the API key: a program inside could send it
 * anywhere in the API, and a 307 with the method and body it had. So what leads to this server, or to the port as the program knows it, leads back
 * to the port. Undefined where it leads nowhere.
 */
export function locationByPath(location: string, { host, prefix, port, target }: PathPlace): string | undefined {
  const here = `http://${host}`
  if (!URL.canParse(location, here + target)) return undefined
  const to = new URL(location, here + target)
  if (!isServer(to, new URL(here)) && to.host !== `localhost:${port}`) return to.href
  return `${prefix}${to.pathname}${to.search}${to.hash}`
}

/** Whatever the scheme: a proxy may stand before the server. */
function isServer(to: URL, here: URL): boolean {
  const isWeb = to.protocol === 'http:' || to.protocol === 'https:'
  const usual = ['', '80', '443']
  return (
    isWeb &&
    to.hostname === here.hostname &&
    (to.port === here.port || (usual.includes(to.port) && usual.includes(here.port)))
  )
}
