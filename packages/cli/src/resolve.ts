import type { Delta, Sandbox } from '@delta-agents/sdk'
import { CliError, UsageError } from './failure.ts'

const wholeId = /^sbx_[a-z0-9]{20}$/
/** More matches than this are not worth listing. */
const shownMatches = 5

/** The sandbox with this id, or the only living one whose id begins with it; `sbx_` may be left out. */
export async function findSandbox(delta: Delta, text: string): Promise<Sandbox> {
  if (wholeId.test(text)) return delta.sandboxes.get(text)
  const prefix = text.startsWith('sbx_') ? text : `sbx_${text}`
  if (!/^sbx_[a-z0-9]+$/.test(prefix))
    throw new UsageError(`'${text}' is neither a sandbox's id nor the beginning of one`)
  const found: Sandbox[] = []
  for await (const sandbox of delta.sandboxes.list({ pageSize: 500 })) {
    if (sandbox.id.startsWith(prefix)) found.push(sandbox)
  }
  const living = found.filter(({ state }) => state !== 'killed')
  const [match, ...others] = living.length > 0 ? living : found
  if (match === undefined) {
    throw new CliError(
      `No sandbox has an id that begins with ${prefix}`,
      'See the ids with `delta sandbox list --all`.',
    )
  }
  if (others.length > 0) {
    const ids = [match, ...others].map(({ id }) => id)
    const shown = ids.slice(0, shownMatches).join(', ') + (ids.length > shownMatches ? ', …' : '')
    throw new CliError(
      `${ids.length} sandboxes have an id that begins with ${prefix}: ${shown}`,
      'Write more of the id.',
    )
  }
  return match
}
