/** What these rules look at of a snapshot. */
export interface Node {
  id: string
  workspaceId: string | null
  parentId: string | null
  /** That its layer is the difference from. */
  layerParentId: string | null
  name: string | null
  state: 'taking' | 'taken' | 'dropped'
  isLocal: boolean
  saveState: 'pending' | 'saving' | 'saved' | 'failed'
  createdAt: number
}

/** Snapshots that something stands on: the head of a workspace, or what a template is made of. */
export type Held = ReadonlySet<string>

/** The snapshots of one workspace that are too many: unnamed ones beyond the newest `keepLast`, where nothing stands on them. */
export function tooMany(nodes: readonly Node[], { keepLast, held }: { keepLast: number; held: Held }): string[] {
  return nodes
    .filter(({ state, name }) => state === 'taken' && name === null)
    .toSorted(newestFirst)
    .slice(keepLast)
    .filter(({ id }) => !held.has(id))
    .map(({ id }) => id)
}

export interface Garbage {
  /** What the pool may drop. */
  folders: string[]
  /** Rows that nothing follows, children before their parents. */
  rows: string[]
}

/**
 * What is left of dropped snapshots and can go. A folder stays while a child has yet to be packed against it, and while its own layer, which its
 * children stand on, is not in storage. A row stays while what is made up of its layer, or has yet to be packed against it, is there.
 */
export function garbageOf(nodes: readonly Node[], held: Held): Garbage {
  const users = usersOf(nodes)
  const folders: string[] = []
  const rows: string[] = []
  const gone = new Set<string>()
  const depths = depthsOf(nodes)
  const leavesFirst = nodes.toSorted((a, b) => depths.get(b.id)! - depths.get(a.id)!)
  for (const node of leavesFirst) {
    if (node.state !== 'dropped' || held.has(node.id)) continue
    const left = (users.get(node.id) ?? []).filter(({ id }) => !gone.has(id))
    if (node.isLocal && mayForget(node, left)) folders.push(node.id)
    if (left.length > 0 || (node.isLocal && !folders.includes(node.id))) continue
    rows.push(node.id)
    gone.add(node.id)
  }
  return { folders, rows }
}

function mayForget(node: Node, children: readonly Node[]): boolean {
  if (children.length === 0) return true
  return node.saveState === 'saved' && children.every(({ saveState }) => saveState === 'saved')
}

/** By snapshot, those whose layers are differences from it, and those that may yet become so. */
function usersOf(nodes: readonly Node[]): Map<string, Node[]> {
  const users = new Map<string, Node[]>()
  for (const node of nodes) {
    const below = new Set([node.layerParentId, node.saveState === 'saved' ? null : node.parentId])
    for (const id of below) {
      if (id === null) continue
      const known = users.get(id)
      if (known) known.push(node)
      else users.set(id, [node])
    }
  }
  return users
}

/**
 * Which link of a chain the layer on top of it is the difference from: the last, as a rule. Where the chain is full it begins anew, on the template
 * (-1) or on what others share, which is not saved again unless it takes more than half of the chain itself.
 */
export function placeInChain(shared: readonly boolean[], most: number): number {
  if (shared.length < most) return shared.length - 1
  return shared.slice(0, Math.floor(most / 2)).lastIndexOf(true)
}

export function nodesById(nodes: readonly Node[]): Map<string, Node> {
  return new Map(nodes.map((node) => [node.id, node]))
}

/** Each from its parent's, so that a long history costs no more than its length. */
function depthsOf(nodes: readonly Node[]): Map<string, number> {
  const byId = nodesById(nodes)
  const depths = new Map<string, number>()
  for (const node of nodes) {
    const path: string[] = []
    let next: Node | undefined = node
    while (next && !depths.has(next.id) && path.length <= nodes.length) {
      path.push(next.id)
      next = next.parentId === null ? undefined : byId.get(next.parentId)
    }
    let depth = next ? depths.get(next.id)! : -1
    for (const id of path.toReversed()) depths.set(id, (depth += 1))
  }
  return depths
}

function newestFirst(a: Node, b: Node): number {
  return b.createdAt - a.createdAt || (a.id < b.id ? 1 : -1)
}

/** How long to wait before the next try to save, after so many that failed. */
export function retryDelayMs(failures: number): number {
  return Math.min(2_000 * 2 ** Math.min(failures - 1, 20), 300_000)
}
