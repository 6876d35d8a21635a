import { z } from 'zod'
import { execBodySchema } from '../../sandboxes/execs/schema.ts'
import { type CommandDeps, commandLimits, runCommand } from './command.ts'
import { absolute, pathSchema, workFolder } from './paths.ts'
import type { Tool } from './tool.ts'

const commandChars = 200_000

export const commandOptions = {
  cwd: pathSchema.optional().describe('Folder to run in, /workspace by default'),
  timeoutMs: z
    .int()
    .min(1)
    .max(commandLimits.timeoutMs.max)
    .default(commandLimits.timeoutMs.default)
    .describe('It is ended after so long; does not count in the background'),
  background: z
    .boolean()
    .default(false)
    .describe('Answer at once with an id for read_terminal: for servers and long jobs'),
}

const input = z.strictObject({
  command: z
    .string()
    .min(1)
    .max(commandChars)
    .refine((text) => !text.includes('\0'), { message: 'must not contain NUL characters' })
    .describe('Run by bash'),
  user: z.enum(['user', 'root']).default('user').describe('root, to install system packages'),
  ...commandOptions,
})
type Input = z.output<typeof input>

export function createRunTerminal(deps: CommandDeps): Tool<Input> {
  const { execs, folder = workFolder } = deps
  return {
    name: 'run_terminal',
    description:
      'Run a shell command on your computer, a Linux sandbox that keeps its files. Answers its output and exit code. No terminal is attached: what asks for input fails, so use flags such as -y. Each call is a new shell: cd and variables do not last. Output beyond 16,000 characters is cut in the middle and kept in a file.',
    input,
    needs: ['write:exec', 'read:exec'],
    mode: 'auto',
    isParallel: false,
    changesFiles: true,
    afterCrash: 'attach',
    run: ({ command, user, cwd, timeoutMs, background }, context) => {
      const shared = { cmd: command, cwd: absolute(cwd ?? '.', folder), ...(user === 'root' && { user }) }
      const { caller } = context
      return runCommand(deps, context, {
        background,
        timeoutMs,
        stream: (sandboxId, key) =>
          execs.stream(sandboxId, caller, execBodySchema.parse({ ...shared, timeoutMs }), { key }),
        start: (sandboxId, key) =>
          execs.run(sandboxId, caller, execBodySchema.parse({ ...shared, background: true }), { key }),
      })
    },
  }
}
