import { createReadStream, createWriteStream } from 'node:fs'
import { mkdir, rename, rm, stat } from 'node:fs/promises'
import { basename, dirname, join, resolve } from 'node:path'
import { pipeline } from 'node:stream/promises'
import type { Delta, Entry, Sandbox } from '@delta-agents/sdk'
import { DeltaApiError } from '@delta-agents/sdk'
import { CliError, UsageError } from './failure.ts'
import { type Io, write } from './io.ts'
import { counted, createProgress } from './progress.ts'
import { findSandbox } from './resolve.ts'

export type Place =
  | { kind: 'local'; path: string }
  | { kind: 'remote'; sandbox: string; path: string }
  | { kind: 'pipe' }

/** `id:path` is in a sandbox, `-` is standard input or output; a local name with a colon is written ./a:b. */
export function parsePlace(text: string): Place {
  if (text === '-') return { kind: 'pipe' }
  const match = /^([A-Za-z0-9_]+):(.*)$/s.exec(text)
  if (match === null) return { kind: 'local', path: text }
  const [, sandbox = '', path = ''] = match
  return { kind: 'remote', sandbox, path: path === '' ? '.' : path }
}

export interface Copied {
  from: string
  to: string
  bytes: number
  /** What could not be made safely on this machine. */
  skipped: string[]
}

export async function copy(io: Io, delta: Delta, [from, to]: [string, string]): Promise<Copied> {
  const source = parsePlace(from)
  const target = parsePlace(to)
  if (source.kind === 'remote') {
    const sandbox = await findSandbox(delta, source.sandbox)
    if (target.kind === 'local') return download(io, sandbox, { from: source.path, to: target.path })
    if (target.kind === 'pipe') return downloadToPipe(io, sandbox, source.path)
    const other = await findSandbox(delta, target.sandbox)
    return between({ sandbox, path: source.path }, { sandbox: other, path: target.path })
  }
  if (target.kind !== 'remote') throw new UsageError('One side of cp must be in a sandbox, like sbx_x:/workspace/file')
  const sandbox = await findSandbox(delta, target.sandbox)
  if (source.kind === 'local') return upload(io, sandbox, { from: source.path, to: target.path })
  const progress = createProgress(io, { label: target.path })
  const entry = await sandbox.files.write(target.path, counted(io.stdin, progress))
  progress.done()
  return { from: '-', to: entry.path, bytes: entry.size, skipped: [] }
}

interface Names {
  from: string
  to: string
}

async function upload(io: Io, sandbox: Sandbox, { from, to }: Names): Promise<Copied> {
  const stats = await stat(from)
  const target = await remoteTarget(sandbox, { from, to, isFolder: stats.isDirectory() })
  if (stats.isDirectory()) {
    await sandbox.files.mkdir(target)
    const progress = createProgress(io, { label: basename(from) })
    let bytes = 0
    await sandbox.files.uploadFolder(from, target, {
      onProgress: (now) => {
        progress.add(now.bytes - bytes)
        bytes = now.bytes
      },
    })
    progress.done()
    return { from, to: target, bytes, skipped: [] }
  }
  if (!stats.isFile())
    throw new CliError(
      `${from} is neither a file nor a folder`,
      'Copy a regular file, or pipe into `delta sandbox cp - …`.',
    )
  const progress = createProgress(io, { label: basename(from), totalBytes: stats.size })
  const entry = await sandbox.files.write(target, counted(createReadStream(from), progress), {
    mode: stats.mode & 0o777,
  })
  progress.done()
  return { from, to: entry.path, bytes: entry.size, skipped: [] }
}

/** As cp does: into an existing folder under its own name, else under the name given. `folder/.` means what is in it. */
async function remoteTarget(sandbox: Sandbox, { from, to, isFolder }: Names & { isFolder: boolean }): Promise<string> {
  if (isFolder && /(^|\/)\.$/.test(from)) return to
  const name = basename(resolve('/workspace', from))
  if (to.endsWith('/')) return `${to}${name}`
  return (await remoteEntry(sandbox, to))?.type === 'directory' ? `${to}/${name}` : to
}

async function remoteEntry(sandbox: Sandbox, path: string): Promise<Entry | undefined> {
  try {
    return await sandbox.files.stat(path)
  } catch (cause) {
    if (cause instanceof DeltaApiError && cause.code === 'file_not_found') return undefined
    throw cause
  }
}

async function download(io: Io, sandbox: Sandbox, { from, to }: Names): Promise<Copied> {
  const entry = await sandbox.files.stat(from)
  const contentsOnly = /(^|\/)\.$/.test(from)
  const existing = await stat(to).catch(() => undefined)
  const into = !(contentsOnly && entry.type === 'directory') && (to.endsWith('/') || existing?.isDirectory() === true)
  const target = into ? join(to, safeName(entry)) : to
  if (entry.type === 'directory') {
    const progress = createProgress(io, { label: from })
    let bytes = 0
    const { skipped } = await sandbox.files.downloadFolder(from, target, {
      onProgress: (now) => {
        progress.add(now.bytes - bytes)
        bytes = now.bytes
      },
    })
    progress.done()
    return { from, to: target, bytes, skipped }
  }
  await mkdir(dirname(target), { recursive: true })
  await downloadFile(io, sandbox, { from, to: target, entry })
  return { from, to: target, bytes: entry.size, skipped: [] }
}

/** The name comes from the sandbox and must not lead anywhere else on this machine. */
function safeName({ name, path }: Entry): string {
  if (name === '' || name === '.' || name === '..' || /[/\\\0]/.test(name)) {
    throw new CliError(
      `${path} has no name a local file can have`,
      'Name the local file, as in `delta sandbox cp sbx_x:/path ./name`.',
    )
  }
  return name
}

/** Beside the target and renamed over it: a copy that fails leaves what was there. */
async function downloadFile(io: Io, sandbox: Sandbox, { from, to, entry }: Names & { entry: Entry }): Promise<void> {
  const part = `${to}.delta-${process.pid}.part`
  const progress = createProgress(io, { label: entry.name, totalBytes: entry.size })
  try {
    const body = await sandbox.files.readStream(from)
    await pipeline(counted(body, progress), createWriteStream(part, { flags: 'wx', mode: entry.mode & 0o777 }))
    await rename(part, to)
  } catch (cause) {
    await rm(part, { force: true })
    throw cause
  }
  progress.done()
}

async function downloadToPipe(io: Io, sandbox: Sandbox, path: string): Promise<Copied> {
  let bytes = 0
  for await (const chunk of await sandbox.files.readStream(path)) {
    bytes += chunk.length
    await write(io.stdout, chunk)
  }
  return { from: path, to: '-', bytes, skipped: [] }
}

interface RemotePlace {
  sandbox: Sandbox
  path: string
}

async function between(source: RemotePlace, target: RemotePlace): Promise<Copied> {
  const entry = await source.sandbox.files.stat(source.path)
  const isFolder = entry.type === 'directory'
  const path = await remoteTarget(target.sandbox, { from: source.path, to: target.path, isFolder })
  if (isFolder) {
    await target.sandbox.files.mkdir(path)
    await target.sandbox.files.writeTar(path, await source.sandbox.files.readTar(source.path))
    return { from: source.path, to: path, bytes: 0, skipped: [] }
  }
  const body = await source.sandbox.files.readStream(source.path)
  const written = await target.sandbox.files.write(path, body, { mode: entry.mode & 0o777 })
  return { from: source.path, to: written.path, bytes: written.size, skipped: [] }
}
