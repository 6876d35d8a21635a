import type { Known } from '../agents/door.ts'
import { DeltaError } from '../kernel/errors.ts'
import type { Logger } from '../kernel/log.ts'
import type { ToolDescription } from '../models/door.ts'
import { callerOf } from './calls.ts'
import type { TaskRecord, TaskSpec } from './record.ts'
import { modeOf } from './rules.ts'
import type { Run } from './run.ts'
import { type McpDeps, type McpServer, type McpTools, openMcpTools } from './tools/mcp.ts'
import { createTools, describeTool, type ToolsDeps, usableTools } from './tools/table.ts'
import type { Tool } from './tools/tool.ts'

export interface ToolboxDeps extends ToolsDeps, Pick<McpDeps, 'connect'> {
  /** The external servers of a task, as JSON. */
  openSealed(task: TaskRecord): string | undefined
  /** Those that are there without external servers. @default `createTools`, all of ours */
  createOwn?: ((deps: ToolsDeps) => ReadonlyMap<string, Tool>) | undefined
  log: Logger
}

/** Tasks whose external servers are kept connected; of more, the oldest are connected again when they are needed. */
const keptServers = 256

/** What a task may use now: our own tools and those of external servers, without those that it is not to have or that its agent has no right to. */
export function createToolbox(deps: ToolboxDeps) {
  const own = (deps.createOwn ?? createTools)(deps)
  const external = new Map<string, Promise<McpTools>>()
  /** By the agent as it is now: what a task may use is asked for several times a step, and changes with that alone. */
  const found = new WeakMap<
    Known,
    { spec: TaskSpec; servers: McpTools | undefined; tools: ReadonlyMap<string, Tool> }
  >()
  const described = new WeakMap<ReadonlyMap<string, Tool>, ToolDescription[]>()

  function externalOf(run: Run): Promise<McpTools> | undefined {
    const { task } = run
    if (task.spec.mcpServers === null) return undefined
    const known = external.get(task.id)
    if (known) return known
    const servers = deps.openSealed(task)
    if (servers === undefined) {
      throw new DeltaError('internal', 'The external servers of the task can not be read with the present SECRET_KEY')
    }
    const opening = openMcpTools(
      JSON.parse(servers) as McpServer[],
      { caller: callerOf(run), signal: run.control.begin() },
      deps,
    )
    if (external.size >= keptServers) void forget(external.keys().next().value!)
    external.set(task.id, opening)
    opening.then(
      ({ problems }) => {
        for (const { server, text } of problems) deps.log.info('mcp_not_there', { taskId: task.id, server, text })
      },
      // The next step tries anew.
      () => external.get(task.id) === opening && external.delete(task.id),
    )
    return opening
  }

  async function forget(taskId: string): Promise<void> {
    const opened = external.get(taskId)
    external.delete(taskId)
    await opened
      ?.then(({ close }) => close())
      .catch((error: unknown) => deps.log.info('mcp_not_closed', { taskId, error }))
  }

  async function of(run: Run): Promise<ReadonlyMap<string, Tool>> {
    const { spec } = run.task
    if (run.agent.agent.kind === 'messenger') return new Map()
    const servers = await externalOf(run)
    const known = found.get(run.agent)
    if (known?.spec === spec && known.servers === servers) return known.tools
    const all = new Map([...own, ...(servers?.tools ?? []).map((tool) => [tool.name, tool] as const)])
    const wanted = Array.from(all).filter(([, tool]) => modeOf(spec.tools, tool) !== 'off')
    const tools = usableTools(new Map(wanted), callerOf(run))
    found.set(run.agent, { spec, servers, tools })
    return tools
  }

  return {
    names: new Set(own.keys()) as ReadonlySet<string>,
    of,
    async describe(run: Run): Promise<ToolDescription[]> {
      const tools = await of(run)
      const known = described.get(tools) ?? Array.from(tools.values(), describeTool)
      described.set(tools, known)
      return run.finish ? [...known, run.finish.description] : known
    },
    forget,
    async stop(): Promise<void> {
      await Promise.all(Array.from(external.keys(), forget))
    },
  }
}
