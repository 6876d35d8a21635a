import type { Digest } from './documents.ts'

/** Where an image lies: `registry/repository:tag@digest`. */
export interface ImageReference {
  /** Host and, where it is not the scheme's own, port; `docker.io` where none was named. */
  registry: string
  repository: string
  tag: string | undefined
  digest: Digest | undefined
}

export type ReferenceResult = { ok: true; reference: ImageReference } | { ok: false; reason: string }

const component = /^[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*$/
const host =
  /^(?:[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?)(?:\.[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?)*(?::[0-9]{1,5})?$|^\[[0-9a-f:.]+\](?::[0-9]{1,5})?$/i
const mostChars = 512

/** What a reference calls the registry that somebody names: undefined for what is no host. */
export function registryOf(text: string): string | undefined {
  const name = text.toLowerCase()
  if (hubNames.includes(name)) return 'docker.io'
  return isHost(name) ? name : undefined
}

/** Docker Hub's, in references, in the settings of other tools, and its own. */
const hubNames: readonly string[] = ['docker.io', 'index.docker.io', 'registry-1.docker.io']

function isHost(text: string): boolean {
  return text.length <= 255 && host.test(text) && Number(text.split(/:(?=[0-9]+$)/)[1] ?? 0) <= 65_535
}

/** As Docker reads it: without a registry it is Docker Hub's, and there a single name is one of `library/`. */
export function parseReference(text: string): ReferenceResult {
  const no = (reason: string): ReferenceResult => ({ ok: false, reason })
  if (text.length > mostChars) return no(`it is longer than ${mostChars} characters`)
  const [named = '', digest, ...more] = text.split('@')
  if (more.length > 0) return no('it has more than one @')
  if (digest !== undefined && !isDigest(digest)) return no('after @ comes sha256: and 64 hexadecimal digits')
  const slash = named.indexOf('/')
  const first = slash === -1 ? '' : named.slice(0, slash)
  const hasRegistry = first === 'localhost' || /[.:]/.test(first)
  const registry = hasRegistry ? first.toLowerCase() : 'docker.io'
  const rest = hasRegistry ? named.slice(slash + 1) : named
  const colon = rest.lastIndexOf(':')
  const tag = colon === -1 ? undefined : rest.slice(colon + 1)
  const path = colon === -1 ? rest : rest.slice(0, colon)
  if (!isHost(registry)) return no(`${registry} is no host of a registry`)
  if (tag !== undefined && !/^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$/.test(tag))
    return no('a tag is up to 128 letters, digits, . _ and -')
  if (path === '' || path.length > 255 || !path.split('/').every((each) => component.test(each))) {
    return no('a repository is lower-case words of letters and digits, with . _ - inside, divided by /')
  }
  const isHub = hubNames.includes(registry)
  const repository = isHub && !path.includes('/') ? `library/${path}` : path
  return {
    ok: true,
    reference: {
      registry: isHub ? 'docker.io' : registry,
      repository,
      tag: tag ?? (digest === undefined ? 'latest' : undefined),
      digest: digest as Digest | undefined,
    },
  }
}

/** The whole of it, as it would be parsed again. */
export function referenceText({ registry, repository, tag, digest }: ImageReference): string {
  return `${registry}/${repository}${tag === undefined ? '' : `:${tag}`}${digest === undefined ? '' : `@${digest}`}`
}

export function isDigest(text: string): text is Digest {
  return /^sha256:[0-9a-f]{64}$/.test(text)
}
