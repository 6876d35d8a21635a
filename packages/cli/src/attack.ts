import { spawn } from 'node:child_process'
import { existsSync } from 'node:fs'
import { resolve } from 'node:path'
import { CliError } from './failure.ts'

const checkout = resolve(import.meta.dirname, '../../..')

export interface AttackOptions {
  /** @default every installed one, and the HTTP process */
  runtime?: string
  /** Who asks; the battery makes sandboxes, which is root's. */
  uid: number | undefined
  /** Where DELTA's sources are. @default those this program is part of */
  root?: string
}

/** Runs the battery of hostile programs on this machine, and returns its exit code: 0 where everything held. */
export function attack({ runtime = 'all', uid, root = checkout }: AttackOptions): Promise<number> {
  const battery = resolve(root, 'attack/run.ts')
  if (!existsSync(battery))
    throw new CliError(
      'The battery of hostile programs is not here',
      "Run it in a checkout of DELTA: 'sudo npm run attack'.",
    )
  if (!existsSync(resolve(root, '.build/bin/delta-helper')))
    throw new CliError(
      "DELTA's helper is not built yet",
      `Run 'sudo npm run attack' in ${root}, which builds it first.`,
    )
  if (uid !== 0)
    throw new CliError(
      'The battery makes real sandboxes, and weak ones beside them, which needs root',
      "Run it as root: 'sudo delta doctor --attack'.",
    )
  const child = spawn(process.execPath, [battery, '--runtime', runtime], { cwd: root, stdio: 'inherit' })
  return new Promise((done, fail) => {
    child.on('error', fail)
    child.on('exit', (code) => done(code ?? 1))
  })
}
