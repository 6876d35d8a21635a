import { PreconditionFailedError, DeltaConnectionError, DeltaError } from './errors.ts'
import { backoffMs, sleep } from './backoff.ts'
import { concat } from './output.ts'
import { Pages } from './pages.ts'
import type { DeltaRequest, RequestBody, Transport } from './transport.ts'
import type { Entry, Page } from './types.ts'
import { openWatcher, type Watcher } from './watcher.ts'

export interface ReadOptions {
  /** First byte. @default 0 */
  from?: number
  /** Bytes at most. @default to the end */
  length?: number
  signal?: AbortSignal
}

export interface WriteOptions {
  /** Permissions like 0o755. @default 0o644, or what the file had */
  mode?: number
  /** @default "user" */
  owner?: string
  /** Make missing folders on the way. @default true */
  parents?: boolean
  /** False refuses when the file exists. @default true */
  overwrite?: boolean
  /** Write only if the file still has this ETag. */
  ifMatch?: string
  signal?: AbortSignal
}

export interface ListOptions {
  /** 1 lists the folder's own entries, 2 their entries too. @default 1 */
  depth?: number
  /** Entries fetched at a time. */
  pageSize?: number
}

/** Text, bytes, a Blob or a stream of bytes. Streams of any size pass at flat memory, but cannot be sent again after a failure. */
export type FileContent = RequestBody

/** Files of one sandbox. A relative path starts at /workspace. */
export class Files {
  readonly #transport: Transport
  readonly #base: string

  /** `base`: the path of the sandbox, or of the agent whose computer it is. */
  constructor(transport: Transport, base: string) {
    this.#transport = transport
    this.#base = base
  }

  /** The bytes of a file. */
  async read(path: string, options: ReadOptions = {}): Promise<Uint8Array> {
    const parts: Uint8Array[] = []
    let total = 0
    for await (const part of this.#chunks(path, options)) {
      parts.push(part)
      total += part.length
    }
    return concat(parts, total)
  }

  async readText(path: string, options: ReadOptions = {}): Promise<string> {
    return new TextDecoder().decode(await this.read(path, options))
  }

  /** The bytes of a file of any size, at flat memory. A lost connection is resumed as long as the file stays the same. */
  async readStream(path: string, options: ReadOptions = {}): Promise<ReadableStream<Uint8Array>> {
    const chunks = this.#chunks(path, options)
    // The first piece is fetched now, so that a missing file is an error here and not in the middle of a pipe.
    let next: Promise<IteratorResult<Uint8Array, void>> | undefined = chunks.next()
    await next
    return new ReadableStream<Uint8Array>(
      {
        async pull(controller) {
          const { done, value } = await (next ?? chunks.next())
          next = undefined
          if (done) return controller.close()
          controller.enqueue(value)
        },
        async cancel() {
          await chunks.return()
        },
      },
      { highWaterMark: 0 },
    )
  }

  /**
   * Writes a file in one step: readers see the old or the new one, whole.
   *
   * @example
   * await sandbox.files.write('/workspace/hello.py', 'print("hello")')
   */
  write(path: string, content: FileContent, options: WriteOptions = {}): Promise<Entry> {
    const { mode, owner, parents, overwrite, ifMatch, signal } = options
    return this.#transport.json<Entry>({
      method: 'PUT',
      path: `${this.#base}/files`,
      query: { path, mode: mode === undefined ? undefined : octal(mode), owner, parents, overwrite },
      headers: {
        'content-type': 'application/octet-stream',
        ...(ifMatch === undefined ? {} : { 'if-match': ifMatch }),
      },
      body: content,
      // Repeating a refused or conditional write could report failure for a write that succeeded.
      repeatable: overwrite !== false && ifMatch === undefined,
      timeoutMs: 0,
      signal,
    })
  }

  /** The entries of a folder, page by page, each folder before its own entries. */
  list(path: string, { depth, pageSize }: ListOptions = {}): Pages<Entry> {
    return new Pages((cursor) =>
      this.#transport.json<Page<Entry>>({
        path: `${this.#base}/entries`,
        query: { path, depth, limit: pageSize, cursor },
      }),
    )
  }

  /** `follow: false` looks at a symbolic link itself. @default true */
  stat(path: string, { follow }: { follow?: boolean } = {}): Promise<Entry> {
    return this.#transport.json<Entry>({ path: `${this.#base}/entry`, query: { path, follow } })
  }

  /** Only "not there" is false; a folder that may not be looked into is an error. */
  async exists(path: string): Promise<boolean> {
    try {
      await this.stat(path, { follow: false })
      return true
    } catch (cause) {
      if (cause instanceof DeltaError && 'code' in cause && cause.code === 'file_not_found') return false
      throw cause
    }
  }

  /** Makes a folder; one that exists is fine unless `parents` is false. */
  mkdir(path: string, options: { mode?: number; owner?: string; parents?: boolean } = {}): Promise<Entry> {
    const { mode, ...rest } = options
    const json = { path, ...rest, ...(mode === undefined ? {} : { mode: octal(mode) }) }
    const repeatable = options.parents !== false
    return this.#transport.json<Entry>({ method: 'POST', path: `${this.#base}/directories`, json, repeatable })
  }

  move(from: string, to: string, { overwrite }: { overwrite?: boolean } = {}): Promise<Entry> {
    const json = { from, to, ...(overwrite === undefined ? {} : { overwrite }) }
    return this.#transport.json<Entry>({ method: 'POST', path: `${this.#base}/move`, json })
  }

  remove(path: string, { recursive }: { recursive?: boolean } = {}): Promise<void> {
    return this.#transport.done({ method: 'DELETE', path: `${this.#base}/files`, query: { path, recursive } })
  }

  chmod(path: string, mode: number): Promise<Entry> {
    return this.#transport.json<Entry>({
      method: 'PATCH',
      path: `${this.#base}/entry`,
      query: { path },
      json: { mode: octal(mode) },
      repeatable: true,
    })
  }

  /**
   * Changes below a folder, from the moment this resolves.
   *
   * @example
   * await using watcher = await sandbox.files.watch('/workspace')
   * for await (const { kind, path } of watcher) console.log(kind, path)
   */
  watch(path: string, options: { recursive?: boolean; signal?: AbortSignal } = {}): Promise<Watcher> {
    return openWatcher(this.#transport, { url: `${this.#base}/watch`, path, ...options })
  }

  /** A folder's contents as an uncompressed tar archive. */
  async readTar(path: string, { signal }: { signal?: AbortSignal } = {}): Promise<ReadableStream<Uint8Array>> {
    return bodyOf(await this.#transport.send({ path: `${this.#base}/archive`, query: { path }, signal }))
  }

  /** Unpacks an uncompressed tar archive into a folder, as `user`. */
  writeTar(path: string, tar: FileContent, { signal }: { signal?: AbortSignal } = {}): Promise<Entry> {
    return this.#transport.json<Entry>({
      method: 'PUT',
      path: `${this.#base}/archive`,
      query: { path },
      headers: { 'content-type': 'application/x-tar' },
      body: tar,
      timeoutMs: 0,
      signal,
    })
  }

  /** Copies the contents of a local folder into one of the sandbox. Node only. */
  async uploadFolder(local: string, remote: string, options: TransferOptions = {}): Promise<Entry> {
    const { packFolder } = await import('./tar/pack.ts')
    return this.writeTar(remote, packFolder(local, options), options)
  }

  /**
   * Copies the contents of a folder of the sandbox into a local one. Nothing outside that folder is ever written, whatever
   * the sandbox sends; what cannot be made safely is left out and returned. Node only.
   */
  async downloadFolder(remote: string, local: string, options: TransferOptions = {}): Promise<{ skipped: string[] }> {
    const { unpackFolder } = await import('./tar/unpack.ts')
    return unpackFolder(await this.readTar(remote, options), local, options)
  }

  async *#chunks(path: string, { from = 0, length, signal }: ReadOptions): AsyncGenerator<Uint8Array, void> {
    const end = length === undefined ? undefined : from + length
    if (length === 0) return
    let at = from
    let etag: string | undefined
    for (let attempt = 0; ;) {
      const response = await this.#transport.send({
        ...rangeRequest(at, end),
        path: `${this.#base}/files`,
        query: { path },
        signal,
      })
      etag ??= response.headers.get('etag') ?? undefined
      if (etag !== undefined && response.headers.get('etag') !== etag) throw changedError(path, response)
      const expected = Number(response.headers.get('content-length') ?? Number.NaN)
      const begin = at
      try {
        for await (const part of bodyOf(response)) {
          at += part.length
          attempt = 0
          yield part
        }
        if (Number.isNaN(expected) || at - begin >= expected) return
        throw new DeltaConnectionError(`The answer ended after ${at - begin} of ${expected} bytes`, {
          url: this.#transport.url,
        })
      } catch (cause) {
        if (signal?.aborted) throw signal.reason
        if (etag === undefined || attempt >= 5) throw cause
        if (end !== undefined && at >= end) return
        await sleep(backoffMs(attempt++), signal)
      }
    }
  }
}

export interface TransferOptions {
  /** Called as bytes of the archive pass. */
  onProgress?: (progress: { bytes: number; path: string }) => void
  signal?: AbortSignal
}

const octal = (mode: number) => mode.toString(8).padStart(4, '0')

function rangeRequest(at: number, end: number | undefined): Pick<DeltaRequest, 'headers'> {
  if (at === 0 && end === undefined) return {}
  return { headers: { range: `bytes=${at}-${end === undefined ? '' : end - 1}` } }
}

function bodyOf(response: Response): ReadableStream<Uint8Array> {
  // An empty file's answer has no body in some runtimes.
  return response.body ?? new ReadableStream<Uint8Array>({ start: (controller) => controller.close() })
}

function changedError(path: string, response: Response): PreconditionFailedError {
  void response.body?.cancel()
  return new PreconditionFailedError({
    status: 412,
    code: 'precondition_failed',
    message: `${path} changed while it was being read, after the connection had been lost`,
    remediation: 'Read it again from the start.',
    requestId: response.headers.get('x-request-id') ?? undefined,
    context: undefined,
    cause: undefined,
  })
}
