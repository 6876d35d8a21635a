import { newKey } from './commands.ts'
import { Pages } from './pages.ts'
import { idOf, settingsOf, type TaskOptions } from './tasks.ts'
import type { Transport } from './transport.ts'
import type { Page, ScheduleInfo, ScheduleRunInfo, ScheduleState, ScheduleWithTask } from './types.ts'

/** What is to be done each time: as for `delta.tasks.create`, without the agent. */
export interface ScheduledTaskOptions extends Omit<TaskOptions, 'idempotencyKey'> {
  text: string
}

export interface ScheduleTimes {
  /** Minute, hour, day of month, month, day of week: `30 7 * * MON-FRI`. Either this or `at`. */
  cron?: string
  /** In which `cron` is meant, by its IANA name. @default "UTC" */
  timeZone?: string
  /** Once, at this time. */
  at?: Date | string
}

export interface SchedulePolicies {
  /** What becomes of times at which no server ran: none is made up for, one run for all, or each of them. @default "once" */
  missed?: ScheduleInfo['missed']
  /** What becomes of a run while the task of the one before goes on: it is left out, or waits. @default "skip" */
  overlap?: ScheduleInfo['overlap']
}

export interface CreateScheduleOptions extends ScheduleTimes, SchedulePolicies {
  /** Who does it. */
  agent: string | { id: string }
  task: ScheduledTaskOptions
  /** False: it begins paused. @default true */
  enabled?: boolean
}

/** What is left out stays; `cron` takes the place of `at`, and `at` of `cron`. */
export interface UpdateScheduleOptions extends ScheduleTimes, SchedulePolicies {
  task?: ScheduledTaskOptions
}

export interface ListSchedulesOptions {
  /** Only those of this agent. */
  agentId?: string
  /** @default every state */
  state?: ScheduleState
  /** Schedules fetched at a time. @default 50, at most 200 */
  pageSize?: number
}

/**
 * Tasks at stated times.
 *
 * @example
 * await delta.schedules.create({
 *   agent,
 *   task: { text: 'Read the news and write a summary to news.md', tokenBudget: 5 },
 *   cron: '30 7 * * MON-FRI',
 *   timeZone: 'Europe/Berlin',
 * })
 */
export class Schedules {
  readonly #transport: Transport

  constructor(transport: Transport) {
    this.#transport = transport
  }

  /**
   * Its runs have your rights, as they are then. `agent_not_found`, `agent_archived`, `schedule_never_runs`, `schedule_limit_reached`.
   *
   * @example
   * const { id, nextAt } = await delta.schedules.create({ agent, task: { text: 'Tidy up' }, at: new Date(Date.now() + 3_600_000) })
   */
  create({ agent, ...rest }: CreateScheduleOptions): Promise<ScheduleWithTask> {
    const json = { agent: idOf(agent), ...wishOf(rest) }
    return this.#transport.json<ScheduleWithTask>({ method: 'POST', path: '/v1/schedules', json })
  }

  /** With its task. `schedule_not_found`. */
  get(id: string): Promise<ScheduleWithTask> {
    return this.#transport.json<ScheduleWithTask>({ path: pathOf(id) })
  }

  /**
   * Newest first; an agent sees its own.
   *
   * @example
   * for await (const { id, title, nextAt } of delta.schedules.list({ state: 'active' })) console.log(id, title, nextAt)
   */
  list({ pageSize, ...filter }: ListSchedulesOptions = {}): Pages<ScheduleInfo> {
    return new Pages((cursor) =>
      this.#transport.json<Page<ScheduleInfo>>({
        path: '/v1/schedules',
        query: { ...filter, limit: pageSize, cursor },
      }),
    )
  }

  /**
   * From then on its runs have your rights. `schedule_never_runs`, `schedule_state_conflict`.
   *
   * @example
   * await delta.schedules.update(id, { cron: '0 9 * * *' })
   */
  update(id: string, changes: UpdateScheduleOptions): Promise<ScheduleWithTask> {
    const request = { method: 'PATCH', path: pathOf(id), json: wishOf(changes), repeatable: true } as const
    return this.#transport.json<ScheduleWithTask>(request)
  }

  /** No more runs; those that wait are left out. */
  pause(id: string): Promise<ScheduleInfo> {
    return this.#transport.json<ScheduleInfo>({ method: 'POST', path: `${pathOf(id)}/pause`, repeatable: true })
  }

  /** From its next time on, also one that the server had disabled. `schedule_state_conflict` where its one time has passed. */
  resume(id: string): Promise<ScheduleInfo> {
    return this.#transport.json<ScheduleInfo>({ method: 'POST', path: `${pathOf(id)}/resume`, repeatable: true })
  }

  /**
   * A run now, beside its times, whatever goes on.
   *
   * @example
   * const { state, taskId, failure } = await delta.schedules.run(id)
   * if (taskId) await (await delta.tasks.get(taskId)).wait()
   */
  run(
    id: string,
    { idempotencyKey = newKey() }: { /** @default a random one */ idempotencyKey?: string } = {},
  ): Promise<ScheduleRunInfo> {
    return this.#transport.json<ScheduleRunInfo>({ method: 'POST', path: `${pathOf(id)}/run`, idempotencyKey })
  }

  /**
   * Newest first; they are kept for 90 days.
   *
   * @example
   * for await (const { dueAt, state, taskId, reason } of delta.schedules.runs(id)) console.log(dueAt, state, taskId ?? reason)
   */
  runs(id: string, { pageSize }: { pageSize?: number } = {}): Pages<ScheduleRunInfo> {
    return new Pages((cursor) =>
      this.#transport.json<Page<ScheduleRunInfo>>({ path: `${pathOf(id)}/runs`, query: { limit: pageSize, cursor } }),
    )
  }

  /** With the list of its runs; tasks that it made go on. `schedule_not_found`. */
  remove(id: string): Promise<void> {
    return this.#transport.done({ method: 'DELETE', path: pathOf(id) })
  }
}

const pathOf = (id: string) => `/v1/schedules/${encodeURIComponent(id)}`

function wishOf<Wish extends UpdateScheduleOptions>({ task, at, ...rest }: Wish) {
  return {
    ...rest,
    ...(task && { task: settingsOf(task) }),
    ...(at !== undefined && { at: typeof at === 'string' ? at : at.toISOString() }),
  }
}
