import { z } from 'zod'
import { done, type Tool } from './tool.ts'

const input = z.strictObject({
  question: z.string().trim().min(1).max(4_000),
  options: z
    .array(z.string().trim().min(1).max(200))
    .min(2)
    .max(10)
    .optional()
    .describe('Answers to choose from, if there are such'),
})
type Input = z.output<typeof input>

export function createAskUser(): Tool<Input> {
  return {
    name: 'ask_user',
    description:
      'Ask the person who gave you the task, and wait for the answer. Only for what you can neither find out nor decide yourself.',
    input,
    needs: [],
    mode: 'auto',
    isParallel: false,
    changesFiles: false,
    // The same question again is the same one: it stands in the row of the call.
    afterCrash: 'again',
    run: async ({ question, options }, { answer }) =>
      answer === undefined
        ? { kind: 'waits', for: { kind: 'answer', question, ...(options && { options }) } }
        : done(`The answer: ${answer}`),
  }
}
