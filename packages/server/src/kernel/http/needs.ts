/**
 * The vocabulary of rights, known everywhere as the error codes are. Who has which right is the business of `access/rights.ts` alone, which has a
 * row for every name.
 */
export type RightName = `${'read' | 'write'}:${ReadWriteResource}` | 'read:audit' | ActName

type ReadWriteResource =
  | 'agents'
  | 'sandboxes'
  | 'exec'
  | 'files'
  | 'workspaces'
  | 'tasks'
  | 'memory'
  | 'skills'
  | 'keys'
  | 'members'
  | 'account'
  | 'billing'
  | 'operations'

/** Rights to effects that have a selector of their own: a host, a channel, an amount, a kind of approval. */
type ActName = 'egress' | 'send' | 'delegate' | 'allocate' | 'request' | 'approve'

/** Things of which a key may be limited to some. */
export type ScopedResource = 'sandbox' | 'agent'

/**
 * What a route asks of its caller. With `resource` the route is about one thing of that kind, whose id is the path's `{id}`; without such a
 * parameter it lists them or makes one. `nothing`: whoever is known. `public`: anybody, so there may be no caller at all.
 */
export type Needs = 'public' | 'nothing' | RightName | { right: RightName; resource: ScopedResource }

/** As the description of the API shows it. */
export function needsText(needs: Needs): string {
  return typeof needs === 'string' ? needs : needs.right
}
