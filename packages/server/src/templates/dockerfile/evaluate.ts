import { posix } from 'node:path'
import { dockerfileError, jsonForm, rawWords, shown } from './parse.ts'
import type { Heredoc, Instruction } from './parse.ts'
import { declare, platformArgs } from './plan.ts'
import type { BuildPlan } from './plan.ts'
import { expandWord, expandWords, namedValues } from './words.ts'

/** What an image says of the programs run in it. */
export interface ImageConfig {
  env: Record<string, string>
  /** Empty: root. */
  user: string
  workdir: string
  cmd: string[] | null
  entrypoint: string[] | null
  labels: Record<string, string>
  exposedPorts: string[]
}

export const emptyConfig: ImageConfig = {
  env: {},
  user: '',
  workdir: '/',
  cmd: null,
  entrypoint: null,
  labels: {},
  exposedPorts: [],
}

export interface StageState {
  config: ImageConfig
  /** ARGs declared so far; those of the file's beginning count where a stage declares them too. */
  args: Map<string, string | undefined>
  shell: string[]
}

export interface CopySource {
  kind: 'path' | 'url' | 'inline'
  /** A path in the context or the stage, with wildcards; an address; the heredoc's name. */
  value: string
  content?: string
}

export interface CopyAction {
  kind: 'copy'
  sources: CopySource[]
  /** Absolute. */
  dest: string
  /** It ended with a slash, or several things go there. */
  intoFolder: boolean
  from: string | undefined
  owner: string
  mode: number | undefined
  /** ADD: archives of the context are unpacked. */
  unpacks: boolean
}

export interface RunAction {
  kind: 'run'
  argv: string[]
  /** Beside the image's own: the ARGs. */
  env: Record<string, string>
  user: string
  cwd: string
}

export type Action = CopyAction | RunAction | { kind: 'makeFolder'; path: string; owner: string } | { kind: 'none' }

export interface Step {
  state: StageState
  action: Action
  /** What is done otherwise than by other builders. */
  note?: string
}

export function initialState(config: ImageConfig): StageState {
  return { config, args: new Map(), shell: ['/bin/sh', '-c'] }
}

/** What one instruction changes and asks to be done. The state given is not changed. */
export function evaluate(instruction: Instruction, state: StageState, plan: BuildPlan): Step {
  const scope = {
    line: instruction.line,
    escape: plan.escape,
    lookUp: (name: string) => state.config.env[name] ?? state.args.get(name),
  }
  return steps[instruction.name]({ instruction, state, plan, scope })
}

/** What no value of any variable could put right. */
export function checkInstruction(instruction: Instruction): void {
  const { name, line, flags } = instruction
  if (name === 'ONBUILD') throw dockerfileError(line, onBuild)
  if (name === 'RUN') runNote(instruction)
  if (name === 'SHELL' && !jsonForm(instruction.text)) throw dockerfileError(line, shellForm)
  if (name !== 'COPY' && name !== 'ADD') return
  const known = ['chown', 'chmod', 'link', ...(name === 'COPY' ? ['from'] : [])]
  const unknown = flags.find((flag) => !known.includes(flag.name))
  if (unknown) throw dockerfileError(line, `${name} --${unknown.name} is not supported`)
}

interface Context {
  instruction: Instruction
  state: StageState
  plan: BuildPlan
  scope: Parameters<typeof expandWord>[1]
}

const onBuild = 'ONBUILD is not supported: write its instruction into the Dockerfile that uses this one'
const shellForm = 'SHELL takes a JSON list, such as ["/bin/bash", "-c"]'
const mostVariables = 1_000
const mostLabels = 1_000

const steps: Record<Instruction['name'], (context: Context) => Step> = {
  ENV: ({ instruction, state, scope }) => {
    const pairs = namedValues(instruction.text, scope) ?? [legacyPair(instruction, scope)]
    for (const [name] of pairs) {
      if (!/^[A-Za-z_][A-Za-z0-9_]*$/.test(name))
        throw dockerfileError(instruction.line, `${shown(name)} is no name of a variable`)
    }
    const env = { ...state.config.env, ...Object.fromEntries(pairs) }
    if (Object.keys(env).length > mostVariables)
      throw dockerfileError(instruction.line, `more than ${mostVariables} variables`)
    return configured(state, { env })
  },

  ARG: ({ instruction, state, plan, scope }) => {
    const args = new Map(state.args)
    const inherited = { ...platformArgs(plan.platform), ...Object.fromEntries(plan.globalArgs) }
    const before = new Map(Object.entries(inherited))
    declare(before, instruction, { scope, buildArgs: plan.buildArgs })
    for (const word of rawWords(instruction.text, plan.escape)) {
      const name = expandWord(word.split('=', 1)[0]!, scope)
      args.set(name, before.get(name))
    }
    return { state: { ...state, args }, action: { kind: 'none' } }
  },

  WORKDIR: ({ instruction, state, scope }) => {
    const path = expandWord(instruction.text, scope)
    if (path === '') throw dockerfileError(instruction.line, 'WORKDIR is empty: is a variable of it set?')
    const workdir = checkedPath(posix.resolve('/', state.config.workdir, path), instruction.line)
    const next = configured(state, { workdir })
    return { ...next, action: { kind: 'makeFolder', path: workdir, owner: state.config.user || '0:0' } }
  },

  USER: ({ instruction, state, scope }) => {
    const user = expandWord(instruction.text, scope)
    if (!/^[A-Za-z0-9._][A-Za-z0-9._-]{0,63}(:[A-Za-z0-9._][A-Za-z0-9._-]{0,63})?$/.test(user)) {
      throw dockerfileError(instruction.line, `${shown(user)} is no user: a name or number, with an optional :group`)
    }
    return configured(state, { user })
  },

  LABEL: ({ instruction, state, scope }) => {
    const pairs = namedValues(instruction.text, scope) ?? [legacyPair(instruction, scope)]
    const labels = { ...state.config.labels, ...Object.fromEntries(pairs) }
    if (Object.keys(labels).length > mostLabels)
      throw dockerfileError(instruction.line, `more than ${mostLabels} labels`)
    return configured(state, { labels })
  },

  EXPOSE: ({ instruction, state, scope }) => {
    const ports = expandWords(instruction.text, scope).map((port) => {
      const [, from, to = from, protocol = 'tcp'] =
        /^([0-9]{1,5})(?:-([0-9]{1,5}))?(?:\/(tcp|udp|sctp))?$/i.exec(port) ?? []
      if (from === undefined || Number(from) > 65_535 || Number(to) > 65_535) {
        throw dockerfileError(instruction.line, `${shown(port)} is no port`)
      }
      return `${port.split('/', 1)[0]}/${protocol.toLowerCase()}`
    })
    return configured(state, { exposedPorts: [...new Set([...state.config.exposedPorts, ...ports])].slice(0, 1_000) })
  },

  CMD: ({ instruction, state }) => configured(state, { cmd: commandOf(instruction, state) }),

  // As with other builders, a base's CMD is meant for the base's ENTRYPOINT.
  ENTRYPOINT: ({ instruction, state }) => configured(state, { entrypoint: commandOf(instruction, state), cmd: null }),

  SHELL: ({ instruction, state }) => {
    const shell = jsonForm(instruction.text)
    if (!shell || shell.length === 0) throw dockerfileError(instruction.line, shellForm)
    return { state: { ...state, shell }, action: { kind: 'none' } }
  },

  RUN: (context) => {
    const { instruction, state } = context
    const note = runNote(instruction)
    const env = Object.fromEntries(
      [...state.args].flatMap(([name, value]) => (value === undefined ? [] : [[name, value]])),
    )
    const { user, workdir: cwd } = state.config
    const action: RunAction = { kind: 'run', argv: runArguments(context), env, user: user || 'root', cwd }
    return { state, action, ...(note !== undefined && { note }) }
  },

  COPY: (context) => ({ state: context.state, action: copyOf(context, { isAdd: false }) }),
  ADD: (context) => ({ state: context.state, action: copyOf(context, { isAdd: true }) }),

  STOPSIGNAL: ({ state }) => ignored(state, 'STOPSIGNAL means nothing in a sandbox'),
  HEALTHCHECK: ({ state }) => ignored(state, 'HEALTHCHECK means nothing in a sandbox'),
  VOLUME: ({ state }) => ignored(state, 'VOLUME means nothing in a template: its folder is an ordinary one'),
  MAINTAINER: ({ instruction, state }) =>
    configured(state, { labels: { ...state.config.labels, maintainer: instruction.text } }),

  ONBUILD: ({ instruction }) => {
    throw dockerfileError(instruction.line, onBuild)
  },
  FROM: ({ instruction }) => {
    throw dockerfileError(instruction.line, 'FROM begins a stage')
  },
}

function configured(state: StageState, changes: Partial<ImageConfig>): Step {
  return { state: { ...state, config: { ...state.config, ...changes } }, action: { kind: 'none' } }
}

function ignored(state: StageState, note: string): Step {
  return { state, action: { kind: 'none' }, note }
}

/** `ENV name a value with spaces`. */
function legacyPair({ line, name, text }: Instruction, scope: Context['scope']): [string, string] {
  const [, key, value] = /^(\S+)\s+([^]+)$/.exec(text) ?? []
  if (key === undefined || value === undefined) throw dockerfileError(line, `${name} takes name=value`)
  return [expandWord(key, scope), expandWord(value, scope)]
}

function commandOf({ text }: Instruction, { shell }: StageState): string[] {
  return jsonForm(text) ?? [...shell, text]
}

function runNote({ line, flags }: Instruction): string | undefined {
  for (const { name, value } of flags) {
    if (name === 'network' && value === 'default') continue
    if (name === 'mount' && /(^|,)type=cache(,|$)/.test(value)) {
      return 'RUN --mount=type=cache: nothing is kept from another build, and what is written there stays in the template'
    }
    throw dockerfileError(line, `RUN --${name}=${value.slice(0, 80)} is not supported`)
  }
  return undefined
}

function runArguments({ instruction, state }: Context): string[] {
  const { text, heredocs } = instruction
  const exec = jsonForm(text)
  if (exec) {
    if (exec.length === 0 || exec[0] === '') throw dockerfileError(instruction.line, 'RUN names no program')
    return exec
  }
  const [only] = heredocs
  if (only && heredocs.length === 1 && /^<<-?(['"]?)[^'"<>\s]+\1$/.test(text)) {
    if (only.content.startsWith('#!')) {
      throw dockerfileError(
        instruction.line,
        'a heredoc with #! is not supported: name the interpreter, as in RUN python3 <<EOF',
      )
    }
    return [...state.shell, only.content]
  }
  // The shell reads the heredocs itself: what the builder took apart is put together again.
  const documents = heredocs.map(({ name, content }) => `${content}${name}\n`).join('')
  return [...state.shell, documents === '' ? text : `${text}\n${documents}`]
}

function copyOf(context: Context, { isAdd }: { isAdd: boolean }): CopyAction {
  const { instruction, state, scope } = context
  const { line, name, text, heredocs } = instruction
  const words = (jsonForm(text) ?? rawWords(text, scope.escape)).map((word) => ({
    word,
    heredoc: heredocOf(word, heredocs),
  }))
  const expanded = words.map(({ word, heredoc }) => ({
    heredoc,
    value: heredoc ? heredoc.name : expandWord(word, scope),
  }))
  const dest = expanded.pop()
  if (!dest || dest.heredoc || expanded.length === 0)
    throw dockerfileError(line, `${name} takes what to copy, and where to`)
  const flags = copyFlags(context, { isAdd })
  const sources = expanded.map(({ value, heredoc }): CopySource => {
    if (heredoc) return { kind: 'inline', value, content: heredocContent(heredoc, scope) }
    if (isAdd && /^https?:\/\//i.test(value)) return { kind: 'url', value }
    if (isAdd && /^(git@|git:\/\/)/.test(value))
      throw dockerfileError(line, 'ADD of a git repository is not supported: clone it in a RUN')
    if (value === '') throw dockerfileError(line, `${name} names nothing: is a variable of it set?`)
    return { kind: 'path', value: checkedPath(value, line) }
  })
  const path = checkedPath(posix.resolve('/', state.config.workdir, dest.value || '.'), line)
  const intoFolder = /(^|\/)\.?$/.test(dest.value) || sources.length > 1
  return { kind: 'copy', sources, dest: path, intoFolder, unpacks: isAdd, ...flags }
}

function copyFlags({ instruction, scope }: Context, { isAdd }: { isAdd: boolean }) {
  const found: { from: string | undefined; owner: string; mode: number | undefined } = {
    from: undefined,
    owner: '0:0',
    mode: undefined,
  }
  for (const { name, value } of instruction.flags) {
    if (name === 'from' && !isAdd) found.from = value
    else if (name === 'chown') found.owner = ownerOf(expandWord(value, scope), instruction.line)
    else if (name === 'chmod') found.mode = modeOf(expandWord(value, scope), instruction.line)
    // Each step is a snapshot of its own here, so what --link is for holds already.
    else if (name !== 'link') throw dockerfileError(instruction.line, `${instruction.name} --${name} is not supported`)
  }
  return found
}

function ownerOf(value: string, line: number): string {
  if (/^[A-Za-z0-9._][A-Za-z0-9._-]{0,63}(:[A-Za-z0-9._][A-Za-z0-9._-]{0,63})?$/.test(value)) return value
  throw dockerfileError(line, `--chown=${value.slice(0, 80)}: a user, with an optional :group`)
}

function modeOf(value: string, line: number): number {
  if (/^[0-7]{3,4}$/.test(value)) return Number.parseInt(value, 8)
  throw dockerfileError(line, `--chmod=${value.slice(0, 80)}: octal digits such as 755`)
}

function heredocOf(word: string, heredocs: readonly Heredoc[]): Heredoc | undefined {
  const [, , name] = /^<<-?(['"]?)([^'"<>\s]+)\1$/.exec(word) ?? []
  return name === undefined ? undefined : heredocs.find((each) => each.name === name)
}

/** Line by line, so that quotes in it are what they are. */
function heredocContent({ expands, content }: Heredoc, scope: Context['scope']): string {
  if (!expands) return content
  return content.replaceAll(/\\\$|\$(?:[A-Za-z_][A-Za-z0-9_]*|\{[^}\n]*\})/g, (found) =>
    found === '\\$' ? '$' : expandWord(found, scope),
  )
}

function checkedPath(path: string, line: number): string {
  if (Buffer.byteLength(path) > 4_000 || path.includes('\0'))
    throw dockerfileError(line, `the path ${shown(path)} is too long`)
  return path
}
