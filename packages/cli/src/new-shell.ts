import type { Delta } from '@delta-agents/sdk'
import type { Io } from './io.ts'
import { shell, type ShellSettings } from './shell.ts'

/** Somebody sits there: the sandbox must not end under them, nor outlive for long a command that was killed. */
const leaseMs = 15 * 60_000

/** A shell in a sandbox of its own, which ends with it. */
export async function newShell(
  io: Io,
  delta: Delta,
  { template, keep, settings }: { template: string | undefined; keep: boolean; settings: ShellSettings },
): Promise<number> {
  const sandbox = await delta.sandboxes.create({
    ...(template !== undefined && { template }),
    timeoutMs: leaseMs,
    keep,
  })
  const lease = setInterval(() => void sandbox.setTimeout(leaseMs).catch(() => {}), leaseMs / 3)
  try {
    const { exitCode, detached } = await shell(io, sandbox, settings)
    if (detached) sandbox.keep = true
    return exitCode
  } finally {
    clearInterval(lease)
    if (sandbox.keep) io.stderr.write(`${sandbox.id} is kept. End it with: delta sandbox kill ${sandbox.id}\n`)
    else await sandbox.kill()
  }
}
