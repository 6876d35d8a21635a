import { dockerfileError, dockerfileLimits, parseDockerfile, rawWords, shown } from './parse.ts'
import type { Instruction } from './parse.ts'
import { expandWord, expandWords, namedValues } from './words.ts'

export interface PlanOptions {
  /** The stage to build; by name or number. @default the last */
  target?: string | undefined
  buildArgs: Readonly<Record<string, string>>
  /** `linux/amd64`. */
  platform: string
}

export type StageBase = { kind: 'stage'; index: number } | { kind: 'named'; name: string }

export interface Stage {
  index: number
  name: string | undefined
  line: number
  base: StageBase
  instructions: Instruction[]
  /** What its COPY --from name, by the word they use. */
  sources: Map<string, StageBase>
}

export interface BuildPlan {
  escape: '\\' | '`'
  /** In the order they are built, the target last; those that the target needs not are left out. */
  stages: Stage[]
  /** ARG before the first FROM. */
  globalArgs: ReadonlyMap<string, string | undefined>
  buildArgs: Readonly<Record<string, string>>
  platform: string
}

/** Variables that say for what it is built; there in FROM, and in a stage after its ARG. */
export function platformArgs(platform: string): Record<string, string> {
  const [os = 'linux', arch = '', variant = ''] = platform.split('/')
  const target = { PLATFORM: platform, OS: os, ARCH: arch, VARIANT: variant }
  const entries = Object.entries(target)
  return Object.fromEntries(
    entries.flatMap(([name, value]) => [
      [`TARGET${name}`, value],
      [`BUILD${name}`, value],
    ]),
  )
}

export function planDockerfile(source: string, options: PlanOptions): BuildPlan {
  const { escape, instructions } = parseDockerfile(source)
  const globalArgs = new Map<string, string | undefined>()
  const stages: Stage[] = []
  const lookUp = (name: string) => globalArgs.get(name) ?? platformArgs(options.platform)[name]
  for (const instruction of instructions) {
    const { line, name } = instruction
    const scope = { line, escape, lookUp }
    if (name === 'FROM') {
      if (stages.length === dockerfileLimits.stages) {
        throw dockerfileError(line, `it has more than ${dockerfileLimits.stages} stages`)
      }
      stages.push(stageOf(instruction, { stages, words: expandWords(instruction.text, scope), scope, options }))
      continue
    }
    const stage = stages.at(-1)
    if (stage) addTo(stage, instruction, stages)
    else if (name === 'ARG') declare(globalArgs, instruction, { scope, buildArgs: options.buildArgs })
    else throw dockerfileError(line, `${name} comes before the first FROM`)
  }
  const target = targetOf(stages, options.target)
  const { buildArgs, platform } = options
  return { escape, stages: neededBy(stages, target), globalArgs, buildArgs, platform }
}

interface FromContext {
  stages: readonly Stage[]
  words: readonly string[]
  scope: Parameters<typeof expandWord>[1]
  options: PlanOptions
}

function stageOf({ line, flags }: Instruction, { stages, words, scope, options }: FromContext): Stage {
  const [image = '', as, name, ...more] = words
  const isNamed = as?.toUpperCase() === 'AS' && name !== undefined && more.length === 0
  if (image === '') throw dockerfileError(line, 'FROM names nothing: is a variable of it set?')
  if (as !== undefined && !isNamed) throw dockerfileError(line, 'FROM takes an image and, perhaps, AS and a name')
  for (const flag of flags) {
    if (flag.name !== 'platform') throw dockerfileError(line, `FROM has no flag --${flag.name}`)
    const wanted = expandWord(flag.value, scope)
    if (wanted !== options.platform) {
      throw dockerfileError(
        line,
        `the platform ${shown(wanted)} cannot be built here: this machine is ${options.platform}`,
      )
    }
  }
  if (isNamed && !/^[a-z][a-z0-9_.-]{0,127}$/i.test(name)) {
    throw dockerfileError(line, `${shown(name)} is no name of a stage`)
  }
  const known = isNamed && stages.some((stage) => stage.name === name.toLowerCase())
  if (known) throw dockerfileError(line, `there is a stage ${name} already`)
  const earlier = stages.find((stage) => stage.name !== undefined && stage.name === image.toLowerCase())
  const base: StageBase = earlier ? { kind: 'stage', index: earlier.index } : { kind: 'named', name: image }
  const stageName = isNamed ? name.toLowerCase() : undefined
  return { index: stages.length, name: stageName, line, base, instructions: [], sources: new Map() }
}

function addTo(stage: Stage, instruction: Instruction, stages: readonly Stage[]): void {
  stage.instructions.push(instruction)
  if (instruction.name !== 'COPY') return
  const from = instruction.flags.find(({ name }) => name === 'from')?.value
  if (from === undefined) return
  if (from === '') throw dockerfileError(instruction.line, '--from needs a stage or an image')
  if (/^[0-9]{1,9}$/.test(from)) {
    if (Number(from) >= stage.index)
      throw dockerfileError(instruction.line, `there is no stage ${from} before this one`)
    stage.sources.set(from, { kind: 'stage', index: Number(from) })
    return
  }
  const earlier = stages.find(({ name, index }) => name === from.toLowerCase() && index < stage.index)
  if (stage.name === from.toLowerCase()) throw dockerfileError(instruction.line, 'a stage cannot copy from itself')
  stage.sources.set(from, earlier ? { kind: 'stage', index: earlier.index } : { kind: 'named', name: from })
}

interface Declaration {
  scope: Parameters<typeof expandWord>[1]
  buildArgs: Readonly<Record<string, string>>
}

/** `ARG a`, `ARG a=1 b=2`: the caller's value first, the default else. */
export function declare(args: Map<string, string | undefined>, { line, text }: Instruction, given: Declaration): void {
  for (const [name, value] of argumentsOf(line, text, given)) {
    args.set(name, Object.hasOwn(given.buildArgs, name) ? given.buildArgs[name] : (value ?? args.get(name)))
  }
}

/** Each with a default or without. */
function argumentsOf(line: number, text: string, { scope }: Declaration): [string, string | undefined][] {
  return rawWords(text, scope.escape).map((word) => {
    const [name, value] = namedValues(word, scope)?.[0] ?? [expandWord(word, scope), undefined]
    if (!/^[A-Za-z_][A-Za-z0-9_]*$/.test(name)) throw dockerfileError(line, `${shown(name)} is no name of an ARG`)
    return [name, value]
  })
}

function targetOf(stages: readonly Stage[], target: string | undefined): Stage {
  const last = stages.at(-1)
  if (!last) throw dockerfileError(1, 'it has no FROM')
  if (target === undefined) return last
  const wanted = /^[0-9]{1,9}$/.test(target) ? stages[Number(target)] : undefined
  const found = wanted ?? stages.find(({ name }) => name === target.toLowerCase())
  if (!found) throw dockerfileError(last.line, `there is no stage ${shown(target)} to build`)
  return found
}

function neededBy(stages: readonly Stage[], target: Stage): Stage[] {
  const needed = new Set<number>()
  const visit = (index: number): void => {
    if (needed.has(index)) return
    needed.add(index)
    const { base, sources } = stages[index]!
    for (const each of [base, ...sources.values()]) if (each.kind === 'stage') visit(each.index)
  }
  visit(target.index)
  const built = stages.filter(({ index }) => needed.has(index) && index !== target.index)
  return [...built, target]
}
