import { newKey } from './commands.ts'
import { followNumbered, type FollowOptions } from './numbered-events.ts'
import { base64Of } from './output.ts'
import { Pages } from './pages.ts'
import { needsSomeone, type TaskEvent, taskEventOf } from './task-events.ts'
import type { Transport } from './transport.ts'
import type {
  Page,
  TaskInfo,
  TaskResult,
  TaskSettings,
  TaskState,
  TaskToolMode,
  TaskTranscript,
  TaskEngine,
  ThinkingLevel,
} from './types.ts'

export interface TaskImage {
  mediaType: 'image/png' | 'image/jpeg' | 'image/gif' | 'image/webp'
  data: Uint8Array
}

export interface TaskFile {
  /** A relative one starts at `/workspace`. */
  path: string
  content: string | Uint8Array
}

export interface TaskOptions {
  /** `<provider>/<name>`. @default the server's DELTA_MODEL */
  model?: string
  /** Asked in this order where the model can not be reached. */
  fallbackModels?: string[]
  /** No fall-back dearer than so many tokens for a million output tokens. @default any */
  maxPrice?: number
  /** @default "off" */
  thinking?: ThinkingLevel
  /** The Claude Agent SDK instead, where it is installed on the agent's computer. It has its own tools, and asks models of Anthropic alone. @default "delta" */
  engine?: TaskEngine
  /** How it should go about it. */
  instructions?: string
  /** Written to its computer before the first step. */
  files?: TaskFile[]
  images?: TaskImage[]
  /** Whole tokens, set aside from the agent's balance; what is left goes back. @default it spends the agent's */
  tokenBudget?: number
  /** Waiting included. @default a day, of a chat 30 days */
  timeLimitMs?: number
  /** @default 200 */
  maxSteps?: number
  /** For each tool, `*` for every other: `ask` has each call confirmed by a person. @default what each tool says */
  tools?: Record<string, TaskToolMode>
  /** Further tools, of external servers that the agent may reach. */
  mcpServers?: NonNullable<TaskSettings['mcpServers']>
  /** A JSON schema: the task ends with a value that fits it. */
  resultSchema?: Record<string, unknown>
  /** Waits for your next message when it has answered, until it is canceled. @default false */
  chat?: boolean
  metadata?: Record<string, string>
  /** Requests with the same key are one task. @default a random one */
  idempotencyKey?: string
}

export interface CreateTaskOptions extends TaskOptions {
  /** Who does it. */
  agent: string | { id: string }
  /** What is to be done. */
  text: string
}

export interface ListTasksOptions {
  /** Only those of this agent. */
  agentId?: string
  /** @default every state */
  state?: TaskState
  /** Tasks fetched at a time. @default 50, at most 200 */
  pageSize?: number
}

export interface SendMessageOptions {
  images?: TaskImage[]
  /** What it is just doing is given up; otherwise the message waits for the end of the step. @default false */
  interrupt?: boolean
  /** @default a random one */
  idempotencyKey?: string
}

export interface ForkTaskOptions {
  /** As it was after this step. @default as it is now */
  step?: number
  /** What it is told then. @default it goes on where it stood */
  text?: string
  /** Who takes it over, on its own computer. @default a new agent with a copy of the computer as it was then */
  agent?: string | { id: string }
  /** From its agent's balance. A new agent gets them, from its parent's balance or the reserve: without them it has none. */
  tokenBudget?: number
  /** @default a random one */
  idempotencyKey?: string
}

/** `from` is the `id` that was seen last. @default from its beginning */
export type FollowTaskOptions = FollowOptions

export interface WaitForTaskOptions {
  /** Called in order with each event; a promise that it returns is waited for. */
  onEvent?: (event: TaskEvent) => unknown
  /** Events after this one. @default with `onEvent` all of them */
  from?: number
  /** Stops the waiting, not the task. */
  signal?: AbortSignal
}

/** What agents are given to do. */
export class Tasks {
  readonly #transport: Transport

  constructor(transport: Transport) {
    this.#transport = transport
  }

  /**
   * Gives an agent a task, which it begins at once. `agent_not_found`, `agent_paused`, `agent_archived`, `model_key_missing`, `model_not_found`, `balance_too_low`.
   *
   * @example
   * const task = await delta.tasks.create({ agent, text: 'Write a fibonacci function and test it' })
   * const { state } = await task.wait({ onEvent: ({ kind, data }) => console.log(kind, data) })
   */
  async create({ agent, idempotencyKey = newKey(), ...rest }: CreateTaskOptions): Promise<Task> {
    const json = { agent: idOf(agent), ...settingsOf(rest) }
    const request = { method: 'POST', path: '/v1/tasks', json, idempotencyKey } as const
    return new Task(this.#transport, await this.#transport.json<TaskInfo>(request))
  }

  /** `task_not_found`. */
  async get(id: string): Promise<Task> {
    return new Task(this.#transport, await this.#transport.json<TaskInfo>({ path: pathOf(id) }))
  }

  /**
   * Newest first; an agent sees its own and those of agents below it.
   *
   * @example
   * for await (const { id, info } of delta.tasks.list({ state: 'waiting' })) console.log(id, info.waitsFor)
   */
  list({ pageSize, ...filter }: ListTasksOptions = {}): Pages<Task> {
    return new Pages(async (cursor) => {
      const query = { ...filter, limit: pageSize, cursor }
      const page = await this.#transport.json<Page<TaskInfo>>({ path: '/v1/tasks', query })
      return { ...page, data: page.data.map((info) => new Task(this.#transport, info)) }
    })
  }
}

/** One task. It goes on whether anybody watches or not. */
export class Task {
  readonly #transport: Transport
  readonly #path: string
  #info: TaskInfo

  constructor(transport: Transport, info: TaskInfo) {
    this.#transport = transport
    this.#info = info
    this.#path = pathOf(info.id)
  }

  get id(): string {
    return this.#info.id
  }

  get agentId(): string {
    return this.#info.agentId
  }

  get state(): TaskState {
    return this.#info.state
  }

  /** As of the last answer about it; `refresh` asks anew. */
  get info(): TaskInfo {
    return this.#info
  }

  /** It has ended, once and for all. */
  get isOver(): boolean {
    return this.#info.endedAt !== null
  }

  async refresh(): Promise<TaskInfo> {
    return this.#remember(await this.#transport.json<TaskInfo>({ path: this.#path }))
  }

  /**
   * All that happens, from its beginning or after `from`, over lost connections too. Ends with the task. Leaving stops nothing.
   *
   * @example
   * for await (const { kind, data } of task.events()) if (kind === 'text') process.stdout.write(data.text)
   */
  async *events(options: FollowTaskOptions = {}): AsyncGenerator<TaskEvent, void> {
    if (options.from) await this.refresh()
    yield* this.#follow(options)
  }

  /** Of one that has ended the stream ends after its last event, whether or not its end is still to come. */
  async *#follow(options: FollowTaskOptions): AsyncGenerator<TaskEvent, void> {
    const { from = 0 } = options
    const until = from > 0 && this.isOver ? this.#info.lastEvent : Infinity
    if (from >= until) return
    for await (const one of followNumbered(this.#transport, `${this.#path}/events`, options)) {
      const event = taskEventOf(one)
      yield event
      if (event.kind === 'end' || event.id >= until) return
    }
  }

  /**
   * Resolves when it has ended, or stands still until somebody answers, confirms, gives tokens or lets it go on: `info.waitsFor` says what.
   *
   * @example
   * let info = await task.wait()
   * for (const waits of info.waitsFor) if (waits.kind === 'answer') await task.message(await ask(waits.question))
   * info = await task.wait()
   */
  async wait({ onEvent, signal, ...options }: WaitForTaskOptions = {}): Promise<TaskInfo> {
    const { lastEvent } = await this.refresh()
    const from = options.from ?? (onEvent ? 0 : lastEvent)
    if (from >= lastEvent && (this.isOver || needsSomeone(this.#info))) return this.#info
    for await (const event of this.#follow({ from, ...(signal && { signal }) })) {
      await onEvent?.(event)
      // One that is shown again may be long over: what counts is whether anything came after it.
      const mayRest = event.kind === 'undone' || (event.kind === 'state' && needsSomeone(event.data))
      if (!mayRest) continue
      const info = await this.refresh()
      if (event.id >= info.lastEvent && (this.isOver || needsSomeone(info))) return info
    }
    return this.refresh()
  }

  /**
   * Tells it something: the answer, where it has asked. `task_over`.
   *
   * @example
   * await task.message('Use Python 3.11, not 3.12', { interrupt: true })
   */
  async message(
    text: string,
    { images, interrupt, idempotencyKey = newKey() }: SendMessageOptions = {},
  ): Promise<TaskInfo> {
    const json = { text, ...(interrupt && { interrupt }), ...(images && { images: images.map(imageOf) }) }
    return this.#post('messages', { json, idempotencyKey })
  }

  /** What it is doing is given up, and it waits for your message. */
  interrupt(): Promise<TaskInfo> {
    return this.#post('interrupt', { repeatable: true })
  }

  /** At the end of its step. */
  pause(): Promise<TaskInfo> {
    return this.#post('pause', { repeatable: true })
  }

  /** Lets one go on that is paused or suspended. `task_state_conflict`. */
  resume(): Promise<TaskInfo> {
    return this.#post('resume')
  }

  /** Ends it at once, with what it delegated. One that has ended already is no error. */
  cancel(): Promise<TaskInfo> {
    return this.#post('cancel', { repeatable: true })
  }

  /**
   * Gives it more of its agent's tokens; one that had used up its own goes on.
   *
   * @example
   * if (task.state === 'suspended') await task.giveTokens(50)
   */
  giveTokens(
    tokens: number,
    { idempotencyKey = newKey() }: { /** @default a random one */ idempotencyKey?: string } = {},
  ): Promise<TaskInfo> {
    return this.#post('tokens', { json: { tokens }, idempotencyKey })
  }

  /**
   * Its agent's disk is as it was after a step, or at the beginning of the last turn; one that has not ended forgets what was said since. `task_state_conflict` while it works.
   *
   * @example
   * await task.pause()
   * await task.undo({ step: 3 })
   */
  undo({ step }: { step?: number } = {}): Promise<TaskInfo> {
    return this.#post('undo', { json: step === undefined ? {} : { step } })
  }

  /**
   * Another task that goes on from a step of this one, which is not touched.
   *
   * @example
   * const other = await task.fork({ step: 3, text: 'Try it without recursion' })
   */
  async fork({ agent, idempotencyKey = newKey(), ...rest }: ForkTaskOptions = {}): Promise<Task> {
    const json = { ...rest, ...(agent !== undefined && { agent: idOf(agent) }) }
    const request = { method: 'POST', path: `${this.#path}/fork`, json, idempotencyKey } as const
    return new Task(this.#transport, await this.#transport.json<TaskInfo>(request))
  }

  /** Its last words, its value and the files that its tools wrote; of one that goes on, as far as it is. */
  result(): Promise<TaskResult> {
    return this.#transport.json<TaskResult>({ path: `${this.#path}/result` })
  }

  /** All that was said and done. */
  transcript(): Promise<TaskTranscript>
  /** The same to be read by people. */
  transcript(options: { format: 'markdown' }): Promise<string>
  async transcript({ format }: { format?: 'markdown' } = {}): Promise<TaskTranscript | string> {
    const path = `${this.#path}/transcript`
    if (format === undefined) return this.#transport.json<TaskTranscript>({ path })
    return (await this.#transport.send({ path, query: { format } })).text()
  }

  async #post(act: string, request: { json?: object; idempotencyKey?: string; repeatable?: boolean } = {}) {
    const sent = { method: 'POST', path: `${this.#path}/${act}`, ...request } as const
    return this.#remember(await this.#transport.json<TaskInfo>(sent))
  }

  #remember(info: TaskInfo): TaskInfo {
    this.#info = info
    return info
  }
}

const pathOf = (id: string) => `/v1/tasks/${encodeURIComponent(id)}`

/** As the server takes it. */
export function settingsOf<Settings extends TaskOptions>({ images, files, ...rest }: Settings) {
  return {
    ...rest,
    ...(images && { images: images.map(imageOf) }),
    ...(files && { files: files.map(fileOf) }),
  }
}

export function idOf(agent: string | { id: string }): string {
  return typeof agent === 'string' ? agent : agent.id
}

function imageOf({ mediaType, data }: TaskImage) {
  return { mediaType, data: base64Of(data) }
}

function fileOf({ path, content }: TaskFile) {
  return typeof content === 'string' ? { path, content } : { path, content: base64Of(content), encoding: 'base64' }
}
