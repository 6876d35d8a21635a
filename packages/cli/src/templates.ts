import { createReadStream } from 'node:fs'
import { stat } from 'node:fs/promises'
import type { Delta, RegistryAccount, TemplateInfo, TemplateLogLine } from '@delta-agents/sdk'
import type { Command } from 'commander'
import { collect } from './egress.ts'
import { CliError, UsageError } from './failure.ts'
import { parsePair, table, visible } from './format.ts'
import { type Io, type OutputStream, paint } from './io.ts'
import { counted, createProgress } from './progress.ts'
import { findSnapshot } from './resolve.ts'

/** What these commands need of the program they are part of. */
export interface TemplateRun {
  io: Io
  leaf(usage: string, description: string): Command
  delta(command: Command): Delta
  print(command: Command, value: unknown, text: string): void
}

interface CreateFlags {
  image?: string
  archive?: string
  dockerfile?: string
  snapshot?: string
  tag?: string[]
  file?: string
  target?: string
  buildArg?: Record<string, string>
  /** Off: every step is done anew. */
  cache: boolean
  username?: string
  registry?: string
  detach?: boolean
}

const passwordVariable = 'DELTA_REGISTRY_PASSWORD'

export function addTemplateCommands(run: TemplateRun): void {
  addLooking(run)
  addMaking(run)
  addKeeping(run)
}

function addLooking({ io, leaf, delta, print }: TemplateRun): void {
  leaf('list [name]', 'list templates, or all versions of one')
    .alias('ls')
    .action(async (name: string | undefined, _: unknown, command: Command) => {
      const { templates } = delta(command)
      const all = await (name === undefined ? templates.list() : templates.versions(name))
      const rows = all.map((info) => [shownName(info), info.state, info.tags.join(' '), info.detail])
      print(command, all, table(['NAME', 'STATE', 'TAGS', 'DETAIL'], rows))
    })

  leaf('get <template>', 'show one, by NAME, NAME:TAG, NAME@VERSION or id').action(
    async (template: string, _: unknown, command: Command) => {
      const info = await delta(command).templates.get(template)
      print(command, info, describeTemplate(info))
    },
  )

  leaf('log <template>', 'how it is or was made; of one that is being made until it ends').action(
    async (template: string, _: unknown, command: Command) => {
      const ended = await follow(logOf(io, command), delta(command), template)
      if (command.opts<{ json?: boolean }>().json) print(command, ended, '')
    },
  )
}

/** Where the log goes: with --json, which prints the template, nowhere. */
function logOf(io: Io, command: Command): { io: Io; stream: OutputStream | undefined } {
  return { io, stream: command.opts<{ json?: boolean }>().json ? undefined : io.stdout }
}

function addMaking({ io, leaf, delta, print }: TemplateRun): void {
  leaf('create <name>', 'make a template, or a new version of it, and print its name and version')
    .option('--image <reference>', 'of an image of a registry, such as python:3.12-slim')
    .option('--archive <file>', 'of an OCI archive, or of what docker save writes; - is standard input')
    .option('--dockerfile <folder>', 'of the Dockerfile in a folder, whose files are sent')
    .option('--snapshot <snapshot>', 'of a snapshot of a workspace, by id or WORKSPACE@NAME')
    .option('-t, --tag <tag>', 'a name of the new version; may be repeated', collect)
    .option('-f, --file <path>', 'with --dockerfile: the Dockerfile inside the folder (default: Dockerfile)')
    .option('--target <stage>', 'with --dockerfile: the stage to build (default: the last)')
    .option('--build-arg <name=value>', 'with --dockerfile: a value of ARG; may be repeated', parsePair)
    .option('--no-cache', 'with --dockerfile: do every step anew')
    .option(
      '--username <name>',
      `with --image or --dockerfile: an account of a registry; the password is taken from ${passwordVariable}`,
    )
    .option(
      '--registry <host>',
      'with --username: the only registry that is told (default: that of the image or first FROM)',
    )
    .option('-d, --detach', 'do not wait until it is made')
    .action(async (name: string, flags: CreateFlags, command: Command) => {
      const begun = await begin(io, delta(command), name, flags)
      if (flags.detach) return print(command, begun, `${shownName(begun)}\n`)
      const ended = await follow({ io, stream: io.stderr }, delta(command), begun)
      print(command, ended, `${shownName(ended)}\n`)
    })

  leaf('build <name>', 'make one of the machine or of the catalogue ready; may take minutes').action(
    async (name: string, _: unknown, command: Command) => {
      if (io.stderr.isTTY) io.stderr.write(`Making '${name}'; the server's log shows how far it is\n`)
      await delta(command).templates.build(name)
      print(command, { name, state: 'ready' }, `${name} ready\n`)
    },
  )

  leaf('cancel <template>', 'end the making of a version').action(
    async (template: string, _: unknown, command: Command) => {
      const info = await delta(command).templates.cancel(template)
      print(command, info, `${shownName(info)} ${info.state}\n`)
    },
  )
}

function addKeeping({ leaf, delta, print }: TemplateRun): void {
  leaf('tag <template> <tag>', 'let a tag name a version: delta template tag tools@2 stable')
    .option('--remove', 'take the tag away instead')
    .action(async (template: string, tag: string, flags: { remove?: boolean }, command: Command) => {
      const { templates } = delta(command)
      const { name, version } = await templates.get(template)
      if (flags.remove) {
        await templates.untag(name, tag)
        return print(command, { name, tag, removed: true }, `${name}:${tag} removed\n`)
      }
      if (version === null) throw new CliError(`${name} has no versions`, 'Tags name versions of your own templates.')
      const info = await templates.tag(name, tag, version)
      print(command, info, `${name}:${tag} is ${name}@${version}\n`)
    })

  leaf('remove <template>', 'remove a version, or with a name alone all of them')
    .alias('rm')
    .action(async (template: string, _: unknown, command: Command) => {
      await delta(command).templates.remove(template)
      print(command, { template, removed: true }, `${template} removed\n`)
    })
}

async function begin(io: Io, delta: Delta, name: string, flags: CreateFlags): Promise<TemplateInfo> {
  const { templates } = delta
  const { image, archive, dockerfile, snapshot } = flags
  if ([image, archive, dockerfile, snapshot].filter((source) => source !== undefined).length !== 1)
    throw new UsageError('Give one of --image, --archive, --dockerfile and --snapshot')
  const common = { name, ...(flags.tag && { tags: flags.tag }) }
  if (snapshot !== undefined) {
    const id = snapshot.includes('@') ? (await findSnapshot(delta, snapshot)).id : snapshot
    return templates.create({ ...common, from: { snapshot: id } })
  }
  if (image !== undefined) {
    const auth = accountOf(io, flags)
    return templates.create({ ...common, from: { image, ...(auth && { auth }) } })
  }
  if (archive !== undefined) {
    const totalBytes = archive === '-' ? undefined : (await stat(archive)).size
    const progress = createProgress(io, { label: archive, totalBytes })
    const source = archive === '-' ? io.stdin : createReadStream(archive)
    const begun = await templates.import(counted(source, progress), common)
    progress.done()
    return begun
  }
  return sendDockerfile(io, templates, dockerfile!, { ...common, flags })
}

async function sendDockerfile(
  io: Io,
  templates: Delta['templates'],
  folder: string,
  { flags, ...common }: { name: string; tags?: string[]; flags: CreateFlags },
): Promise<TemplateInfo> {
  if (!(await stat(folder)).isDirectory())
    throw new UsageError(`${folder} is no folder: --dockerfile takes the folder, --file the Dockerfile inside it`)
  const auth = accountOf(io, flags)
  const progress = createProgress(io, { label: folder })
  let sent = 0
  const begun = await templates.dockerfile({
    ...common,
    context: folder,
    ...(flags.file !== undefined && { dockerfile: flags.file }),
    ...(flags.target !== undefined && { target: flags.target }),
    ...(flags.buildArg && { args: flags.buildArg }),
    ...(!flags.cache && { noCache: true }),
    ...(auth && { auth }),
    onProgress({ bytes }) {
      progress.add(bytes - sent)
      sent = bytes
    },
  })
  progress.done()
  return begun
}

function accountOf(io: Io, { username, registry }: CreateFlags): RegistryAccount | undefined {
  if (username === undefined && registry !== undefined) throw new UsageError('--registry goes with --username')
  if (username === undefined) return undefined
  const password = io.env[passwordVariable] ?? ''
  if (password === '') throw new UsageError(`Set ${passwordVariable} to the password of ${username}`)
  return { ...(registry !== undefined && { registry }), username, password }
}

/** Prints what is said of it until it ends; fails where it did. Ctrl-C leaves it being made. */
async function follow(
  { io, stream }: { io: Io; stream: OutputStream | undefined },
  { templates }: Delta,
  template: TemplateInfo | string,
): Promise<TemplateInfo> {
  const lines = templates.log(template)
  let steps = 0
  let next = await lines.next()
  for (; !next.done; next = await lines.next()) {
    if (next.value.kind === 'step') steps += 1
    stream?.write(shownLine(io, stream, next.value, steps))
  }
  const ended = next.value
  if (ended.state === 'ready') return ended
  const how = `Look at it again: delta template log ${ended.id ?? ended.name}`
  throw new CliError(`${shownName(ended)} is ${ended.state}: ${visible(ended.detail)}`, how)
}

/** What a build says comes from inside a sandbox: its control characters are shown, not sent. */
function shownLine(io: Io, stream: OutputStream, { kind, text }: TemplateLogLine, step: number): string {
  const lines = text.replace(/\r?\n$/, '').split(/\r?\n/)
  const mark = kind === 'step' ? `[${step}] ` : kind === 'note' ? '    note: ' : '    '
  const shown = lines.map((line) => `${mark}${visible(line.replaceAll('\t', '    '))}\n`).join('')
  return kind === 'step' ? paint(io, stream, 'bold', shown) : shown
}

function shownName({ name, version }: TemplateInfo): string {
  return version === null ? name : `${name}@${version}`
}

function describeTemplate(info: TemplateInfo): string {
  const { config } = info
  const rows: [string, string | null | undefined][] = [
    ['name', shownName(info)],
    ['id', info.id],
    ['state', info.state],
    ['tags', info.tags.join(' ')],
    ['made of', [info.source.kind, info.source.reference].filter(Boolean).join(' ')],
    ['detail', info.detail],
    ['digest', info.digest],
    ['snapshot', info.snapshotId],
    ['user', config?.user],
    ['working directory', config?.workdir],
    ['created', info.createdAt],
    ['ended', info.endedAt],
    ...Object.entries(config?.env ?? {}).map(([name, value]): [string, string] => [`env ${name}`, value]),
  ]
  return rows
    .filter(([, value]) => value !== null && value !== undefined && value !== '')
    .map(([name, value]) => `${name.padEnd(20)} ${visible(value!)}\n`)
    .join('')
}
