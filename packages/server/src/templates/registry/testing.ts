import { createHash } from 'node:crypto'
import { once } from 'node:events'
import { createServer } from 'node:http'
import type { IncomingMessage, ServerResponse } from 'node:http'
import type { Socket } from 'node:net'
import { gzipSync, zstdCompressSync } from 'node:zlib'

/** A registry that speaks the distribution API, and lies where it is told to. */
export interface RegistryPeer {
  /** `127.0.0.1:…`, as it stands in a reference. */
  host: string
  /** What was asked, in order: `GET /v2/… [authorization] [range]`. */
  requests: string[]
  behaviour: PeerBehaviour
  push(image: PeerImage): PushedImage
  /** Puts a blob or document of any kind. */
  put(bytes: Uint8Array): string
  tag(repository: string, tag: string, digest: string, mediaType: string): void
  close(): Promise<void>
}

export interface PeerBehaviour {
  auth?: 'basic' | 'bearer' | undefined
  /** Who is let in. */
  account?: { username: string; password: string } | undefined
  /** The first so many requests for blobs are answered 429. */
  limited?: number
  retryAfter?: string
  /** The first so many requests are answered 503. */
  failing?: number
  /** Each answer with a blob ends after so many bytes, without its end. */
  cutAfter?: number | undefined
  /** Only so many answers are cut. @default all */
  cuts?: number
  noRanges?: boolean
  /** Blobs are fetched from this origin. */
  redirectTo?: string | undefined
  /** Called for what a blob or document is; may send something else. */
  corrupt?: ((digest: string, bytes: Buffer) => Buffer) | undefined
  /** Another realm for tokens. */
  realm?: string | undefined
  digestHeader?: string | undefined
}

export interface PeerImage {
  repository: string
  tag: string
  layers: PeerLayer[]
  config?: Record<string, unknown>
  platform?: { os: string; architecture: string }
  /** Also an index with this and further platforms. */
  index?: { os: string; architecture: string }[]
  docker?: boolean
}

export interface PeerLayer {
  tar: Buffer
  compression: 'gzip' | 'zstd' | 'none'
}

export interface PushedImage {
  manifestDigest: string
  configDigest: string
  layerDigests: string[]
  manifestText: string
}

const sha256 = (bytes: Uint8Array) => `sha256:${createHash('sha256').update(bytes).digest('hex')}`

export async function startRegistryPeer(): Promise<RegistryPeer> {
  const blobs = new Map<string, Buffer>()
  const tags = new Map<string, { digest: string; mediaType: string }>()
  const types = new Map<string, string>()
  const tokens = new Set<string>()
  const requests: string[] = []
  const behaviour: PeerBehaviour = {}
  const sockets = new Set<Socket>()
  const counts = { limited: 0, failing: 0, cuts: 0 }

  const server = createServer((request, response) => {
    const { authorization = '', range = '' } = request.headers
    requests.push(
      [request.method, request.url, authorization.replace(/(?<=Bearer ).*/, '…'), range].filter(Boolean).join(' '),
    )
    answer(request, response)
  })
  server.on('connection', (socket) => {
    sockets.add(socket)
    socket.on('close', () => sockets.delete(socket))
  })
  server.listen(0, '127.0.0.1')
  await once(server, 'listening')
  const address = server.address()
  if (typeof address !== 'object' || address === null) throw new Error('the peer has no port')
  const host = `127.0.0.1:${address.port}`

  function answer(request: IncomingMessage, response: ServerResponse): void {
    const url = new URL(request.url ?? '/', `http://${host}`)
    if (url.pathname === '/token') return giveToken(request, url, response)
    if (url.pathname.startsWith('/store/')) return sendBlob(request, response, url.pathname.slice('/store/'.length))
    if (counts.failing < (behaviour.failing ?? 0)) {
      counts.failing += 1
      return end(response, 503, {})
    }
    const [, repository, kind, name] = /^\/v2\/(.+)\/(manifests|blobs)\/([^/]+)$/.exec(url.pathname) ?? []
    if (!repository || !name) return end(response, 404, {})
    if (!isLetIn(request)) return challenge(repository, response)
    if (kind === 'manifests') return sendManifest(response, `${repository}:${name}`, name)
    if (counts.limited < (behaviour.limited ?? 0)) {
      counts.limited += 1
      return end(response, 429, behaviour.retryAfter === undefined ? {} : { 'Retry-After': behaviour.retryAfter })
    }
    if (behaviour.redirectTo)
      return end(response, 307, { Location: `${behaviour.redirectTo}/store/${name}?signature=secret` })
    sendBlob(request, response, name)
  }

  function isLetIn({ headers: { authorization = '' } }: IncomingMessage): boolean {
    if (!behaviour.auth) return true
    if (behaviour.auth === 'basic') return authorization === basicOf()
    return tokens.has(authorization.slice('Bearer '.length))
  }

  function basicOf(): string {
    const { username, password } = behaviour.account ?? { username: '', password: '' }
    return `Basic ${Buffer.from(`${username}:${password}`).toString('base64')}`
  }

  function challenge(repository: string, response: ServerResponse): void {
    const realm = behaviour.realm ?? `http://${host}/token`
    const bearer = `Bearer realm="${realm}",service="peer",scope="repository:${repository}:pull"`
    end(response, 401, { 'WWW-Authenticate': behaviour.auth === 'basic' ? 'Basic realm="peer"' : bearer })
  }

  function giveToken(request: IncomingMessage, url: URL, response: ServerResponse): void {
    const isAsked =
      url.searchParams.get('service') === 'peer' && /^repository:.+:pull$/.test(url.searchParams.get('scope') ?? '')
    if (!isAsked) return end(response, 400, {})
    if (behaviour.account && request.headers.authorization !== basicOf()) return end(response, 401, {})
    const token = `token-${tokens.size}`
    tokens.add(token)
    end(response, 200, { 'Content-Type': 'application/json' }, Buffer.from(JSON.stringify({ token, expires_in: 300 })))
  }

  function sendManifest(response: ServerResponse, tagged: string, name: string): void {
    const found = tags.get(tagged)
    const digest = found?.digest ?? name
    const stored = blobs.get(digest)
    if (!stored) return end(response, 404, {}, Buffer.from('{"errors":[{"code":"MANIFEST_UNKNOWN"}]}'))
    const bytes = behaviour.corrupt?.(digest, stored) ?? stored
    const mediaType = found?.mediaType ?? types.get(digest) ?? 'application/octet-stream'
    end(response, 200, { 'Content-Type': mediaType, 'Docker-Content-Digest': behaviour.digestHeader ?? digest }, bytes)
  }

  function sendBlob({ headers: { range } }: IncomingMessage, response: ServerResponse, digest: string): void {
    const stored = blobs.get(digest)
    if (!stored) return end(response, 404, {})
    const bytes = behaviour.corrupt?.(digest, stored) ?? stored
    const from = behaviour.noRanges ? 0 : Number(/^bytes=([0-9]+)-$/.exec(range ?? '')?.[1] ?? 0)
    const body = bytes.subarray(from)
    const headers = { 'Content-Length': String(body.length), 'Content-Type': 'application/octet-stream' }
    const isPart = from > 0
    response.writeHead(isPart ? 206 : 200, {
      ...headers,
      ...(isPart && { 'Content-Range': `bytes ${from}-${bytes.length - 1}/${bytes.length}` }),
    })
    const { cutAfter, cuts = Infinity } = behaviour
    if (cutAfter === undefined || body.length <= cutAfter || counts.cuts >= cuts) return void response.end(body)
    counts.cuts += 1
    response.write(body.subarray(0, cutAfter), () => setImmediate(() => response.destroy()))
  }

  function end(
    response: ServerResponse,
    status: number,
    headers: Record<string, string>,
    body: Uint8Array = Buffer.alloc(0),
  ): void {
    response.writeHead(status, { ...headers, 'Content-Length': String(body.length) })
    response.end(body)
  }

  function put(bytes: Uint8Array): string {
    const digest = sha256(bytes)
    blobs.set(digest, Buffer.from(bytes))
    return digest
  }

  function push(image: PeerImage): PushedImage {
    const docker = image.docker === true
    const layers = image.layers.map(({ tar, compression }) => {
      const bytes = compression === 'gzip' ? gzipSync(tar) : compression === 'zstd' ? zstdCompressSync(tar) : tar
      const suffix = compression === 'none' ? '' : `+${compression}`
      const mediaType = docker
        ? 'application/vnd.docker.image.rootfs.diff.tar.gzip'
        : `application/vnd.oci.image.layer.v1.tar${suffix}`
      return { mediaType, digest: put(bytes), size: bytes.length, diffId: sha256(tar) }
    })
    const platform = image.platform ?? { os: 'linux', architecture: process.arch === 'arm64' ? 'arm64' : 'amd64' }
    const rootfs = { type: 'layers', diff_ids: layers.map(({ diffId }) => diffId) }
    const config = Buffer.from(JSON.stringify({ ...platform, config: image.config ?? {}, rootfs }))
    const manifestType = docker
      ? 'application/vnd.docker.distribution.manifest.v2+json'
      : 'application/vnd.oci.image.manifest.v1+json'
    const manifestText = JSON.stringify({
      schemaVersion: 2,
      mediaType: manifestType,
      config: { mediaType: 'application/vnd.oci.image.config.v1+json', digest: put(config), size: config.length },
      layers: layers.map(({ mediaType, digest, size }) => ({ mediaType, digest, size })),
    })
    const manifestDigest = put(Buffer.from(manifestText))
    types.set(manifestDigest, manifestType)
    tag(image.repository, image.tag, manifestDigest, manifestType)
    if (image.index) {
      const size = Buffer.byteLength(manifestText)
      const manifests = image.index.map((of) => {
        const isThis = of.os === platform.os && of.architecture === platform.architecture
        return {
          mediaType: manifestType,
          digest: isThis ? manifestDigest : sha256(Buffer.from(JSON.stringify(of))),
          size,
          platform: of,
        }
      })
      const indexType = docker
        ? 'application/vnd.docker.distribution.manifest.list.v2+json'
        : 'application/vnd.oci.image.index.v1+json'
      const digest = put(Buffer.from(JSON.stringify({ schemaVersion: 2, mediaType: indexType, manifests })))
      types.set(digest, indexType)
      tag(image.repository, image.tag, digest, indexType)
    }
    return {
      manifestDigest,
      configDigest: sha256(config),
      layerDigests: layers.map(({ digest }) => digest),
      manifestText,
    }
  }

  function tag(repository: string, name: string, digest: string, mediaType: string): void {
    tags.set(`${repository}:${name}`, { digest, mediaType })
  }

  return {
    host,
    requests,
    behaviour,
    push,
    put,
    tag,
    async close() {
      server.close()
      for (const socket of sockets) socket.destroy()
      await once(server, 'close')
    },
  }
}
