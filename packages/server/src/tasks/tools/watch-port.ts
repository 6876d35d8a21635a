import { z } from 'zod'
import type { Clock } from '../../kernel/clock.ts'
import type { PortsService } from '../../sandboxes/ports/service.ts'
import { computerFor } from './guard.ts'
import { done, failed, type Tool } from './tool.ts'

export interface WatchPortDeps {
  ports: Pick<PortsService, 'list'>
  clock: Clock
}

const portLimits = { timeoutMs: { max: 600_000, default: 30_000 }, lookMs: { first: 100, most: 1_000 } } as const

const input = z.strictObject({
  port: z.int().min(1).max(65_535),
  timeoutMs: z
    .int()
    .min(0)
    .max(portLimits.timeoutMs.max)
    .default(portLimits.timeoutMs.default)
    .describe('How long to wait'),
})
type Input = z.output<typeof input>

export function createWatchPort({ ports, clock }: WatchPortDeps): Tool<Input> {
  return {
    name: 'watch_port',
    description:
      'Wait until a server on your computer listens on a port, and answer the address under which people can open it. Start the server in the background first.',
    input,
    needs: ['read:exec'],
    mode: 'auto',
    isParallel: true,
    changesFiles: false,
    afterCrash: 'again',
    async run({ port, timeoutMs }, context) {
      const sandboxId = await computerFor(context, 'read:exec')
      const until = clock.monotonic() + timeoutMs
      for (let waitMs: number = portLimits.lookMs.first; ; waitMs = Math.min(2 * waitMs, portLimits.lookMs.most)) {
        const { data, urlTemplate } = await ports.list(sandboxId, context.caller)
        const found = data.find((one) => one.port === port)
        const url = urlTemplate.replace('{port}', String(port))
        if (found?.listening === true) {
          const who = found.public
            ? 'Everybody can open it'
            : 'It is not public: who opens it must be logged in or have an access token'
          return done(
            `Port ${port} listens. Its address is ${url}. ${who}. On your computer itself it is http://127.0.0.1:${port}/.`,
          )
        }
        const leftMs = until - clock.monotonic()
        if (leftMs <= 0) {
          const others = data.filter(({ listening }) => listening === true).map((one) => one.port)
          const there = others.length === 0 ? 'Nothing listens' : `What listens: ${others.slice(0, 50).join(', ')}`
          return failed(
            `Nothing listens on port ${port} after ${timeoutMs} ms. ${there}. See the output of the server with read_terminal; it must listen on 127.0.0.1, ::1 or any address.`,
          )
        }
        try {
          await clock.sleep(Math.min(waitMs, leftMs), context.signal)
        } catch {
          return failed(`Interrupted while waiting for port ${port}.`)
        }
      }
    },
  }
}
