import { Command, type CommandOptions, CommanderError, Option } from 'commander'
import {
  type Agent,
  Delta,
  type AccessScope,
  type CreateSandboxOptions,
  type Ports,
  type PortUrl,
  type Sandbox,
  type SandboxState,
  type TimeoutAction,
  type VolumeMount,
} from '@delta-agents/sdk'
import { attack } from './attack.ts'
import { addAgentCommands, findAgent } from './agents.ts'
import { addApprovalCommands } from './approvals.ts'
import { addAuditCommands } from './audit.ts'
import { configOf, showConfig } from './config.ts'
import { addBackupCommands } from './backup.ts'
import { addBudgetCommands } from './budget.ts'
import { copy } from './copy.ts'
import { defaultDetachKeys, parseDetachKeys } from './detach-keys.ts'
import { diagnose, showDiagnosis } from './doctor.ts'
import { addEgressCommands, collect, policyOf } from './egress.ts'
import { ClosedOutput, exec } from './exec.ts'
import { CliError, exitCodes, Interrupted, report, UsageError } from './failure.ts'
import { parseDuration, parseNumber, parsePair } from './format.ts'
import { type Io, write } from './io.ts'
import { findSandbox } from './resolve.ts'
import { createLogins, type Logins, loginsFolder } from './logins.ts'
import { demo } from './demo.ts'
import { addModelCommands } from './models.ts'
import { newShell } from './new-shell.ts'
import { requireTerminal, shell } from './shell.ts'
import { addPeopleCommands } from './people.ts'
import { addWorkspaceCommands } from './workspaces.ts'
import { addScheduleCommands } from './schedules.ts'
import { addTaskCommands } from './tasks.ts'
import { addTemplateCommands } from './templates.ts'
import { addTokenRequestCommands } from './token-requests.ts'
import { addWebhookCommands } from './webhooks.ts'
import { addKeyCommands } from './keys.ts'
import { addVolumeCommands, parseMount } from './volumes.ts'
import { describeMetrics, describeSandbox, entryTable, sandboxTable, transitionTable } from './show.ts'

/** What a command's action sees of the run it is part of. */
interface Run {
  io: Io
  /** Undefined where there is no folder for them. */
  logins: Logins | undefined
  exitCode: number
  delta(command: Command): Delta
  /** Prints a value as JSON where --json was given, else as text. */
  print(command: Command, value: unknown, text: string): void
}

/** Runs one command line and returns its exit code; never throws, never exits by itself. */
export async function runCli(args: string[], io: Io): Promise<number> {
  const folder = loginsFolder(io.env)
  const logins = folder === undefined ? undefined : createLogins(folder)
  const run: Run = {
    io,
    logins,
    exitCode: 0,
    delta: (command) => clientOf(command, logins),
    print(command, value, text) {
      const json = command.opts<{ json?: boolean }>().json === true
      io.stdout.write(json ? `${JSON.stringify(value, null, 2)}\n` : text)
    },
  }
  try {
    await createProgram(run).parseAsync(args, { from: 'user' })
    return run.exitCode
  } catch (error) {
    return failed(io, error, args)
  }
}

/** DELTA_API_KEY comes first, then whoever has logged in, then the key of a server on this machine. */
function clientOf(command: Command, logins: Logins | undefined): Delta {
  const { url } = command.optsWithGlobals<{ url?: string }>()
  const plain = new Delta({ url })
  if (!logins || process.env['DELTA_API_KEY']) return plain
  return new Delta({ url, apiKey: () => logins.key(plain.url, plain.auth) })
}

function failed(io: Io, error: unknown, args: string[]): number {
  // Commander has written its message or the help already.
  if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : exitCodes.usage
  if (error instanceof Interrupted) return exitCodes.signalBase + error.signalNumber
  if (error instanceof ClosedOutput) return exitCodes.signalBase + 13
  const own = args.includes('--') ? args.slice(0, args.indexOf('--')) : args
  const exitCode = report(io, error, { json: own.includes('--json') })
  return isExec(own) && exitCode !== exitCodes.usage ? exitCodes.execFailed : exitCode
}

/** Those whose exit code is the command's own. */
const isExec = (args: string[]) => {
  const [noun, verb] = args.filter((arg) => !arg.startsWith('-'))
  return (noun === 'sandbox' || noun === 'sb' || noun === 'agents') && (verb === 'exec' || verb === 'shell')
}

function createProgram(run: Run): Command {
  const program = new Command('delta')
    .description('Isolated Linux computers for agents and people.')
    .option('--url <address>', 'address of the server (default: DELTA_URL, else http://127.0.0.1:8000)')
    .enablePositionalOptions()
    .exitOverride()
    .configureOutput({
      writeOut: (text) => void run.io.stdout.write(text),
      writeErr: (text) => void run.io.stderr.write(text),
    })
    .addHelpText(
      'after',
      `
The key is taken from DELTA_API_KEY, else from \`delta login\`; for a server on this machine else from api-key in DELTA_DATA_DIR (./data).
The beginning of a sandbox's id is enough where only one begins so.
Exit codes: 0 done, 1 failed, 2 wrong usage, 3 server not reached; 'exec' and 'shell' of sandboxes and agents pass on the command's own,
'task create' and 'task attach' have theirs.`,
    )
  const agents = program.command('agents').description('agents: their place, rights, tokens and computers')
  addAgentCommands({
    leaf: (usage, description) => leaf(agents, usage, description),
    delta: run.delta,
    print: run.print,
  })
  addExec(agents, run, agentTarget)
  addShell(agents, run, agentTarget)
  const task = program.command('task').alias('tasks').description('what agents are given to do')
  addTaskCommands({
    io: run.io,
    leaf: (usage, description) => leaf(task, usage, description),
    delta: run.delta,
    print: run.print,
    exitWith: (code) => (run.exitCode = code),
  })
  const schedule = program.command('schedule').alias('schedules').description('tasks at stated times')
  addScheduleCommands({
    io: run.io,
    leaf: (usage, description) => leaf(schedule, usage, description),
    delta: run.delta,
    print: run.print,
    exitWith: (code) => (run.exitCode = code),
  })
  const webhook = program
    .command('webhook')
    .alias('webhooks')
    .description('servers of yours that are told when tasks end or need a decision')
  addWebhookCommands({
    io: run.io,
    leaf: (usage, description) => leaf(webhook, usage, description),
    delta: run.delta,
    print: run.print,
  })
  const models = program.command('models').description('models that tasks can use, and keys for them')
  const modelKeys = models.command('key').description('the account’s own keys of providers of models')
  addModelCommands({
    io: run.io,
    leaf: (usage, description, options) => leaf(models, usage, description, options),
    keyLeaf: (usage, description) => leaf(modelKeys, usage, description),
    delta: run.delta,
    print: run.print,
  })
  addSandboxCommands(program.command('sandbox').alias('sb').description('make, use and end sandboxes'), run)
  addFileCommands(program.command('files').description('look at and change files in a sandbox'), run)
  const egress = program.command('egress').description('what a sandbox may connect to, and did')
  addEgressCommands({
    leaf: (usage, description) => leaf(egress, usage, description),
    sandbox: (id, command) => findSandbox(run.delta(command), id),
    print: run.print,
  })
  const workspace = program
    .command('workspace')
    .alias('ws')
    .description('files that outlive sandboxes, and their history')
  addWorkspaceCommands({
    io: run.io,
    leaf: (usage, description) => leaf(workspace, usage, description),
    delta: run.delta,
    print: run.print,
  })
  const volume = program.command('volume').description('folders that sandboxes share')
  addVolumeCommands({
    leaf: (usage, description) => leaf(volume, usage, description),
    delta: run.delta,
    print: run.print,
  })
  const template = program.command('template').description('what sandboxes and workspaces start from')
  addTemplateCommands({
    io: run.io,
    leaf: (usage, description) => leaf(template, usage, description),
    delta: run.delta,
    print: run.print,
  })
  const keys = program.command('keys').description('API keys: what each may, until when')
  addKeyCommands({
    leaf: (usage, description) => leaf(keys, usage, description),
    delta: run.delta,
    print: run.print,
  })
  const approve = program.command('approve').description('what waits for a person')
  addApprovalCommands({
    io: run.io,
    leaf: (usage, description, options) => leaf(approve, usage, description, options),
    delta: run.delta,
    print: run.print,
    exitWith: (code) => (run.exitCode = code),
  })
  const budget = program.command('budget').description('tokens: who has how many, what they went to')
  addBudgetCommands({
    io: run.io,
    leaf: (usage, description, options) => leaf(budget, usage, description, options),
    delta: run.delta,
    print: run.print,
  })
  addTokenRequestCommands({
    leaf: (usage, description) => leaf(budget, usage, description),
    delta: run.delta,
    print: run.print,
  })
  const audit = program.command('audit').description('what was done and refused in the account')
  addAuditCommands({
    io: run.io,
    leaf: (usage, description) => leaf(audit, usage, description),
    delta: run.delta,
    print: run.print,
    exitWith: (code) => (run.exitCode = code),
  })
  addPeopleCommands({
    io: run.io,
    program,
    user: program.command('user').description('who belongs to the account, and your own user'),
    leaf,
    delta: run.delta,
    print: run.print,
    logins: run.logins,
  })
  addBackupCommands({ io: run.io, program, leaf, delta: run.delta, print: run.print })
  leaf(program, 'demo', 'see a task at work without any model: a recording, on a real sandbox').action(
    async ({ json = false }: { json?: boolean }, command: Command) => {
      run.exitCode = await demo(run.io, run.delta(command), { json })
    },
  )
  addDoctor(program, run)
  addConfig(program, run)
  return program
}

/** A command that does something; settings like exitOverride are inherited. */
const leaf = (parent: Command, usage: string, description: string, options?: CommandOptions): Command =>
  parent.command(usage, options).description(description).option('--json', 'print JSON')

const onTimeout = () => new Option('--on-timeout <action>', 'what its timeout does').choices(['kill', 'stop', 'pause'])

interface TokenFlags {
  scope?: string[]
  ttl?: number
  revoke?: boolean
}

interface UrlFlags {
  ttl?: number
  public?: boolean
}

async function portUrl(ports: Ports, port: number, flags: UrlFlags): Promise<PortUrl> {
  if (!flags.public) return ports.open(port, flags.ttl === undefined ? {} : { ttlMs: flags.ttl })
  const before = (await ports.list()).filter((one) => one.public).map((one) => one.port)
  await ports.public(...new Set([...before, port]))
  return { url: await ports.url(port), token: null, expiresAt: null }
}

interface CreateFlags {
  template?: string
  timeout?: number
  onTimeout?: TimeoutAction
  autoResume: boolean
  metadata?: Record<string, string>
  env?: Record<string, string>
  egress?: string[]
  preset?: string[]
  cpu?: number
  memory?: number
  disk?: number
  processes?: number
  volume?: VolumeMount[]
  workspace?: string
  join?: boolean
  idle?: number
  runtime?: string
}

function addSandboxCommands(parent: Command, run: Run): void {
  leaf(parent, 'create', 'make a sandbox and print its id')
    .option('-t, --template <name>', 'what it starts from (default: host)')
    .option('--timeout <duration>', 'how long it lives, like 30s, 10m, 2h (default: 5m)', parseDuration)
    .addOption(onTimeout())
    .option('--no-auto-resume', 'refuse commands while paused or stopped instead of waking it')
    .option('-m, --metadata <name=value>', 'to find it by; may be repeated', parsePair)
    .option('-e, --env <name=value>', 'environment of every command; may be repeated', parsePair)
    .option('--egress <what>', 'none, all or a host it may connect to; may be repeated (default: none)', collect)
    .option('--preset <name>', 'hosts it may connect to: packages, git or models; may be repeated', collect)
    .option('--cpu <cores>', 'default: 1', parseNumber)
    .option('--memory <MB>', 'default: 512', parseNumber)
    .option('--disk <MB>', 'default: 4096', parseNumber)
    .option('--processes <count>', 'most processes at once (default: 512)', parseNumber)
    .option('-w, --workspace <name>', 'the workspace whose files it works on')
    .option('--join', 'with --workspace: where a sandbox runs on it already, print that one')
    .option('--idle <duration>', 'stop it when nobody has used it for so long; the next use starts it', parseDuration)
    .option('--volume <name:/path[:ro]>', 'a volume and where it is seen; may be repeated', parseMount)
    .option('--runtime <name>', "crun, runc or runsc (default: the server's)")
    .action(async (flags: CreateFlags, command: Command) => {
      const sandbox = await run.delta(command).sandboxes.create(createOptions(flags))
      run.print(command, sandbox.info, `${sandbox.id}\n`)
      if (run.io.stdout.isTTY) run.io.stderr.write(hint(sandbox))
    })

  leaf(parent, 'list', 'list sandboxes')
    .alias('ls')
    .option('--state <states>', 'like running,paused (default: all but killed)')
    .option('-m, --metadata <name=value>', 'only those with it; may be repeated', parsePair)
    .option('-a, --all', 'also those killed within the last day')
    .action(async (flags: { state?: string; metadata?: Record<string, string>; all?: boolean }, command: Command) => {
      const states = flags.state?.split(',') ?? (flags.all ? undefined : livingStates)
      const sandboxes = await run
        .delta(command)
        .sandboxes.list({
          ...(states ? { state: states as SandboxState[] } : {}),
          ...(flags.metadata ? { metadata: flags.metadata } : {}),
          pageSize: 500,
        })
        .all()
      run.print(
        command,
        sandboxes.map(({ info }) => info),
        sandboxTable(sandboxes, Date.now()),
      )
    })

  leaf(parent, 'get <sandbox>', 'show one').action(async (id: string, _: unknown, command: Command) => {
    const sandbox = await findSandbox(run.delta(command), id)
    run.print(command, sandbox.info, describeSandbox(sandbox.info, Date.now()))
  })

  addExec(parent, run)
  addShell(parent, run)

  leaf(
    parent,
    'cp <from> <to>',
    'copy files and folders; sandbox:path is inside, - is standard input or output',
  ).action(async (from: string, to: string, _: unknown, command: Command) => {
    const copied = await copy(run.io, run.delta(command), [from, to])
    if (copied.to !== '-') run.print(command, copied, '')
    if (copied.skipped.length === 0) return
    throw new CliError(
      `Left out because it could lead out of the folder or is a device: ${copied.skipped.join(', ')}`,
      'The rest was copied. Pack these inside the sandbox with tar if you need them, and look at them with care.',
    )
  })

  leaf(parent, 'logs <sandbox>', 'every change of its state with the reason').action(
    async (id: string, _: unknown, command: Command) => {
      const transitions = await (await findSandbox(run.delta(command), id)).logs({ pageSize: 500 }).all()
      run.print(command, transitions, transitionTable(transitions))
    },
  )

  leaf(parent, 'metrics <sandbox>', 'what it uses').action(async (id: string, _: unknown, command: Command) => {
    const metrics = await (await findSandbox(run.delta(command), id)).metrics()
    run.print(command, metrics, describeMetrics(metrics))
  })

  leaf(parent, 'token <sandbox>', 'make an access token for its ports or terminals, and print it')
    .option('-s, --scope <scope>', 'port:3000, port:* or terminal; may be repeated (default: port:*)', collect)
    .option('--ttl <duration>', 'how long it is good for (default: 1h; at most 7d)', parseDuration)
    .option('--revoke', 'end all made so far instead')
    .action(async (id: string, flags: TokenFlags, command: Command) => {
      const { accessTokens } = await findSandbox(run.delta(command), id)
      if (flags.revoke) return accessTokens.revoke()
      const ttl = flags.ttl === undefined ? {} : { ttlMs: flags.ttl }
      const made = await accessTokens.create((flags.scope ?? ['port:*']) as AccessScope[], ttl)
      run.print(command, made, `${made.token}\n`)
    })

  leaf(parent, 'url <sandbox> <port>', 'the address of a server inside, with an access token in it')
    .option('--ttl <duration>', 'how long the token is good for (default: 1h; at most 7d)', parseDuration)
    .option('--public', 'make the port public instead, beside those that are')
    .action(async (id: string, port: string, flags: UrlFlags, command: Command) => {
      const { ports } = await findSandbox(run.delta(command), id)
      const found = await portUrl(ports, parseNumber(port), flags)
      run.print(command, found, `${found.url}\n`)
    })

  leaf(parent, 'timeout <sandbox> <duration>', 'how long it lives from now on').action(
    async (id: string, duration: string, _: unknown, command: Command) => {
      const info = await (await findSandbox(run.delta(command), id)).setTimeout(parseDuration(duration))
      run.print(command, info, `${info.id} ${info.onTimeout} at ${info.endAt}\n`)
    },
  )

  addAct(parent, run, { name: 'pause', description: 'freeze it; memory is kept', act: (sandbox) => sandbox.pause() })
  addAct(parent, run, { name: 'resume', description: 'let a paused one go on', act: (sandbox) => sandbox.resume() })
  addAct(parent, run, {
    name: 'stop',
    description: 'end its processes; the disk is kept',
    act: (sandbox) => sandbox.stop(),
  })
  addAct(parent, run, { name: 'start', description: 'start a stopped one', act: (sandbox) => sandbox.start() })
  addAct(parent, run, { name: 'kill', description: 'end it for good', act: (sandbox) => sandbox.kill() })
}

const livingStates: SandboxState[] = ['creating', 'running', 'paused', 'stopping', 'stopped', 'starting', 'failed']

function createOptions(flags: CreateFlags): CreateSandboxOptions {
  const { timeout, memory, disk, autoResume, ...rest } = flags
  const given = {
    template: rest.template,
    onTimeout: rest.onTimeout,
    metadata: rest.metadata,
    env: rest.env,
    network: rest.egress || rest.preset ? { egress: policyOf(rest.egress ?? [], rest.preset) } : undefined,
    cpu: rest.cpu,
    processes: rest.processes,
    volumes: rest.volume,
    workspace: rest.workspace,
    ifHeld: rest.join ? 'join' : undefined,
    idleTimeoutMs: rest.idle,
    runtime: rest.runtime,
    timeoutMs: timeout,
    memoryMb: memory,
    diskMb: disk,
    autoResume: autoResume ? undefined : false,
  }
  return Object.fromEntries(Object.entries(given).filter(([, value]) => value !== undefined))
}

function hint({ info }: Sandbox): string {
  return `${info.state} on ${info.runtime} from '${info.template}'. Try: delta sandbox exec ${info.id} 'uname -a'\n`
}

interface ExecFlags {
  user?: string
  cwd?: string
  env?: Record<string, string>
  timeout?: number
  tag?: string
  detach?: boolean
  json?: boolean
}

/** Where commands and terminals run. */
interface Target {
  word: 'sandbox' | 'agent'
  noun: 'sandbox' | 'agents'
  find(delta: Delta, text: string): Promise<Sandbox | Agent>
}

const sandboxTarget: Target = { word: 'sandbox', noun: 'sandbox', find: findSandbox }
const agentTarget: Target = { word: 'agent', noun: 'agents', find: findAgent }

function addExec(parent: Command, run: Run, { word, noun, find }: Target = sandboxTarget): void {
  leaf(parent, `exec <${word}> <command...>`, `run a command; options go before the ${word}`)
    .option('-u, --user <name>', 'default: user')
    .option('-w, --cwd <path>', 'default: /workspace')
    .option('-e, --env <name=value>', 'may be repeated', parsePair)
    .option('--timeout <duration>', 'default and at most 1h; with --detach none', parseDuration)
    .option('--tag <text>', 'to find it by')
    .option('-d, --detach', 'print its id and leave it running')
    .passThroughOptions()
    .addHelpText(
      'after',
      `
One word is a line for the shell: delta ${noun} exec ${word === 'agent' ? 'Shop' : 'sbx_x'} 'ls | wc -l'; several, or what follows --, are a program and
its arguments.
Input is passed on when it is piped. Ctrl-C interrupts the command, a second one kills it.
Exit codes: the command's; 124 when it reached its timeout, 128 + n when signal n ended it, 125 when DELTA failed.`,
    )
    .action(async (id: string, words: string[], flags: ExecFlags, command: Command) => {
      checkWords(words, word)
      const argv = words[0] === '--' ? words.slice(1) : words
      if (argv.length === 0) throw new UsageError('There is no command to run')
      const { timeout, detach = false, json = false, ...rest } = flags
      const sandbox = await find(run.delta(command), id)
      const settings = { ...rest, ...(timeout === undefined ? {} : { timeoutMs: timeout }), detach, json }
      run.exitCode = await exec(run.io, sandbox, { command: argv, asIs: words[0] === '--', settings })
    })
}

/** The words after the sandbox are the command's. */
function checkWords([first]: string[], word: Target['word']): void {
  if (first === '--' || !first?.startsWith('-')) return
  throw new UsageError(`'${first}' comes after the ${word}: options go before it, a command that begins so after --`)
}

interface ShellFlags {
  user?: string
  cwd?: string
  env?: Record<string, string>
  template?: string
  keep?: boolean
  attach?: string
  readOnly?: boolean
  detachKeys: string
}

function addShell(parent: Command, run: Run, { word, find }: Target = sandboxTarget): void {
  const isNewToo = word === 'sandbox'
  const usage = isNewToo ? 'shell [sandbox] [command...]' : 'shell <agent> [command...]'
  const where = isNewToo ? 'in a sandbox, or in a new one that ends with it' : 'on its computer'
  const shellCommand = parent
    .command(usage)
    .description(`open a terminal ${where}; options go before the ${word}`)
    .option('-u, --user <name>', 'default: user')
    .option('-w, --cwd <path>', 'default: /workspace')
    .option('-e, --env <name=value>', 'may be repeated', parsePair)
    .option('-a, --attach <terminal>', 'come back to a terminal that runs')
    .option('--read-only', 'with --attach: watch, and type nothing')
    .option('--detach-keys <keys>', "leave the terminal running; 'none' for no keys", defaultDetachKeys)
    .passThroughOptions()
    .addHelpText(
      'after',
      `
Without a command it is a login shell. Ctrl-P Ctrl-Q leaves it running.
Exit codes: the program's; 128 + n when signal n ended it, 125 when DELTA failed.`,
    )
    .action(async (id: string | undefined, words: string[], flags: ShellFlags, command: Command) => {
      const { template, keep = false, detachKeys, ...rest } = flags
      checkWords(words, word)
      if (id === undefined && flags.attach !== undefined) throw new UsageError('--attach needs the sandbox')
      requireTerminal(run.io)
      const keys = parseDetachKeys(detachKeys)
      const settings = { ...rest, command: words[0] === '--' ? words.slice(1) : words, detachKeys: keys }
      const delta = run.delta(command)
      if (id === undefined) run.exitCode = await newShell(run.io, delta, { template, keep, settings })
      else run.exitCode = (await shell(run.io, await find(delta, id), settings)).exitCode
    })
  if (!isNewToo) return
  shellCommand
    .option('-t, --template <name>', 'of a new sandbox (default: host)')
    .option('--keep', 'leave a new sandbox running')
}

interface Act {
  name: string
  description: string
  act: (sandbox: Sandbox) => Promise<unknown>
}

/** Tries each of the sandboxes named, tells of each failure, and fails if any did. */
function addAct(parent: Command, run: Run, { name, description, act }: Act): void {
  leaf(parent, `${name} <sandbox...>`, description).action(async (ids: string[], _: unknown, command: Command) => {
    const delta = run.delta(command)
    const json = command.opts<{ json?: boolean }>().json === true
    const done: Sandbox[] = []
    for (const id of ids) {
      try {
        const sandbox = await findSandbox(delta, id)
        await act(sandbox)
        done.push(sandbox)
        if (!json) run.io.stdout.write(`${sandbox.id} ${sandbox.state}\n`)
      } catch (error) {
        run.exitCode = report(run.io, error, { json })
      }
    }
    if (json)
      run.print(
        command,
        done.map(({ info }) => info),
        '',
      )
  })
}

function addFileCommands(parent: Command, run: Run): void {
  const files = async (id: string, command: Command) => (await findSandbox(run.delta(command), id)).files

  leaf(parent, 'ls <sandbox> [path]', 'list a folder')
    .option('--depth <levels>', 'default: 1', parseNumber)
    .action(async (id: string, path: string | undefined, flags: { depth?: number }, command: Command) => {
      const entries = await (await files(id, command)).list(path ?? '.', flags).all()
      run.print(command, entries, entryTable(entries))
    })
  leaf(parent, 'stat <sandbox> <path>', 'show one entry').action(
    async (id: string, path: string, _: unknown, command: Command) => {
      const entry = await (await files(id, command)).stat(path, { follow: false })
      run.print(command, entry, entryTable([entry]))
    },
  )
  parent
    .command('cat <sandbox> <path>')
    .description('print a file')
    .action(async (id: string, path: string, _: unknown, command: Command) => {
      const body = await (await files(id, command)).readStream(path)
      for await (const chunk of body) await write(run.io.stdout, chunk)
    })
  leaf(parent, 'mkdir <sandbox> <path>', 'make a folder, with its parents').action(
    async (id: string, path: string, _: unknown, command: Command) => {
      run.print(command, await (await files(id, command)).mkdir(path), '')
    },
  )
  leaf(parent, 'mv <sandbox> <from> <to>', 'move or rename')
    .option('-f, --overwrite', 'replace what is there')
    .action(async (id: string, from: string, to: string, flags: { overwrite?: boolean }, command: Command) => {
      run.print(command, await (await files(id, command)).move(from, to, flags), '')
    })
  leaf(parent, 'rm <sandbox> <path>', 'remove a file or folder')
    .option('-r, --recursive', 'with all it holds')
    .action(async (id: string, path: string, flags: { recursive?: boolean }, command: Command) => {
      await (await files(id, command)).remove(path, flags)
    })
}

function addConfig(program: Command, run: Run): void {
  leaf(program, 'config', 'every setting with the value in force; of secrets whether they are set')
    .option('--offline', "of this folder's .env and environment, without a server; needs a checkout")
    .action(async (flags: { offline?: boolean }, command: Command) => {
      const found = await configOf(flags.offline ? undefined : run.delta(command), run.io.env)
      if (command.opts<{ json?: boolean }>().json) run.print(command, found, '')
      else showConfig(run.io, found)
      if (found.faults.length > 0) run.exitCode = exitCodes.failed
    })
}

function addDoctor(program: Command, run: Run): void {
  leaf(program, 'doctor', 'check the machine and say what each finding means')
    .option('--attack', 'run the battery of hostile programs on this machine instead; needs root and a checkout')
    .option('--runtime <name>', 'with --attack: crun, runc, runsc or server (default: all)')
    .action(async (flags: { attack?: boolean; runtime?: string }, command: Command) => {
      if (flags.attack) {
        const { runtime } = flags
        run.exitCode = await attack({ uid: process.getuid?.(), ...(runtime === undefined ? {} : { runtime }) })
        return
      }
      const diagnosis = await diagnose(run.delta(command))
      if (command.opts<{ json?: boolean }>().json) run.print(command, diagnosis, '')
      else showDiagnosis(run.io, diagnosis)
      if (diagnosis.findings.some(({ status }) => status === 'fail')) run.exitCode = exitCodes.failed
    })
}
