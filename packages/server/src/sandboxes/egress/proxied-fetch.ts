import { fetchBy } from '../../kernel/http/fetch-by.ts'
import type { JudgedNetwork } from './judged-network.ts'
import type { Upstream } from './upstream.ts'

export interface ProxiedFetchDeps {
  judge: JudgedNetwork['judge']
  upstream: Upstream
  /** @default Node's */
  direct?: typeof globalThis.fetch
  /** Extra authorities, for tests. */
  ca?: string | undefined
}

/** A `fetch` for addresses that the operator or a provider states: through the operator's proxy, but for what does not lie in the public network, such as a model server of the operator's own. */
export function createProxiedFetch({
  judge,
  upstream,
  direct = globalThis.fetch,
  ca,
}: ProxiedFetchDeps): typeof globalThis.fetch {
  const proxied = fetchBy((target, signal) => upstream(target, signal).catch(unreached), { ca })
  return async (asked, init) => {
    const { hostname } = new URL(asked instanceof Request ? asked.url : asked)
    const verdict = await judge(hostname.replace(/^\[(.*)\]$/, '$1'))
    // A name that only the proxy can resolve is left to it.
    const isOutside = verdict === 'public' || verdict === 'unknown'
    return isOutside ? proxied(asked, init) : direct(asked, init)
  }
}

/** As Node says it of its own connections, so that everybody knows that nothing has left. */
function unreached(cause: unknown): never {
  const message = cause instanceof Error ? cause.message : 'The proxy of the server does not answer'
  throw Object.assign(new Error(message, { cause }), { code: 'EHOSTUNREACH' })
}
