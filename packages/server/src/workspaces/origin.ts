/** What a template's name leads to. */
export interface Origin {
  /** As the driver knows it. */
  template: string
  /** As it is shown. */
  name: string
  /** Variables of every command, below the sandbox's own. */
  env: Record<string, string>
  /** Where commands run and as whom, unless they say so themselves. @default /workspace, user */
  cwd?: string
  user?: string
}

/** Undefined: the driver knows the template by this name. Throws `template_not_found` and `template_not_ready`; may fetch what is not there yet. */
export type ResolveTemplate = (name: string, caller: { accountId: string }) => Promise<Origin | undefined>
