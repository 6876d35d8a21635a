import { z } from 'zod'
import { type DelegateDeps, endOf } from './delegate.ts'
import { done, type Tool } from './tool.ts'

const input = z.strictObject({
  task: z.string().regex(/^tsk_[a-z0-9]{1,40}$/, 'an id such as tsk_k3v9x0m2qp7a8b1c4d5e'),
  wait: z.boolean().default(false).describe('Wait for its end'),
})
type Input = z.output<typeof input>

export function createReadDelegate({ tasks }: Pick<DelegateDeps, 'tasks'>): Tool<Input> {
  return {
    name: 'read_delegate',
    description: 'See how far a task that you delegated is, and its result when it has ended.',
    input,
    needs: ['delegate'],
    mode: 'auto',
    isParallel: true,
    changesFiles: false,
    afterCrash: 'again',
    async run({ task: taskId, wait }, context) {
      const task = await tasks.view(taskId, context.caller)
      if (task.isOver) return endOf(task, context)
      if (wait && task.id !== context.taskId) return { kind: 'waits', for: { kind: 'task', taskId } }
      const why = task.reason === undefined ? '' : ` (${task.reason})`
      return done(`${task.id} of ${task.agentId} is ${task.state}${why}.`)
    },
  }
}
