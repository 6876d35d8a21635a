import { createHash } from 'node:crypto'
import type { Clock } from '../../kernel/clock.ts'
import { DeltaError } from '../../kernel/errors.ts'
import { parseChallenge } from './challenge.ts'
import type { Challenge } from './challenge.ts'
import {
  checkPlatform,
  imageInvalid,
  imageLimits,
  manifestTypes,
  pickPlatform,
  readImageDocument,
  readManifest,
} from './documents.ts'
import type { Descriptor, Digest, ImageDocument, Manifest } from './documents.ts'
import { fetchOnce, readAll } from './http.ts'
import type { Answer, ConnectTo } from './http.ts'
import { referenceText } from './reference.ts'
import type { ImageReference } from './reference.ts'

export interface Credentials {
  username: string
  password: string
}

/** What one registry, and no other, is told. */
export interface Account extends Credentials {
  /** As `registryOf` names it. */
  registry: string
}

/** A registry the operator named: what is not public may be reached there. */
export interface RegistrySetting {
  /** As references name it: `localhost:5000`. */
  host: string
  scheme: 'http' | 'https'
  credentials?: Credentials | undefined
}

export interface RegistryDeps {
  /** To public addresses, and to those the operator allows for sandboxes too. */
  connect: ConnectTo
  /** To anything; for the registries below alone. */
  connectListed: ConnectTo
  registries: readonly RegistrySetting[]
  clock: Clock
  /** For tests: an authority beside the known ones. */
  ca?: string | undefined
}

export interface PullOptions {
  /** `linux/amd64`. */
  platform: string
  /** Told to its own registry; for an image of another one it is as if there were none. */
  account?: Account | undefined
  signal: AbortSignal
  /** Told of waits and tries, for the log. */
  onNote?: (note: string) => void
}

export interface RemoteLayer extends Descriptor {
  diffId: Digest
  /** The blob as it is sent, from an offset on; goes on where a cut connection ended. Its digest is for the reader to check. */
  open(start: number): AsyncIterable<Uint8Array>
}

/** An image whose documents were read and checked; its layers are fetched when they are read. */
export interface RemoteImage {
  reference: ImageReference
  /** Of the manifest for this platform. */
  digest: Digest
  manifestText: string
  configText: string
  document: ImageDocument
  layers: RemoteLayer[]
}

/** Tries of one request that failed in a way that may pass; of one blob, each going on where the last one ended. */
const mostTries = 5
const firstWaitMs = 500
/** A registry that says `Retry-After: 86400` is not waited for. */
const mostWaitMs = 60_000
const mostRedirects = 5
const tokenBytes = 256 * 1024
/** Indexes of indexes. */
const mostDepth = 3

export type Registry = ReturnType<typeof createRegistry>

/** Reads images from registries by the distribution API (OCI distribution-spec 1.1, Docker registry v2). */
export function createRegistry(deps: RegistryDeps) {
  const { clock } = deps

  async function open(reference: ImageReference, options: PullOptions): Promise<RemoteImage> {
    const session = createSession(deps, reference, options)
    const { digest, manifest, text } = await findManifest(session, reference, options.platform)
    const configBytes = await session.document(`blobs/${manifest.config.digest}`, {
      limit: imageLimits.configBytes,
      digest: manifest.config.digest,
    })
    const document = readImageDocument(configBytes, manifest)
    checkPlatform(document, options.platform)
    const layers = manifest.layers.map((layer, index): RemoteLayer => {
      const diffId = document.rootfs.diff_ids[index]!
      return { ...layer, diffId, open: (start) => session.blob(layer, start) }
    })
    return { reference, digest, manifestText: text, configText: configBytes.toString('utf8'), document, layers }
  }

  async function findManifest(session: Session, reference: ImageReference, platform: string) {
    let wanted: { name: string; digest: Digest | undefined } = {
      name: reference.digest ?? reference.tag ?? 'latest',
      digest: reference.digest,
    }
    for (let depth = 0; depth < mostDepth; depth += 1) {
      const bytes = await session.document(`manifests/${wanted.name}`, {
        limit: imageLimits.manifestBytes,
        digest: wanted.digest,
      })
      const found = readManifest(bytes)
      if (found.kind === 'manifest') {
        return {
          digest: wanted.digest ?? digestOf(bytes),
          manifest: found.manifest as Manifest,
          text: bytes.toString('utf8'),
        }
      }
      const { digest } = pickPlatform(found.index, platform)
      wanted = { name: digest, digest }
    }
    throw imageInvalid(`it is an index of indexes, more than ${mostDepth} deep`)
  }

  /** A file of the web, for ADD: only from public addresses. */
  async function* download(
    url: URL,
    { signal, limitBytes }: { signal: AbortSignal; limitBytes: number },
  ): AsyncGenerator<Uint8Array> {
    const answer = await following({ url, headers: {}, signal, allowed: () => deps.connect, ca: deps.ca }).catch(
      (cause: unknown) => {
        signal.throwIfAborted()
        throw cause instanceof DeltaError ? cause : unreachable(url, cause)
      },
    )
    if (answer.status !== 200) {
      answer.body.destroy()
      throw new DeltaError('registry_failed', `${url.host} answered with ${answer.status}`, {
        cause: url.href.slice(0, 300),
      })
    }
    let length = 0
    for await (const chunk of answer.body as AsyncIterable<Buffer>) {
      length += chunk.length
      if (length > limitBytes) throw imageInvalid(`${url.href.slice(0, 300)} has more than ${limitBytes} bytes`)
      yield chunk
    }
  }

  return { open, download, clock }
}

interface Session {
  document(path: string, expected: { limit: number; digest: Digest | undefined }): Promise<Buffer>
  blob(layer: Descriptor, start: number): AsyncGenerator<Uint8Array>
}

/** One pull: it keeps what the registry gave it to be let in with. */
function createSession(deps: RegistryDeps, reference: ImageReference, options: PullOptions): Session {
  const { clock } = deps
  const { signal } = options
  const setting = settingOf(deps.registries, reference.registry)
  const credentials = options.account?.registry === reference.registry ? options.account : setting.credentials
  const base = new URL(`${setting.scheme}://${apiHost(reference.registry)}/v2/${reference.repository}/`)
  let authorization: string | undefined

  const allowed = (url: URL): ConnectTo => {
    const listed = deps.registries.some(({ host, scheme }) => host === url.host && `${scheme}:` === url.protocol)
    return listed ? deps.connectListed : deps.connect
  }

  async function get(path: string, headers: Record<string, string>): Promise<Answer> {
    const url = new URL(path, base)
    let asked = false
    for (let tries = 1; ; tries += 1) {
      const answer = await attempt(url, headers).catch((cause: unknown) => {
        signal.throwIfAborted()
        return cause instanceof DeltaError ? Promise.reject(cause) : cause
      })
      if (!isAnswer(answer)) {
        if (tries >= mostTries || isRefusal(answer)) throw unreachable(url, answer)
        await pause(tries, undefined, 'it did not answer')
        continue
      }
      const { status } = answer
      if (status === 200 || status === 206) return answer
      if (status === 401 && !asked) {
        answer.body.destroy()
        asked = true
        authorization = await authorize(parseChallenge(answer.header('www-authenticate')))
        tries -= 1
        continue
      }
      const passing = status === 429 || status >= 500
      if (!passing || tries >= mostTries) throw await refusalOf(answer)
      answer.body.destroy()
      await pause(tries, answer.header('retry-after'), status === 429 ? 'it limits requests' : `it answered ${status}`)
    }
  }

  function attempt(url: URL, headers: Record<string, string>): Promise<Answer> {
    const own = authorization === undefined ? headers : { ...headers, Authorization: authorization }
    return following({ url, headers: own, signal, allowed, ca: deps.ca })
  }

  async function pause(tries: number, retryAfter: string | undefined, why: string): Promise<void> {
    const asked = retryAfterMs(retryAfter, clock.now())
    if (asked !== undefined && asked > mostWaitMs) {
      throw new DeltaError('registry_failed', `The registry ${reference.registry} limits requests`, {
        cause: `it wants ${Math.ceil(asked / 1_000)} s of pause`,
        context: { retryAfterMs: asked },
      })
    }
    const waitMs = asked ?? firstWaitMs * 2 ** (tries - 1)
    options.onNote?.(`${reference.registry}: ${why}; trying again in ${Math.round(waitMs / 100) / 10} s`)
    await clock.sleep(waitMs, signal)
  }

  async function authorize(challenge: Challenge | undefined): Promise<string | undefined> {
    if (!challenge) throw unauthorized('it does not say how to log in')
    const basic =
      credentials && `Basic ${Buffer.from(`${credentials.username}:${credentials.password}`).toString('base64')}`
    if (challenge.scheme === 'basic') {
      if (!basic) throw unauthorized('it wants a user name and a password')
      return basic
    }
    const url = tokenUrl(challenge, reference.repository)
    const trusts = isTokenServiceOf(base, url)
    if (url.protocol !== 'https:' && url.origin !== base.origin)
      throw unauthorized('its tokens come over a connection that is not encrypted')
    if (basic && !trusts) options.onNote?.(`${url.host} gives the tokens of ${base.host} and is not told the password`)
    const headers: Record<string, string> = basic && trusts ? { Authorization: basic } : {}
    const answer = await following({ url, headers, signal, allowed, ca: deps.ca }).catch((cause: unknown) => {
      signal.throwIfAborted()
      throw cause instanceof DeltaError ? cause : unreachable(url, cause)
    })
    if (answer.status !== 200) {
      answer.body.destroy()
      if (answer.status === 401 || answer.status === 403) throw unauthorized(`${url.host} gives no token`)
      throw new DeltaError('registry_failed', `The registry's tokens can not be had`, {
        cause: `${url.host} answered ${answer.status}`,
      })
    }
    const token = tokenOf(await readAll(answer, tokenBytes, () => imageInvalid('the token is too long')))
    if (token === undefined)
      throw new DeltaError('registry_failed', `The registry's tokens can not be read`, { cause: url.host })
    return `Bearer ${token}`
  }

  function unauthorized(cause: string): DeltaError {
    return new DeltaError('registry_unauthorized', `The registry ${reference.registry} does not let this in`, { cause })
  }

  async function refusalOf(answer: Answer): Promise<DeltaError> {
    const { status } = answer
    answer.body.destroy()
    const name = referenceText(reference)
    if (status === 401 || status === 403) return unauthorized(`it answered ${status} for ${name}`)
    if (status === 404) return new DeltaError('image_not_found', `There is no image ${name}`)
    const cause = status === 429 ? 'it limits requests' : `it answered ${status}`
    return new DeltaError('registry_failed', `The registry ${reference.registry} did not send ${name}`, { cause })
  }

  return {
    async document(path, { limit, digest }) {
      const answer = await get(path, { Accept: manifestTypes.join(', ') })
      const tooLong = () => imageInvalid(`a document of it has more than ${limit} bytes`)
      if (Number(answer.header('content-length') ?? 0) > limit) {
        answer.body.destroy()
        throw tooLong()
      }
      const bytes = await readAll(answer, limit, tooLong).catch((cause: unknown) => {
        signal.throwIfAborted()
        throw cause instanceof DeltaError ? cause : unreachable(base, cause)
      })
      const stated = answer.header('docker-content-digest')
      for (const wanted of [digest, stated?.startsWith('sha256:') ? stated : undefined]) {
        if (wanted !== undefined && wanted !== digestOf(bytes)) {
          throw imageInvalid(`what was sent for ${wanted} has the digest ${digestOf(bytes)}`)
        }
      }
      return bytes
    },

    async *blob({ digest, size }, start) {
      let at = start
      if (at >= size && size > 0) return
      let failures = 0
      for (;;) {
        const from = at
        try {
          const answer = await get(`blobs/${digest}`, at === 0 ? {} : { Range: `bytes=${at}-` })
          // A registry without ranges sends all of it again.
          let skip = answer.status === 206 ? 0 : at
          for await (const chunk of answer.body as AsyncIterable<Buffer>) {
            const rest = chunk.subarray(Math.min(skip, chunk.length))
            skip -= chunk.length - rest.length
            if (rest.length === 0) continue
            if (at + rest.length > size)
              throw imageInvalid(`the layer ${digest} is longer than the ${size} bytes it was said to have`)
            at += rest.length
            yield rest
          }
          if (at === size) return
          throw new Error('the connection ended early')
        } catch (cause) {
          signal.throwIfAborted()
          if (cause instanceof DeltaError) throw cause
          failures = at > from ? 1 : failures + 1
          if (failures >= mostTries) throw unreachable(base, cause)
          await pause(failures, undefined, `cut at ${at} of ${size} bytes`)
        }
      }
    },
  }
}

interface Following {
  url: URL
  headers: Record<string, string>
  signal: AbortSignal
  allowed: (url: URL) => ConnectTo
  ca: string | undefined
}

/** What lets in at one host is not told to another one that it redirects to. */
async function following({ url, headers, signal, allowed, ca }: Following): Promise<Answer> {
  let at = url
  let own = headers
  for (let redirects = 0; ; redirects += 1) {
    const answer = await fetchOnce(allowed(at), { url: at, headers: own, signal, ca })
    const location = answer.header('location')
    if (![301, 302, 303, 307, 308].includes(answer.status) || location === undefined) return answer
    answer.body.destroy()
    const next = URL.parse(location, at.href)
    const isHttp = next?.protocol === 'https:' || (next?.protocol === 'http:' && at.protocol === 'http:')
    if (!next || !isHttp || redirects >= mostRedirects) {
      throw new DeltaError('registry_failed', `${url.host} redirects where nobody may follow`, {
        cause: location.slice(0, 300),
      })
    }
    if (next.origin !== at.origin) own = withoutCredentials(own)
    at = next
  }
}

function withoutCredentials(headers: Record<string, string>): Record<string, string> {
  return Object.fromEntries(Object.entries(headers).filter(([name]) => name.toLowerCase() !== 'authorization'))
}

function settingOf(registries: readonly RegistrySetting[], registry: string): RegistrySetting {
  const host = apiHost(registry)
  return registries.find((each) => each.host === registry || each.host === host) ?? { host, scheme: 'https' }
}

/** Docker Hub's name in references is not that of its registry. */
function apiHost(registry: string): string {
  return registry === 'docker.io' ? 'registry-1.docker.io' : registry
}

function tokenUrl({ realm, service, scope }: Challenge & { scheme: 'bearer' }, repository: string): URL {
  const url = URL.parse(realm)
  if (!url || !/^https?:$/.test(url.protocol) || url.username !== '' || url.password !== '') {
    throw new DeltaError('registry_failed', 'The registry sends for its tokens to no address', {
      cause: realm.slice(0, 300),
    })
  }
  if (service !== undefined) url.searchParams.set('service', service)
  url.searchParams.set('scope', scope ?? `repository:${repository}:pull`)
  return url
}

/** Names below which everybody may have one: what lies there is no family. */
const sharedDomains = new Set([
  'amazonaws.com',
  'appspot.com',
  'azurecr.io',
  'azurewebsites.net',
  'cloudapp.net',
  'cloudfront.net',
  'duckdns.org',
  'fly.dev',
  'github.io',
  'gitlab.io',
  'herokuapp.com',
  'netlify.app',
  'ngrok.app',
  'ngrok.io',
  'onrender.com',
  'pages.dev',
  'pkg.dev',
  'run.app',
  'trycloudflare.com',
  'vercel.app',
  'workers.dev',
])

/**
 * Whether the password of a registry may go to where it says that its tokens come from: to itself, or encrypted to a name beside or above its
 * own, as `registry.gitlab.com` has `gitlab.com` and `registry-1.docker.io` has `auth.docker.io`. Other clients tell every host they are sent to.
 */
export function isTokenServiceOf(registry: URL, service: URL): boolean {
  if (registry.origin === service.origin) return true
  if (registry.protocol !== 'https:' || service.protocol !== 'https:') return false
  if (registry.hostname === service.hostname) return true
  if (service.port !== '') return false
  const labels = registry.hostname.split('.').slice(1)
  const family = labels.join('.')
  // `co.uk`, `com.au`: two short words are a country's, nobody's own.
  const isCountrys = labels.length === 2 && /^[a-z]{2,3}\.[a-z]{2}$/.test(family)
  if (labels.length < 2 || !/[a-z]$/.test(family) || isCountrys || sharedDomains.has(family)) return false
  return service.hostname === family || service.hostname.endsWith(`.${family}`)
}

function tokenOf(bytes: Buffer): string | undefined {
  try {
    const value = JSON.parse(bytes.toString('utf8')) as { token?: unknown; access_token?: unknown } | null
    const token = value?.token ?? value?.access_token
    return typeof token === 'string' && /^[\x21-\x7e]{1,65536}$/.test(token) ? token : undefined
  } catch {
    return undefined
  }
}

/** Seconds or a date; undefined where it is neither. */
function retryAfterMs(header: string | undefined, nowMs: number): number | undefined {
  if (header === undefined) return undefined
  if (/^[0-9]{1,9}$/.test(header.trim())) return Number(header) * 1_000
  const at = Date.parse(header)
  return Number.isNaN(at) ? undefined : Math.max(0, at - nowMs)
}

function isAnswer(value: unknown): value is Answer {
  return typeof value === 'object' && value !== null && 'body' in value
}

/** The address was judged, or the certificate: trying again changes nothing. */
function isRefusal(cause: unknown): boolean {
  const { outcome, reason, code } = cause as { outcome?: unknown; reason?: unknown; code?: unknown }
  return (
    outcome === 'refused' ||
    reason === 'name_unknown' ||
    (typeof code === 'string' && /^(ERR_TLS|CERT_|DEPTH_ZERO|SELF_SIGNED|UNABLE_TO)/.test(code))
  )
}

function unreachable(url: URL, cause: unknown): DeltaError {
  const why = cause instanceof Error ? cause.message.slice(0, 300) : 'it did not answer'
  return new DeltaError('registry_unreachable', `${url.host} can not be reached`, { cause: why })
}

export function digestOf(bytes: Uint8Array): Digest {
  return `sha256:${createHash('sha256').update(bytes).digest('hex')}`
}
