import { createReadStream, createWriteStream } from 'node:fs'
import { rename, rm, stat } from 'node:fs/promises'
import { pipeline } from 'node:stream/promises'
import {
  BisectError,
  type BisectStep,
  type Delta,
  type FileChange,
  type Snapshot,
  type UpdateWorkspaceOptions,
  type Workspace,
  type WorkspaceInfo,
} from '@delta-agents/sdk'
import { type Command, Option } from 'commander'
import { collect } from './egress.ts'
import { CliError, Interrupted, UsageError } from './failure.ts'
import { parseCount, parseDuration, parseNumber, parsePair, showBytes, showDuration, table, visible } from './format.ts'
import { describeSnapshot, historyTree } from './history.ts'
import { type Io, write } from './io.ts'
import { counted, createProgress, createStatus } from './progress.ts'
import { findSnapshot } from './resolve.ts'

/** What these commands need of the program they are part of. */
export interface WorkspaceRun {
  io: Io
  leaf(usage: string, description: string): Command
  delta(command: Command): Delta
  print(command: Command, value: unknown, text: string): void
}

interface CreateFlags {
  template?: string
  disk?: number
  keepLast?: number
  autoSnapshot: boolean
  metadata?: Record<string, string>
}

const defaultRows = 100

export function addWorkspaceCommands(run: WorkspaceRun): void {
  addKeeping(run)
  addChanging(run)
  addHistory(run)
  addSnapshots(run)
  addSaving(run)
  addForks(run)
  addImages(run)
  addRestore(run)
  addBisect(run)
}

function addKeeping({ io, leaf, delta, print }: WorkspaceRun): void {
  leaf('create [name]', 'make a workspace: files that outlive the sandboxes on them')
    .option('-t, --template <name>', 'what its files begin as (default: host)')
    .option('--disk <MB>', 'default: 4096', parseNumber)
    .option('--keep-last <count>', 'snapshots without a name that are kept (default: 20)', parseNumber)
    .option('--no-auto-snapshot', 'take no snapshot when a sandbox on it stops')
    .option('-m, --metadata <name=value>', 'your own labels; may be repeated', parsePair)
    .action(async (name: string | undefined, flags: CreateFlags, command: Command) => {
      const { template, disk, keepLast, autoSnapshot, metadata } = flags
      const workspace = await delta(command).workspaces.create({
        ...(name !== undefined && { name }),
        ...(template !== undefined && { template }),
        ...(disk !== undefined && { diskMb: disk }),
        ...(keepLast !== undefined && { retention: { keepLast } }),
        ...(!autoSnapshot && { autoSnapshot }),
        ...(metadata && { metadata }),
      })
      print(command, workspace.info, `${workspace.id}\n`)
    })

  leaf('list', 'list workspaces, newest first')
    .alias('ls')
    .action(async (_: unknown, command: Command) => {
      const all = (await delta(command).workspaces.list({ pageSize: 500 }).all()).map(({ info }) => info)
      print(command, all, workspaceTable(all, Date.now()))
    })

  leaf('get <workspace>', 'show one, by id or name').action(async (id: string, _: unknown, command: Command) => {
    const { info } = await delta(command).workspaces.get(id)
    print(command, info, describeWorkspace(info))
  })

  leaf('start <workspace>', 'start a sandbox on it and print its id')
    .option('--join', 'where one runs on it already, print that one')
    .option('--timeout <duration>', 'how long it lives (default: 5m)', parseDuration)
    .option('--idle <duration>', 'stop it when nobody has used it for so long; the next use starts it', parseDuration)
    .action(async (id: string, flags: { join?: boolean; timeout?: number; idle?: number }, command: Command) => {
      const workspace = await delta(command).workspaces.get(id)
      if (!workspace.info.isLocal && io.stderr.isTTY) io.stderr.write(`Fetching ${workspace.name} from storage\n`)
      const sandbox = await workspace.start({
        keep: true,
        ...(flags.join && { ifHeld: 'join' as const }),
        ...(flags.timeout !== undefined && { timeoutMs: flags.timeout }),
        ...(flags.idle !== undefined && { idleTimeoutMs: flags.idle }),
      })
      print(command, sandbox.info, `${sandbox.id}\n`)
    })
}

interface SetFlags {
  name?: string
  disk?: number
  keepLast?: number
  autoSnapshot?: boolean
  metadata?: Record<string, string>
  removeMetadata?: string[]
}

function addChanging({ leaf, delta, print }: WorkspaceRun): void {
  leaf('set <workspace>', 'change its settings; what is not named stays')
    .option('--name <name>', 'another name')
    .option('--disk <MB>', 'holds from the next start on', parseNumber)
    .option('--keep-last <count>', 'snapshots without a name that are kept', parseNumber)
    .option('--auto-snapshot', 'take a snapshot when a sandbox on it stops')
    .option('--no-auto-snapshot', 'take none')
    .option('-m, --metadata <name=value>', 'set a label; may be repeated', parsePair)
    .option('--remove-metadata <name>', 'take a label away; may be repeated', collect)
    .action(async (id: string, flags: SetFlags, command: Command) => {
      if (Object.keys(flags).every((name) => name === 'json'))
        throw new UsageError('Say what to change, like --keep-last 5')
      const workspace = await delta(command).workspaces.get(id)
      const info = await workspace.update(changesOf(workspace.info, flags))
      print(command, info, describeWorkspace(info))
    })

  leaf('rename <workspace> <name>', 'give it another name').action(
    async (id: string, name: string, _: unknown, command: Command) => {
      const workspace = await delta(command).workspaces.get(id)
      print(command, await workspace.update({ name }), `${workspace.id} is now ${name}\n`)
    },
  )

  leaf('remove <workspace>', 'remove it with its snapshots; forks of it live on')
    .alias('rm')
    .action(async (id: string, _: unknown, command: Command) => {
      const workspace = await delta(command).workspaces.get(id)
      await workspace.remove()
      print(command, { id: workspace.id, removed: true }, `${workspace.name} removed\n`)
    })
}

/** Labels are replaced as a whole: those that are not named are sent as they are. */
function changesOf(info: WorkspaceInfo, flags: SetFlags): UpdateWorkspaceOptions {
  const { name, disk, keepLast, autoSnapshot, metadata, removeMetadata = [] } = flags
  const kept = Object.entries(info.metadata).filter(([label]) => !removeMetadata.includes(label))
  return {
    ...(name !== undefined && { name }),
    ...(disk !== undefined && { diskMb: disk }),
    ...(keepLast !== undefined && { retention: { keepLast } }),
    ...(autoSnapshot !== undefined && { autoSnapshot }),
    ...((metadata || removeMetadata.length > 0) && { metadata: { ...Object.fromEntries(kept), ...metadata } }),
  }
}

function addHistory({ leaf, delta, print }: WorkspaceRun): void {
  leaf('snapshot <workspace>', 'take a snapshot, also while a sandbox runs on it')
    .option('-n, --name <name>', 'a snapshot with a name is kept for ever')
    .option('-c, --comment <text>', 'what it is')
    .action(async (id: string, flags: { name?: string; comment?: string }, command: Command) => {
      const workspace = await delta(command).workspaces.get(id)
      const snapshot = await workspace.snapshot(flags)
      print(command, snapshot.info, `${snapshot.id}\n`)
    })

  leaf('log <workspace>', 'its history as a tree, with what each snapshot changed').action(
    async (id: string, _: unknown, command: Command) => {
      const workspace = await delta(command).workspaces.get(id)
      const snapshots = (await workspace.snapshots({ pageSize: 500 }).all()).map(({ info }) => info)
      const tree = historyTree(snapshots, { headId: workspace.info.headSnapshotId, nowMs: Date.now() })
      print(command, snapshots, tree === '' ? 'No snapshot yet\n' : tree)
    },
  )

  leaf('changes <snapshot>', 'what a snapshot changed since the one before')
    .option('-n, --lines <count>', `default: ${defaultRows}`, parseCount)
    .action(async (id: string, { lines = defaultRows }: { lines?: number }, command: Command) => {
      const snapshot = await findSnapshot(delta(command), id)
      const rows: FileChange[] = []
      for await (const change of snapshot.changes({ pageSize: Math.min(lines, 1_000) })) {
        if (rows.push(change) >= lines) break
      }
      print(command, rows, changeList(rows))
    })

  leaf('diff <snapshot> <other>', 'what changed from one snapshot to another').action(
    async (id: string, other: string, _: unknown, command: Command) => {
      const from = await findSnapshot(delta(command), id)
      const diff = await from.diff(await findSnapshot(delta(command), other))
      const { added, changed, removed, bytes, data } = diff
      const rest = diff.nextCursor === null ? '' : '…\n'
      const sum = `${added} added, ${changed} changed, ${removed} removed, ${showBytes(bytes)}\n`
      print(command, diff, changeList(data) + rest + sum)
    },
  )

  leaf(
    'rollback <workspace> <snapshot>',
    'bring it back to a snapshot; a sandbox on it is stopped and started again',
  ).action(async (id: string, snapshotId: string, _: unknown, command: Command) => {
    const workspace = await delta(command).workspaces.get(id)
    const snapshot = await findSnapshot(delta(command), snapshotId, workspace)
    const { heldBy } = workspace.info
    if (heldBy === null) await workspace.rollback(snapshot)
    else await (await delta(command).sandboxes.get(heldBy)).rollback(snapshot.id)
    print(command, await workspace.refresh(), `${workspace.name} is as it was in ${snapshot.id}\n`)
  })
}

function addSnapshots({ io, leaf, delta, print }: WorkspaceRun): void {
  leaf('show <snapshot>', 'what is known of a snapshot, and what it changed').action(
    async (id: string, _: unknown, command: Command) => {
      const { info } = await findSnapshot(delta(command), id)
      print(command, info, describeSnapshot(info) + changeList(info.changes?.first ?? []))
    },
  )

  leaf('cat <snapshot> <path>', 'print a file as it was').action(
    async (id: string, path: string, _: unknown, command: Command) => {
      const bytes = await (await findSnapshot(delta(command), id)).read(path)
      if (!isJson(command)) return write(io.stdout, bytes)
      print(command, { path, base64: Buffer.from(bytes).toString('base64') }, '')
    },
  )

  leaf('comment <snapshot> <text>', 'say what a snapshot is').action(
    async (id: string, text: string, _: unknown, command: Command) => {
      const snapshot = await findSnapshot(delta(command), id)
      print(command, await snapshot.update({ comment: text }), `${snapshot.id} has the comment\n`)
    },
  )

  leaf('name <snapshot> [name]', 'name a snapshot, which keeps it for ever; without a name, take it away').action(
    async (id: string, name: string | undefined, _: unknown, command: Command) => {
      const snapshot = await findSnapshot(delta(command), id)
      print(
        command,
        await snapshot.update({ name: name ?? null }),
        `${snapshot.id} ${name === undefined ? 'has no name' : `is ${name}`}\n`,
      )
    },
  )

  leaf('forget <snapshot>', 'remove a snapshot').action(async (id: string, _: unknown, command: Command) => {
    const snapshot = await findSnapshot(delta(command), id)
    await snapshot.remove()
    print(command, { id: snapshot.id, removed: true }, `${snapshot.id} removed\n`)
  })
}

function addSaving({ io, leaf, delta, print }: WorkspaceRun): void {
  leaf('save <workspace>', 'wait until its newest snapshot is saved')
    .option('--timeout <duration>', 'wait no longer, and fail (default: without end)', parseDuration)
    .action(async (id: string, { timeout }: { timeout?: number }, command: Command) => {
      const workspace = await delta(command).workspaces.get(id)
      const newest = (await workspace.snapshots({ pageSize: 1 }).page()).data[0]
      if (!newest)
        throw new CliError(`${workspace.name} has no snapshot`, `Take one: delta workspace snapshot ${workspace.name}`)
      const info = await saved(io, newest, timeout)
      const stored = info.save.layer ? showBytes(info.save.layer.size) : 'nothing new'
      print(command, info, `${newest.id} saved, ${stored}\n`)
    })
}

async function saved(io: Io, snapshot: Snapshot, timeoutMs: number | undefined): Promise<Snapshot['info']> {
  const status = createStatus(io)
  let told: string | null = null
  const signal = timeoutMs === undefined ? undefined : AbortSignal.timeout(timeoutMs)
  try {
    return await snapshot.saved({
      ...(signal && { signal }),
      onProgress({ save: { state, savedBytes, error } }) {
        status.show(`${snapshot.id}: ${state}${state === 'saving' ? `, ${showBytes(savedBytes)} sent` : ''}`)
        // It is tried again for ever: whoever waits should know why.
        if (error !== null && error !== told) status.say(`${snapshot.id} is not saved yet: ${visible(error)}`)
        told = error
      },
    })
  } catch (cause) {
    if (!signal?.aborted) throw cause
    throw new CliError(
      `${snapshot.id} was not saved within ${showDuration(timeoutMs!)}${told === null ? '' : `: ${visible(told)}`}`,
      'It is still being tried. See how far it is: `delta workspace log`, and `delta doctor` for the storage.',
    )
  } finally {
    status.done()
  }
}

function addForks({ leaf, delta, print }: WorkspaceRun): void {
  leaf('fork <what> [names...]', 'make new workspaces that begin as a workspace is now, or as a snapshot is')
    .option('--count <number>', 'so many, without names of your own', parseCount)
    .action(async (what: string, names: string[], flags: { count?: number }, command: Command) => {
      const options = {
        ...(names.length > 0 && { names }),
        ...(flags.count !== undefined && { count: flags.count }),
      }
      const origin: Workspace | Snapshot = await (/^snp_|@/.test(what)
        ? findSnapshot(delta(command), what)
        : delta(command).workspaces.get(what))
      const forks = (await origin.fork(options)).map(({ info }) => info)
      print(command, forks, forks.map(({ id }) => `${id}\n`).join(''))
    })
}

function addImages({ io, leaf, delta, print }: WorkspaceRun): void {
  leaf('export <snapshot> <file>', 'write an OCI image archive; - is standard output')
    .addOption(
      new Option('--layers <form>', 'tar, which every tool reads, or zstd, as they are stored').choices([
        'tar',
        'zstd',
      ]),
    )
    .action(async (id: string, file: string, { layers }: { layers?: 'tar' | 'zstd' }, command: Command) => {
      const snapshot = await findSnapshot(delta(command), id)
      const progress = createProgress(io, { label: snapshot.id, waiting: 'the server prepares it' })
      try {
        const bytes = counted(await snapshot.image({ ...(layers && { layers }) }), progress)
        if (file === '-') for await (const chunk of bytes) await write(io.stdout, chunk)
        else await writeWhole(bytes, file)
      } catch (cause) {
        progress.fail()
        throw cause
      }
      progress.done()
      if (file !== '-') print(command, { id: snapshot.id, file }, `${file} written\n`)
    })

  leaf('import <file> [name]', 'make a workspace that begins as an OCI image archive; - is standard input').action(
    async (file: string, name: string | undefined, _: unknown, command: Command) => {
      const source = file === '-' ? io.stdin : createReadStream(file)
      const totalBytes = file === '-' ? undefined : (await stat(file)).size
      const progress = createProgress(io, { label: file, totalBytes })
      const workspace = await delta(command).workspaces.import(
        counted(source, progress),
        name === undefined ? {} : { name },
      )
      progress.done()
      print(command, workspace.info, `${workspace.id}\n`)
    },
  )
}

/** Beside the target and renamed over it: an export that fails leaves what was there. */
async function writeWhole(bytes: AsyncIterable<Uint8Array>, file: string): Promise<void> {
  const target = await stat(file).catch(() => undefined)
  // A device or a pipe is written to, not replaced.
  if (target && !target.isFile()) return pipeline(bytes, createWriteStream(file))
  const part = `${file}.delta-${process.pid}.part`
  try {
    await pipeline(bytes, createWriteStream(part, { flags: 'wx' }))
    await rename(part, file)
  } catch (cause) {
    await rm(part, { force: true })
    throw cause
  }
}

interface BisectFlags {
  good: string
  bad: string
  timeout?: number
  trust?: boolean
}

function addRestore({ leaf, delta, print }: WorkspaceRun): void {
  leaf('restore', 'find workspaces that storage holds and this server does not know').action(
    async (_: unknown, command: Command) => {
      const { workspaces, skipped } = await delta(command).workspaces.restore()
      const found = workspaces.map(({ info }) => info)
      const text = found.length === 0 ? 'Nothing new was found\n' : workspaceTable(found, Date.now())
      print(command, { data: found, skipped }, text)
      if (skipped.length === 0) return
      throw new CliError(
        `Not restored: ${skipped.map(({ document, reason }) => `${document} (${reason})`).join(', ')}`,
        'The rest is here. What storage lacks can be restored where the machine that saved it is still there.',
      )
    },
  )
}

function addBisect({ io, leaf, delta, print }: WorkspaceRun): void {
  leaf(
    'bisect <workspace> <command...>',
    'find the snapshot that broke something: delta workspace bisect W --good A --bad B -- COMMAND',
  )
    .requiredOption('--good <snapshot>', 'the command ends with 0 there')
    .requiredOption('--bad <snapshot>', 'a later one, in which it does not')
    .option(
      '--timeout <duration>',
      'longest time the command may take; longer counts as failed (default: 1m)',
      parseDuration,
    )
    .option('--trust', 'do not try the good and the bad one first')
    .action(async (id: string, words: string[], flags: BisectFlags, command: Command) => {
      const workspace = await delta(command).workspaces.get(id)
      const [good, bad] = [
        await findSnapshot(delta(command), flags.good, workspace),
        await findSnapshot(delta(command), flags.bad, workspace),
      ]
      const { firstBad, lastGood, steps } = await untilInterrupted(io, (signal) =>
        workspace.bisect({
          good: good.id,
          bad: bad.id,
          // One word is a line for the shell, as with `sandbox exec`.
          command: words.length === 1 ? words[0]! : words,
          ...(flags.timeout !== undefined && { timeoutMs: flags.timeout }),
          ...(flags.trust && { trust: true }),
          onStep: (step) => void io.stderr.write(describeStep(step)),
          signal,
        }),
      )
      const info = firstBad.info
      const text = `${firstBad.id} is the first bad one, ${lastGood.id} the last good one (${steps.length} tried)\n`
      print(
        command,
        { firstBad: info, lastGood: lastGood.info },
        text + historyTree([info], { headId: null, nowMs: Date.now() }),
      )
    })
}

/** Ctrl-C ends the search in order; a second one ends this program at once. */
async function untilInterrupted<T>(io: Io, work: (signal: AbortSignal) => Promise<T>): Promise<T> {
  const interruption = new AbortController()
  const stops: (() => void)[] = []
  const release = () => stops.splice(0).forEach((stop) => stop())
  const onSignal = (number: number) => () => {
    release()
    io.stderr.write('Ending: the fork that is being tried is removed first\n')
    interruption.abort(new Interrupted(number))
  }
  stops.push(io.onSignal('SIGINT', onSignal(2)), io.onSignal('SIGTERM', onSignal(15)))
  try {
    return await work(interruption.signal)
  } catch (error) {
    if (error instanceof BisectError) throw new CliError(error.message, error.remediation)
    throw error
  } finally {
    release()
  }
}

function describeStep({ snapshot, passed, result, why, left }: BisectStep): string {
  const how = result === null ? `could not be started: ${visible(why ?? '')}` : howEnded(result)
  return `${snapshot.id} is ${passed ? 'good' : `bad (${how})`}, ${left} to choose from\n`
}

function howEnded({ timedOut, exitCode, signal }: NonNullable<BisectStep['result']>): string {
  if (timedOut) return 'took too long'
  return exitCode === null ? `signal ${signal}` : `exit code ${exitCode}`
}

const isJson = (command: Command) => command.opts<{ json?: boolean }>().json === true

function changeList(changes: readonly FileChange[]): string {
  const sign = { added: '+', changed: '~', removed: '-' }
  return changes
    .map(({ kind, type, size, path }) => {
      const bytes = type === 'file' && kind !== 'removed' ? `  ${showBytes(size)}` : ''
      return `${sign[kind]} ${visible(path)}${type === 'directory' ? '/' : ''}${bytes}\n`
    })
    .join('')
}

function workspaceTable(all: readonly WorkspaceInfo[], nowMs: number): string {
  const rows = all.map(({ id, name, template, heldBy, createdAt, isLocal }) => [
    id,
    name,
    template,
    heldBy ?? '',
    showDuration(Math.max(0, nowMs - Date.parse(createdAt))),
    isLocal ? '' : 'in storage',
  ])
  return table(['WORKSPACE', 'NAME', 'TEMPLATE', 'SANDBOX', 'AGE', ''], rows)
}

function describeWorkspace(info: WorkspaceInfo): string {
  const rows: [string, string][] = [
    ['id', info.id],
    ['name', info.name],
    ['template', info.template],
    ['sandbox', info.heldBy ?? 'none'],
    ['snapshot', info.headSnapshotId ?? 'none yet'],
    ['disk', `${info.diskMb} MB`],
    ['keeps', `the newest ${info.retention.keepLast} snapshots and those with a name`],
    ['snapshot at stop', info.autoSnapshot ? 'yes' : 'no'],
    ['here', info.isLocal ? 'yes' : 'no, the next start fetches it from storage'],
    ['created', info.createdAt],
    ...Object.entries(info.metadata).map(([name, value]): [string, string] => [`metadata ${name}`, value]),
  ]
  return rows.map(([name, value]) => `${name.padEnd(20)} ${visible(value)}\n`).join('')
}
