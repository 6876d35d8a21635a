import { newKey } from './commands.ts'
import { readTemplateLog, type TemplateLogLine } from './template-log.ts'
import { DeltaError } from './errors.ts'
import { packFolder } from './tar/pack.ts'
import type { TransferOptions } from './files.ts'
import type { RequestBody, Transport } from './transport.ts'
import type { EgressPolicy, Page, TemplateInfo } from './types.ts'

export interface MakeTemplateOptions {
  name: string
  /** Names of the new version, beside its number and `latest`. */
  tags?: string[]
}

export interface RegistryAccount {
  /** The only registry that is told, such as `ghcr.io`. @default that of the image; of a Dockerfile, that of its first FROM of a registry */
  registry?: string
  username: string
  password: string
}

export interface CreateTemplateOptions extends MakeTemplateOptions {
  /** An image of a registry, such as `python:3.12`, or the id of a snapshot. */
  from: { image: string; auth?: RegistryAccount } | { snapshot: string }
  /** Requests with the same key make one version. @default a random one */
  idempotencyKey?: string
}

export interface BuildSettings {
  /** The stage to build. @default the last */
  target?: string
  /** Values of ARG. The log and the cache hold them. */
  args?: Record<string, string>
  /** Does every step anew. @default false */
  noCache?: boolean
  /** What RUN may reach. @default registries of packages */
  network?: { egress: EgressPolicy }
  /** For what it takes of one registry; told to that one and not stored. Say which where the Dockerfile is not your own. */
  auth?: RegistryAccount
  /** @default 2 */
  cpu?: number
  /** @default 2048 */
  memoryMb?: number
  /** Of one RUN. @default 30 minutes */
  stepTimeoutMs?: number
  /** Of all of it. @default 2 hours */
  timeoutMs?: number
}

export interface BuildTemplateOptions extends MakeTemplateOptions, BuildSettings, TransferOptions {
  /** Its text; with `context` the path among the files. @default "Dockerfile" */
  dockerfile?: string
  /** The files that COPY takes: a local folder, or an uncompressed tar. */
  context?: string | AsyncIterable<Uint8Array>
}

export interface FollowTemplateOptions {
  /** Lines after this number. @default 0: all */
  from?: number
  signal?: AbortSignal
  /** How long to keep trying when the connection is lost, for example while the server restarts. @default 60,000 */
  reconnectMs?: number
}

/** What sandboxes and workspaces start from. A name has versions, and tags that name one of them each. */
export class Templates {
  readonly #transport: Transport

  constructor(transport: Transport) {
    this.#transport = transport
  }

  /**
   * Those of the machine, yours (of each name the newest version), and those of the catalogue.
   *
   * @example
   * const ready = (await delta.templates.list()).filter(({ state }) => state === 'ready')
   */
  async list(): Promise<TemplateInfo[]> {
    const page = await this.#transport.json<Page<TemplateInfo>>({ path: '/v1/templates' })
    return page.data
  }

  /**
   * By name, `name:tag`, `name@version` or id. `template_not_found`.
   *
   * @example
   * const { state, detail } = await delta.templates.get('tools:stable')
   */
  get(template: string): Promise<TemplateInfo> {
    return this.#transport.json<TemplateInfo>({ path: pathOf(template) })
  }

  /**
   * All versions of a name of yours, newest first. `template_not_found`.
   *
   * @example
   * const [newest] = await delta.templates.versions('tools')
   */
  async versions(name: string): Promise<TemplateInfo[]> {
    const page = await this.#transport.json<Page<TemplateInfo>>({ path: `${pathOf(name)}/versions` })
    return page.data
  }

  /**
   * Begins a version made of an image or a snapshot; `ready` waits for it.
   *
   * @example
   * const begun = await delta.templates.create({ name: 'tools', from: { image: 'python:3.12-slim' } })
   * await delta.templates.ready(begun)
   */
  create({ idempotencyKey = newKey(), ...json }: CreateTemplateOptions): Promise<TemplateInfo> {
    return this.#transport.json<TemplateInfo>({ method: 'POST', path: '/v1/templates', json, idempotencyKey })
  }

  /**
   * Of an OCI image layout as a tar, or of what `docker save` writes; at most 64 GiB, without a time limit. Resolves when all of it is sent;
   * `ready` waits until it is made.
   *
   * @example
   * await delta.templates.ready(await delta.templates.import(createReadStream('image.tar'), { name: 'tools' }))
   */
  import(
    archive: RequestBody,
    { name, tags, signal }: MakeTemplateOptions & { signal?: AbortSignal },
  ): Promise<TemplateInfo> {
    return this.#send('/v1/templates/import', archive, { query: listQuery({ name, tag: tags }), signal })
  }

  /**
   * Builds a Dockerfile in sandboxes. With `context` its files are sent, and the Dockerfile is one of them.
   *
   * @example
   * const begun = await delta.templates.dockerfile({ name: 'app', context: './app' })
   * for await (const line of delta.templates.log(begun)) console.log(line.text)
   */
  dockerfile(options: BuildTemplateOptions): Promise<TemplateInfo> {
    const { name, tags, dockerfile, context, signal, onProgress, auth, ...others } = options
    if (context === undefined) {
      if (dockerfile === undefined) throw new DeltaError('Give the text of the Dockerfile, or a context that holds it')
      const json = { name, ...(tags && { tags }), from: { dockerfile, ...(auth && { auth }), ...others } }
      return this.#transport.json<TemplateInfo>({
        method: 'POST',
        path: '/v1/templates',
        json,
        idempotencyKey: newKey(),
        signal,
      })
    }
    const transfer = { ...(signal && { signal }), ...(onProgress && { onProgress }) }
    const files = typeof context === 'string' ? packFolder(context, transfer) : context
    const query = listQuery({ name, tag: tags, dockerfile, options: JSON.stringify(others) })
    // Not in the address, which everything on the way writes down.
    const headers = auth && { 'registry-auth': base64Url(JSON.stringify(auth)) }
    return this.#send('/v1/templates/builds', files, { query, signal, headers })
  }

  /**
   * One of the machine or the catalogue: resolves when it is ready, which takes minutes where packages or layers are fetched. Without a time
   * limit. `template_not_found`, `template_build_failed`.
   *
   * @example
   * await delta.templates.build('python-3.12')
   */
  async build(name: string, { signal }: { signal?: AbortSignal } = {}): Promise<void> {
    await this.#transport.done({
      method: 'POST',
      path: `${pathOf(name)}/build`,
      repeatable: true,
      timeoutMs: 0,
      signal,
    })
  }

  /**
   * The lines of how a version is made, those that were before and those to come, and how it ended as the value of `return`. A lost
   * connection is taken up at the next line.
   *
   * @example
   * for await (const { kind, text } of delta.templates.log('app')) if (kind === 'step') console.log(text)
   */
  async *log(
    template: TemplateInfo | string,
    options: FollowTemplateOptions = {},
  ): AsyncGenerator<TemplateLogLine, TemplateInfo> {
    // A name may mean another version when the connection is taken up again.
    const id = typeof template === 'string' ? ((await this.get(template)).id ?? template) : idOf(template)
    const open = (from: number) =>
      this.#transport.send({
        path: `${pathOf(id)}/log`,
        query: { from },
        headers: { accept: 'text/event-stream' },
        signal: options.signal,
      })
    return yield* readTemplateLog({ open, ...options })
  }

  /**
   * Waits until a version is made; throws with the reason where it could not be.
   *
   * @example
   * const { version } = await delta.templates.ready('app', { onLine: ({ text }) => console.log(text) })
   */
  async ready(
    template: TemplateInfo | string,
    { onLine, ...options }: FollowTemplateOptions & { onLine?: (line: TemplateLogLine) => void } = {},
  ): Promise<TemplateInfo> {
    const lines = this.log(template, options)
    let next = await lines.next()
    for (; !next.done; next = await lines.next()) onLine?.(next.value)
    const { name, version, state, detail } = next.value
    if (state === 'ready') return next.value
    throw new DeltaError(`Template ${name}${version === null ? '' : `@${version}`} is ${state}: ${detail}`)
  }

  /**
   * Ends the making of a version; of one that has ended nothing changes. `template_not_found`.
   *
   * @example
   * await delta.templates.cancel('app')
   */
  cancel(template: string): Promise<TemplateInfo> {
    return this.#transport.json<TemplateInfo>({ method: 'POST', path: `${pathOf(template)}/cancel`, repeatable: true })
  }

  /**
   * Lets a tag name a version; it moves from the one that has it. `template_not_found`, `template_not_ready`.
   *
   * @example
   * await delta.templates.tag('tools', 'stable', 3)
   */
  tag(name: string, tag: string, version: number): Promise<TemplateInfo> {
    return this.#transport.json<TemplateInfo>({
      method: 'PUT',
      path: tagPath(name, tag),
      json: { version },
      repeatable: true,
    })
  }

  /**
   * Takes a tag away; the version stays. `template_not_found`.
   *
   * @example
   * await delta.templates.untag('tools', 'stable')
   */
  untag(name: string, tag: string): Promise<void> {
    return this.#transport.done({ method: 'DELETE', path: tagPath(name, tag) })
  }

  /**
   * A version, or with a name alone all of them. Sandboxes that run on it go on. `template_not_found`.
   *
   * @example
   * await delta.templates.remove('tools@2')
   */
  remove(template: string): Promise<void> {
    return this.#transport.done({ method: 'DELETE', path: pathOf(template) })
  }

  #send(
    path: string,
    body: RequestBody,
    {
      query,
      signal,
      headers: others,
    }: { query: string; signal: AbortSignal | undefined; headers?: Record<string, string> | undefined },
  ): Promise<TemplateInfo> {
    const headers = { 'content-type': 'application/x-tar', ...others }
    return this.#transport.json<TemplateInfo>({
      method: 'POST',
      path: path + query,
      headers,
      body,
      timeoutMs: 0,
      signal,
    })
  }
}

const pathOf = (template: string) => `/v1/templates/${encodeURIComponent(template)}`
const tagPath = (name: string, tag: string) => `${pathOf(name)}/tags/${encodeURIComponent(tag)}`

function idOf({ id, name }: TemplateInfo): string {
  if (id === null) throw new DeltaError(`Template ${name} has no log: it is the machine's, or was not made yet`)
  return id
}

function base64Url(text: string): string {
  const bytes = Array.from(new TextEncoder().encode(text), (byte) => String.fromCharCode(byte))
  return btoa(bytes.join('')).replaceAll('+', '-').replaceAll('/', '_').replace(/=+$/, '')
}

/** A list is given by its name several times. */
function listQuery(fields: Record<string, string | string[] | undefined>): string {
  const query = new URLSearchParams()
  for (const [name, value] of Object.entries(fields)) {
    for (const one of value === undefined ? [] : [value].flat()) query.append(name, one)
  }
  return `?${query}`
}
