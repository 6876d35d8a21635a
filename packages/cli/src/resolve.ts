import type { Delta, Sandbox, Snapshot, Workspace } from '@delta-agents/sdk'
import { CliError, UsageError } from './failure.ts'

const wholeId = /^sbx_[a-z0-9]{20}$/
/** More matches than this are not worth listing. */
export const shownMatches = 5

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

/** The only one whose id begins so; what stands before the id may be left out. */
export async function findByBeginning<Item extends { id: string }>(
  text: string,
  { prefix, noun, all }: { prefix: string; noun: string; all: AsyncIterable<Item> | Iterable<Item> },
): Promise<Item> {
  const beginning = text.startsWith(prefix) ? text : prefix + text
  if (!/^[a-z]+_[a-z0-9]+$/.test(beginning)) {
    throw new UsageError(`'${text}' is neither a ${noun}'s id nor the beginning of one`)
  }
  const found: Item[] = []
  for await (const item of all) if (item.id.startsWith(beginning)) found.push(item)
  const [match, ...others] = found
  if (!match) {
    throw new CliError(`No ${noun} has an id that begins with ${beginning}`, `See them with \`delta ${noun} list\`.`)
  }
  if (others.length === 0) return match
  const shown = found.slice(0, shownMatches).map(({ id }) => id)
  const list = shown.join(', ') + (found.length > shownMatches ? ', …' : '')
  throw new CliError(
    `${found.length} ${noun}s have an id that begins with ${beginning}: ${list}`,
    'Write more of the id.',
  )
}

const snapshotForm = 'Write its id, snp_…, or WORKSPACE@NAME'

/** A snapshot by its id, as WORKSPACE@NAME, or, of a workspace that is known, by its name or the beginning of its id. */
export async function findSnapshot(delta: Delta, text: string, workspace?: Workspace): Promise<Snapshot> {
  if (/^snp_[a-z0-9]{20}$/.test(text)) return delta.workspaces.snapshot(text)
  const at = text.lastIndexOf('@')
  if (at > 0 && at < text.length - 1)
    return ofWorkspace(await delta.workspaces.get(text.slice(0, at)), text.slice(at + 1))
  if (at !== -1) throw new UsageError(`'${text}' is no snapshot. ${snapshotForm}`)
  if (workspace) return ofWorkspace(workspace, text)
  // A name alone, without a workspace to look for it in; an id that was cut short is told by the server.
  if (!text.startsWith('snp_')) throw new UsageError(`'${text}' is no snapshot. ${snapshotForm}`)
  return delta.workspaces.snapshot(text)
}

async function ofWorkspace(workspace: Workspace, text: string): Promise<Snapshot> {
  const all = await workspace.snapshots({ pageSize: 500 }).all()
  const named = all.find(({ info }) => info.name === text)
  if (named) return named
  const [match, ...others] = text.startsWith('snp_') ? all.filter(({ id }) => id.startsWith(text)) : []
  if (match && others.length === 0) return match
  const fix = `See them with \`delta workspace log ${workspace.name}\`.`
  if (!match) throw new CliError(`${workspace.name} has no snapshot ${text}`, fix)
  throw new CliError(`${others.length + 1} snapshots of ${workspace.name} have an id that begins with ${text}`, fix)
}
