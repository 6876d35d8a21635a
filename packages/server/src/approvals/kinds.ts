/** What can be written as JSON. */
export type Json = string | number | boolean | null | readonly Json[] | { readonly [name: string]: Json }

/** What will be done, whole: nothing that is not in here is taken from elsewhere when it is. */
export interface Action {
  readonly kind: string
  readonly [field: string]: Json
}

/** What a kind learns of the approval when it is to act. */
export interface Approved {
  /** Unique, so it is also the key under which an effect is done once. */
  id: string
  accountId: string
  askedBy: string
  decidedBy: string
}

/** One sort of thing that needs a person. The features that have such things give these; approvals know none of them. */
export interface ApprovalKind {
  /** The selector of `approve:<kind>`. */
  kind: string
  /** In words, for the person who decides; throws on what is no action of this kind. */
  describe(action: Action): string
  /**
   * Does it, against the state at that moment; a `DeltaError` says why it could not be. Should end soon after `signal` is aborted.
   */
  execute(action: Action, approved: Approved, signal: AbortSignal): Promise<void>
  /**
   * What happens when a server died while it was at it. `again`: it is done once more, which has the effect of once. `never`: it counts as failed, with
   * the reason that it may have been done.
   */
  afterDeath: 'again' | 'never'
}
