import { chmodSync, existsSync, mkdirSync, mkdtempSync, rmSync } from 'node:fs'
import { join, resolve } from 'node:path'
import type { TestProject } from 'vitest/node'
import { buildDebian, debianSettings, isLongForm } from './debian.ts'
import { leftovers } from './leftovers.ts'
import { startPlatform } from './platform.ts'

declare module 'vitest' {
  export interface ProvidedContext {
    url: string
    key: string
    /** Empty when the platform was started by someone else. */
    dataDir: string
  }
}

/** Uses the platform that DELTA_E2E_URL names, or starts one in a folder of its own and checks that nothing of it is left. */
export async function setup(project: TestProject): Promise<(() => Promise<void>) | undefined> {
  const { DELTA_E2E_URL: url, DELTA_E2E_KEY: key, DELTA_E2E_DATA: data } = process.env
  if (url !== undefined && key !== undefined) {
    project.provide('url', url)
    project.provide('key', key)
    project.provide('dataDir', data ?? '')
    return undefined
  }
  const dataDir = newDataDir()
  // One template and one platform for all files that use it.
  if (isLongForm) await buildDebian()
  const platform = await startPlatform({ dataDir, env: isLongForm ? await debianSettings() : {} })
  project.provide('url', platform.url)
  project.provide('key', platform.key)
  project.provide('dataDir', dataDir)
  return async () => {
    await platform.stop()
    const left = leftovers(dataDir)
    if (left.length > 0)
      throw new Error(`After the end of the platform there is left:\n${left.join('\n')}\n\n${platform.log()}`)
    rmSync(dataDir, { recursive: true, force: true })
  }
}

/** Below .build: the pool's image wants a real disk, which /tmp may not be. */
export function newDataDir(): string {
  const build = resolve(import.meta.dirname, '../.build')
  if (!existsSync(build)) mkdirSync(build)
  const folder = mkdtempSync(join(build, 'e2e-'))
  // A folder only root may pass through, which mkdtemp makes, keeps gVisor's unprivileged process from its own files.
  chmodSync(folder, 0o711)
  return folder
}
