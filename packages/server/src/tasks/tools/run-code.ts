import { z } from 'zod'
import { codeBodySchema, codeLanguages } from '../../sandboxes/execs/schema.ts'
import { type CommandDeps, runCommand } from './command.ts'
import { absolute, workFolder } from './paths.ts'
import { commandOptions } from './run-terminal.ts'
import type { Tool } from './tool.ts'

const sourceChars = 200_000

const input = z.strictObject({
  language: z.enum(codeLanguages),
  source: z
    .string()
    .min(1)
    .max(sourceChars)
    .refine((text) => !text.includes('\0'), { message: 'must not contain NUL characters' })
    .describe('The whole program'),
  ...commandOptions,
})
type Input = z.output<typeof input>

export function createRunCode(deps: CommandDeps): Tool<Input> {
  const { execs, folder = workFolder } = deps
  return {
    name: 'run_code',
    description:
      'Run a piece of Python, JavaScript (Node) or bash on your computer without writing a file first. Answers what it prints and its exit code: print what you want to see. Nothing but files lasts from one call to the next.',
    input,
    needs: ['write:exec', 'read:exec'],
    mode: 'auto',
    isParallel: false,
    changesFiles: true,
    afterCrash: 'attach',
    run: ({ language, source, cwd, timeoutMs, background }, context) => {
      const shared = { language, source, cwd: absolute(cwd ?? '.', folder) }
      const { caller } = context
      return runCommand(deps, context, {
        background,
        timeoutMs,
        stream: (sandboxId, key) =>
          execs.streamCode(sandboxId, caller, codeBodySchema.parse({ ...shared, timeoutMs }), { key }),
        start: (sandboxId, key) =>
          execs.runCode(sandboxId, caller, codeBodySchema.parse({ ...shared, background: true }), { key }),
      })
    },
  }
}
