import type { Driver } from '../drivers/driver.ts'
import { DeltaError } from '../kernel/errors.ts'
import type { Logger } from '../kernel/log.ts'
import type { Template } from './schema.ts'

export interface Templates {
  list(): Promise<Template[]>
  /** Resolves when it is ready. Whoever asks while it is being built waits for the same build. */
  build(name: string): Promise<Template>
}

export function createTemplates({
  driver,
  log,
}: {
  driver: Pick<Driver, 'templates' | 'buildTemplate'>
  log: Logger
}): Templates {
  const building = new Map<string, Promise<void>>()
  const find = async (name: string) => {
    const found = (await driver.templates()).find((template) => template.name === name)
    if (!found) throw new DeltaError('template_not_found', `There is no template ${name}`, { context: { name } })
    return found
  }
  const buildOnce = (name: string) => {
    const running = building.get(name)
    if (running) return running
    log.info('template_build_started', { name })
    const build = driver.buildTemplate(name).finally(() => building.delete(name))
    building.set(name, build)
    return build
  }
  return {
    list: () => driver.templates(),
    async build(name) {
      const { state } = await find(name)
      if (state !== 'ready') await buildOnce(name)
      const built = await find(name)
      if (built.state === 'ready') return built
      throw new DeltaError('template_build_failed', `Template ${name} is ${built.state} after its build`, {
        cause: built.detail,
      })
    },
  }
}
