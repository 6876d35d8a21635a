import type { CommandResult } from './command-handle.ts'
import { Commands, newKey, type RunOptions } from './commands.ts'
import { Files } from './files.ts'
import { Pages } from './pages.ts'
import { Task, type TaskOptions, Tasks, type WaitForTaskOptions } from './tasks.ts'
import { Terminals } from './terminals.ts'
import { type RequestTokensOptions, TokenRequest } from './token-requests.ts'
import type { Transport } from './transport.ts'
import type { AgentChannel, AgentInfo, AgentKind, AgentNode, AgentState, Page, TokenRequestInfo } from './types.ts'

/** What an agent is made with. */
export interface AgentConfig {
  /** What its computer begins as. @default "host" */
  template?: string
  /** Of its computer. @default 512 */
  memoryMb?: number
  /** Whole tokens, from its parent's balance, or for one at the top from the account's reserve. @default 0 */
  tokenBudget?: number
  /** Whole tokens renewed from the reserve with each month. @default 0 */
  monthlyTokens?: number
  /** What its bots ask for is confirmed by a person where it is more than this at once. @default 10 */
  confirmAboveTokens?: number
  /** Never wider than its parent's and yours. @default what its kind usually needs */
  rights?: string[]
}

export interface CreateAgentOptions {
  name: string
  /** @default "bot" below a parent, else "main" */
  kind?: AgentKind
  /** The agent it stands below. */
  parentAgent?: string | Agent
  /** What it is for; a bot has one. */
  task?: string
  /** Of a bot or messenger. */
  channel?: AgentChannel
  config?: AgentConfig
  /** Requests with the same key make one agent. @default a random one */
  idempotencyKey?: string
}

export interface CreateBotOptions extends AgentConfig {
  /** @default after its type */
  name?: string
  parentAgent: string | Agent
  /** Its one channel. */
  type: AgentChannel
  task: string
  idempotencyKey?: string
}

export interface UpdateAgentOptions {
  name?: string
  task?: string
  rights?: string[]
  memoryMb?: number
  monthlyTokens?: number
  confirmAboveTokens?: number
}

export interface ListAgentsOptions {
  /** @default all but the archived */
  state?: AgentState
  kind?: AgentKind
  /** Those right below this one. */
  parentAgent?: string
  /** Agents fetched at a time. @default 50, at most 500 */
  pageSize?: number
}

export type RunTaskOptions = TaskOptions & Pick<WaitForTaskOptions, 'onEvent' | 'signal'>

/** Agents: each with its place, rights, tokens and a computer of its own. */
export class Agents {
  readonly #transport: Transport

  constructor(transport: Transport) {
    this.#transport = transport
  }

  /**
   * Makes one. `plan_limit_reached`, `agent_too_deep`, `forbidden` where it would get what you or its parent do not have.
   *
   * @example
   * const agent = await delta.agents.create({ name: 'Shop', config: { template: 'debian', memoryMb: 1024, tokenBudget: 500 } })
   * const { stdout } = await agent.exec('uname -a')
   */
  async create({ config, parentAgent, idempotencyKey = newKey(), ...own }: CreateAgentOptions): Promise<Agent> {
    const json = { ...own, ...(parentAgent !== undefined && { parentAgent: idOf(parentAgent) }), ...config }
    const request = { method: 'POST', path: '/v1/agents', json, idempotencyKey } as const
    return new Agent(this.#transport, await this.#transport.json<AgentInfo>(request))
  }

  /**
   * Makes a bot below an agent: one task, one channel.
   *
   * @example
   * const bot = await delta.agents.createBot({ parentAgent: agent, type: 'email', task: 'Answer questions about orders', tokenBudget: 50 })
   */
  createBot({ name, parentAgent, type, task, idempotencyKey, ...config }: CreateBotOptions): Promise<Agent> {
    return this.create({
      name: name ?? `${type} bot`,
      kind: 'bot',
      parentAgent,
      task,
      channel: type,
      config,
      ...(idempotencyKey !== undefined && { idempotencyKey }),
    })
  }

  /**
   * With its balance. `agent_not_found`.
   *
   * @example
   * const { info } = await delta.agents.get('agt_k3v9x0m2qp7a8b1c4d5e')
   */
  async get(id: string): Promise<Agent> {
    return new Agent(this.#transport, await this.#transport.json<AgentInfo>({ path: pathOf(id) }))
  }

  /**
   * Newest first.
   *
   * @example
   * for await (const { name, info } of delta.agents.list({ kind: 'bot' })) console.log(name, info.state)
   */
  list({ pageSize, ...filter }: ListAgentsOptions = {}): Pages<Agent> {
    return new Pages(async (cursor) => {
      const query = { ...filter, cursor, limit: pageSize }
      const page = await this.#transport.json<Page<AgentInfo>>({ path: '/v1/agents', query })
      return { ...page, data: page.data.map((info) => new Agent(this.#transport, info)) }
    })
  }

  /**
   * Those at the top, oldest first, each with those below it; of more than 1,000 agents the newest are left out.
   *
   * @example
   * const [first] = await delta.agents.tree()
   */
  async tree(): Promise<AgentNode[]> {
    return (await this.#transport.json<{ data: AgentNode[] }>({ path: '/v1/agents/tree' })).data
  }
}

/** An agent, with its computer: that is made when it is first used, and starts again whenever it has stopped. */
export class Agent {
  readonly commands: Commands
  readonly files: Files
  readonly terminal: Terminals
  readonly #transport: Transport
  readonly #path: string
  #info: AgentInfo

  constructor(transport: Transport, info: AgentInfo) {
    this.#transport = transport
    this.#info = info
    this.#path = pathOf(info.id)
    this.commands = new Commands(transport, this.#path)
    this.files = new Files(transport, this.#path)
    this.terminal = new Terminals(transport, this.#path)
  }

  get id(): string {
    return this.#info.id
  }

  get name(): string {
    return this.#info.name
  }

  get state(): AgentState {
    return this.#info.state
  }

  /** As of the last answer about it; `refresh` asks anew. */
  get info(): AgentInfo {
    return this.#info
  }

  /** Asks anew, also for its balance. */
  async refresh(): Promise<AgentInfo> {
    return this.#remember(await this.#transport.json<AgentInfo>({ path: this.#path }))
  }

  /**
   * Runs a command on its computer to its end. `agent_has_no_sandbox`, `agent_paused`, `agent_suspended`, `agent_archived`.
   *
   * @example
   * const { stdout } = await agent.exec('pip install --user numpy')
   */
  exec(cmd: string | string[], options?: RunOptions): Promise<CommandResult> {
    return this.commands.run(cmd, options)
  }

  /**
   * Gives it a task and waits until that has ended or needs somebody: `delta.tasks.create` does not wait.
   *
   * @example
   * const task = await agent.run('Write a fibonacci function and test it', { tokenBudget: 20 })
   * console.log(task.state, (await task.result()).text)
   */
  async run(text: string, { onEvent, signal, ...options }: RunTaskOptions = {}): Promise<Task> {
    const task = await new Tasks(this.#transport).create({ agent: this, text, ...options })
    await task.wait({ ...(onEvent && { onEvent }), ...(signal && { signal }) })
    return task
  }

  /**
   * Changes only what is given. Rights that it loses all below it lose too.
   *
   * @example
   * await agent.update({ rights: ['read:files', 'egress:*.example.com'] })
   */
  async update(changes: UpdateAgentOptions): Promise<AgentInfo> {
    const request = { method: 'PATCH', path: this.#path, json: changes, repeatable: true } as const
    return this.#remember(await this.#transport.json<AgentInfo>(request))
  }

  /** Its computer stands still, and it gets no work. */
  pause(): Promise<AgentInfo> {
    return this.#act('pause')
  }

  resume(): Promise<AgentInfo> {
    return this.#act('resume')
  }

  /** Ends it with all below it; its tokens go back to its parent, or to the reserve, once nothing is held in its name. */
  archive(): Promise<AgentInfo> {
    return this.#act('archive')
  }

  /**
   * Gives it tokens from its parent's balance, or from the reserve.
   *
   * @example
   * await agent.giveTokens(100, { from: 'reserve' })
   */
  async giveTokens(
    tokens: number,
    { from, idempotencyKey = newKey() }: { from?: 'parent' | 'reserve'; idempotencyKey?: string } = {},
  ): Promise<AgentInfo> {
    const json = { tokens, ...(from !== undefined && { from }) }
    const request = { method: 'POST', path: `${this.#path}/tokens`, json, idempotencyKey } as const
    return this.#remember(await this.#transport.json<AgentInfo>(request))
  }

  /**
   * Asks for tokens in its name; `wait` tells what became of it. `token_request_pending` where it waits for others already.
   *
   * @example
   * const request = await bot.requestTokens({ tokens: 50, reason: 'Forty more mails are to be answered' })
   * const { state } = await request.wait()
   */
  async requestTokens({ idempotencyKey, ...json }: RequestTokensOptions): Promise<TokenRequest> {
    const key = idempotencyKey === undefined ? {} : { idempotencyKey }
    const request = { method: 'POST', path: `${this.#path}/token-requests`, json, ...key } as const
    return new TokenRequest(this.#transport, await this.#transport.json<TokenRequestInfo>(request))
  }

  async #act(action: 'pause' | 'resume' | 'archive'): Promise<AgentInfo> {
    const request = { method: 'POST', path: `${this.#path}/${action}`, repeatable: true } as const
    return this.#remember(await this.#transport.json<AgentInfo>(request))
  }

  #remember(info: AgentInfo): AgentInfo {
    this.#info = info
    return info
  }
}

function pathOf(id: string): string {
  return `/v1/agents/${encodeURIComponent(id)}`
}

function idOf(agent: string | Agent): string {
  return typeof agent === 'string' ? agent : agent.id
}
